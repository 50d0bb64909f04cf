"""One leased limit: admits calls against a locally held lease, and settles what they took.

A warm call is admitted from the lease, with nothing awaited. A call that the lease does not cover waits for one
exchange with the table (`_exchange.py`), together with all others that wait, for 300 ms at most. After that the
instance decides alone (`_safe_mode.py`).
"""

import asyncio
import logging
import math

from shared.errors import StoreUnavailable
from shared.limits import scopes
from shared.limits._amounts import NOTHING, Amounts
from shared.limits._exchange import BUSY, Alert, Denied, LeaseExchange
from shared.limits._rows import LimitsTable
from shared.limits._safe_mode import Safe, Standing, spend_safely
from shared.limits._settlement import SettlementScheduler
from shared.limits._token_bucket import Denial
from shared.limits.scopes import Scope
from shared.usage.token_averages import TokenAverages

logger = logging.getLogger("tollgate.limits")

PATIENCE = 0.3  # seconds that a call waits for the table
_SLICES = 3  # of it: a loop that is busy with a thousand calls at once must have had the chance to read the answer
_NEAR = 0.85  # of a quota

_UNTOUCHED = Safe()


class LeasedLimit:
    """One per process and limit."""

    def __init__(self, scope: Scope, table: LimitsTable, scheduler: SettlementScheduler, alert: Alert) -> None:
        self._exchange = LeaseExchange(scope, table, alert)
        self._table = table
        self._scheduler = scheduler
        self._scheduled = False  # to settle
        self._task: asyncio.Task[None] | None = None  # the exchange under way
        self._timer: asyncio.TimerHandle | None = None  # of the calls that wait
        self._safe = _UNTOUCHED
        self._experience: TokenAverages | None = None

    @property
    def scope(self) -> Scope:
        return self._exchange.scope

    @property
    def idle(self) -> bool:
        """True if nothing would be lost by forgetting this limit."""
        return not (self._task or self._exchange.waiting or self._exchange.must_settle)

    def change(self, scope: Scope) -> None:
        """Apply changed limits. What is out on lease lasts two seconds at most."""
        self._exchange.change(scope)

    @property
    def experience(self) -> TokenAverages | None:
        """The experience with calls under this limit, here or on other instances; None if there is none."""
        if self._experience is None and (output := self._exchange.expected_output):
            return TokenAverages.of_others(output)
        return self._experience

    def learn(self, experience: TokenAverages) -> None:
        """Use this experience from now on, and share its expected output with other instances."""
        self._experience = experience
        self._exchange.expect_output(experience.expected_output)

    def nearly_used_up(self, now: float) -> bool:
        """True near a quota's end, where calls that take more than their estimates would overrun it. Counts what this
        process knows and the row does not: the rest of its lease is not used, and its calls took what they took."""
        row = self._exchange.row
        if row is None or not self.scope.has_quota:
            return False
        holding = self._exchange.holding
        own = zip(holding.lease.left.each(), holding.owed.each(), strict=True)
        return any(
            bound is not None and level is not None and level.used - left + owed > _NEAR * bound.quota
            for bound, level, (left, owed) in zip(self._exchange.bounds(now), row.levels, own, strict=True)
        )

    def spend(self, cost: Amounts, now: float) -> bool:
        """Admit a call from the lease, if it covers it. Nothing is awaited."""
        if not self._exchange.spend(cost, now):
            return False
        if self._task is None and self._exchange.runs_low(now):
            self._start()
        return True

    async def admit(self, cost: Amounts, now: float) -> None:
        """Admit a call that the lease does not cover. Raises `Denied`, and `StoreUnavailable` for what cannot be judged
        without the table."""
        reach = self._table.reach
        if reach.lost_since is not None:
            if self._task is None and reach.may_try(now):
                self._start()
            self._admit_alone(cost, now)
            return
        if denial := self._exchange.remembered_denial(cost, now):
            raise Denied(self.scope, denial)
        admitted = self._exchange.wait(cost, now)
        if self._timer is None:
            self._set_timer(_SLICES)
        if self._task is None:
            self._start()
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled() and admitted.exception() is None:
                self.settle(cost, NOTHING)
            raise

    def overdraw(self, cost: Amounts) -> None:
        """Count a call that passes although nothing covers it: a soft limit, or the table is out of reach."""
        self._exchange.overdraw(cost)
        self._schedule()

    def settle(self, reserved: Amounts, actual: Amounts) -> None:
        """Book what an ended call took in place of what was reserved for it."""
        self._exchange.settle(reserved, actual)
        self._schedule()

    async def flush(self) -> None:
        """Settle, and give back what is left. Raises nothing; what the table does not take stays owed."""
        self._scheduled = False
        for _ in range(2):  # an exchange that is under way may keep its lease
            self._exchange.expect_nothing()
            if self._task is None:
                if self.idle:
                    break
                self._start()
            if self._task is not None:
                await asyncio.wait((self._task,))

    def available(self, dimension: int, now: float) -> tuple[float, float, float] | None:
        """(Limit per minute, what may be spent now as far as is known here, seconds until all of it may be again)."""
        bound = self._exchange.bounds(now)[dimension]
        if bound is None or math.isinf(bound.cap):
            return None
        have, row, holding = bound.cap, self._exchange.row, self._exchange.holding
        if row is not None and (level := row.levels[dimension]) is not None:
            have = min(have, level.level + max(0.0, now - row.time) * bound.per_second)
        left = holding.lease.left.each()[dimension]
        have -= holding.owed.each()[dimension]
        if now < holding.lease.expires and left < math.inf:
            have += left
        have, shards = max(0.0, min(bound.cap, have)), self.scope.shards
        return bound.cap * shards, have * shards, (bound.cap - have) / bound.per_second

    # --- without the table --------------------------------------------------------------------------------------------

    def _admit_alone(self, cost: Amounts, now: float) -> None:
        exchange = self._exchange
        bounds = exchange.bounds(now)
        unread = exchange.row is None and any(bound and math.isinf(bound.cap) for bound in bounds)
        if unread and self.scope.kind != scopes.ADDRESS:  # an address must not shut out a caller whose key is good
            raise StoreUnavailable("The store that counts this key's quota is out of reach. Try again shortly.")
        standing = Standing(exchange.row, exchange.holding, exchange.active)
        decision = spend_safely(self._safe, bounds, standing, cost, now)
        if isinstance(decision, Denial):
            raise Denied(self.scope, decision)
        self._safe = decision
        self.overdraw(cost)

    def _admit_waiting_alone(self, now: float) -> None:
        for waiter in self._exchange.take_waiting():
            try:
                self._admit_alone(waiter.cost, now)
                waiter.admitted.set_result(None)
            except (Denied, StoreUnavailable) as error:
                waiter.admitted.set_exception(error)

    def _set_timer(self, slices: int) -> None:
        self._timer = asyncio.get_running_loop().call_later(PATIENCE / _SLICES, self._slice_passed, slices - 1)

    def _slice_passed(self, left: int) -> None:
        """A slice of the patience has passed. After the last one, judge the waiting calls without the table."""
        self._timer = None
        if not self._exchange.waiting:
            return
        if left:
            self._set_timer(left)
            return
        reach = self._table.reach
        if reach.answered_at >= self._exchange.waiting[0].since:  # it answers, but others write the row all the time
            self._exchange.deny_waiting(BUSY, NOTHING)
            return
        now = self._table.now()
        reach.lose(now, f"no answer within {PATIENCE:g} s")
        self._admit_waiting_alone(now)

    # --- exchanges in the background ----------------------------------------------------------------------------------

    def _start(self) -> None:
        self._task = self._scheduler.run(self, self._exchange.run())
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, StoreUnavailable):
                now = self._table.now()
                self._table.reach.lose(now, error)
                self._admit_waiting_alone(now)
            else:  # a defect of the gateway: the calls that wait here fail, and all others go on
                logger.error("cannot update the limits of %s", self.scope.logged, exc_info=error)
                for waiter in self._exchange.take_waiting():
                    waiter.admitted.set_exception(error)
        if self._exchange.waiting:  # calls that came between the last exchange and the end of its task
            self._start()
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and self._exchange.must_settle:
            self._scheduled = True
            self._scheduler.remember(self)

    def tick(self) -> asyncio.Task[None] | None:
        """Settle, unless the next calls will do so with their own exchange. Returns the exchange if one was started."""
        self._scheduled = False
        now, exchange = self._table.now(), self._exchange
        holding = exchange.holding
        due = now >= holding.lease.expires or holding.under_way or (holding.owes and not exchange.expects_calls(now))
        if due and exchange.must_settle and self._task is None and self._table.reach.may_try(now):
            self._start()
            return self._task
        self._schedule()
        return None
