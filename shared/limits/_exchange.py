"""This process's lease of one limited thing, and its trade with the row in the table: one exchange at a time, for all
calls that wait."""

import asyncio
import logging
import math
import random
import secrets

import msgspec

from shared.limits import _token_bucket, scopes
from shared.limits._demand import NO_PACE, DemandAverage
from shared.limits._rows import from_properties, to_properties
from shared.limits._settlement import SettlementScheduler
from shared.limits._token_bucket import NEVER, NOTHING, Amounts, Bounds, BucketState, Demand, Denial, Exchange, Lease
from shared.limits.estimation import Experience
from shared.limits.scopes import Scope
from shared.storage import Properties

logger = logging.getLogger("tollgate.limits")

_TRIES = 8
_JITTER = 0.004  # seconds; doubles with every write that somebody else was first in
_FORGET = 0.99  # of the most instances seen, with every reading
_SOLE_FOR = 30.0  # seconds for which a lone lessee trusts that its last write is still the row
_LONGEST_MEMORY = 5.0  # seconds for which a refusal holds without asking the table again
_WRITES_A_SECOND = 50.0  # that one row takes

BUSY = Denial("requests", "rate", 1.0)


class Refused(Exception):
    """A call does not pass. `scope` is what it was held to."""

    def __init__(self, scope: Scope, refusal: Denial) -> None:
        super().__init__(f"{scope.key}: {refusal.dimension}")
        self.scope = scope
        self.refusal = refusal


class Waiter(msgspec.Struct, frozen=True):
    """A call that waits for an exchange. `since` by the store's clock."""

    cost: Amounts
    admitted: asyncio.Future[None]
    since: float


NOBODY: list[Waiter] = []  # stays empty: few keys have calls that wait, so few need a list of their own


class _Doubt(msgspec.Struct, frozen=True):
    """A write of which it is not known whether it was done."""

    result: Exchange
    nonce: str
    owed: Amounts
    lease: Lease


