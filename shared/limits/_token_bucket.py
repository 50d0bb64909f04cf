"""The token bucket of a limit: a row with what is left, of which instances lease slices. Pure.

A row has a bucket per dimension. What an instance holds on lease counts against the bucket until it is given back, or
until two epochs have passed and the lease has surely expired. So `level + out + before <= cap` always, and the fleet
never spends more than one bucket, however many instances it has.

One write does everything: an instance gives back its lease, settles what its calls really took, and leases a new slice.
The write carries a nonce, by which it is recognised if its answer was lost.
"""

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

import msgspec

from shared.limits._amounts import DIMENSIONS, EPSILON, NOTHING, Amounts, Bound, Bounds
from shared.limits._holding import Holding, Lease

LEASE_SECONDS = 2.0  # how long a slice may be spent; also the length of an epoch
SHARE = 0.5  # of what is left that one instance may lease ahead of its needs, over the square root of the instances
NEVER = -math.inf
_MOST_WRITERS = 256  # nonces that a row keeps for an epoch


class Level(msgspec.Struct, frozen=True, gc=False):
    """The state of one dimension. `out`, `before`: on lease since this and since the previous epoch. `used`: of the
    period's quota, leases included. `alerted`: the percentage of the quota that has raised an alert."""

    level: float
    out: float = 0.0
    before: float = 0.0
    used: float = 0.0
    since: float = 0.0
    alerted: int = 0

    def room(self, bound: Bound) -> float:
        """The highest level that the bucket has room for."""
        return bound.cap - self.out - self.before


class BucketState(msgspec.Struct, frozen=True, gc=False):
    """The row of a limit. `writers`: the nonce of each instance's last write in this epoch."""

    levels: tuple[Level | None, ...]
    time: float
    epoch: int
    writers: tuple[str, ...] = ()
    writers_before: tuple[str, ...] = ()
    expected_output: float = 0.0  # tokens; no part of the arithmetic: an estimate for new instances to start from

    def active(self) -> int:
        """Instances that wrote in the last two epochs."""
        return max(1, len(self.writers) + len(self.writers_before))

    def wrote(self, nonce: str) -> bool:
        return nonce in self.writers or nonce in self.writers_before

    def without(self, nonce: str) -> "BucketState":
        """The row before its last write by this instance, as far as its writers go."""
        return msgspec.structs.replace(
            self,
            writers=tuple(one for one in self.writers if one != nonce),
            writers_before=tuple(one for one in self.writers_before if one != nonce),
        )


class Demand(msgspec.Struct, frozen=True):
    """The amounts an instance asks for. `first`: for the call at the head of its queue; `queued`: for all that wait;
    `ahead`: for those it expects. `kept`: the rest of a running lease, which is not less afterwards: while no
    call waits, it goes on being spent during the write."""

    first: Amounts = NOTHING
    queued: Amounts = NOTHING
    ahead: Amounts = NOTHING
    kept: Amounts = NOTHING


class Denial(msgspec.Struct, frozen=True):
    """The reason why a call cannot pass. `wait`: seconds until it could, without other calls."""

    dimension: str
    kind: Literal["rate", "quota"]
    wait: float


class Exchange(msgspec.Struct, frozen=True):
    """The outcome of one write: the row and the lease afterwards. `changed`: False if it need not be written.
    `alerts`: (dimension, percentage) of a quota that this write is the first to reach."""

    row: BucketState
    lease: Lease
    denial: Denial | None = None
    changed: bool = True
    alerts: tuple[tuple[str, int], ...] = ()


