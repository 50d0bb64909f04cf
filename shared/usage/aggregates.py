"""Folds of an hour, a day or a month in the table `usageagg`, each committed as a whole.

A fold is a set of lines, one per `Dimensions` that occurs, in one partition: `h-YYYYMMDDHH`, `d-YYYYMMDD` or
`m-YYYYMM`. A request may move between lines from one fold of its hour to the next: an intent that was closed as an
estimate may still end, and then counts for the backend that served it. A per-row version check is not enough: an
outdated writer could still insert a line that the better fold no longer has. Therefore:

* lines of a fold are never overwritten: each writer writes its own, under a new generation;
* one row per partition, the manifest, names the current generation and its number of lines. It is written last, by
  compare-and-swap, and only for a higher rank: that is the commit;
* a rank is (halves of raw rows seen, intents closed as estimates). Halves are only added, so a fold that missed one
  ranks below a fold that saw all; of two folds of the same halves, the later one has closed more intents;
* each commit deletes the generations that rank no higher than the manifest. A reader that meets such a sweep counts too
  few lines, and reads again.

Concurrent writers, a crash between any two rows and late writers leave either fold whole, and finally the better one.
The rank of a day is the sum over its hours, that of a month over its days.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import add, attrgetter, sub
from typing import Any

import msgspec

from shared.errors import StoreUnavailable
from shared.storage import MAX_BATCH, Properties, Row, Table, Value
from shared.storage.conditional import update
from shared.storage.names import USAGE_AGGREGATES
from shared.token_classes import TokenCounts
from shared.usage import durations
from shared.usage.durations import Durations

NOBODY = "-"  # a dimension without a value: a call that reached no backend, a consumer without a team
OTHERS = "*"  # the sum of the names beyond `MOST_NAMES`
MOST_NAMES = 200
MOST_USERS = 1000  # of a key
REFUSED = "refused"  # the role of calls that were refused before they were on record

_MANIFEST = "!"  # before every digit, so that a scan begins with it
_READ_ATTEMPTS = 5
_SWEEPERS = 16
_RANK_WIDTH = 12
_DISTRIBUTIONS = ("durations", "first_bytes")  # counts that are text in rows

Rank = tuple[int, int]


class Dimensions(msgspec.Struct, frozen=True, order=True):
    """The dimensions of a line. `backend`, `region` and `deployment` are `-` if no backend was reached, other names
    if they are unknown. `model` is the caller's name, `served` the backend's. `role` is `served`, that of another
    charged attempt (`types.Role`), or `refused`, the only one with a `code`: that of the error. `context` is `long` for
    calls whose size of input changes their prices (`types.long_context`).

    `user` is told apart in folds of its own, beside those of all calls: instances of versions before a dimension
    existed take one of several lines that differ in it alone. So a new dimension of other folds must tell apart only
    lines that are new as well."""

    key: str
    model: str
    backend: str
    region: str
    deployment: str = NOBODY
    served: str = NOBODY
    tier: str = "default"
    role: str = "served"
    team: str = NOBODY
    product: str = NOBODY
    system: str = NOBODY
    context: str = "short"
    code: str = NOBODY
    user: str = NOBODY


class Counts(TokenCounts, frozen=True):
    """The sums of a line. `ms` and `ttft` are milliseconds over `timed` and `first_tokens` requests; `sound_ms` is the
    length of audio. `durations` and `first_bytes` are those of the requests that succeeded; hours that an earlier
    version has folded lack them.

    Of the callers' `requests`, `errors` failed, `hung_up` lost their caller, `estimated` have estimated tokens, and
    `empty` got an answer without content, because reasoning took all their tokens.
    On separate lines are `refused` calls, which are no requests, and `charges`, attempts that did not answer a caller.
    """

    requests: int = 0
    ends: int = 0
    estimated: int = 0
    errors: int = 0
    attempts: int = 0
    ms: int = 0
    timed: int = 0
    ttft: int = 0
    first_tokens: int = 0
    durations: Durations = Durations()
    first_bytes: Durations = Durations()
    images: int = 0
    sound_ms: int = 0
    characters: int = 0
    hung_up: int = 0
    charges: int = 0
    web_searches: int = 0
    file_searches: int = 0
    code_sessions: int = 0
    refused: int = 0
    empty: int = 0

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


def combine(folds: Sequence[Fold], bounded: Callable[[Lines], Lines]) -> Fold:
    """Add the folds of the parts of a period. `bounded`: the function that bounds their lines."""
    rank = (sum(fold.rank[0] for fold in folds), sum(fold.rank[1] for fold in folds))
    return Fold(rank, bounded(add_lines(fold.lines for fold in folds)))


def bounded(lines: Lines) -> Lines:
    """Keep the `MOST_NAMES` pairs of product and system with the most tokens per key, and as many of model and served
    model; add up the rest as one.

    Callers and backends choose these names: a new one in every call would make a fold as long as its rows."""
    return _bounded(_bounded(lines, "product", "system"), "model", "served")


def _bounded(lines: Lines, first: str, second: str) -> Lines:
    pair_of = attrgetter(first, second)
    tokens: dict[str, dict[tuple[str, str], int]] = {}
    for line, counts in lines.items():
        names = tokens.setdefault(line.key, {})
        pair = pair_of(line)
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
        if line.key not in kept or pair_of(line) in kept[line.key]:
            return line
        return msgspec.structs.replace(line, **{first: OTHERS, second: OTHERS})

    return add_lines({place(line): counts} for line, counts in lines.items())


def bounded_users(lines: Lines) -> Lines:
    """Keep the `MOST_USERS` users with the most tokens per key; add up the rest as one."""
    tokens: dict[str, dict[str, int]] = {}
    for line, counts in lines.items():
        if line.user not in (NOBODY, OTHERS):
            users = tokens.setdefault(line.key, {})
            users[line.user] = users.get(line.user, 0) + counts.input_tokens + counts.output_tokens
    dropped = {
        (key, user)
        for key, users in tokens.items()
        if len(users) > MOST_USERS
        for user in sorted(users, key=lambda user: (-users[user], user))[MOST_USERS:]
    }
    if not dropped:
        return lines
    return add_lines(
        {msgspec.structs.replace(line, user=OTHERS) if (line.key, line.user) in dropped else line: counts}
        for line, counts in lines.items()
    )


def bounded_by_user(lines: Lines) -> Lines:
    """Bound the lines of a fold of users."""
    return bounded_users(bounded(lines))


def with_users(lines: Lines, users: Lines) -> Lines:
    """Tell users apart in the lines of a fold, by the lines of the fold of users. The sums stay: what no user took is
    left to nobody, and what the lines do not have (yet) is left out."""
    left, told = dict(lines), Lines()
    for line, counts in users.items():
        for whole in _places(line):
            rest = _less(left[whole], counts) if whole in left else None
            if rest is not None:
                left[whole] = rest
                own = msgspec.structs.replace(whole, user=line.user)
                told[own] = added(told[own], counts) if own in told else counts
                break
    return {line: counts for line, counts in left.items() if counts != Counts() or line not in lines} | told


def _places(line: Dimensions) -> Iterator[Dimensions]:
    """The lines of a fold of all calls that may have what a user's line has: those folds are bounded by themselves."""
    replace = msgspec.structs.replace
    whole = replace(line, user=NOBODY)
    yield whole
    yield replace(whole, product=OTHERS, system=OTHERS)
    yield replace(whole, model=OTHERS, served=OTHERS)
    yield replace(whole, product=OTHERS, system=OTHERS, model=OTHERS, served=OTHERS)


