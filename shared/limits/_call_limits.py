"""The limits of the calls of one key to one model by one operation: what such calls cost at each of them."""

from collections.abc import Sequence

import msgspec

from shared.billing.cost import USD, Price
from shared.limits import estimation
from shared.limits._amounts import Amounts
from shared.limits._lease import LeasedLimit
from shared.limits.estimation import Estimate
from shared.types import BATCHES, Call, Consumer, Usage
from shared.usage.token_averages import Size, TokenAverages

_NO_AVERAGES = TokenAverages()
_A_TRACE, _LEAST_USD = Estimate(1.0, 0.0), 1e-5  # of what is not estimated: a call must see that nothing is left


class CallLimits(msgspec.Struct, gc=False):
    """The limits by this consumer's policy under a `generation` of the configuration. `text`: the operation generates
    tokens of text. `estimated`: some limits are of tokens or money; `priced`: some are of money, with the `price` for
    estimates `until` a time, None if unknown. `experience`: with such calls."""

    consumer: Consumer
    generation: int
    model: str
    text: bool
    limits: tuple[LeasedLimit, ...]
    estimated: bool
    priced: bool
    price: Price | None
    until: float
    experience: TokenAverages | None

    def hold_for(self, consumer: Consumer, generation: int, now: float) -> bool:
        """True if neither the consumer's policy nor the configuration nor the price has changed."""
        mine = self.consumer
        return (
            now < self.until
            and self.generation == generation
            and (
                mine is consumer
                or (mine.limits, mine.team, mine.model_limits)
                == (consumer.limits, consumer.team, consumer.model_limits)
            )
        )

    def costs(self, limits: Sequence[LeasedLimit], call: Call, size: Size | None, now: float) -> list[Amounts]:
        """The amounts to reserve at these limits. `size` None: neither tokens nor money matter. A batch may be as large
        as days of calls, at a pace that its caller does not set: it counts towards budgets alone."""
        expected = most = None
        costs = []
        for limit in limits:
            _, tokens, usd, slots = limit.scope.limited
            estimate, by = estimation.NOTHING, limit.scope.limits.estimate
            least_usd = 0.0
            if size is not None and (tokens or usd):
                if by == "none":
                    estimate, least_usd = _A_TRACE, _LEAST_USD
                elif by == "max" or limit.nearly_used_up(now):
                    estimate = most = most or estimation.most(call, size, self._experience_with(limit))
                else:
                    estimate = expected = expected or estimation.expected(call, size, self._experience_with(limit))
            costs.append(
                Amounts(
                    1.0,
                    estimate.input + estimate.output if tokens and call.makes not in BATCHES else 0.0,
                    max(least_usd, _usd(self.price, estimate)) if usd and self.price else 0.0,
                    1.0 if slots else 0.0,
                )
            )
        return costs

    def learn(self, size: Size, usage: Usage) -> None:
        """Refine later estimates by the usage of one call. Answers of text also teach what other models, operations and
        instances expect under these limits."""
        known = self._experience_with(self.limits[0]) if self.limits else self.experience or _NO_AVERAGES
        self.experience = known.learn(size, usage)
        for limit in self.limits if self.text else ():
            limit.learn(self.experience)

    def _experience_with(self, limit: LeasedLimit) -> TokenAverages:
        """The experience with such calls, else with others under this limit, here or on other instances."""
        return self.experience or limit.experience or _NO_AVERAGES


def _usd(price: Price, tokens: Estimate) -> float:
    return (tokens.input * (price.input or 0) + tokens.output * (price.output or 0)) / USD
