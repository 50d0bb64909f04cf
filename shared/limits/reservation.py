"""The amounts that calls have reserved at their limits."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from shared.limits._amounts import NOTHING, Amounts
from shared.limits._call_limits import CallLimits
from shared.limits._lease import LeasedLimit
from shared.limits.holds import Hold
from shared.limits.scopes import ADDRESS
from shared.types import Target, Usage
from shared.usage.token_averages import Size

_NO_HOLD = Hold()
_ONE_SUCCESS = Amounts(1.0)


class Reservation(msgspec.Struct, eq=False):
    """The amounts that one call has reserved at each of its limits; once it is settled, those booked. `size` None: its
    tokens do not matter. `at_address`: the limits of its client address. `serving`: the limits of the other models that
    may serve it. `held`: what its limits count for work that goes on after the call; None if it has none. `booked`:
    what was booked last; `late`: charges beside that, of attempts that ended later."""

    call_limits: CallLimits
    costs: Sequence[Amounts]
    size: Size | None
    at_address: tuple[LeasedLimit, ...] = ()
    limits: Sequence[LeasedLimit] = ()
    serving: tuple[CallLimits, ...] = ()
    held: Mapping[str, Hold] | None = None
    settled: bool = False
    booked: tuple[Usage, Target | None, Iterable[tuple[Target, Usage]], int] | None = None
    late: tuple[tuple[Target, Usage], ...] = ()

    def __post_init__(self) -> None:
        self.limits = self.header_limits

    def limits_of(self, model: str) -> CallLimits:
        """The limits of the model that serves the call; of the requested model, if no other matches."""
        for one in self.serving:
            if one.model == model:
                return one
        return self.call_limits

    def serving_by(self, target: Target | None) -> CallLimits:
        return self.limits_of(target.model if target is not None else "")

    @property
    def header_limits(self) -> tuple[LeasedLimit, ...]:
        """The limits that the caller's headers show."""
        return self.call_limits.limits + self.at_address

    def held_at(self, serving: CallLimits) -> set[str]:
        """The keys of the limits that go on counting a call that these limits served."""
        return {limit.scope.key for limit in serving.limits + self.at_address}

    def replace(self, actual: Amounts, serving: CallLimits, *, succeeded: bool) -> None:
        """Count `actual` in place of what is reserved or booked so far. Limits of models other than the one `serving`
        get everything back; those of work that goes on keep what is held for it."""
        keys = self.held_at(serving) if self.serving else None
        booked = []
        for limit, before in zip(self.limits, self.costs, strict=True):
            amounts = actual
            if keys is not None and limit.scope.key not in keys:
                amounts = NOTHING
            elif limit.scope.counts_successes:
                amounts = _ONE_SUCCESS if succeeded else NOTHING
            elif self.held is not None:
                amounts = actual.plus(self.held.get(limit.scope.key, _NO_HOLD).amounts)
            limit.settle(before, amounts)
            booked.append(amounts)
        self.costs = booked


class Arrival(msgspec.Struct, frozen=True):
    """The amounts that a call has reserved before its model and its size are known: its request at the limits of its
    address, its request and its slot at those of its key and its team."""

    limits: tuple[LeasedLimit, ...]
    costs: tuple[Amounts, ...]

    def plus(self, other: "Arrival") -> "Arrival":
        return Arrival(self.limits + other.limits, self.costs + other.costs)

    @property
    def at_address(self) -> tuple[LeasedLimit, ...]:
        return tuple(limit for limit in self.limits if limit.scope.kind == ADDRESS)

    def at(self, limit: LeasedLimit) -> Amounts:
        """The amounts reserved at a limit."""
        return next((cost for own, cost in zip(self.limits, self.costs, strict=True) if own is limit), NOTHING)

    def without(self, limits: Sequence[LeasedLimit]) -> "Arrival":
        """The part that is reserved at other limits than these."""
        left = [pair for pair in zip(self.limits, self.costs, strict=True) if pair[0] not in limits]
        return Arrival(tuple(limit for limit, _ in left), tuple(cost for _, cost in left))
