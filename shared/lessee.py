"""This process's part in one limited thing: spends from its lease, and trades with the row in the background.

A warm call is admitted from the lease with nothing awaited. Where the lease does not cover it, it waits for one
exchange with the table, together with all others that wait, 300 ms at most; then the instance decides alone.
"""

import asyncio
import logging
import math
import random
import secrets
from collections.abc import Callable

import msgspec

from shared import allowances, leases
from shared.allowances import Scope
from shared.errors import StoreUnavailable
from shared.leases import LEASE_SECONDS, NOTHING, Amounts, Bounds, Demand, Exchange, Lease, Refusal, Row, Safe
from shared.stores import Table

logger = logging.getLogger("tollgate.limits")

PATIENCE = 0.3  # seconds that a call waits for the table
_SLICES = 10  # of it: a loop that is busy with a thousand calls at once must have had the chance to hear the answer
_TRIES = 8
_JITTER = 0.01  # seconds; doubles with every write that somebody else was first in
_LONGEST_MEMORY = 5.0  # seconds for which a refusal holds without asking the table again
_WRITES_A_SECOND = 50.0  # that one row takes
_RATE_MEMORY = 10.0  # seconds over which the demand is averaged
_FORGET = 0.99  # of the most instances seen, with every reading
_RAMP = 3.0  # seconds: a demand that has just begun is taken to be as old as this at least
_LOW = 0.3  # of a lease's time: below that it is refilled ahead
_NEAR = 0.85  # of a quota
_SOLE_FOR = 30.0  # seconds for which a lone lessee trusts that its last write is still the row
_RETRY_REACH = 1.0  # seconds between attempts while the table is out of reach


_BUSY = Refusal("requests", "rate", 1.0)


class Refused(Exception):
    """A call does not pass. `scope` is what it was held to."""

    def __init__(self, scope: Scope, refusal: Refusal) -> None:
        super().__init__(f"{scope.key}: {refusal.dimension}")
        self.scope = scope
        self.refusal = refusal


class Reach:
    """Whether the table answers, for all lessees of a process together."""

    def __init__(self) -> None:
        self.lost_since: float | None = None
        self.retry_at = 0.0

    def may_try(self, now: float) -> bool:
        """Whether the table may be asked. While it is out of reach one lessee does so for all, about once a second."""
        if self.lost_since is None:
            return True
        if now < self.retry_at:
            return False
        self.retry_at = now + _RETRY_REACH
        return True

    def lose(self, now: float, error: object) -> None:
        if self.lost_since is None:
            self.lost_since = now
            logger.warning("safe mode: the limits' table does not answer, this instance decides alone: %s", error)
        self.retry_at = now + _RETRY_REACH * random.uniform(1.0, 1.5)

    def regain(self, now: float) -> None:
        if self.lost_since is not None:
            logger.warning("safe mode ends after %.1f s: the limits' table answers again", now - self.lost_since)
            self.lost_since = None


class _Waiter(msgspec.Struct, frozen=True):
    cost: Amounts
    admitted: asyncio.Future[None]
    since: float


class _Doubt(msgspec.Struct, frozen=True):
    """A write of which it is not known whether it was done."""

    result: Exchange
    nonce: str
    owed: Amounts
    lease: Lease


