"""The amounts that calls have reserved at their limits."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from shared.limits._amounts import NOTHING, Amounts
from shared.limits._call_limits import CallLimits
from shared.limits._lease import LeasedLimit
from shared.limits.holds import Hold
from shared.types import Target, Usage
from shared.usage.token_averages import Size

_NO_HOLD = Hold()


class Reservation:
    """The amounts that one call has reserved at each of its limits; once it is settled, those booked. `size` None: its
    tokens do not matter. `serving`: the limits of the other models that may serve it. `held`: what its limits count for
    work that goes on after the call; None if it has none. `booked`: what was booked last; `late`: charges beside that,
    of attempts that ended later."""

    __slots__ = ("booked", "call_limits", "costs", "held", "late", "limits", "serving", "settled", "size")

    def __init__(self, call_limits: CallLimits, costs: Sequence[Amounts], size: Size | None) -> None:
        self.call_limits = call_limits
        self.limits: Sequence[LeasedLimit] = call_limits.limits
        self.costs = costs
        self.size = size
        self.serving: tuple[CallLimits, ...] = ()
        self.held: Mapping[str, Hold] | None = None
        self.settled = False
        self.booked: tuple[Usage, Target | None, Iterable[tuple[Target, Usage]], float] | None = None
        self.late: tuple[tuple[Target, Usage], ...] = ()

    def limits_of(self, model: str) -> CallLimits:
        """The limits of the model that serves the call; of the one that it asked for, if it is none of the others."""
        for one in self.serving:
            if one.model == model:
                return one
        return self.call_limits

    def serving_by(self, target: Target | None) -> CallLimits:
        return self.limits_of(target.model if target is not None else "")

    def replace(self, actual: Amounts, serving: CallLimits) -> None:
        """Count `actual` in place of what is reserved or booked so far. Limits of models other than the one `serving`
        get everything back; those of work that goes on keep what is held for it."""
        booked = [actual] * len(self.limits)
        if (held := self.held) is not None:
            booked = [actual.plus(held.get(limit.scope.key, _NO_HOLD).amounts) for limit in self.limits]
        if self.serving:
            keys = {limit.scope.key for limit in serving.limits}
            booked = [
                amounts if limit.scope.key in keys else NOTHING
                for limit, amounts in zip(self.limits, booked, strict=True)
            ]
        for limit, before, now in zip(self.limits, self.costs, booked, strict=True):
            limit.settle(before, now)
        self.costs = booked


class Arrival(msgspec.Struct, frozen=True):
    """The request and the slot that a call has reserved at each limit, before its model and its size are known."""

    limits: tuple[LeasedLimit, ...]
    costs: tuple[Amounts, ...]

    def at(self, limit: LeasedLimit) -> Amounts:
        """The amounts reserved at a limit."""
        return next((cost for own, cost in zip(self.limits, self.costs, strict=True) if own is limit), NOTHING)

    def without(self, limits: Sequence[LeasedLimit]) -> "Arrival":
        """The part that is reserved at other limits than these."""
        left = [pair for pair in zip(self.limits, self.costs, strict=True) if pair[0] not in limits]
        return Arrival(tuple(limit for limit, _ in left), tuple(cost for _, cost in left))
