"""Fold raw usage rows into hours, hours into days, and days into months, on a timer.

A raw row is one request, in the table `usageYYYYMM`, partition `YYYYMMDDHH-SS`. It is written in two halves, which may
come in any order, late, twice or never: `s_*` when the request was admitted, `e_*` when it ended. Nothing is
incremented: a fold is a function of its rows, and `aggregates.py` makes the fold of more rows win.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from itertools import groupby

import msgspec

from shared.errors import StoreUnavailable
from shared.storage import Properties, Row, Store, Table
from shared.storage.conditional import update
from shared.storage.names import CONTROL, USAGE, USAGE_AGGREGATES
from shared.storage.retrying import RetryingStore
from shared.usage import aggregates, hours
from shared.usage._hour_fold import HourFold
from shared.usage.folds import Fold, Lines, bounded, bounded_by_user, combine

logger = logging.getLogger("tollgate.rollup")

SETTLED = 70 * 60  # age at which an hour has all its ends and orphans, unless a table was unavailable
SEALED = 26 * 3600  # age at which late rows have arrived, too
LEASE = 300  # seconds
OVERDUE = 600  # seconds after the end of the last pass, when the timer has missed its turn

PARTITION, LATE = "rollup", "late"  # of the table `control`
_READERS = 8  # partitions read at a time


class Summary(msgspec.Struct, frozen=True):
    """The work of a pass. `skipped`: another instance is at work."""

    hours: int = 0
    days: int = 0
    months: int = 0
    rows_read: int = 0
    rows_written: int = 0
    orphans: int = 0
    seconds: float = 0.0
    skipped: bool = False


class Watermarks(msgspec.Struct, frozen=True):
    """Hours since 1970. Every hour before `settled` was folded when it was `SETTLED` old, then its day and month;
    likewise `sealed`. Both only grow, so the higher value of two writers is right."""

    settled: int
    sealed: int


def _new_nonce() -> str:
    return secrets.token_hex(5)


async def note_late(store: Store, partition: str) -> None:
    """Request another fold of a raw partition's hour: its last fold may have missed new rows."""
    await store.table(CONTROL).merge(LATE, {partition[:10]: {"pending": True}})


async def roll_up(store: Store, keep_months: int = 0) -> Summary:
    """Fold the current and the previous hour, hours that settled, were sealed or had late rows, and their days and
    months. Drop the tables of raw rows older than `keep_months`; 0: keep all.

    The lease only saves work: an instance that loses it does no harm."""
    started = time.perf_counter()
    store = RetryingStore(store)
    lease = TimerLock(store, _new_nonce())
    if not await lease.acquire():
        return Summary(skipped=True)
    roll = _Pass(store, lease)
    try:
        if await roll.run() and keep_months:
            await drop_old(store, keep_months)
    finally:
        await lease.release()
    return msgspec.structs.replace(roll.summary, seconds=round(time.perf_counter() - started, 3))


class TimerLock:
    """A lease in one row, taken by compare-and-swap. It expires by the store's clock, and at the end of a pass. `job`:
    the partition of the table `control`."""

    def __init__(self, store: Store, owner: str, job: str = PARTITION) -> None:
        self._store = store
        self._table = store.table(CONTROL)
        self._owner = owner
        self._job = job

    async def acquire(self) -> bool:
        """Take or extend the lease. Return False if another instance holds it."""

        def take(row: Row | None) -> Properties | None:
            now = self._store.now()
            if row and row.properties["owner"] != self._owner and float(row.properties["expiry"]) > now:
                return None
            return {"owner": self._owner, "expiry": now + LEASE}

        return await update(self._table, self._job, "lease", take) is not None

    async def release(self) -> None:
        def expire(row: Row | None) -> Properties | None:
            if row is None or row.properties["owner"] != self._owner:
                return None
            return {"owner": self._owner, "expiry": self._store.now()}

        try:
            await update(self._table, self._job, "lease", expire)
        except StoreUnavailable as error:
            logger.warning("the lease of the %s was not released and expires in %d s: %s", self._job, LEASE, error)


async def overdue(store: Store) -> bool:
    """True if the last pass ended, or lost its lease, more than `OVERDUE` seconds ago."""
    row = await store.table(CONTROL).get(PARTITION, "lease")
    return row is None or float(row.properties["expiry"]) < store.now() - OVERDUE


async def watermarks(store: Store) -> Watermarks | None:
    """The progress of the timer; None before its first pass."""
    row = await store.table(CONTROL).get(PARTITION, "state")
    return Watermarks(int(row.properties["settled"]), int(row.properties["sealed"])) if row else None


