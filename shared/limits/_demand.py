"""How much of a limit this instance is asked for, and so how much it will need in the time of a lease. Pure."""

import math

import msgspec

from shared.limits._token_bucket import LEASE_SECONDS, NOTHING, Amounts

_MEMORY = 10.0  # seconds over which the demand is averaged
_RAMP = 3.0  # seconds: a demand that has just begun is taken to be as old as this at least
_FORGOTTEN = 0.05  # of an average: below that the demand begins anew
_LOW = 0.3  # of a lease's time: below that it is refilled ahead


class DemandAverage(msgspec.Struct, frozen=True, gc=False):
    """The demand a second, in every dimension, as an average that fades; `touched` last, `began` (seconds)."""

    requests: float = 0.0
    tokens: float = 0.0
    usd: float = 0.0
    slots: float = 0.0
    touched: float = -math.inf
    began: float = -math.inf

    def after(self, cost: Amounts, now: float) -> "DemandAverage":
        """With one more call."""
        faded = math.exp((self.touched - now) / _MEMORY) if now > self.touched else 1.0
        return DemandAverage(
            self.requests * faded + cost.requests / _MEMORY,
            self.tokens * faded + cost.tokens / _MEMORY,
            self.usd * faded + cost.usd / _MEMORY if cost.usd or self.usd else 0.0,
            self.slots * faded + cost.slots / _MEMORY if cost.slots or self.slots else 0.0,
            now,
            now if faded < _FORGOTTEN else self.began,
        )

    def ahead(self, now: float) -> Amounts:
        """What a lease's time will probably ask for; nothing where that is less than one call."""
        times = self._lease_time() * math.exp(min(0.0, self.touched - now) / _MEMORY)
        if self.requests * times < 1.0:
            return NOTHING
        return Amounts(self.requests * times, self.tokens * times, self.usd * times, self.slots * times)

    def runs_low(self, left: Amounts) -> bool:
        """Whether what is left of a lease should be added to before it is spent."""
        times = self._lease_time()
        if self.requests * times < 1.0:
            return False
        times *= _LOW
        return left.requests < self.requests * times or left.tokens < self.tokens * times or left.usd < self.usd * times

    def _lease_time(self) -> float:
        """Seconds of a lease, as a multiple of the averaged demand: a young average has not seen all of it yet."""
        age = max(_RAMP, self.touched - self.began)
        return LEASE_SECONDS / (1.0 - math.exp(-age / _MEMORY)) if age < 3 * _MEMORY else LEASE_SECONDS


NO_PACE = DemandAverage()
