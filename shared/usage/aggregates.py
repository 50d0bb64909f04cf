"""Usage folded over an hour, a day or a month, as the table `usageagg` keeps it: written whole or not at all.

A fold is a set of lines (one for each `Dimensions` that occurs) in one partition: `h-YYYYMMDDHH`, `d-YYYYMMDD`
or `m-YYYYMM`. A request may change lines between two folds of its hour: an intent that was closed as an estimate ends
after all, and leaves the line without a backend for the line of the one that served it. A guard on each line cannot
make that right, because a writer that was overtaken could still insert a line which the better fold no longer has. So:

* the lines of a fold are never overwritten: each attempt writes its own, under a generation of its own;
* one row per partition, the manifest, names the generation that counts and how many lines it has. It is written last,
  by compare-and-swap, and only for a higher rank: that is the commit;
* a rank is (halves of raw rows seen, intents closed as estimates). Halves are only ever added, so a fold that missed
  one ranks below a fold that saw all, and of two folds of the same halves the later one has closed more intents;
* whoever commits sweeps the generations that can no longer do so: those that rank no higher than the manifest. A reader
  who met with a sweep finds too few lines, and reads again.

Two writers at once, a crash between any two rows and writers that wake up late leave either fold whole, the better one
in the end. The rank of a day is the sum over its hours, of a month over its days, for which the same holds.
"""

import asyncio
from collections.abc import Iterable, Sequence
from operator import add

import msgspec

from shared.errors import StoreUnavailable
from shared.storage import MAX_BATCH, Properties, Row, Table, Value
from shared.storage.conditional import update
from shared.token_classes import TokenCounts

TABLE = "usageagg"

OTHERS = "*"  # the name of those whose own names are too many
MOST_NAMES = 200

_MANIFEST = "!"  # before every digit, so that a scan begins with it
_READ_ATTEMPTS = 5
_SWEEPERS = 16
_RANK_WIDTH = 12

Rank = tuple[int, int]


class Dimensions(msgspec.Struct, frozen=True, order=True):
    """Whose usage, of what. `backend`, `region` and `deployment` are `-` when no backend was reached, other names when
    they are not known. `model` is the caller's word, `served` the backend's. `role`: whether a call was served by it,
    or what it was that was charged beside (`types.Role`). `context`: `long` where a call had so much input that all of
    it is charged at other prices (`pricing.LONG_CONTEXT`)."""

    key: str
    model: str
    backend: str
    region: str
    deployment: str = "-"
    served: str = "-"
    tier: str = "default"
    role: str = "served"
    team: str = "-"
    product: str = "-"
    system: str = "-"
    context: str = "short"


class Counts(TokenCounts, frozen=True):
    """`ms` and `ttft` are sums in milliseconds over `timed` and `first_tokens` requests, `sound_ms` of sound.

    `requests` are the callers', of which `errors` failed, `hung_up` lost their callers and `estimated` have tokens that
    were counted here; `charges` are tries that did not answer a caller, on lines of their own."""

    requests: int = 0
    ends: int = 0
    estimated: int = 0
    errors: int = 0
    attempts: int = 0
    ms: int = 0
    timed: int = 0
    ttft: int = 0
    first_tokens: int = 0
    images: int = 0
    sound_ms: int = 0
    characters: int = 0
    hung_up: int = 0
    charges: int = 0

    @property
    def seconds(self) -> float:
        return self.sound_ms / 1000


Lines = dict[Dimensions, Counts]


class Fold(msgspec.Struct, frozen=True):
    rank: Rank
    lines: Lines


class _Manifest(msgspec.Struct, frozen=True):
    generation: str
    rank: Rank
    lines: int


def added[C: TokenCounts](one: C, other: C) -> C:
    """Add all numbers of two counts."""
    return type(one)(*map(add, msgspec.structs.astuple(one), msgspec.structs.astuple(other)))


def add_lines(parts: Iterable[Lines]) -> Lines:
    sums: Lines = {}
    for lines in parts:
        for dimensions, counts in lines.items():
            total = sums.get(dimensions)
            sums[dimensions] = counts if total is None else added(total, counts)
    return sums


def combine(folds: Sequence[Fold]) -> Fold:
    """The fold of a longer time from the folds of its parts."""
    rank = (sum(fold.rank[0] for fold in folds), sum(fold.rank[1] for fold in folds))
    return Fold(rank, bounded(add_lines(fold.lines for fold in folds)))


def bounded(lines: Lines) -> Lines:
    """With no more than `MOST_NAMES` pairs of product and system for a key: those of the most tokens, the rest as one.
    Callers choose these names for themselves, and a new one in every call would make a fold as long as its rows."""
    tokens: dict[str, dict[tuple[str, str], int]] = {}
    for line, counts in lines.items():
        names = tokens.setdefault(line.key, {})
        pair = line.product, line.system
        if pair != (OTHERS, OTHERS):
            names[pair] = names.get(pair, 0) + counts.input_tokens + counts.output_tokens
    kept = {
        key: frozenset(sorted(names, key=lambda pair: (-names[pair], pair))[:MOST_NAMES])
        for key, names in tokens.items()
        if len(names) > MOST_NAMES
    }
    if not kept:
        return lines

    def place(line: Dimensions) -> Dimensions:
        if line.key not in kept or (line.product, line.system) in kept[line.key]:
            return line
        return msgspec.structs.replace(line, product=OTHERS, system=OTHERS)

    return add_lines({place(line): counts} for line, counts in lines.items())


