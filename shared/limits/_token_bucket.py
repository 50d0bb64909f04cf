"""The arithmetic of limits: a row that holds what is left of each limit, and instances that lease slices of it. Pure.

A row is a token bucket per dimension. What an instance holds on lease counts against the bucket until it is given back,
or until two epochs have passed and the lease has surely expired. So `level + out + before <= cap` always, and the
fleet can never spend more than one bucket, however many instances it has.

One write does everything: the lessee gives back what it holds, settles what its calls really took, and takes a new
slice. It carries a nonce; a write whose answer was lost is found again by it.
"""

import math
from typing import Literal

import msgspec

LEASE_SECONDS = 2.0  # how long a slice may be spent; also the length of an epoch
SHARE = 0.5  # of what is left that one instance may take ahead of its needs, over the square root of the lessees
EPSILON = 1e-6
NEVER = -math.inf
_LESSEES_TOLD = 256  # nonces that a row keeps for an epoch


class Amounts(msgspec.Struct, frozen=True, gc=False):
    """A quantity in every dimension that can be limited. `slots` are calls under way."""

    requests: float = 0.0
    tokens: float = 0.0
    usd: float = 0.0
    slots: float = 0.0

    def each(self) -> tuple[float, float, float, float]:
        """In the order of `DIMENSIONS`."""
        return self.requests, self.tokens, self.usd, self.slots

    def of(self, dimension: str) -> float:
        return self.each()[DIMENSIONS.index(dimension)]

    def plus(self, other: "Amounts") -> "Amounts":
        return Amounts(
            self.requests + other.requests, self.tokens + other.tokens, self.usd + other.usd, self.slots + other.slots
        )

    def minus(self, other: "Amounts") -> "Amounts":
        """What does not change is the same number in memory, too: there are many keys, and few use every dimension."""
        return Amounts(
            self.requests - other.requests if other.requests else self.requests,
            self.tokens - other.tokens if other.tokens else self.tokens,
            self.usd - other.usd if other.usd else self.usd,
            self.slots - other.slots if other.slots else self.slots,
        )

    def covers(self, cost: "Amounts") -> bool:
        return (
            self.requests >= cost.requests - EPSILON
            and self.tokens >= cost.tokens - EPSILON
            and self.usd >= cost.usd - EPSILON
            and self.slots >= cost.slots - EPSILON
        )


DIMENSIONS = Amounts.__struct_fields__
NOTHING = Amounts()
UNLIMITED = Amounts(math.inf, math.inf, math.inf, math.inf)


class Bound(msgspec.Struct, frozen=True):
    """What is allowed of one dimension. `cap`: the bucket; `per_second`: its refill, infinite for what is borrowed and
    not spent (slots). `quota`: the most of a period that lasts from `since` to `until` (store's time)."""

    cap: float = math.inf
    per_second: float = 0.0
    quota: float = math.inf
    since: float = 0.0
    until: float = math.inf

    def share(self, parts: int) -> "Bound":
        """One of so many equal parts."""
        return Bound(self.cap / parts, self.per_second / parts, self.quota / parts, self.since, self.until)


Bounds = tuple[Bound | None, ...]
"""By dimension; None where there is no limit."""


class Level(msgspec.Struct, frozen=True, gc=False):
    """The state of one dimension. `out`, `before`: on lease since this and since the previous epoch. `used`: of the
    period's quota, leases included. `told`: the percentage of the quota that has been reported."""

    level: float
    out: float = 0.0
    before: float = 0.0
    used: float = 0.0
    since: float = 0.0
    told: int = 0

    def room(self, bound: Bound) -> float:
        """The highest level that leaves the bucket whole."""
        return bound.cap - self.out - self.before


class BucketState(msgspec.Struct, frozen=True, gc=False):
    """What the table holds of a limited thing. `lessees`: the nonce of each instance's last write in this epoch."""

    levels: tuple[Level | None, ...]
    time: float
    epoch: int
    lessees: tuple[str, ...] = ()
    lessees_before: tuple[str, ...] = ()
    expected_output: float = 0.0  # tokens; no part of the arithmetic: what a new instance may assume

    def active(self) -> int:
        """Instances that wrote in the last two epochs."""
        return max(1, len(self.lessees) + len(self.lessees_before))

    def wrote(self, nonce: str) -> bool:
        return nonce in self.lessees or nonce in self.lessees_before


class Lease(msgspec.Struct, frozen=True, gc=False):
    """A slice of a row, to be spent until `expires`. `granted` is what the row counts as out, since `epoch`."""

    granted: Amounts = NOTHING
    left: Amounts = NOTHING
    epoch: int = -9
    time: float = 0.0
    expires: float = 0.0

    def spend(self, cost: Amounts) -> "Lease":
        return Lease(self.granted, self.left.minus(cost), self.epoch, self.time, self.expires)