class LeaseExchange:
    """One per process and row."""

    __slots__ = (
        "_bounds",
        "_bounds_until",
        "_closed",
        "_doubt",
        "_etag",
        "_landlord",
        "_nonce",
        "_pace",
        "_quiet_until",
        "_refused_until",
        "_shard",
        "active",
        "experience",
        "lease",
        "owed",
        "row",
        "scope",
        "under_way",
        "waiting",
    )

    def __init__(self, scope: Scope, landlord: SettlementScheduler) -> None:
        self.scope = scope
        self.lease = _token_bucket.NO_LEASE
        self.owed = NOTHING  # what calls took beyond what was reserved for them
        self.under_way = 0
        self.waiting = NOBODY
        self.row: BucketState | None = None  # as last seen
        self.experience: Experience | None = None  # of calls that were held to this, here or elsewhere
        self.active = 1.0  # instances that share the limits: the most seen of late
        self._landlord = landlord
        self._shard = random.randrange(scope.shards)
        self._bounds: Bounds = ()
        self._bounds_until = NEVER
        self._pace: DemandAverage = NO_PACE
        self._etag: str | None = None
        self._nonce = ""
        self._doubt: _Doubt | None = None
        self._closed = False  # what is left of the lease is being given back
        self._refused_until = self._quiet_until = NEVER

    def bounds(self, now: float) -> Bounds:
        """The limits as they are now; a period's quota begins anew with the period."""
        if now >= self._bounds_until:
            self._bounds = scopes.bounds(self.scope.limits, now, self.scope.shards)
            self._bounds_until = min((bound.until for bound in self._bounds if bound), default=math.inf)
        return self._bounds

    async def trade(self) -> None:
        """Exchange with the row until nobody waits. Raises `StoreUnavailable`."""
        while True:
            refused = await self._exchange()
            if refused is not None:
                await self._try_other_shards(*refused)
            if not self.waiting:
                return

    def owe(self, debt: Amounts) -> None:
        """Only what is limited is ever settled."""
        requests, tokens, usd, _ = self.scope.limited
        owed = self.owed
        self.owed = Amounts(
            owed.requests + debt.requests if requests and debt.requests else owed.requests,
            owed.tokens + debt.tokens if tokens and debt.tokens else owed.tokens,
            owed.usd + debt.usd if usd and debt.usd else owed.usd,
        )

    def refuse(self, refusal: Denial, first: Amounts) -> None:
        """Refuse all who want as much as this first one did; remember it for a moment."""
        now = self._landlord.now()
        active = self.row.active() if self.row is not None else 1
        quiet = min(_LONGEST_MEMORY, active / _WRITES_A_SECOND) * random.uniform(0.75, 1.25) if active > 2 else 0.0
        self._quiet_until = now + quiet
        self._refused_until = now + max(quiet, min(_LONGEST_MEMORY, refusal.wait) * random.uniform(0.75, 1.0))
        told = msgspec.structs.replace(refusal, wait=max(refusal.wait, quiet))
        staying = []
        for waiter in self.waiting:
            if waiter.cost.of(refusal.dimension) < first.of(refusal.dimension):
                staying.append(waiter)
            elif not waiter.admitted.done():
                waiter.admitted.set_exception(Refused(self.scope, told))
        self.waiting = staying or NOBODY

    def refused_by_memory(self, cost: Amounts, now: float) -> Denial | None:
        """The refusal that the row as last seen gives; the table is not asked."""
        if now >= self._refused_until:
            return None
        demand = Demand(first=cost, queued=cost, under_way=self.under_way)
        result = _token_bucket.exchange(self.row, self.bounds(now), self.lease, self.owed, demand, now, "", self._nonce)
        refusal = result.refusal
        if refusal is None:
            return Denial("requests", "rate", self._quiet_until - now) if now < self._quiet_until else None
        return msgspec.structs.replace(refusal, wait=max(refusal.wait, self._quiet_until - now))

    @property
    def owes(self) -> bool:
        owed = self.owed
        return max(abs(owed.requests), abs(owed.tokens), abs(owed.usd)) > _token_bucket.EPSILON

    @property
    def in_doubt(self) -> bool:
        return self._doubt is not None

    @property
    def has_rest(self) -> bool:
        """Whether something is left of the lease, to be given back."""
        return any(_token_bucket.EPSILON < left < math.inf for left in self.lease.left.each())

    # --- one exchange -------------------------------------------------------------------------------------------------

    async def _exchange(self) -> tuple[Denial, Amounts] | None:
        """One exchange; whoever is covered by it passes. The refusal of the first call that is not, and its cost."""
        landlord = self._landlord
        for tried in range(_TRIES):
            now = landlord.now()
            if tried or not self._sole(now):
                await self._read()
                now = landlord.now()
            lease, owed = self.lease, self.owed
            demand = self._demand(now)
            self._closed = demand.kept == NOTHING
            nonce = secrets.token_urlsafe(5)
            result = _token_bucket.exchange(self.row, self.bounds(now), lease, owed, demand, now, nonce, self._nonce)
            # Who is refused need not wait for what is owed to be settled: the agenda sees to that.
            refused_only = result.refusal is not None and self.waiting and not result.alerts
            if refused_only or not result.changed:
                self._closed = False
                self._serve(now)
                if result.refusal is None and self.waiting and self.waiting[0].cost == demand.first:
                    raise RuntimeError(f"neither a lease nor a refusal for {demand.first}")
                return (result.refusal, demand.first) if result.refusal else None
            self._doubt = _Doubt(result, nonce, owed, lease)
            output = self.experience.expected_output if self.experience is not None else 0.0
            properties = to_properties(msgspec.structs.replace(result.row, expected_output=output))
            etag = await landlord.table.put(self.scope.key, str(self._shard), properties, self._etag)
            if etag is not None:
                landlord.reach.hear(now)
                self._etag, self.row = etag, result.row
                self._take(self._doubt)
                return (result.refusal, demand.first) if result.refusal else None
            self._closed = False
            await asyncio.sleep(random.random() * _JITTER * 2**tried)
        return BUSY, NOTHING

    async def _try_other_shards(self, refusal: Denial, first: Amounts) -> None:
        """Where the limits are divided among several rows, another one may have what this one lacks."""
        active = self.row.active() if self.row is not None else 1
        shards = self.scope.shards
        for _ in range(min(shards - 1, max(2, shards // active))):
            if not self.waiting or self.waiting[0].cost != first:
                break
            self._move()
            refused = await self._exchange()
            if refused is None:
                return
            refusal = min(refusal, refused[0], key=lambda refusal: refusal.wait)
        self.refuse(refusal, first)

    def _move(self) -> None:
        """To the next shard, with what is left of the lease. The old row goes on counting it until it would expire."""
        self._shard = (self._shard + 1) % self.scope.shards
        left = self.lease.left
        self.owe(NOTHING.minus(Amounts(*(rest if math.isfinite(rest) else 0.0 for rest in left.each()))))
        self.lease, self.row, self._etag = _token_bucket.NO_LEASE, None, None

    async def _read(self) -> None:
        stored = await self._landlord.table.get(self.scope.key, str(self._shard))
        self._landlord.reach.hear(self._landlord.now())
        self._etag, self.row = (None, None) if stored is None else (stored.etag, self._readable(stored.properties))
        if self.row is not None:
            self.active = max(self.row.active(), self.active * _FORGET)
            if self.experience is None and self.row.expected_output:
                self.experience = Experience.of_others(self.row.expected_output)
        if (doubt := self._doubt) is not None:
            self._resolve(doubt)

    def _readable(self, properties: Properties) -> BucketState | None:
        try:
            return from_properties(properties)
        except ValueError as error:
            logger.error("the row of %s is none of this gateway's, and begins anew: %s", self.scope.key, error)
            return None

    def _resolve(self, doubt: _Doubt) -> None:
        """The nonce tells whether a write was done whose answer was lost. Where the row has forgotten it, the doubt is
        never resolved in the caller's favour: debts are booked again, refunds are not."""
        row = self.row
        if row is not None and row.wrote(doubt.nonce):
            self._take(doubt)
        elif row is None or row.epoch - doubt.result.row.epoch <= 1:
            self._doubt = None
        else:
            self.owed = self.owed.minus(Amounts(*(min(0.0, debt) for debt in doubt.owed.each())))
            self.lease = _token_bucket.carried(_token_bucket.NO_LEASE, doubt.lease, self.lease)
            self._doubt = None

    def _take(self, done: _Doubt) -> None:
        """A write was done: what it settled is no longer owed, and its lease is this lessee's."""
        self._doubt = None
        self._nonce = done.nonce
        self._closed = False
        self.owed = self.owed.minus(done.owed)
        self.lease = _token_bucket.carried(done.result.lease, done.lease, self.lease)
        for dimension, percentage in done.result.alerts:
            bound = self._bounds[_token_bucket.DIMENSIONS.index(dimension)]
            self._landlord.alert(self.scope, dimension, percentage, bound.until if bound else 0.0)
        self._serve(self._landlord.now())

    def _serve(self, now: float) -> None:
        """Let pass who waits and is covered by the lease."""
        served = 0
        for waiter in self.waiting:
            if now >= self.lease.expires or not self.lease.left.covers(waiter.cost):
                break
            served += 1
            if not waiter.admitted.done():
                self.lease = self.lease.spend(waiter.cost)
                self.under_way += bool(waiter.cost.slots)
                waiter.admitted.set_result(None)
        self.waiting = self.waiting[served:] or NOBODY

    def _demand(self, now: float) -> Demand:
        self.waiting = [waiter for waiter in self.waiting if not waiter.admitted.done()] or NOBODY
        ahead, waiting = self._pace.ahead(now), self.waiting
        kept = NOTHING
        if now < self.lease.expires and (waiting or ahead != NOTHING):
            kept = Amounts(
                *(
                    max(0.0, left) if bound and math.isfinite(left) else 0.0
                    for left, bound in zip(self.lease.left.each(), self.bounds(now), strict=True)
                )
            )
        first = waiting[0].cost if waiting else NOTHING
        queued = (
            Amounts(*map(sum, zip(*(waiter.cost.each() for waiter in waiting), strict=True))) if waiting else NOTHING
        )
        return Demand(first, queued, ahead, kept, self.under_way)

    def _sole(self, now: float) -> bool:
        """Whether the row is surely as this lessee wrote it last; if not, the write is refused and it is read."""
        row = self.row
        return (
            row is not None
            and self._doubt is None
            and now - row.time < _SOLE_FOR
            and row.active() == 1
            and row.wrote(self._nonce)
        )
