"""The reservation of work that goes on after its call, and its correction by the usage of that work. Pure."""

import math

import msgspec

from shared.limits import scopes
from shared.limits._amounts import Amounts, Bound
from shared.limits.scopes import Scope

_MINUTE = 60.0  # seconds in which a bucket of tokens per minute is full again, whatever was reserved


class Hold(msgspec.Struct, frozen=True, omit_defaults=True):
    """The tokens and the US dollars that one limit has counted for the work."""

    tokens: float = 0.0
    usd: float = 0.0

    @property
    def amounts(self) -> Amounts:
        return Amounts(tokens=self.tokens, usd=self.usd)


def corrected(scope: Scope, hold: Hold, actual: Amounts, started: float, now: float) -> Amounts:
    """The amounts to be counted in place of the hold, for work that `started` then. What was reserved too much comes
    back only to the period, or the minute, that it was taken from."""
    _, tokens, usd, _ = scopes.bounds(scope.limits, now)

    def kept(bound: Bound | None, held: float, used: float) -> float:
        if bound is None or used >= held:
            return used
        same = started >= bound.since if math.isfinite(bound.quota) else now - started < _MINUTE
        return used if same else held

    return Amounts(tokens=kept(tokens, hold.tokens, actual.tokens), usd=kept(usd, hold.usd, actual.usd))
