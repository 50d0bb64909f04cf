"""Moving average of demand, used to size the next lease. Pure."""

import math

import msgspec

from shared.limits._amounts import NOTHING, Amounts
from shared.limits._token_bucket import LEASE_SECONDS

_MEMORY = 10.0  # seconds over which the demand is averaged
_RAMP = 3.0  # seconds: the least age that a demand is assumed to have
_FORGOTTEN = 0.05  # of an average: below that, the demand starts over
_LOW = 0.3  # of a lease's time: below that it is refilled ahead


class DemandAverage(msgspec.Struct, frozen=True, gc=False):
    """The demand per second in every dimension, as an average that fades. `touched`: the time of the last call;
    `began`: of the first one."""

    requests: float = 0.0
    tokens: float = 0.0
    usd: float = 0.0
    slots: float = 0.0
    touched: float = -math.inf
    began: float = -math.inf

    def after(self, cost: Amounts, now: float) -> "DemandAverage":
        """The average with one more call."""
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
        """The probable demand during a lease; nothing if that is less than one call."""
        times = self._lease_time() * math.exp(min(0.0, self.touched - now) / _MEMORY)
        if self.requests * times < 1.0:
            return NOTHING
        return Amounts(self.requests * times, self.tokens * times, self.usd * times, self.slots * times)

    def runs_low(self, left: Amounts) -> bool:
        """True if a lease with so much left should be refilled before it is spent."""
        times = self._lease_time()
        if self.requests * times < 1.0:
            return False
        times *= _LOW
        return left.requests < self.requests * times or left.tokens < self.tokens * times or left.usd < self.usd * times

    def _lease_time(self) -> float:
        """Seconds of a lease, more for a young average, which has not seen all of the demand yet."""
        age = max(_RAMP, self.touched - self.began)
        return LEASE_SECONDS / (1.0 - math.exp(-age / _MEMORY)) if age < 3 * _MEMORY else LEASE_SECONDS


NO_DEMAND = DemandAverage()
