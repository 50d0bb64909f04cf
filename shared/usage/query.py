"""Reads usage per hour, day or month, including hours that are not rolled up yet. It writes nothing.

Whole months and days come from their folds, other hours from theirs, and unsettled hours from the raw rows.
"""

import asyncio
import itertools
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from shared.storage import Store
from shared.storage.names import USAGE_AGGREGATES
from shared.usage import aggregates, hours, rollup
from shared.usage.folds import Fold, Lines, add_lines, bounded_users, with_users

_READERS = 8  # partitions read at a time


class HourRange(msgspec.Struct, frozen=True, order=True):
    """Hours since 1970, `end` not included."""

    first: int
    end: int


def spans(first: int, end: int, cuts: Iterable[int]) -> list[HourRange]:
    """Cut the hours from `first` up to `end` into pieces."""
    bounds = [first, *sorted({cut for cut in cuts if first < cut < end}), end]
    return [HourRange(a, b) for a, b in itertools.pairwise(bounds) if a < b]


async def read(store: Store, pieces: Sequence[HourRange], *, by_user: bool = False) -> list[Lines]:
    """The usage of requests that began in each piece. The pieces must be contiguous and in order. `by_user`: per user,
    too."""
    if not pieces:
        return []
    now = store.now()
    done = await rollup.watermarks(store)
    first, end = pieces[0].first, min(pieces[-1].end, hours.hour_of(now) + 2)
    fresh = min(done.settled, hours.hour_of(now) - 1) if done else first
    table, gate = store.table(USAGE_AGGREGATES), asyncio.Semaphore(_READERS)

    async def folded(partition: str) -> Fold | None:
        async with gate:
            return await aggregates.read(table, partition)

    async def lines(partition: str) -> Lines:
        fold = await folded(partition)
        if fold is None or not by_user:
            return fold.lines if fold is not None else {}
        users = await folded(hours.of_users(partition))
        return with_users(fold.lines, users.lines) if users is not None else fold.lines

    async def folds(piece: HourRange) -> list[Lines]:
        return await asyncio.gather(*map(lines, partitions(piece.first, min(piece.end, fresh))))

    parts = await asyncio.gather(*map(folds, pieces))
    number = 0
    async for hour, raw in rollup.hour_folds(store, max(first, fresh), end - 1, now):
        while pieces[number].end <= hour:
            number += 1
        users = raw.users() if by_user else None
        whole = raw.result().lines
        parts[number].append(with_users(whole, users.lines) if users is not None else whole)
    return [bounded_users(add_lines(part)) for part in parts]


def partitions(first: int, end: int) -> Iterator[str]:
    """The fewest folded partitions that cover the hours from `first` up to `end`."""
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