def fresh(bounds: Bounds, now: float) -> BucketState:
    """The row of a limit that was never used: every bucket is full."""
    levels = tuple(Level(bound.cap, since=bound.since) if bound else None for bound in bounds)
    return BucketState(levels, now, int(now // LEASE_SECONDS))


def caught_up(row: BucketState, bounds: Bounds, now: float) -> BucketState:
    """The row at `now`: after the epochs gone by, with its buckets refilled and new periods begun. Limits may have
    changed meanwhile. A slow local clock never moves the row back in time."""
    epoch = max(row.epoch, int(now // LEASE_SECONDS))
    passed, seconds = epoch - row.epoch, max(0.0, now - row.time)
    levels = tuple(
        _caught_up(level, bound, passed, seconds) if bound else None
        for level, bound in zip(row.levels, bounds, strict=True)
    )
    writers, before = row.writers, row.writers_before
    if passed:
        writers, before = (), writers if passed == 1 else ()
    return BucketState(levels, max(now, row.time), epoch, writers, before, row.expected_output)


def _caught_up(level: Level | None, bound: Bound, passed: int, seconds: float) -> Level:
    if level is None:  # limited only since now
        return Level(bound.cap, since=bound.since)
    out, before = level.out, level.before
    if passed:
        out, before = 0.0, out if passed == 1 else 0.0
    refilled = room = bound.cap - out - before
    if math.isfinite(bound.per_second) and math.isfinite(bound.cap):
        refilled = min(level.level + seconds * bound.per_second, room)
    if bound.since > level.since:
        return Level(refilled, out, before, 0.0, bound.since)
    return Level(refilled, out, before, level.used, level.since, level.alerted)


# --- one exchange -----------------------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """One dimension of an exchange: what the instance gives back, what it owes, and what it asks for."""

    granted: float
    left: float
    owed: float
    first: float
    queued: float
    ahead: float
    kept: float
    slots: float  # of calls under way, which the new lease has to hold again


class _Grant(NamedTuple):
    """One dimension's outcome. `level`, the row's, None and `amount`, the lease's, infinite: not limited."""

    level: Level | None = None
    amount: float = math.inf
    alert: int = 0
    changed: bool = False


def exchange(
    row: BucketState | None, bounds: Bounds, holding: Holding, demand: Demand, now: float, nonce: str
) -> Exchange:
    """Give back the lease, settle, and lease a new slice, in one step. `row` None: the limit was never used. `nonce`
    names this write, which replaces the instance's last one among the writers."""
    current, parts = _settled_row(row, bounds, holding, demand, now)
    denial = _worst_denial(current, bounds, parts)
    active = 1 + len(current.writers) + len(current.writers_before)
    grants = tuple(
        _grant(name, level, bound, part, active, denial) if level and bound else _Grant()
        for name, level, bound, part in zip(DIMENSIONS, current.levels, bounds, parts, strict=True)
    )
    levels, writers = tuple(grant.level for grant in grants), (*current.writers, nonce)[-_MOST_WRITERS:]
    granted = Amounts(*(grant.amount for grant in grants))
    left = granted.minus(Amounts(slots=holding.under_way))
    return Exchange(
        msgspec.structs.replace(current, levels=levels, writers=writers),
        Lease(granted, left, current.epoch, current.time, now + LEASE_SECONDS),
        denial,
        holding.under_way > 0 or any(grant.changed for grant in grants),
        tuple((name, grant.alert) for name, grant in zip(DIMENSIONS, grants, strict=True) if grant.alert),
    )


def _settled_row(
    row: BucketState | None, bounds: Bounds, holding: Holding, demand: Demand, now: float
) -> tuple[BucketState, tuple[_Part, ...]]:
    """The row as if this instance had never had a lease and owed nothing, and the parts of the exchange."""
    current, lease = caught_up(row or fresh(bounds, now), bounds, now).without(holding.nonce), holding.lease
    returns = (lease.granted, lease.left, holding.owed)
    demands = (demand.first, demand.queued, demand.ahead, demand.kept, Amounts(slots=holding.under_way))
    parts = tuple(map(_Part, *(amounts.each() for amounts in (*returns, *demands))))
    levels = tuple(
        _settled(level, bound, part, current.epoch - lease.epoch, lease.time) if level and bound else None
        for level, bound, part in zip(current.levels, bounds, parts, strict=True)
    )
    return msgspec.structs.replace(current, levels=levels), parts


def _settled(level: Level, bound: Bound, part: _Part, age: int, leased_at: float) -> Level:
    """The level after the lease, `age` epochs old, is given back and what is owed is booked."""
    level = _given_back(level, bound, part, age, leased_at)
    if not part.owed:
        return level
    used = max(0.0, level.used + part.owed)
    left = min(level.level - part.owed, level.room(bound))
    return Level(left, level.out, level.before, used, level.since, level.alerted)


def _given_back(level: Level, bound: Bound, part: _Part, age: int, leased_at: float) -> Level:
    """A lease that is no longer counted as out (two epochs old) returns as far as the bucket has room."""
    if math.isinf(part.granted) or not (part.granted or part.left):
        return level
    out, before = level.out, level.before
    if age == 0:
        out = max(0.0, out - part.granted)
    elif age == 1:
        before = max(0.0, before - part.granted)
    room = bound.cap - out - before
    refilled = room if math.isinf(bound.per_second) else min(level.level + part.left, room)
    used = max(0.0, level.used - part.left) if leased_at >= level.since else level.used
    return Level(refilled, out, before, used, level.since, level.alerted)


def _worst_denial(row: BucketState, bounds: Bounds, parts: Iterable[_Part]) -> Denial | None:
    """The quota that is used up, else the limit with the longest wait; None if the first call may pass."""
    denials = [
        denial
        for name, level, bound, part in zip(DIMENSIONS, row.levels, bounds, parts, strict=True)
        if level and bound and part.first and (denial := _denial(name, level, bound, part, row.time))
    ]
    quotas = (denial for denial in denials if denial.kind == "quota")
    return next(quotas, max(denials, key=lambda denial: denial.wait, default=None))


def _denial(name: str, level: Level, bound: Bound, part: _Part, now: float) -> Denial | None:
    """The reason why the first call cannot pass this dimension."""
    needed = part.first + part.slots
    if level.used + needed > bound.quota + EPSILON and level.used > EPSILON:
        if level.used - level.out - level.before + needed > bound.quota:
            return Denial(name, "quota", bound.until - now)
        return Denial(name, "rate", LEASE_SECONDS)  # other instances may yet give back what they hold
    if level.level >= needed - EPSILON:
        return None
    if math.isinf(bound.per_second):
        return Denial(name, "rate", LEASE_SECONDS / 2)  # another call must end first, at an unknown time
    if level.level >= bound.cap - EPSILON:
        return None  # a call that is larger than the bucket passes when the bucket is full
    return Denial(name, "rate", (min(needed, bound.cap) - level.level) / bound.per_second)


def _grant(name: str, level: Level, bound: Bound, part: _Part, active: int, denial: Denial | None) -> _Grant:
    """Lease a slice of one dimension."""
    amount = part.kept + part.slots if denial else _amount(level, bound, part, active)
    used = level.used + amount if level.used else amount
    out = level.out + amount if level.out else amount
    reached = 0
    if math.isfinite(bound.quota):
        exhausted = denial is not None and denial.kind == "quota" and denial.dimension == name
        reached = 100 if exhausted or used >= bound.quota else 80 if used >= 0.8 * bound.quota else 0
    alert = reached if reached > level.alerted else 0
    return _Grant(
        Level(level.level - amount, out, level.before, used, level.since, max(level.alerted, reached)),
        amount,
        alert,
        alert > 0
        or abs(part.owed) > EPSILON
        or max(amount, part.left) > part.kept + EPSILON
        or (denial is None and part.first > part.kept),  # however small: its call waits for a lease
    )


def _amount(level: Level, bound: Bound, part: _Part, active: int) -> float:
    """The size of the new slice: what is taken anyway, what calls wait for, and a share of the rest for those to come.
    `active`: the instances among which the rest is shared."""
    available = max(0.0, min(level.level, bound.quota - level.used) - part.slots)
    share = available * SHARE / math.sqrt(active)
    waiting = max(part.first, min(part.queued, available if active == 1 else share))
    return part.slots + max(part.first, part.kept, min(waiting + min(part.ahead, share), available))