class Lessee:
    """One per process and row. `now` is the store's clock; `alert` is told (scope, dimension, percentage, until)."""

    __slots__ = (
        "__weakref__",
        "_active",
        "_alert",
        "_began",
        "_bounds",
        "_bounds_until",
        "_closed",
        "_doubt",
        "_etag",
        "_heard_at",
        "_nonce",
        "_now",
        "_patience",
        "_quiet_until",
        "_rate",
        "_reach",
        "_refused_until",
        "_safe",
        "_shard",
        "_shards",
        "_table",
        "_task",
        "_timer",
        "_touched",
        "_waiting",
        "_written_at",
        "expected_output",
        "lease",
        "limited",
        "owed",
        "row",
        "scope",
        "under_way",
    )

    def __init__(
        self,
        table: Table,
        scope: Scope,
        reach: Reach,
        now: Callable[[], float],
        alert: Callable[[Scope, str, int, float], None],
    ) -> None:
        self.scope = scope
        self.lease = leases.NO_LEASE
        self.owed = NOTHING
        self.under_way = 0
        self.row: Row | None = None
        self.expected_output = 0.0
        self._table = table
        self._reach = reach
        self._now = now
        self._alert = alert
        self._shards = scope.shards
        self.limited = allowances.dimensions(scope.limits)
        self._shard = random.randrange(self._shards)
        self._bounds: Bounds = ()
        self._bounds_until = -math.inf
        self._rate = NOTHING  # of the demand, a second
        self._touched = self._began = now()
        self._waiting: list[_Waiter] = []
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._etag: str | None = None
        self._nonce = ""
        self._written_at = self._heard_at = -math.inf
        self._doubt: _Doubt | None = None
        self._closed = False  # what is left of the lease is being given back
        self._refused_until = self._quiet_until = -math.inf
        self._safe = Safe()
        self._active = 1.0  # instances that share the limits: the most seen of late

    @property
    def idle(self) -> bool:
        """Nothing would be lost if this lessee were forgotten."""
        return not (
            self._task or self._waiting or self._doubt or self.under_way or self._owes() or self._rest_to_return()
        )

    def change(self, scope: Scope) -> None:
        """The limits have changed. What is out on lease lasts two seconds at most."""
        if scope.shards != self._shards:
            self._shards, self._shard = scope.shards, 0
        self.scope = scope
        self.limited = allowances.dimensions(scope.limits)
        self._bounds_until = -math.inf
        self._refused_until = -math.inf

    @property
    def nearly_used_up(self) -> bool:
        """Whether a quota nears its end, where what calls under way take beyond their estimates would overrun it."""
        if self.row is None or not any(self.limited[:3]):
            return False
        return any(
            bound is not None and level is not None and level.used > _NEAR * bound.quota
            for bound, level in zip(self._bounds, self.row.levels, strict=True)
        )

    def bounds(self, now: float) -> Bounds:
        """The limits as they are now; a period's quota begins anew with the period."""
        if now >= self._bounds_until:
            self._bounds = allowances.bounds(self.scope.limits, now, self._shards)
            self._bounds_until = min((bound.until for bound in self._bounds if bound), default=math.inf)
        return self._bounds

    def spend(self, cost: Amounts, now: float) -> bool:
        """Admit a call from the lease, if it covers it. Nothing is awaited."""
        self._note_demand(cost, now)
        lease = self.lease
        if now >= lease.expires or self._closed or self._waiting or not lease.left.covers(cost):
            return False
        self.lease = lease = lease.spend(cost)
        if cost.slots:
            self.under_way += 1
        if self._task is None and now >= self._refused_until and self._runs_low(lease.left):
            self._start()
        return True

    async def admit(self, cost: Amounts, now: float) -> None:
        """Admit a call that the lease does not cover. Raises `Refused`, and `StoreUnavailable` for what cannot be
        judged without the table."""
        if self._reach.lost_since is not None:
            if self._task is None and self._reach.may_try(now):
                self._start()
            self._admit_alone(cost, now)
            return
        if now < self._refused_until and (refusal := self._refused_by_memory(cost, now)):
            raise Refused(self.scope, refusal)
        loop = asyncio.get_running_loop()
        waiter = _Waiter(cost, loop.create_future(), now)
        self._waiting.append(waiter)
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
        self._owe(cost)
        if cost.slots:
            self.under_way += 1
            self.lease = self.lease.spend(Amounts(slots=cost.slots))
        self._arm()

    def settle(self, reserved: Amounts, actual: Amounts) -> None:
        """A call has ended: book what it took in place of what was reserved for it."""
        if reserved.slots:
            self.under_way -= 1
            self.lease = self.lease.spend(Amounts(slots=-reserved.slots))
        self._owe(actual.minus(reserved))
        self._arm()

    async def flush(self) -> None:
        """Settle, and give back what is left. Raises nothing; what the table does not take stays owed."""
        for _ in range(2):  # an exchange that is under way may keep its lease
            self._rate = NOTHING
            if self._task is None:
                if self.idle:
                    break
                self._start()
            if self._task is not None:
                await asyncio.wait((self._task,))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def available(self, dimension: int, now: float) -> tuple[float, float, float] | None:
        """(limit a minute, what may be spent now as far as is known here, seconds until all of it may be again)."""
        bound = self.bounds(now)[dimension]
        if bound is None or math.isinf(bound.cap):
            return None
        have, row = bound.cap, self.row
        if row is not None and (level := row.levels[dimension]) is not None:
            have = min(have, level.level + max(0.0, now - row.time) * bound.per_second)
        left = self.lease.left[dimension]
        have -= self.owed[dimension]
        if now < self.lease.expires and left < math.inf:
            have += left
        have = max(0.0, min(bound.cap, have))
        return bound.cap * self._shards, have * self._shards, (bound.cap - have) / bound.per_second

    def _owe(self, debt: Amounts) -> None:
        """Only what is limited is ever settled."""
        requests, tokens, usd, _ = self.limited
        owed = self.owed
        self.owed = Amounts(
            owed.requests + debt.requests if requests else 0.0,
            owed.tokens + debt.tokens if tokens else 0.0,
            owed.usd + debt.usd if usd else 0.0,
        )

    # --- decisions of this instance alone ---------------------------------------------------------------------------

    def _note_demand(self, cost: Amounts, now: float) -> None:
        faded = math.exp((self._touched - now) / _RATE_MEMORY) if now > self._touched else 1.0
        if faded < 0.05:
            self._began = now
        rate = self._rate
        self._touched = now
        self._rate = Amounts(
            rate.requests * faded + cost.requests / _RATE_MEMORY,
            rate.tokens * faded + cost.tokens / _RATE_MEMORY,
            rate.usd * faded + cost.usd / _RATE_MEMORY,
            rate.slots * faded + cost.slots / _RATE_MEMORY,
        )

    def _ahead(self, now: float) -> Amounts:
        """What a lease's time will probably ask for; nothing where that is less than one call."""
        times = self._lease_time() * math.exp(min(0.0, self._touched - now) / _RATE_MEMORY)
        rate = self._rate
        if rate.requests * times < 1.0:
            return NOTHING
        return Amounts(rate.requests * times, rate.tokens * times, rate.usd * times, rate.slots * times)

    def _lease_time(self) -> float:
        """Seconds of a lease, as a multiple of the averaged demand: a young average has not seen all of it yet."""
        age = max(_RAMP, self._touched - self._began)
        return LEASE_SECONDS / (1.0 - math.exp(-age / _RATE_MEMORY)) if age < 3 * _RATE_MEMORY else LEASE_SECONDS

    def _runs_low(self, left: Amounts) -> bool:
        rate, times = self._rate, self._lease_time()
        if rate.requests * times < 1.0:
            return False
        times *= _LOW
        return left.requests < rate.requests * times or left.tokens < rate.tokens * times or left.usd < rate.usd * times

    def _refused_by_memory(self, cost: Amounts, now: float) -> Refusal | None:
        """The refusal that the row as last seen gives; the table is not asked."""
        demand = Demand(first=cost, queued=cost, under_way=self.under_way)
        result = leases.exchange(self.row, self.bounds(now), self.lease, self.owed, demand, now, "", self._nonce)
        refusal = result.refusal
        if refusal is None:
            return Refusal("requests", "rate", self._quiet_until - now) if now < self._quiet_until else None
        return msgspec.structs.replace(refusal, wait=max(refusal.wait, self._quiet_until - now))

    def _admit_alone(self, cost: Amounts, now: float) -> None:
        bounds = self.bounds(now)
        unread = self.row is None and any(bound and math.isinf(bound.cap) for bound in bounds)
        if unread and self.scope.kind != allowances.ADDRESS:  # a caller whose key is known is to be served meanwhile
            raise StoreUnavailable("The store that counts this key's quota is out of reach. Try again shortly.")
        decided = leases.spend_safely(self._safe, bounds, self.row, self._active, self.owed, self.under_way, cost, now)
        if isinstance(decided, Refusal):
            raise Refused(self.scope, decided)
        self._safe = decided
        self.overdraw(cost)

    def _lose_patience(self, slices: int) -> None:
        """After so many more slices nobody waits longer: those in the queue are judged without the table."""
        self._patience = None
        if not self._waiting:
            return
        if slices:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(PATIENCE / _SLICES, self._lose_patience, slices - 1)
            return
        now = self._now()
        if self._heard_at >= self._waiting[0].since:  # it answers, but others write the row all the time
            self._refuse(_BUSY, NOTHING)
            return
        self._reach.lose(now, f"no answer within {PATIENCE:g} s")
        self._judge_alone(now)

    def _judge_alone(self, now: float) -> None:
        while self._waiting:
            waiter = self._waiting.pop(0)
            if waiter.admitted.done():
                continue
            try:
                self._admit_alone(waiter.cost, now)
                waiter.admitted.set_result(None)
            except (Refused, StoreUnavailable) as error:
                waiter.admitted.set_exception(error)

    # --- trading with the row -----------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._trade())
            self._task.add_done_callback(self._traded)

    def _traded(self, task: asyncio.Task[None]) -> None:
        self._task = None
        self._closed = False
        if not task.cancelled() and (error := task.exception()) is not None:
            now = self._now()
            if not isinstance(error, StoreUnavailable):
                logger.error("the limits of %s cannot be counted", self.scope.key, exc_info=error)
            self._reach.lose(now, error)
            self._judge_alone(now)
        if self._waiting:  # who came between the last exchange and the end of its task
            self._start()
        elif self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self._arm()

    async def _trade(self) -> None:
        """Exchange with the row until nobody waits. Raises `StoreUnavailable`."""
        while True:
            refused = await self._exchange()
            if refused is not None:
                await self._try_other_shards(*refused)
            if not self._waiting:
                return

    async def _try_other_shards(self, refusal: Refusal, first: Amounts) -> None:
        """Where the limits are divided among several rows, another one may have what this one lacks."""
        active = self.row.active() if self.row is not None else 1
        for _ in range(min(self._shards - 1, max(2, self._shards // active))):
            if not self._waiting or self._waiting[0].cost != first:
                break
            self._move()
            refused = await self._exchange()
            if refused is None:
                return
            refusal = min(refusal, refused[0], key=lambda refusal: refusal.wait)
        self._refuse(refusal, first)

    def _move(self) -> None:
        """To the next shard, with what is left of the lease. The old row goes on counting it until it would expire."""
        self._shard = (self._shard + 1) % self._shards
        for_return = (left if math.isfinite(left) else 0.0 for left in self.lease.left)
        self._owe(NOTHING.minus(Amounts(*for_return)))
        self.lease, self.row, self._etag = leases.NO_LEASE, None, None

    async def _exchange(self) -> tuple[Refusal, Amounts] | None:
        """One exchange; whoever is covered by it passes. The refusal of the first call that is not, and its cost."""
        for tried in range(_TRIES):
            now = self._now()
            if tried or not self._sole(now):
                await self._read()
                now = self._now()
            lease, owed = self.lease, self.owed
            demand = self._demand(now)
            self._closed = demand.kept == NOTHING
            nonce = secrets.token_urlsafe(5)
            result = leases.exchange(self.row, self.bounds(now), lease, owed, demand, now, nonce, self._nonce)
            if not result.changed:
                self._closed = False
                self._serve(now)
                if result.refusal is None and self._waiting and self._waiting[0].cost == demand.first:
                    raise RuntimeError(f"neither a lease nor a refusal for {demand.first}")
                return (result.refusal, demand.first) if result.refusal else None
            self._doubt = _Doubt(result, nonce, owed, lease)
            properties = leases.to_properties(msgspec.structs.replace(result.row, expected_output=self.expected_output))
            etag = await self._table.put(self.scope.key, str(self._shard), properties, self._etag)
            if etag is not None:
                self._reach.regain(now)
                self._etag, self.row = etag, result.row
                self._written_at = now
                self._take(self._doubt)
                return (result.refusal, demand.first) if result.refusal else None
            self._closed = False
            await asyncio.sleep(random.random() * _JITTER * 2**tried)
        return _BUSY, NOTHING

    async def _read(self) -> None:
        row = await self._table.get(self.scope.key, str(self._shard))
        self._heard_at = self._now()
        self._reach.regain(self._heard_at)
        self._etag = row.etag if row is not None else None
        self.row = leases.from_properties(row.properties) if row is not None else None
        if self.row is not None:
            self._active = max(self.row.active(), self._active * _FORGET)
        if self.row is not None and not self.expected_output:
            self.expected_output = self.row.expected_output
        if (doubt := self._doubt) is not None:
            self._resolve(doubt)

    def _resolve(self, doubt: _Doubt) -> None:
        """The nonce tells whether a write was done whose answer was lost. Where the row has forgotten it, the doubt is
        never resolved in the caller's favour: debts are booked again, refunds are not."""
        row = self.row
        if row is not None and row.wrote(doubt.nonce):
            self._take(doubt)
        elif row is None or row.epoch - doubt.result.row.epoch <= 1:
            self._doubt = None
        else:
            self.owed = self.owed.minus(Amounts(*(min(0.0, debt) for debt in doubt.owed)))
            self.lease = leases.carried(leases.NO_LEASE, doubt.lease, self.lease)
            self._doubt = None

    def _take(self, done: _Doubt) -> None:
        """A write was done: what it settled is no longer owed, and its lease is this lessee's."""
        self._doubt = None
        self._nonce = done.nonce
        self._closed = False
        self.owed = self.owed.minus(done.owed)
        self.lease = leases.carried(done.result.lease, done.lease, self.lease)
        for dimension, percentage in done.result.alerts:
            bound = self._bounds[leases.DIMENSIONS.index(dimension)]
            self._alert(self.scope, dimension, percentage, bound.until if bound else 0.0)
        self._serve(self._now())

    def _serve(self, now: float) -> None:
        """Let pass who waits and is covered by the lease."""
        while self._waiting and now < self.lease.expires and self.lease.left.covers(self._waiting[0].cost):
            waiter = self._waiting.pop(0)
            if not waiter.admitted.done():
                self.lease = self.lease.spend(waiter.cost)
                self.under_way += bool(waiter.cost.slots)
                waiter.admitted.set_result(None)

    def _demand(self, now: float) -> Demand:
        while self._waiting and self._waiting[0].admitted.done():
            self._waiting.pop(0)
        ahead = self._ahead(now)
        kept = NOTHING
        if now < self.lease.expires and (self._waiting or ahead != NOTHING):
            bounds = self.bounds(now)
            kept = Amounts(
                *(
                    max(0.0, left) if bound and math.isfinite(left) else 0.0
                    for left, bound in zip(self.lease.left, bounds, strict=True)
                )
            )
        first = self._waiting[0].cost if self._waiting else NOTHING
        queued = Amounts(*map(sum, zip(*(w.cost for w in self._waiting), strict=True))) if self._waiting else NOTHING
        return Demand(first, queued, ahead, kept, self.under_way)

    def _refuse(self, refusal: Refusal, first: Amounts) -> None:
        """Refuse all who want as much as this first one did; remember it for a moment."""
        now = self._now()
        active = self.row.active() if self.row is not None else 1
        quiet = min(_LONGEST_MEMORY, active / _WRITES_A_SECOND) * random.uniform(0.75, 1.25) if active > 2 else 0.0
        self._quiet_until = now + quiet
        self._refused_until = now + max(quiet, min(_LONGEST_MEMORY, refusal.wait) * random.uniform(0.75, 1.0))
        dimension = leases.DIMENSIONS.index(refusal.dimension)
        told = msgspec.structs.replace(refusal, wait=max(refusal.wait, quiet))
        staying: list[_Waiter] = []
        for waiter in self._waiting:
            if waiter.cost[dimension] < first[dimension]:
                staying.append(waiter)
            elif not waiter.admitted.done():
                waiter.admitted.set_exception(Refused(self.scope, told))
        self._waiting = staying

    def _sole(self, now: float) -> bool:
        """Whether the row is surely as this lessee wrote it last; if not, the write is refused and it is read."""
        row = self.row
        return (
            row is not None
            and self._doubt is None
            and now - self._written_at < _SOLE_FOR
            and row.active() == 1
            and row.wrote(self._nonce)
        )

    # --- settling when nothing else is going on -----------------------------------------------------------------------

    def _owes(self) -> bool:
        return any(abs(amount) > leases.EPSILON for amount in self.owed[:3])

    def _rest_to_return(self) -> bool:
        return any(leases.EPSILON < left < math.inf for left in self.lease.left)

    def _arm(self) -> None:
        if self._timer is None and (self._owes() or self._rest_to_return() or self.under_way or self._doubt):
            self._timer = asyncio.get_running_loop().call_later(LEASE_SECONDS, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._now()
        due = now >= self.lease.expires or self.under_way or (self._owes() and self._ahead(now) == NOTHING)
        if due and self._task is None and self._reach.may_try(now):
            self._start()
        else:
            self._arm()
