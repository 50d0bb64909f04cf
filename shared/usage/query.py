"""What was used, hour by hour or in larger pieces: always up to date, and nothing is written to find out.

Whole months and days come from their folds, the rest of a period from its hours' folds, and the hours that the timer is
still at from the raw rows, by the same fold.
"""

import asyncio
import itertools
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from shared.storage import Store
from shared.usage import aggregates, hours, rollup
from shared.usage.aggregates import Fold, Lines

_READERS = 8  # partitions read at a time


class HourRange(msgspec.Struct, frozen=True, order=True):
    """Hours since 1970, `end` not included."""

    first: int
    end: int


def spans(first: int, end: int, cuts: Iterable[int]) -> list[HourRange]:
    """The hours from `first` up to `end`, in pieces that end at the cuts."""
    bounds = [first, *sorted({cut for cut in cuts if first < cut < end}), end]
    return [HourRange(a, b) for a, b in itertools.pairwise(bounds) if a < b]


async def read(store: Store, pieces: Sequence[HourRange]) -> list[Lines]:
    """What was used by the requests that began in each of these pieces, which follow one another without a gap."""
    if not pieces:
        return []
    now = store.now()
    done = await rollup.watermarks(store)
    first, end = pieces[0].first, min(pieces[-1].end, hours.hour_of(now) + 2)
    fresh = min(done.settled, hours.hour_of(now) - 1) if done else first
    table, gate = store.table(aggregates.TABLE), asyncio.Semaphore(_READERS)

    async def folded(partition: str) -> Fold | None:
        async with gate:
            return await aggregates.read(table, partition)

    wanted = [list(partitions(piece.first, min(piece.end, fresh))) for piece in pieces]
    found = iter(await asyncio.gather(*(folded(partition) for names in wanted for partition in names)))
    parts = [[fold.lines for _ in names if (fold := next(found)) is not None] for names in wanted]
    at = 0
    async for hour, raw in rollup.hour_folds(store, max(first, fresh), end - 1, now):
        while pieces[at].end <= hour:
            at += 1
        parts[at].append(raw.result().lines)
    return [aggregates.add_lines(lines) for lines in parts]


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
