"""Who used how many tokens: sums over any period, always up to date, and nothing is written to find out.

Whole months and days come from their folds, the rest of a period from its hours' folds, and the hours that the timer is
still at from the raw rows, by the same fold.
"""

import asyncio
from collections.abc import Iterator
from datetime import datetime

import msgspec

from shared import aggregates, hours, rollup
from shared.aggregates import Fold, Lines
from shared.stores import Store

DIMENSIONS = ("key", "model", "region", "backend")
_READERS = 8  # partitions read at a time


class UsageLine(msgspec.Struct, frozen=True):
    """`name` is a consumer's id, a model, a region or a backend; `-` stands for calls that reached no backend.

    `estimated` counts the requests whose tokens are estimates. Cached tokens are part of the input, reasoning tokens
    part of the output."""

    name: str
    requests: int
    errors: int
    estimated: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    total_tokens: int


async def report(store: Store, since: datetime, until: datetime, by: str) -> list[UsageLine]:
    """Usage of the requests that began in the hours from `since` up to `until`, the most tokens first.

    Both need a time zone; the hours that the period touches are counted whole."""
    if by not in DIMENSIONS:
        raise ValueError(f"usage is reported by {', '.join(DIMENSIONS)}, not by {by!r}")
    return group(await lines(store, since, until), by)


async def lines(store: Store, since: datetime, until: datetime) -> Lines:
    """Usage by consumer, model, backend and region, as pricing needs it."""
    if since.tzinfo is None or until.tzinfo is None:
        raise ValueError("a period needs a time zone")
    first, end = hours.hour_of(since.timestamp()), -hours.hour_of(-until.timestamp())
    now = store.now()
    done = await rollup.watermarks(store)
    fresh = min(done.settled, hours.hour_of(now) - 1) if done else first
    table, gate = store.table(aggregates.TABLE), asyncio.Semaphore(_READERS)

    async def read(partition: str) -> Fold | None:
        async with gate:
            return await aggregates.read(table, partition)

    folded = await asyncio.gather(*(read(partition) for partition in partitions(first, min(end, fresh))))
    parts = [fold.lines for fold in folded if fold is not None]
    async for _, fold in rollup.hour_folds(store, max(first, fresh), end - 1, now):
        parts.append(fold.result().lines)
    return aggregates.add_lines(parts)


def partitions(first: int, end: int) -> Iterator[str]:
    """The fewest partitions of folds that cover the hours from `first` up to `end`."""
    while first < end:
        if first == hours.month_start(first) and hours.next_month(first) <= end:
            yield hours.month_partition(first)
            first = hours.next_month(first)
        elif first == hours.day_start(first) and first + hours.DAY <= end:
            yield hours.day_partition(first)
            first += hours.DAY
        else:
            yield hours.hour_partition(first)
            first += 1


def group(usage: Lines, by: str) -> list[UsageLine]:
    sums: dict[str, UsageLine] = {}
    for dimensions, counts in usage.items():
        name = getattr(dimensions, by)
        old = sums.get(name) or UsageLine(name, *[0] * 8)
        sums[name] = UsageLine(
            name,
            old.requests + counts.requests,
            old.errors + counts.errors,
            old.estimated + counts.estimated,
            old.input_tokens + counts.input_tokens,
            old.cached_input_tokens + counts.cached_input_tokens,
            old.output_tokens + counts.output_tokens,
            old.reasoning_tokens + counts.reasoning_tokens,
            old.total_tokens + counts.input_tokens + counts.output_tokens,
        )
    return sorted(sums.values(), key=lambda line: (-line.total_tokens, line.name))
