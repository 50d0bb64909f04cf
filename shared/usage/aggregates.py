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
from typing import Any

import msgspec

from shared.errors import StoreUnavailable
from shared.storage import MAX_BATCH, Properties, Row, Table, Value
from shared.storage.conditional import update
from shared.storage.names import USAGE_AGGREGATES
from shared.usage import durations
from shared.usage.folds import NOBODY, Counts, Dimensions, Fold, Lines, Rank

_MANIFEST = "!"  # before every digit, so that a scan begins with it
_READ_ATTEMPTS = 5
_SWEEPERS = 16
_RANK_WIDTH = 12
_DISTRIBUTIONS = ("durations", "first_bytes")  # counts that are text in rows


class _Manifest(msgspec.Struct, frozen=True):
    generation: str
    rank: Rank
    lines: int


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