async def read(table: Table, partition: str) -> Fold | None:
    """The fold that counts, or None when there is none yet."""
    for _ in range(_READ_ATTEMPTS):
        manifest, rows = await _look(table, partition)
        if manifest is None:
            return None
        lines = [_line(row) for row in rows if _generation(row.key) == manifest.generation]
        if len(lines) == manifest.lines:
            return Fold(manifest.rank, dict(lines))
    raise StoreUnavailable(f"{TABLE} {partition}: replaced again and again while it was read")


async def commit(table: Table, partition: str, fold: Fold, nonce: str) -> int:
    """Make `fold` the one that counts unless one that ranks as high is there. The number of rows written.

    `nonce` must be new: two folds of one rank may differ, when each missed what the other saw."""
    manifest, rows = await _look(table, partition)
    keys, written = [row.key for row in rows], 0
    if manifest is None or manifest.rank < fold.rank:
        generation = f"{_rank_text(fold.rank)}-{nonce}"
        keys += await _write_lines(table, partition, generation, fold.lines)
        manifest = await _switch(table, partition, _Manifest(generation, fold.rank, len(fold.lines)))
        written = len(fold.lines) + 1
    await _sweep(table, partition, manifest, keys)
    return written


async def _write_lines(table: Table, partition: str, generation: str, lines: Lines) -> list[str]:
    rows: dict[str, Properties] = {
        f"{generation}-{number:06d}": _properties(dimensions, counts)
        for number, (dimensions, counts) in enumerate(sorted(lines.items(), key=lambda line: line[0]))
    }
    keys = list(rows)
    for start in range(0, len(keys), MAX_BATCH):
        await table.merge(partition, {key: rows[key] for key in keys[start : start + MAX_BATCH]})
    return keys


async def _switch(table: Table, partition: str, new: _Manifest) -> _Manifest:
    """Point the manifest to a generation, unless it points to one of at least that rank. Return the manifest in force.

    If the answer to the write is lost, the manifest already names our own generation."""
    in_force = new

    def outrank(row: Row | None) -> Properties | None:
        nonlocal in_force
        if row is not None and (in_force := _manifest(row)).rank >= new.rank:
            return None
        in_force, (halves, orphans) = new, new.rank
        return {"generation": new.generation, "halves": halves, "orphans": orphans, "lines": new.lines}

    await update(table, partition, _MANIFEST, outrank)
    return in_force


async def _sweep(table: Table, partition: str, manifest: _Manifest, keys: list[str]) -> None:
    ceiling = _rank_text(manifest.rank)
    doomed = [key for key in keys if key[: len(ceiling)] <= ceiling and _generation(key) != manifest.generation]
    for start in range(0, len(doomed), _SWEEPERS):
        async with asyncio.TaskGroup() as group:
            for key in doomed[start : start + _SWEEPERS]:
                group.create_task(table.delete(partition, key))


async def _look(table: Table, partition: str) -> tuple[_Manifest | None, list[Row]]:
    """The manifest and the lines of every generation."""
    manifest, rows = None, []
    async for row in table.scan(partition):
        if row.key == _MANIFEST:
            manifest = _manifest(row)
        else:
            rows.append(row)
    return manifest, rows


def _manifest(row: Row) -> _Manifest:
    rank = (_integer(row.properties, "halves"), _integer(row.properties, "orphans"))
    return _Manifest(str(row.properties["generation"]), rank, _integer(row.properties, "lines"))


def _properties(dimensions: Dimensions, counts: Counts) -> Properties:
    """Without what is zero: most lines count few things."""
    numbers = {name: number for name, number in msgspec.structs.asdict(counts).items() if number}
    return {**msgspec.structs.asdict(dimensions), **numbers}


def _line(row: Row) -> tuple[Dimensions, Counts]:
    """Lines that were written before a dimension was known lack it."""
    text = {name: str(row.properties[name]) for name in Dimensions.__struct_fields__ if name in row.properties}
    dimensions = Dimensions(**{"key": "-", "model": "-", "backend": "-", "region": "-"} | text)
    return dimensions, Counts(*(_integer(row.properties, name) for name in Counts.__struct_fields__))


def _integer(properties: dict[str, Value], name: str) -> int:
    value = properties.get(name, 0)
    return int(value)


def _rank_text(rank: Rank) -> str:
    return f"{rank[0]:0{_RANK_WIDTH}d}-{rank[1]:0{_RANK_WIDTH}d}"


def _generation(key: str) -> str:
    return key.rpartition("-")[0]
