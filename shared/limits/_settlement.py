"""What all lessees of a process share: the table, its clock, whether it answers, and the agenda of what is to settle.

The agenda is one timer and one queue for all of them, so that a key that is used once costs neither a timer nor a
task of its own while it waits to settle.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from typing import Protocol

from shared.limits._safe_mode import Reach
from shared.limits._token_bucket import LEASE_SECONDS
from shared.limits.scopes import Scope
from shared.storage import Table

_AT_ONCE = 32  # settlements under way that no call waits for
_TOGETHER = 0.05  # seconds between the first and the last of a page of the agenda

Alert = Callable[[Scope, str, int, float], None]
"""Is told: scope, dimension, percentage of the quota, until when."""


class Settleable(Protocol):
    """Who has something to settle."""

    on_agenda: bool

    def tick(self) -> asyncio.Task[None] | None:
        """It is time: the settlement, where one was begun."""
        ...

    async def flush(self) -> None:
        """Settle now, and give back what is left."""
        ...


class SettlementScheduler:
    """One per process. `now` is the store's clock."""

    def __init__(self, table: Table, now: Callable[[], float], alert: Alert) -> None:
        self.table = table
        self.now = now
        self.alert = alert
        self.reach = Reach()
        self.trading: set[Settleable] = set()
        self._agenda: deque[tuple[float, list[Settleable]]] = deque()  # by when they are due, on the loop's clock
        self._timer: asyncio.TimerHandle | None = None
        self._under_way = 0

    def remember(self, tenant: Settleable) -> None:
        """Let it settle in the time of a lease. The agenda keeps it alive until then."""
        loop = asyncio.get_running_loop()
        due = loop.time() + LEASE_SECONDS
        tenant.on_agenda = True
        if not self._agenda or self._agenda[-1][0] < due - _TOGETHER:
            self._agenda.append((due, [tenant]))
        else:
            self._agenda[-1][1].append(tenant)
        if self._timer is None:
            self._timer = loop.call_at(due, self._work)

    async def settle_all(self) -> None:
        """Settle whatever is owed, when the process ends."""
        tenants = iter({*itertools.chain.from_iterable(page for _, page in self._agenda), *self.trading})
        self.close()

        async def settle() -> None:
            for tenant in tenants:
                await tenant.flush()

        await asyncio.gather(*(settle() for _ in range(_AT_ONCE)))
        self.close()

    def close(self) -> None:
        """Forget what is on the agenda."""
        while self._agenda:
            for tenant in self._agenda.popleft()[1]:
                tenant.on_agenda = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _work(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        while self._agenda and self._under_way < _AT_ONCE:
            due, page = self._agenda[0]
            if due > loop.time():
                break
            if not page:
                self._agenda.popleft()
                continue
            tenant = page.pop()
            tenant.on_agenda = False
            settlement = tenant.tick()
            if settlement is not None:
                self._under_way += 1
                settlement.add_done_callback(self._done)
        if self._agenda and self._under_way < _AT_ONCE:
            self._timer = loop.call_at(self._agenda[0][0], self._work)

    def _done(self, _: asyncio.Task[None]) -> None:
        self._under_way -= 1
        if self._timer is None:
            self._work()
