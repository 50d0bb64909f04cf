"""One instance's side of a limit's row: the lease that it spends, and what it owes. Pure."""

import math

import msgspec

from shared.limits._amounts import EPSILON, NOTHING, Amounts, combine


class Lease(msgspec.Struct, frozen=True, gc=False):
    """A slice of a row, to be spent until `expires`. `granted`: what the row counts as out, since `epoch`."""

    granted: Amounts = NOTHING
    left: Amounts = NOTHING
    epoch: int = -9
    time: float = 0.0
    expires: float = 0.0

    def spend(self, cost: Amounts) -> "Lease":
        return Lease(self.granted, self.left.minus(cost), self.epoch, self.time, self.expires)


NO_LEASE = Lease()


class Holding(msgspec.Struct, frozen=True, gc=False):
    """One instance's side of a row: its lease; `owed`: what its calls took beyond what was reserved for them (below
    zero: less); `under_way`: its calls that hold a slot; `nonce`: of its last write."""

    lease: Lease = NO_LEASE
    owed: Amounts = NOTHING
    under_way: int = 0
    nonce: str = ""

    @property
    def owes(self) -> bool:
        owed = self.owed
        return max(abs(owed.requests), abs(owed.tokens), abs(owed.usd)) > EPSILON

    @property
    def has_rest(self) -> bool:
        """True if something of the lease is left to be given back."""
        return any(EPSILON < left < math.inf for left in self.lease.left.each())

    def spend(self, cost: Amounts) -> "Holding":
        return Holding(self.lease.spend(cost), self.owed, self.under_way + bool(cost.slots), self.nonce)

    def book(self, debt: Amounts, slots: float) -> "Holding":
        """Owe a debt, and take the slot of a call that begins (1), or return that of a call that ends (-1)."""
        lease = self.lease.spend(Amounts(slots=slots)) if slots else self.lease
        return Holding(lease, self.owed.plus(debt), self.under_way + int(slots), self.nonce)


def carried(new: Lease, before: Lease, after: Lease) -> Lease:
    """The lease `new`, less what was spent from the old one while the row was written (`before`, `after`)."""

    def less_spent(amount: float, old: float, rest: float) -> float:
        return amount if math.isinf(amount) or math.isinf(old) else amount - (old - rest)

    left = combine(less_spent, new.left, before.left, after.left)
    return Lease(new.granted, left, new.epoch, new.time, new.expires)
