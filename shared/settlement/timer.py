"""Ask for the pending work that is due, and settle what is done, even if nobody reads it, on a timer."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from shared.affinity.pending import PendingIndex, PendingRow
from shared.errors import GatewayError, StoreUnavailable
from shared.settlement import schedule
from shared.settlement.settler import Settler
from shared.storage import Store
from shared.storage.retrying import RetryingStore
from shared.usage.rollup import TimerLock

logger = logging.getLogger("tollgate.settlement")

_JOB = "settlement"  # a partition of the table `control`
_MOST = 5000  # pieces of work that a pass asks for, and marks that it deletes
_SECONDS = 100.0  # after which a pass asks for no more
_AT_ONCE = 8
_MARK_KEPT = 3600.0  # seconds: no insert is repeated for so long


class Summary(msgspec.Struct):
    """The work of a pass. `failed`: could not be asked for. `left`: due, beyond the bounds of the pass."""

    settled: int = 0
    under_way: int = 0
    failed: int = 0
    left: int = 0
    skipped: bool = False


async def run(store: Store, settler: Settler) -> Summary:
    """Settle what is due. Raises `StoreUnavailable`. The lease only saves work."""
    store = RetryingStore(store)
    lock = TimerLock(store, secrets.token_hex(5), _JOB)
    if not await lock.acquire():
        return Summary(skipped=True)
    try:
        return await _Pass(store, settler).run()
    finally:
        await lock.release()


class _Pass:
    def __init__(self, store: Store, settler: Settler) -> None:
        self._now = store.now
        self._index = PendingIndex(store)
        self._settler = settler
        self._ends = time.monotonic() + _SECONDS
        self._summary = Summary()

    async def run(self) -> Summary:
        self._summary.left += await self._each(await self._due(), self._settle)
        return self._summary

    async def _each(self, rows: Iterable[PendingRow], do: Callable[[PendingRow], Awaitable[None]]) -> int:
        """Do this for some rows at a time until the time is over. Return how many are left."""
        waiting = iter(rows)

        async def work() -> None:
            while time.monotonic() < self._ends and (row := next(waiting, None)) is not None:
                await do(row)

        await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
        return sum(1 for _ in waiting)

    async def _due(self) -> list[PendingRow]:
        """The rows that are due, the longest first. Deletes old marks."""
        now, due, old = self._now(), list[PendingRow](), list[PendingRow]()
        async for row in self._index.all():
            if row.work is not None and row.due <= now:
                due.append(row)
                if len(due) >= 2 * _MOST:
                    due = self._longest(due)
            elif 0 < row.settled < now - _MARK_KEPT and len(old) < _MOST:
                old.append(row)
        await self._each(old, self._index.delete)
        return self._longest(due)

    def _longest(self, due: list[PendingRow]) -> list[PendingRow]:
        due.sort(key=lambda row: row.due)
        self._summary.left += len(due[_MOST:])
        return due[:_MOST]

    async def _settle(self, row: PendingRow) -> None:
        assert row.work is not None
        try:
            if await self._settler.settle(row, row.work):
                self._summary.settled += 1
                return
            self._summary.under_way += 1
        except GatewayError as error:
            self._summary.failed += 1
            logger.warning("usage of %s not settled yet: %s", row.work.id[:128], error)
        except Exception:
            self._summary.failed += 1
            logger.exception("usage of %s not settled: unexpected error", row.work.id[:128])
        try:
            await self._index.postpone(row, schedule.due_after(row.work.started, self._now()))
        except StoreUnavailable as error:
            logger.warning("retrying %s in the next pass: %s", row.work.id[:128], error)
