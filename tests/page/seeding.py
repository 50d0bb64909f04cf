"""The rows of a large gateway, written straight into its tables: 10,000 consumers, and the folds of a year of hours."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Iterator

from shared.auth import keys
from shared.auth.consumer_rows import POLICY, Record, StoredKey, key_row, policy_row
from shared.config.limits import Limits
from shared.storage import MAX_BATCH, Properties, Store
from shared.storage.names import CONSUMERS, CONTROL, USAGE_AGGREGATES
from shared.types import Consumer
from shared.usage import aggregates, durations, folds, hours
from shared.usage.folds import Counts, Dimensions, Lines
from shared.usage.rollup import PARTITION

MADE = 10_000  # consumers
YEAR = 365 * hours.DAY
_CALLING = 200  # consumers that call
_LINES = 8  # of an hour
_PLACES = (
    ("gpt-4o", "sweden", "swedencentral"),
    ("gpt-5.4-mini", "virginia", "eastus2"),
    ("gpt-5.4", "japan", "japaneast"),
)
_AT_ONCE = 32  # requests to the table

type Write = tuple[str, str, dict[str, Properties]]
"""A table, a partition, and up to a hundred rows."""


async def fill(store: Store) -> None:
    """Write it all."""
    rng = random.Random(1)
    await _write(store, _consumers(time.time()))
    await write_past(store, YEAR, lambda _: dict(_one(rng) for _ in range(_LINES)))


async def write_past(store: Store, number: int, lines: Callable[[int], Lines]) -> None:
    """Write the folds of so many hours before this one, as the timer makes them. `lines`: those of an hour."""
    now = hours.hour_of(time.time())
    state: Properties = {"settled": now - 1, "sealed": now - 1}
    await _write(store, _folds(now - number, now - 1, lines))
    await store.table(CONTROL).merge(PARTITION, {"state": state})


async def _write(store: Store, writes: Iterable[Write]) -> None:
    left = iter(writes)

    async def work() -> None:
        for table, partition, rows in left:
            await store.table(table).merge(partition, rows)

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))


def _consumers(now: float) -> Iterator[Write]:
    for number in range(MADE):
        consumer = Consumer(
            f"c{number:05}", f"consumer {number:05}", limits=Limits(budget_usd=100.0), team=f"team-{number % 50}"
        )
        key = keys.make(consumer.id)[1]
        stored = StoredKey(key.key_id, key.digest, now)
        rows = {POLICY: policy_row(Record(consumer, {}, now)), stored.id: key_row(stored)}
        yield CONSUMERS, consumer.id, rows


def _folds(first: int, end: int, lines: Callable[[int], Lines]) -> Iterator[Write]:
    """The folds of these hours, of their days and of their months."""
    larger: dict[str, Lines] = {}
    for hour in range(first, end):
        own = lines(hour)
        yield from _fold(hours.hour_partition(hour), own)
        for name in (hours.day_partition(hour), hours.month_partition(hour)):
            larger[name] = folds.add_lines((larger.get(name, {}), own))
    for name, whole in larger.items():
        yield from _fold(name, whole)


def _one(rng: random.Random) -> tuple[Dimensions, Counts]:
    return line(f"c{rng.randrange(_CALLING):05}", *rng.choice(_PLACES), 1, rng)


def line(key: str, model: str, backend: str, region: str, calls: int, rng: random.Random) -> tuple[Dimensions, Counts]:
    """So many calls of a consumer to a model in one place."""
    buckets = [durations.bucket(round(rng.lognormvariate(6.8, 0.4))) for _ in range(min(calls, 20))]
    first = [durations.bucket(round(rng.lognormvariate(5.7, 0.3))) for _ in buckets]
    tokens = (calls * rng.randrange(900, 1500), calls * rng.randrange(300, 500), calls * rng.randrange(100, 400))
    counts = Counts(
        *tokens,
        requests=calls,
        ends=calls,
        durations=durations.of_buckets(buckets),
        first_bytes=durations.of_buckets(first),
    )
    return Dimensions(key, model, backend, region, served=model), counts


def _fold(partition: str, lines: Lines) -> Iterator[Write]:
    rows: dict[str, Properties] = {
        f"{_GENERATION}-{number:06}": _properties(dimensions, counts)
        for number, (dimensions, counts) in enumerate(sorted(lines.items(), key=lambda line: line[0]))
    }
    rows["!"] = {"generation": _GENERATION, "halves": 1, "orphans": 0, "lines": len(lines)}
    names = list(rows)
    for start in range(0, len(names), MAX_BATCH):
        yield USAGE_AGGREGATES, partition, {name: rows[name] for name in names[start : start + MAX_BATCH]}


_GENERATION = "000000000001-000000000000-seed"
_properties: Callable[[Dimensions, Counts], Properties] = aggregates._properties
