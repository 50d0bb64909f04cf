"""This process's part in one limited thing: admits calls from its lease, and settles what they took.

A warm call is admitted from the lease with nothing awaited. Where the lease does not cover it, it waits for one
exchange with the table (`trader.py`), together with all others that wait, 300 ms at most; then the instance decides
alone (`safe_mode.py`).
"""

import asyncio
import logging
import math

from shared.errors import StoreUnavailable
from shared.limits import scopes
from shared.limits._demand import NO_PACE
from shared.limits._exchange import BUSY, NOBODY, LeaseExchange, Refused, Waiter
from shared.limits._safe_mode import Safe, spend_safely
from shared.limits._settlement import SettlementScheduler
from shared.limits._token_bucket import NEVER, NOTHING, Amounts, Denial
from shared.limits.scopes import Scope

logger = logging.getLogger("tollgate.limits")

PATIENCE = 0.3  # seconds that a call waits for the table
_SLICES = 3  # of it: a loop that is busy with a thousand calls at once must have had the chance to hear the answer
_NEAR = 0.85  # of a quota

_UNTOUCHED = Safe()


class LeasedLimit(LeaseExchange):
    """One per process and row."""

    __slots__ = ("_patience", "_safe", "_task", "on_agenda")

    def __init__(self, scope: Scope, landlord: SettlementScheduler) -> None:
        super().__init__(scope, landlord)
        self.on_agenda = False
        self._task: asyncio.Task[None] | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._safe = _UNTOUCHED

    @property
    def idle(self) -> bool:
        """Nothing would be lost if this lessee were forgotten."""
        return not (self._task or self.waiting or self._must_settle)

    @property
    def _must_settle(self) -> bool:
        return self.in_doubt or self.under_way > 0 or self.owes or self.has_rest

    def change(self, scope: Scope) -> None:
        """The limits have changed. What is out on lease lasts two seconds at most."""
        if scope.shards != self.scope.shards:
            self._shard = 0
        self.scope = scope
        self._bounds_until = self._refused_until = NEVER

    @property
    def nearly_used_up(self) -> bool:
        """Whether a quota nears its end, where what calls under way take beyond their estimates would overrun it."""
        if self.row is None or not self.scope.has_quota:
            return False
        return any(
            bound is not None and level is not None and level.used > _NEAR * bound.quota
            for bound, level in zip(self._bounds, self.row.levels, strict=True)
        )

    def spend(self, cost: Amounts, now: float) -> bool:
        """Admit a call from the lease, if it covers it. Nothing is awaited."""
        self._pace = self._pace.after(cost, now)
        lease = self.lease
        if now >= lease.expires or self._closed or self.waiting or not lease.left.covers(cost):
            return False
        self.lease = lease = lease.spend(cost)
        if cost.slots:
            self.under_way += 1
        if self._task is None and now >= self._refused_until and self._pace.runs_low(lease.left):
            self._start()
        return True

    async def admit(self, cost: Amounts, now: float) -> None:
        """Admit a call that the lease does not cover. Raises `Refused`, and `StoreUnavailable` for what cannot be
        judged without the table."""
        reach = self._landlord.reach
        if reach.lost_since is not None:
            if self._task is None and reach.may_try(now):
                self._start()
            self._admit_alone(cost, now)
            return
        if refusal := self.refused_by_memory(cost, now):
            raise Refused(self.scope, refusal)
        loop = asyncio.get_running_loop()
        waiter = Waiter(cost, loop.create_future(), now)
        if self.waiting is NOBODY:
            self.waiting = []
        self.waiting.append(waiter)
        if self._patience is None:
            self._patience = loop.call_later(PATIENCE / _SLICES, self._lose_patience, _SLICES - 1)
        self._start()
        try:
            await waiter.admitted
        except asyncio.CancelledError:
            if waiter.admitted.done() and not waiter.admitted.cancelled() and waiter.admitted.exception() is None:
                self.settle(cost, NOTHING)
            raise

    def overdraw(self, cost: Amounts) -> None:
        """Count a call that passes although nothing covers it: a soft limit, or the table is out of reach."""
        self.owe(cost)
        if cost.slots:
            self.under_way += 1
            self.lease = self.lease.spend(Amounts(slots=cost.slots))
        self._arm()

    def settle(self, reserved: Amounts, actual: Amounts) -> None:
        """A call has ended: book what it took in place of what was reserved for it."""
        if reserved.slots:
            self.under_way -= 1
            self.lease = self.lease.spend(Amounts(slots=-reserved.slots))
        self.owe(actual.minus(reserved))
        self._arm()

    async def flush(self) -> None:
        """Settle, and give back what is left. Raises nothing; what the table does not take stays owed."""
        for _ in range(2):  # an exchange that is under way may keep its lease
            self._pace = NO_PACE
            if self._task is None:
                if self.idle:
                    break
                self._start()
            if self._task is not None:
                await asyncio.wait((self._task,))

    def available(self, dimension: int, now: float) -> tuple[float, float, float] | None:
        """(limit a minute, what may be spent now as far as is known here, seconds until all of it may be again)."""
        bound = self.bounds(now)[dimension]
        if bound is None or math.isinf(bound.cap):
            return None
        have, row = bound.cap, self.row
        if row is not None and (level := row.levels[dimension]) is not None:
            have = min(have, level.level + max(0.0, now - row.time) * bound.per_second)
        left = self.lease.left.each()[dimension]
        have -= self.owed.each()[dimension]
        if now < self.lease.expires and left < math.inf:
            have += left
        have, shards = max(0.0, min(bound.cap, have)), self.scope.shards
        return bound.cap * shards, have * shards, (bound.cap - have) / bound.per_second

    # --- alone --------------------------------------------------------------------------------------------------------

    def _admit_alone(self, cost: Amounts, now: float) -> None:
        bounds = self.bounds(now)
        unread = self.row is None and any(bound and math.isinf(bound.cap) for bound in bounds)
        if unread and self.scope.kind != scopes.ADDRESS:  # a caller whose key is known is to be served meanwhile
            raise StoreUnavailable("The store that counts this key's quota is out of reach. Try again shortly.")
        decided = spend_safely(self._safe, bounds, self.row, self.active, self.owed, self.under_way, cost, now)
        if isinstance(decided, Denial):
            raise Refused(self.scope, decided)
        self._safe = decided
        self.overdraw(cost)

    def _lose_patience(self, slices: int) -> None:
        """After so many more slices nobody waits longer: those in the queue are judged without the table."""
        self._patience = None
        if not self.waiting:
            return
        if slices:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(PATIENCE / _SLICES, self._lose_patience, slices - 1)
            return
        now = self._landlord.now()
        if self._landlord.reach.heard_at >= self.waiting[0].since:  # it answers, but others write the row all the time
            self.refuse(BUSY, NOTHING)
            return
        self._landlord.reach.lose(now, f"no answer within {PATIENCE:g} s")
        self._judge_alone(now)

    def _judge_alone(self, now: float) -> None:
        waiting, self.waiting = self.waiting, NOBODY
        for waiter in waiting:
            if waiter.admitted.done():
                continue
            try:
                self._admit_alone(waiter.cost, now)
                waiter.admitted.set_result(None)
            except (Refused, StoreUnavailable) as error:
                waiter.admitted.set_exception(error)

    # --- the trade in the background ----------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self.trade())
            self._task.add_done_callback(self._traded)
            self._landlord.trading.add(self)

    def _traded(self, task: asyncio.Task[None]) -> None:
        self._task = None
        self._landlord.trading.discard(self)
        self._closed = False
        if not task.cancelled() and (error := task.exception()) is not None:
            now = self._landlord.now()
            if not isinstance(error, StoreUnavailable):
                logger.error("the limits of %s cannot be counted", self.scope.key, exc_info=error)
            self._landlord.reach.lose(now, error)
            self._judge_alone(now)
        if self.waiting:  # who came between the last exchange and the end of its task
            self._start()
        elif self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self._arm()

    def _arm(self) -> None:
        if not self.on_agenda and self._must_settle:
            self._landlord.remember(self)

    def tick(self) -> asyncio.Task[None] | None:
        """It is time to settle, unless the next calls will do so with their own exchange."""
        now = self._landlord.now()
        due = now >= self.lease.expires or self.under_way or (self.owes and self._pace.ahead(now) == NOTHING)
        if due and self._must_settle and self._task is None and self._landlord.reach.may_try(now):
            self._start()
            return self._task
        self._arm()
        return None
