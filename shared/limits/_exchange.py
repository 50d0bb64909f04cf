"""Exchanges a lease with its row in the table: one conditional write at a time, on behalf of all waiting calls."""

import asyncio
import math
import random
import secrets
from collections.abc import Callable

import msgspec

from shared.limits import _token_bucket, scopes
from shared.limits._amounts import DIMENSIONS, NOTHING, Amounts, Bounds, combine, finite
from shared.limits._demand import NO_DEMAND, DemandAverage
from shared.limits._holding import NO_LEASE, Holding, carried
from shared.limits._rows import LimitsTable
from shared.limits._token_bucket import NEVER, BucketState, Demand, Denial, Exchange
from shared.limits.scopes import Scope

_TRIES = 8
_JITTER = 0.004  # seconds; doubles with every write for which another instance was first
_FORGET = 0.99  # of the most instances seen, with every reading
_SOLE_FOR = 30.0  # seconds for which a lone instance trusts that its last write is still the row
_LONGEST_MEMORY = 5.0  # seconds for which a denial holds without another look at the table
_WRITES_A_SECOND = 50.0  # that one row takes

BUSY = Denial("requests", "rate", 1.0)

Alert = Callable[[Scope, str, int, float], None]
"""Receives the scope, the dimension, the percentage of its quota, and when the quota renews (seconds since 1970)."""


class Denied(Exception):
    """A call does not pass a limit of `scope`."""

    def __init__(self, scope: Scope, denial: Denial) -> None:
        super().__init__(f"{scope.logged}: {denial.dimension}")
        self.scope = scope
        self.denial = denial


class Waiter(msgspec.Struct, frozen=True):
    """A call that waits for an exchange. `since` by the table's clock."""

    cost: Amounts
    admitted: asyncio.Future[None]
    since: float


_NO_WAITERS: list[Waiter] = []  # stays empty: few keys have calls that wait, so few need their own list


class _Pending(msgspec.Struct, frozen=True):
    """A write that may or may not have been done, and the holding that it was made from."""

    result: Exchange
    nonce: str
    holding: Holding


