"""Quantities and their bounds, in each dimension that can be limited: requests, tokens, US dollars, slots. Pure."""

import math
from collections.abc import Callable

import msgspec

EPSILON = 1e-6  # what rounding may leave of nothing


class Amounts(msgspec.Struct, frozen=True, gc=False):
    """A quantity in every dimension. `slots` are calls under way."""

    requests: float = 0.0
    tokens: float = 0.0
    usd: float = 0.0
    slots: float = 0.0

    def each(self) -> tuple[float, float, float, float]:
        """The quantities in the order of `DIMENSIONS`."""
        return self.requests, self.tokens, self.usd, self.slots

    def of(self, dimension: str) -> float:
        return self.each()[DIMENSIONS.index(dimension)]

    def plus(self, other: "Amounts") -> "Amounts":
        """The sum. A dimension that does not change keeps its float object, which saves memory: there are many keys,
        and few use every dimension."""
        return Amounts(
            self.requests + other.requests if other.requests else self.requests,
            self.tokens + other.tokens if other.tokens else self.tokens,
            self.usd + other.usd if other.usd else self.usd,
            self.slots + other.slots if other.slots else self.slots,
        )

    def minus(self, other: "Amounts") -> "Amounts":
        """The difference, with the float objects kept as in `plus`."""
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


def combine(function: Callable[..., float], *amounts: Amounts) -> Amounts:
    """The function's results, called once per dimension with that dimension of each of the amounts."""
    return Amounts(*map(function, *(one.each() for one in amounts)))


def finite(amount: float) -> float:
    """The amount, or 0 if it is unlimited."""
    return amount if math.isfinite(amount) else 0.0


class Bound(msgspec.Struct, frozen=True):
    """The limits of one dimension. `cap`: the size of the bucket; `per_second`: its refill, infinite for what is
    borrowed and not spent (slots). `quota`: the most of a period from `since` to `until` (store's time)."""

    cap: float = math.inf
    per_second: float = 0.0
    quota: float = math.inf
    since: float = 0.0
    until: float = math.inf

    def share(self, parts: float) -> "Bound":
        """One of so many equal parts."""
        return Bound(self.cap / parts, self.per_second / parts, self.quota / parts, self.since, self.until)


Bounds = tuple[Bound | None, ...]
"""By dimension; None: not limited."""