NO_LEASE = Lease()


class Demand(msgspec.Struct, frozen=True):
    """What an instance wants. `first`: for the call that waits at the head of its queue; `queued`: for all that wait;
    `ahead`: for those it expects. `kept`: the rest of a running lease, which is not less afterwards: where nobody waits
    it goes on being spent while the row is written. `under_way`: calls that hold a slot."""

    first: Amounts = NOTHING
    queued: Amounts = NOTHING
    ahead: Amounts = NOTHING
    kept: Amounts = NOTHING
    under_way: float = 0.0


class Denial(msgspec.Struct, frozen=True):
    """Why a call cannot pass. `wait` in seconds until it could, if nobody else came."""

    dimension: str
    kind: Literal["rate", "quota"]
    wait: float


class Exchange(msgspec.Struct, frozen=True):
    """The outcome of one write: the row and the lease as they will be. `changed`: it is worth writing at all.
    `alerts`: (dimension, percentage) of a quota that this write is the first to reach."""

    row: BucketState
    lease: Lease
    refusal: Denial | None = None
    changed: bool = True
    alerts: tuple[tuple[str, int], ...] = ()


def fresh(bounds: Bounds, now: float) -> BucketState:
    """The row of a thing that was never used: every bucket is full."""
    levels = tuple(Level(bound.cap, since=bound.since) if bound else None for bound in bounds)
    return BucketState(levels, now, int(now // LEASE_SECONDS))


def caught_up(row: BucketState, bounds: Bounds, now: float) -> BucketState:
    """The row as it is now: epochs gone by, buckets refilled, periods begun anew. Limits may have changed meanwhile.

    A clock that lags behind the row's does not turn it back."""
    epoch = max(row.epoch, int(now // LEASE_SECONDS))
    passed, seconds = epoch - row.epoch, max(0.0, now - row.time)
    levels = tuple(
        _caught_up(level, bound, passed, seconds) if bound else None
        for level, bound in zip(row.levels, bounds, strict=True)
    )
    lessees, before = row.lessees, row.lessees_before
    if passed:
        lessees, before = (), lessees if passed == 1 else ()
    return BucketState(levels, max(now, row.time), epoch, lessees, before, row.expected_output)


def _caught_up(level: Level | None, bound: Bound, passed: int, seconds: float) -> Level:
    if level is None:  # limited only since now
        return Level(bound.cap, since=bound.since)
    out, before = level.out, level.before
    if passed:
        out, before = 0.0, out if passed == 1 else 0.0
    room = bound.cap - out - before
    refilled = (
        room if math.isinf(bound.per_second) or math.isinf(bound.cap) else level.level + seconds * bound.per_second
    )
    if bound.since > level.since:
        return Level(min(refilled, room), out, before, 0.0, bound.since)
    return Level(min(refilled, room), out, before, level.used, level.since, level.told)


def exchange(
    row: BucketState | None,
    bounds: Bounds,
    lease: Lease,
    owed: Amounts,
    demand: Demand,
    now: float,
    nonce: str,
    previous: str,
) -> Exchange:
    """Give back, settle and lease anew, in one step.

    `row` None: the thing was never used. `owed`: what calls took beyond what was reserved for them (below zero: less).
    `nonce` names this write, `previous` the last one of the same lessee, which it replaces among the lessees.
    """
    current = caught_up(row or fresh(bounds, now), bounds, now)
    others = tuple(n for n in current.lessees if n != previous)
    others_before = tuple(n for n in current.lessees_before if n != previous)
    age, slots = current.epoch - lease.epoch, Amounts(slots=demand.under_way)
    settled = tuple(
        _settled(_given_back(level, bound, granted, left, age, lease.time), bound, debt) if level and bound else None
        for level, bound, granted, left, debt in zip(
            current.levels, bounds, lease.granted.each(), lease.left.each(), owed.each(), strict=True
        )
    )
    refusal = _denial(settled, bounds, demand.first, slots, current.time)
    if refusal is None:
        active = 1 + len(others) + len(others_before)
        grant = Amounts(
            *(
                _grant(level, bound, active, *wanted)
                for level, bound, *wanted in zip(
                    settled,
                    bounds,
                    demand.first.each(),
                    demand.queued.each(),
                    demand.ahead.each(),
                    demand.kept.each(),
                    slots.each(),
                    strict=True,
                )
            )
        )
    else:
        rest = demand.kept.plus(slots)
        grant = Amounts(*(amount if bound else math.inf for amount, bound in zip(rest.each(), bounds, strict=True)))
    exhausted = refusal.dimension if refusal is not None and refusal.kind == "quota" else ""
    levels = tuple(
        _taken(level, bound, amount, exhausted=exhausted == name) if level and bound else None
        for name, level, bound, amount in zip(DIMENSIONS, settled, bounds, grant.each(), strict=True)
    )
    alerts = tuple(
        (name, level.told)
        for name, level, old in zip(DIMENSIONS, levels, settled, strict=True)
        if level and old and level.told > old.told
    )
    changed = bool(alerts) or any(
        bound and (abs(debt) > EPSILON or amount > kept + EPSILON or left > kept + EPSILON)
        for bound, debt, amount, left, kept in zip(
            bounds, owed.each(), grant.each(), lease.left.each(), demand.kept.each(), strict=True
        )
    )
    return Exchange(
        BucketState(
            levels,
            current.time,
            current.epoch,
            (*others, nonce)[-_LESSEES_TOLD:],
            others_before,
            current.expected_output,
        ),
        Lease(grant, grant.minus(slots), current.epoch, current.time, now + LEASE_SECONDS),
        refusal,
        changed or demand.under_way > 0,
        alerts,
    )


def _given_back(level: Level, bound: Bound, granted: float, left: float, age: int, time: float) -> Level:
    """A lease that is no longer counted as out (two epochs old) returns as far as the bucket has room."""
    if math.isinf(granted) or not (granted or left):
        return level
    out, before = level.out, level.before
    if age == 0:
        out = max(0.0, out - granted)
    elif age == 1:
        before = max(0.0, before - granted)
    room = bound.cap - out - before
    refilled = room if math.isinf(bound.per_second) else min(level.level + left, room)
    used = max(0.0, level.used - left) if time >= level.since else level.used
    return Level(refilled, out, before, used, level.since, level.told)


def _settled(level: Level, bound: Bound, debt: float) -> Level:
    if not debt:
        return level
    used = max(0.0, level.used + debt)
    return Level(min(level.level - debt, level.room(bound)), level.out, level.before, used, level.since, level.told)


def _denial(
    levels: tuple[Level | None, ...], bounds: Bounds, first: Amounts, slots: Amounts, now: float
) -> Denial | None:
    """Why the first call cannot pass: the quota that is used up, else the limit to be waited for longest."""
    longest: Denial | None = None
    if first == NOTHING:
        return None
    for name, level, bound, amount, taken in zip(DIMENSIONS, levels, bounds, first.each(), slots.each(), strict=True):
        if level is None or bound is None or not amount:
            continue
        needed = amount + taken
        if level.used + needed > bound.quota + EPSILON and level.used > EPSILON:
            if level.used - level.out - level.before + needed > bound.quota:
                return Denial(name, "quota", bound.until - now)
            wait = LEASE_SECONDS  # others may yet give back what they hold
        elif math.isinf(bound.per_second) and level.level < needed - EPSILON:
            wait = LEASE_SECONDS / 2  # somebody's call must end first; nobody knows when
        elif level.level < needed - EPSILON and level.level < bound.cap - EPSILON:
            # A call that is larger than the bucket passes when the bucket is full.
            wait = (min(needed, bound.cap) - level.level) / bound.per_second
        else:
            continue
        if longest is None or wait > longest.wait:
            longest = Denial(name, "rate", wait)
    return longest


def _grant(
    level: Level | None,
    bound: Bound | None,
    active: int,
    first: float,
    queued: float,
    ahead: float,
    kept: float,
    taken: float,
) -> float:
    """How much goes out: what is taken anyway, what calls wait for, and a share of the rest for those to come."""
    if level is None or bound is None:
        return math.inf
    available = max(0.0, min(level.level, bound.quota - level.used) - taken)
    share = available * SHARE / math.sqrt(active)
    waiting = max(first, min(queued, available if active == 1 else share))
    return taken + max(first, kept, min(waiting + min(ahead, share), available))


def _taken(level: Level, bound: Bound, grant: float, *, exhausted: bool) -> Level:
    used, out = level.used + grant if level.used else grant, level.out + grant if level.out else grant
    reached = 0
    if math.isfinite(bound.quota):
        reached = 100 if exhausted or used >= bound.quota else 80 if used >= 0.8 * bound.quota else 0
    return Level(level.level - grant, out, level.before, used, level.since, max(level.told, reached))


def carried(new: Lease, before: Lease, after: Lease) -> Lease:
    """The lease `new`, less what was spent from the old one while the row was written (`before`, `after`)."""
    left = Amounts(
        *(
            amount if math.isinf(amount) or math.isinf(old) else amount - (old - rest)
            for amount, old, rest in zip(new.left.each(), before.left.each(), after.left.each(), strict=True)
        )
    )
    return Lease(new.granted, left, new.epoch, new.time, new.expires)