class _Pass:
    """One run of the timer. It saves its progress day by day."""

    def __init__(self, store: Store, lease: TimerLock) -> None:
        self._store = store
        self._lease = lease
        self._now = store.now()
        self._aggregates = store.table(USAGE_AGGREGATES)
        self._control = store.table(CONTROL)
        self.summary = Summary()

    async def run(self) -> bool:
        """Fold everything due. Return False if the lease was lost before the end."""
        late = await self._late()
        done = await watermarks(self._store) or await self._beginning()
        goal = Watermarks(hours.hour_of(self._now - SETTLED) + 1, hours.hour_of(self._now - SEALED) + 1)
        current = hours.hour_of(self._now)
        todo = {*late, *range(done.sealed, goal.sealed), *range(min(done.settled, current - 1), current + 1)}
        for number, (_, day) in enumerate(groupby(sorted(todo), key=hours.day_start)):
            if number and not await self._lease.acquire():
                logger.warning("lost the roll-up's lease to another instance; this pass ends")
                return False
            first, *_, last = [*day] * 2
            await self._fold_day(first, last)
            for hour in range(first, last + 1):
                if hour in late:  # does nothing if more rows arrived since
                    await self._control.put(LATE, hours.label(hour), {"pending": False}, late[hour])
            await self._save(Watermarks(min(goal.settled, last + 1), min(goal.sealed, last + 1)))
        return True

    async def _late(self) -> dict[int, str]:
        """The hours with late rows, and the etags of their notes."""
        notes = [row async for row in self._control.scan(LATE)]
        return {hours.from_label(row.key): row.etag for row in notes if row.properties.get("pending")}

    async def _beginning(self) -> Watermarks:
        """The watermarks before the first pass: at the earliest row."""
        beginning = hours.hour_of(self._now - SEALED)
        earliest = await first_hour(self._store)
        if earliest is not None:
            beginning = min(beginning, earliest)
        return Watermarks(beginning, beginning)

    async def _fold_day(self, first: int, last: int) -> None:
        """Fold the hours `first` to `last` of one day, then the day, then its month."""
        folded, by_user = 0, False
        async for hour, fold in hour_folds(self._store, first, last, self._now):
            result = fold.result()
            await self._commit(hours.hour_partition(hour), result)
            if (users := fold.users()) is not None:
                await self._commit(hours.of_users(hours.hour_partition(hour)), users)
                by_user = True
            self._count(rows_read=fold.rows, orphans=result.rank[1])
            folded += 1
        if folded:
            await self._combine_day(first, str, bounded)
            self._count(hours=folded, days=1, months=1)
        if by_user:
            await self._combine_day(first, hours.of_users, bounded_by_user)

    async def _combine_day(self, hour: int, name: Callable[[str], str], bounded: Callable[[Lines], Lines]) -> None:
        """Combine the folds of an hour's day, then those of its month. `name` returns their partitions' names."""
        day, month, end = hours.day_start(hour), hours.month_start(hour), hours.next_month(hour)
        of_day, of_month = name(hours.day_partition(day)), name(hours.month_partition(month))
        await self._combine(of_day, [name(hours.hour_partition(day + i)) for i in range(24)], bounded)
        days = [name(hours.day_partition(start)) for start in range(month, end, hours.DAY)]
        await self._combine(of_month, days, bounded)

    async def _combine(self, partition: str, parts: list[str], bounded: Callable[[Lines], Lines]) -> None:
        gate = asyncio.Semaphore(_READERS)

        async def read(part: str) -> Fold | None:
            async with gate:
                return await aggregates.read(self._aggregates, part)

        folds = await asyncio.gather(*map(read, parts))
        await self._commit(partition, combine([fold for fold in folds if fold is not None], bounded))

    async def _commit(self, partition: str, fold: Fold) -> None:
        self._count(rows_written=await aggregates.commit(self._aggregates, partition, fold, _new_nonce()))

    async def _save(self, done: Watermarks) -> None:
        def advance(row: Row | None) -> Properties | None:
            old = row.properties if row else {"settled": 0, "sealed": 0}
            new = {"settled": max(int(old["settled"]), done.settled), "sealed": max(int(old["sealed"]), done.sealed)}
            return None if row and new == old else new

        await update(self._control, PARTITION, "state", advance)

    def _count(self, **more: int) -> None:
        sums = {name: getattr(self.summary, name) + count for name, count in more.items()}
        self.summary = msgspec.structs.replace(self.summary, **sums)


async def drop_old(store: Store, keep_months: int) -> None:
    """Drop the raw tables of months that ended at least `keep_months` ago. They were folded long ago."""
    oldest = hours.hour_of(store.now())
    for _ in range(keep_months):
        oldest = hours.month_start(hours.month_start(oldest) - 1)
    for name in await store.names(f"{USAGE}2"):
        if name < hours.raw_table(oldest):
            await store.drop(name)
            logger.warning("dropped %s: raw rows are kept for %d months", name, keep_months)


async def first_hour(store: Store) -> int | None:
    """The hour of the earliest raw row; None if there is none."""
    for name in await store.names(f"{USAGE}2"):
        async for row in store.table(name).scan_all():
            return hours.from_label(row.partition[:10])
    return None


async def hour_folds(store: Store, first: int, last: int, now: float) -> AsyncIterator[tuple[int, HourFold]]:
    """The folds of the hours from `first` to `last` that have rows, in order, one at a time in memory."""
    while first <= last:
        end = min(last, hours.next_month(first) - 1)
        async for hour, fold in _table_folds(store.table(hours.raw_table(first)), first, end, now):
            yield hour, fold
        first = end + 1


async def _table_folds(table: Table, first: int, last: int, now: float) -> AsyncIterator[tuple[int, HourFold]]:
    """One scan for all hours costs an operation per 1,000 rows; one per partition would cost 16 per hour."""
    name, fold, end = "", HourFold(now), hours.label(last)
    async for row in table.scan_all(after=hours.label(first)):
        if row.partition[:10] != name:
            if fold.rows:
                yield hours.from_label(name), fold
            name, fold = row.partition[:10], HourFold(now)
            if name > end:
                return
        fold.add(row.properties)
    if fold.rows:
        yield hours.from_label(name), fold
