"""`make bench-ledger`: two concurrent timers roll up a ledger on a failing table service. The result must equal one
sequential fold of the raw rows, byte for byte. `python -m bench.ledger_rollup [ROWS]`
"""

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.children import start_tables
from bench.faulty_tables import Faults, FaultyTables, faulty_tables
from local import azurite
from local.processes import Children
from shared import ulid
from shared.errors import StoreUnavailable
from shared.storage import MAX_BATCH, Properties, Row, Store, Table, Value
from shared.storage.names import CONTROL, USAGE_AGGREGATES
from shared.storage.tables import TablesStore
from shared.usage import aggregates, hours, rollup
from shared.usage.durations import Durations, as_text
from shared.usage.folds import Counts, Dimensions, Fold, bounded, combine
from tests.harness.folding import fold_rows

FAST_ENOUGH = 100_000  # raw rows per second of CPU
HOURS = (-30, -29, -26, -3, -2)  # relative to now: sealed hours and one that is not, of at least two days


class Unleased:
    """A store whose roll-up lease is always free, since correctness must not depend on the lease."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.names, self.drop, self.now, self.close = store.names, store.drop, store.now, store.close

    def table(self, name: str) -> Table:
        table = self._store.table(name)
        return _Unleased(table) if name == CONTROL else table


class _Unleased:
    def __init__(self, table: Table) -> None:
        self._table = table
        self.merge, self.delete, self.scan, self.scan_all = table.merge, table.delete, table.scan, table.scan_all

    async def get(self, partition: str, key: str) -> Row | None:
        return None if key == "lease" else await self._table.get(partition, key)

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        return "mine" if key == "lease" else await self._table.put(partition, key, properties, etag)


class Half(msgspec.Struct, frozen=True):
    """Half of a raw row: the properties of a call's start or end."""

    hour: int
    partition: str
    key: str
    properties: dict[str, Value]


