"""The limits of the calls of one key to one model: what such calls cost at each of them."""

import msgspec

from shared.billing.cost import USD, Price
from shared.limits import estimation
from shared.limits._amounts import Amounts
from shared.limits._lease import LeasedLimit
from shared.limits.estimation import Estimate, Experience, Size
from shared.types import Call, Consumer, Usage

_NO_EXPERIENCE = Experience()


class CallLimits(msgspec.Struct, gc=False):
    """The limits as of this consumer's policy. `price`: an estimate's, None if money is not limited or the price is
    unknown. `experience`: what such calls have taken."""

    consumer: Consumer
    model: str
    limits: tuple[LeasedLimit, ...]
    price: Price | None
    experience: Experience | None = None

    @property
    def limit_tokens(self) -> bool:
        return any(limit.scope.limited[1] for limit in self.limits)

    @property
    def limit_usd(self) -> bool:
        return any(limit.scope.limited[2] for limit in self.limits)

    def hold_for(self, consumer: Consumer) -> bool:
        """True if the consumer's policy has not changed."""
        known = self.consumer
        return known is consumer or (
            known.limits == consumer.limits
            and known.team == consumer.team
            and known.model_limits == consumer.model_limits
        )

    def costs(self, call: Call, size: Size | None, now: float) -> list[Amounts]:
        """The amounts to reserve at each limit. `size` None: neither tokens nor money are limited."""
        expected = most = None
        costs = []
        for limit in self.limits:
            _, tokens, usd, slots = limit.scope.limited
            estimate = estimation.NOTHING
            if size is not None and (tokens or usd):
                if limit.scope.limits.estimate == "max" or limit.nearly_used_up(now):
                    estimate = most = most or estimation.most(call, size, self._experience_with(limit))
                else:
                    estimate = expected = expected or estimation.expected(call, size, self._experience_with(limit))
            costs.append(
                Amounts(
                    1.0,
                    estimate.input + estimate.output if tokens else 0.0,
                    _usd(self.price, estimate) if usd and self.price else 0.0,
                    1.0 if slots else 0.0,
                )
            )
        return costs

    def learn(self, size: Size, usage: Usage) -> None:
        """Refine later estimates by the usage of one call."""
        self.experience = self._experience_with(self.limits[0]).learn(size, usage)
        for limit in self.limits:
            limit.learn(self.experience)

    def _experience_with(self, limit: LeasedLimit) -> Experience:
        """The experience with such calls, else with others under this limit, here or on other instances."""
        return self.experience or limit.experience or _NO_EXPERIENCE


def _usd(price: Price, tokens: Estimate) -> float:
    return (tokens.input * (price.input or 0) + tokens.output * (price.output or 0)) / USD
