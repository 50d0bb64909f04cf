"""The settlement queue: lets the limits of a process settle in the background, in the time of a lease.

It has one timer and one queue for all of them, so that a key that is used once costs neither a timer nor a task while
it waits to settle.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from shared.concurrency import start_shared
from shared.limits._token_bucket import LEASE_SECONDS

if TYPE_CHECKING:
    from shared.limits._lease import LeasedLimit

_AT_ONCE = 32  # settlements under way that no call waits for
_TOGETHER = 0.05  # seconds between the first and the last of a page of the agenda


class SettlementScheduler:
    """One per process."""

    def __init__(self) -> None:
        self._agenda: deque[tuple[float, list[LeasedLimit]]] = deque()  # by when they are due, on the loop's clock
        self._timer: asyncio.TimerHandle | None = None
        self._ticks = 0  # settlements under way that a tick has started
        self._running: dict[asyncio.Task[None], LeasedLimit] = {}

    def remember(self, limit: "LeasedLimit") -> None:
        """Call `tick` after the time of a lease. The agenda keeps the limit alive until then."""
        loop = asyncio.get_running_loop()
        due = loop.time() + LEASE_SECONDS
        if not self._agenda or self._agenda[-1][0] < due - _TOGETHER:
            self._agenda.append((due, [limit]))
        else:
            self._agenda[-1][1].append(limit)
        if self._timer is None:
            self._timer = loop.call_at(due, self._work)

    def run(self, limit: "LeasedLimit", exchange: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run an exchange of this limit in the background. The limit is kept alive until it ends."""
        task = start_shared(exchange)
        self._running[task] = limit
        task.add_done_callback(self._running.pop)
        return task

    async def settle_all(self) -> None:
        """Settle whatever is owed, when the process ends."""
        agenda, self._agenda = self._agenda, deque()
        limits = iter({*itertools.chain.from_iterable(page for _, page in agenda), *self._running.values()})

        async def settle() -> None:
            for limit in limits:
                await limit.flush()

        await asyncio.gather(*(settle() for _ in range(_AT_ONCE)))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _work(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        while self._agenda and self._ticks < _AT_ONCE:
            due, page = self._agenda[0]
            if due > loop.time():
                break
            if not page:
                self._agenda.popleft()
                continue
            settlement = page.pop().tick()
            if settlement is not None:
                self._ticks += 1
                settlement.add_done_callback(self._ended)
        if self._agenda and self._ticks < _AT_ONCE:
            self._timer = loop.call_at(self._agenda[0][0], self._work)

    def _ended(self, _: asyncio.Task[None]) -> None:
        self._ticks -= 1
        if self._timer is None:
            self._work()