def make_halves(count: int, now: int, at: Sequence[int], chance: random.Random) -> list[Half]:
    """Halves of calls in random order. A tenth of the calls never ends; a tenth of the halves is repeated."""
    halves: list[Half] = []
    for _ in range(count):
        hour = now + chance.choice(at)
        partition = f"{hours.label(hour)}-{chance.randrange(16):02d}"
        key = ulid.new(hour * 3600 + chance.random() * 3599)
        start: dict[str, Value] = {
            "s_key": f"team-{chance.randrange(7)}",
            "s_model": chance.choice(("gpt-4o", "o4-mini", "embed")),
            "s_system": chance.choice(("erp", "crm")),
            "s_prompt": chance.randrange(500),
            "s_ts": hour * 3600.0,
        }
        halves.append(Half(hour, partition, key, start))
        if chance.random() < 0.9:
            end: dict[str, Value] = {
                "e_input": chance.randrange(4000),
                "e_output": chance.randrange(900),
                "e_cached": chance.randrange(100),
                "e_seconds": chance.random(),
                "e_status": chance.choice((200, 200, 200, 400, 503)),
                "e_backend": chance.choice(("sweden", "virginia")),
                "e_region": "eu",
                "e_ms": chance.randrange(9000),
                "e_ttft": chance.randrange(900),
            }
            halves.append(Half(hour, partition, key, end))
    halves += chance.sample(halves, len(halves) // 10)
    chance.shuffle(halves)
    return halves


async def write(store: Store, some: list[Half], late: Store | None) -> None:
    """Merge the halves by partition. With `late`, report each partition to the timers, with retries."""
    groups: dict[tuple[int, str], list[Half]] = {}
    for half in some:
        groups.setdefault((half.hour, half.partition), []).append(half)
    for (hour, partition), members in groups.items():
        rows: dict[str, dict[str, Value]] = {}
        for half in members:
            rows.setdefault(half.key, {}).update(half.properties)
        keys = list(rows)
        for start in range(0, len(keys), MAX_BATCH):
            chosen = {key: rows[key] for key in keys[start : start + MAX_BATCH]}
            await store.table(hours.raw_table(hour)).merge(partition, chosen)
        while late is not None:
            try:
                await rollup.note_late(late, partition)
                break
            except StoreUnavailable:
                pass


def sequential(halves: list[Half], now: float) -> dict[str, Fold]:
    """Folds of all rows, by partition."""
    raw: dict[int, dict[str, dict[str, Any]]] = {}
    for half in halves:
        raw.setdefault(half.hour, {}).setdefault(half.key, {}).update(half.properties)
    by_hour = {hour: fold_rows(rows.values(), now) for hour, rows in raw.items()}
    folds = {hours.hour_partition(hour): fold for hour, fold in by_hour.items()}
    for name, start in ((hours.day_partition, hours.day_start), (hours.month_partition, hours.month_start)):
        parts: dict[int, list[Fold]] = {}
        for hour, fold in by_hour.items():
            parts.setdefault(start(hour), []).append(fold)
        folds |= {name(first): combine(members, bounded) for first, members in parts.items()}
    return folds


def as_bytes(folds: Mapping[str, Fold | None]) -> bytes:
    return msgspec.json.encode(
        [
            (name, fold and fold.rank, [_written(*line) for line in sorted((fold.lines if fold else {}).items())])
            for name, fold in sorted(folds.items())
        ]
    )


def _written(dimensions: Dimensions, counts: Counts) -> tuple[Dimensions, list[int | str]]:
    """A line as a row has it: histograms as text."""
    numbers = msgspec.structs.astuple(counts)
    return dimensions, [as_text(number) if isinstance(number, Durations) else number for number in numbers]


async def timer(store: Store, written: asyncio.Event) -> int:
    """Roll up until a pass that began after the last write succeeds. Returns the number of passes."""
    passes, last = 0, False
    while not last:
        last = written.is_set()
        passes += 1
        try:
            await rollup.roll_up(Unleased(store))
        except StoreUnavailable:
            last = False
    return passes


async def converge(
    port: int, rows: int, faults: Faults, seed: int, at: Sequence[int] = HOURS
) -> tuple[FaultyTables, list[int], bool]:
    """The proxy with its counts, the passes of each timer, and True if the folds are byte-equal."""
    chance = random.Random(seed)
    async with faulty_tables(port, faults, seed) as tables:
        direct = TablesStore.from_connection_string(azurite.connection_string({"table": port}), budget=30)
        stores = [TablesStore.from_connection_string(tables.connection_string) for _ in range(3)]
        try:
            now = time.time()
            halves = make_halves(rows, hours.hour_of(now), at, chance)
            early, later = halves[: len(halves) * 2 // 3], halves[len(halves) * 2 // 3 :]
            await write(direct, early, None)
            written = asyncio.Event()
            timers = [asyncio.ensure_future(timer(store, written)) for store in stores[:2]]
            size = max(1, len(later) // 10)
            for start in range(0, len(later), size):
                await write(direct, later[start : start + size], stores[2])
            written.set()
            passes = list(await asyncio.gather(*timers))
            expected = sequential(halves, now)
            table = direct.table(USAGE_AGGREGATES)
            stored = {partition: await aggregates.read(table, partition) for partition in expected}
            return tables, passes, as_bytes(stored) == as_bytes(expected)
        finally:
            for store in (direct, *stores):
                await store.close()


def rows_per_second(count: int = 100_000) -> float:
    """Raw rows folded per second of CPU."""
    now, rows = time.time(), dict[str, dict[str, Value]]()
    for half in make_halves(count, hours.hour_of(now), (-3,), random.Random(1)):
        rows.setdefault(half.key, {}).update(half.properties)
    started = time.process_time()
    fold_rows(rows.values(), now)
    return count / (time.process_time() - started)


def main(rows: int) -> None:
    with tempfile.TemporaryDirectory() as logs, Children(Path.cwd(), Path(logs)) as children:
        port = start_tables(children)["table"]
        started = time.perf_counter()
        tables, passes, same = asyncio.run(converge(port, rows, Faults(), 6))
        print(
            f"roll-up of {rows} rows, {dict(tables.done)} requests, passes of two timers {passes}, "
            f"{time.perf_counter() - started:.0f} s: {'byte-equal' if same else 'DIFFERENT'}"
        )
        speed = rows_per_second()
        print(f"{speed:.0f} raw rows folded per second of CPU")
        if not same or speed < FAST_ENOUGH:
            raise SystemExit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