def _less(whole: Counts, part: Counts) -> Counts | None:
    """The difference; None if a part is larger than the whole. Durations stay as far as the whole has them."""
    numbers = [*map(sub, msgspec.structs.astuple(whole), msgspec.structs.astuple(part))]
    return Counts(*numbers) if all(n >= 0 for n in numbers if isinstance(n, int)) else None


async def read(table: Table, partition: str) -> Fold | None:
    """The current fold; None if there is none yet. Raises `StoreUnavailable`."""
    for _ in range(_READ_ATTEMPTS):
        manifest, rows = await _look(table, partition)
        if manifest is None:
            return None
        lines = [_line(row) for row in rows if _generation(row.key) == manifest.generation]
        if len(lines) == manifest.lines:
            return Fold(manifest.rank, dict(lines))
    raise StoreUnavailable(f"{USAGE_AGGREGATES} {partition}: was replaced during each of {_READ_ATTEMPTS} reads")


async def commit(table: Table, partition: str, fold: Fold, nonce: str) -> int:
    """Make `fold` the current one unless the current one ranks at least as high. Return the number of rows written.

    `nonce` must be new: two folds of one rank differ if each missed rows that the other saw."""
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
    """The manifest, and the lines of all generations."""
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
    """The properties of a line, without zeros: most lines have few counts."""
    numbers = {name: number for name, number in msgspec.structs.asdict(counts).items() if number}
    texts = {name: durations.as_text(numbers[name]) for name in _DISTRIBUTIONS if name in numbers}
    return {**msgspec.structs.asdict(dimensions), **numbers, **texts}


def _line(row: Row) -> tuple[Dimensions, Counts]:
    """Read a line. Lines written before a dimension existed lack it."""
    text = {name: str(row.properties[name]) for name in Dimensions.__struct_fields__ if name in row.properties}
    dimensions = Dimensions(**dict.fromkeys(("key", "model", "backend", "region"), NOBODY) | text)
    return dimensions, Counts(*(_count(row.properties, name) for name in Counts.__struct_fields__))


def _count(properties: dict[str, Value], name: str) -> Any:
    if name in _DISTRIBUTIONS:
        return durations.from_text(str(properties.get(name, "[]")))
    return _integer(properties, name)


def _integer(properties: dict[str, Value], name: str) -> int:
    value = properties.get(name, 0)
    return int(value)


def _rank_text(rank: Rank) -> str:
    return f"{rank[0]:0{_RANK_WIDTH}d}-{rank[1]:0{_RANK_WIDTH}d}"


def _generation(key: str) -> str:
    return key.rpartition("-")[0]