class LeaseExchange:
    """One per process and limit. Owns this process's holding of the limit, and the calls that wait for it."""

    def __init__(self, scope: Scope, table: LimitsTable, alert: Alert) -> None:
        self.scope = scope
        self.holding = Holding()
        self.waiting = _NO_WAITERS
        self.row: BucketState | None = None  # as last seen
        self.active = 1.0  # instances that share the limit: the most seen of late
        self.expected_output = 0.0  # tokens: shared with other instances through the row
        self._table = table
        self._alert = alert
        self._shard = random.randrange(scope.shards)
        self._etag: str | None = None
        self._pending: _Pending | None = None
        self._bounds: Bounds = ()
        self._bounds_until = NEVER
        self._average: DemandAverage = NO_DEMAND
        self._giving_back = False  # the rest of the lease, by a write under way: it must not be spent
        self._denied_until = self._quiet_until = NEVER

    def change(self, scope: Scope) -> None:
        """Apply changed limits. What is out on lease lasts two seconds at most."""
        if scope.shards != self.scope.shards:
            self._shard = 0
        self.scope = scope
        self._bounds_until = self._denied_until = NEVER

    def bounds(self, now: float) -> Bounds:
        """The limits as they are now; a period's quota starts over with the period."""
        if now >= self._bounds_until:
            self._bounds = scopes.bounds(self.scope.limits, now, self.scope.shards)
            self._bounds_until = min((bound.until for bound in self._bounds if bound), default=math.inf)
        return self._bounds

    @property
    def must_settle(self) -> bool:
        """True if the row does not yet know all that this process has spent, holds, or may have written."""
        holding = self.holding
        return self._pending is not None or holding.under_way > 0 or holding.owes or holding.has_rest

    # --- the holding --------------------------------------------------------------------------------------------------

    def spend(self, cost: Amounts, now: float) -> bool:
        """Admit a call from the lease. False if the lease does not cover it. A call that takes nothing of what is
        limited needs no lease: every call has one request, limited or not."""
        if not (self.scope.limited[0] or cost.tokens or cost.usd or cost.slots):
            return True
        if self.scope.limits.estimate != "none":  # else nothing is leased ahead: each call sees what others have used
            self._average = self._average.after(cost, now)
        lease = self.holding.lease
        if now >= lease.expires or self._giving_back or self.waiting or not lease.left.covers(cost):
            return False
        self.holding = self.holding.spend(cost)
        return True

    def overdraw(self, cost: Amounts) -> None:
        """Count a call that passes although the lease does not cover it."""
        self.holding = self.holding.book(self._debt(NOTHING, cost), cost.slots)

    def settle(self, reserved: Amounts, actual: Amounts) -> None:
        """Book what a call took in place of what was reserved for it."""
        self.holding = self.holding.book(self._debt(reserved, actual), -reserved.slots)

    def _debt(self, reserved: Amounts, actual: Amounts) -> Amounts:
        """The difference, where it is limited: nothing else is ever settled. Slots are returned, not owed."""
        requests, tokens, usd, _ = self.scope.limited
        return Amounts(
            actual.requests - reserved.requests if requests else 0.0,
            actual.tokens - reserved.tokens if tokens else 0.0,
            actual.usd - reserved.usd if usd else 0.0,
        )

    def runs_low(self, now: float) -> bool:
        """True if the lease is to be refilled before it is spent."""
        return now >= self._denied_until and self._average.runs_low(self.holding.lease.left)

    def expects_calls(self, now: float) -> bool:
        return self._average.ahead(now) != NOTHING

    def expect_nothing(self) -> None:
        """Lease nothing ahead in the next exchange."""
        self._average = NO_DEMAND

    def expect_output(self, tokens: float) -> None:
        """Share the expected output of a call with other instances."""
        self.expected_output = tokens

    # --- waiting calls ------------------------------------------------------------------------------------------------

    def wait(self, cost: Amounts, now: float) -> asyncio.Future[None]:
        """Queue a call for the next exchange. The future raises `Denied`."""
        waiter = Waiter(cost, asyncio.get_running_loop().create_future(), now)
        if self.waiting is _NO_WAITERS:
            self.waiting = []
        self.waiting.append(waiter)
        return waiter.admitted

    def take_waiting(self) -> list[Waiter]:
        """Empty the queue, and return the calls that still wait."""
        waiting, self.waiting = self.waiting, _NO_WAITERS
        return [waiter for waiter in waiting if not waiter.admitted.done()]

    def deny_waiting(self, denial: Denial, first: Amounts) -> None:
        """Deny all waiting calls that want as much as this first one did, and remember the denial for a moment."""
        now = self._table.now()
        active = self.row.active() if self.row is not None else 1
        quiet = min(_LONGEST_MEMORY, active / _WRITES_A_SECOND) * random.uniform(0.75, 1.25) if active > 2 else 0.0
        self._quiet_until = now + quiet
        self._denied_until = now + max(quiet, min(_LONGEST_MEMORY, denial.wait) * random.uniform(0.75, 1.0))
        announced = msgspec.structs.replace(denial, wait=max(denial.wait, quiet))
        staying = []
        for waiter in self.waiting:
            if waiter.cost.of(denial.dimension) < first.of(denial.dimension):
                staying.append(waiter)
            elif not waiter.admitted.done():
                waiter.admitted.set_exception(Denied(self.scope, announced))
        self.waiting = staying or _NO_WAITERS

    def remembered_denial(self, cost: Amounts, now: float) -> Denial | None:
        """The denial of a call by the row as last seen, for as long as the last denial is remembered."""
        if now >= self._denied_until:
            return None
        demand = Demand(first=cost, queued=cost)
        denial = _token_bucket.exchange(self.row, self.bounds(now), self.holding, demand, now, "").denial
        if denial is None:
            return Denial("requests", "rate", self._quiet_until - now) if now < self._quiet_until else None
        return msgspec.structs.replace(denial, wait=max(denial.wait, self._quiet_until - now))

    def _admit_waiting(self, now: float) -> None:
        """Admit the waiting calls that the lease covers."""
        served = 0
        for waiter in self.waiting:
            if now >= self.holding.lease.expires or not self.holding.lease.left.covers(waiter.cost):
                break
            served += 1
            if not waiter.admitted.done():
                self.holding = self.holding.spend(waiter.cost)
                waiter.admitted.set_result(None)
        self.waiting = self.waiting[served:] or _NO_WAITERS

    # --- the exchange -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Exchange with the row until no call waits. Raises `StoreUnavailable`."""
        try:
            while True:
                denied = await self._exchange()
                if denied is not None:
                    await self._try_other_shards(*denied)
                if not self.waiting:
                    return
        finally:
            self._giving_back = False

    async def _exchange(self) -> tuple[Denial, Amounts] | None:
        """Exchange once, and admit the calls that the new lease covers. Return the denial of the first call that it
        does not cover, and that call's cost."""
        for attempt in range(_TRIES):
            now = self._table.now()
            if attempt or not self._is_sole_writer(now):
                await self._read()
                now = self._table.now()
            holding, demand, nonce = self.holding, self._demand(now), secrets.token_urlsafe(5)
            result = _token_bucket.exchange(self.row, self.bounds(now), holding, demand, now, nonce)
            denied = (result.denial, demand.first) if result.denial is not None else None
            # A denied call does not wait for debts to be settled: the settlement queue sees to that.
            if not result.changed or (denied and self.waiting and not result.alerts):
                self._admit_waiting(now)
                if denied is None and self.waiting and self.waiting[0].cost == demand.first:
                    raise RuntimeError(f"neither a lease nor a denial for {demand.first}")
                return denied
            self._pending = _Pending(result, nonce, holding)
            self._giving_back = demand.kept == NOTHING
            state = msgspec.structs.replace(result.row, expected_output=self.expected_output)
            etag = await self._table.write(self.scope.key, str(self._shard), state, self._etag)
            if etag is not None:
                self._etag, self.row = etag, result.row
                self._written(self._pending)
                return denied
            self._giving_back = False
            await asyncio.sleep(random.random() * _JITTER * 2**attempt)
        return BUSY, NOTHING

    async def _try_other_shards(self, denial: Denial, first: Amounts) -> None:
        """Look for the amount in the other rows of a limit that is divided among several."""
        active = self.row.active() if self.row is not None else 1
        shards = self.scope.shards
        for _ in range(min(shards - 1, max(2, shards // active))):
            if not self.waiting or self.waiting[0].cost != first:
                break
            self._move_to_next_shard()
            denied = await self._exchange()
            if denied is None:
                return
            denial = min(denial, denied[0], key=lambda denial: denial.wait)
        self.deny_waiting(denial, first)

    def _move_to_next_shard(self) -> None:
        """Take along the rest of the lease, as a credit. The old row goes on counting it until it would expire."""
        self._shard = (self._shard + 1) % self.scope.shards
        owed = self.holding.owed.plus(self._debt(combine(finite, self.holding.lease.left), NOTHING))
        self.holding = msgspec.structs.replace(self.holding, lease=NO_LEASE, owed=owed)
        self.row, self._etag = None, None

    async def _read(self) -> None:
        self.row, self._etag = await self._table.read(self.scope.key, str(self._shard))
        if self.row is not None:
            self.active = max(self.row.active(), self.active * _FORGET)
            self.expected_output = self.expected_output or self.row.expected_output
        if self._pending is not None:
            self._resolve(self._pending)

    def _resolve(self, pending: _Pending) -> None:
        """Find out from the nonce if a write was done whose answer was lost. If too much time has passed to
        know, the doubt is not resolved in the caller's favour: debts are booked again, refunds are not."""
        row = self.row
        if row is not None and row.wrote(pending.nonce):
            self._written(pending)
            return
        if row is not None and row.epoch - pending.result.row.epoch > 1:
            refunds = combine(lambda debt: min(0.0, debt), pending.holding.owed)
            lease = carried(NO_LEASE, pending.holding.lease, self.holding.lease)
            self.holding = msgspec.structs.replace(self.holding, lease=lease, owed=self.holding.owed.minus(refunds))
        self._pending = None

    def _written(self, done: _Pending) -> None:
        """A write was done: what it settled is no longer owed, and its lease can be spent."""
        self._pending = None
        self._giving_back = False
        self.holding = Holding(
            carried(done.result.lease, done.holding.lease, self.holding.lease),
            self.holding.owed.minus(done.holding.owed),
            self.holding.under_way,
            done.nonce,
        )
        for dimension, percentage in done.result.alerts:
            bound = self._bounds[DIMENSIONS.index(dimension)]
            self._alert(self.scope, dimension, percentage, bound.until if bound else 0.0)
        self._admit_waiting(self._table.now())

    def _demand(self, now: float) -> Demand:
        self.waiting = [waiter for waiter in self.waiting if not waiter.admitted.done()] or _NO_WAITERS
        ahead, costs = self._average.ahead(now), [waiter.cost for waiter in self.waiting]
        kept = NOTHING
        if now < self.holding.lease.expires and (costs or ahead != NOTHING):
            kept = combine(lambda left: max(0.0, finite(left)), self.holding.lease.left)
        queued = combine(lambda *amounts: sum(amounts), *costs) if costs else NOTHING
        return Demand(costs[0] if costs else NOTHING, queued, ahead, kept)

    def _is_sole_writer(self, now: float) -> bool:
        """True if the row is surely as this process last wrote it. If not, the write fails and the row is read."""
        row = self.row
        return (
            row is not None
            and self._pending is None
            and now - row.time < _SOLE_FOR
            and row.active() == 1
            and row.wrote(self.holding.nonce)
        )
