"""Turns the usage of calls into amounts that limits count, and names the prices that their estimates take."""

import logging
from collections.abc import Callable

from shared.azure_openai.batch_lines import BatchSize
from shared.billing import cost as pricing
from shared.billing.cost import USD, Price
from shared.billing.prices import Prices
from shared.config.document import Configuration
from shared.errors import ModelWithoutPrice
from shared.limits._amounts import Amounts
from shared.limits._call_limits import CallLimits
from shared.types import BATCH, Operation, Target, Usage

logger = logging.getLogger("tollgate.limits")

_MOST_NAMED = 10_000  # models without a price that the log has named


class LimitPricing:
    """Prices by one configuration. `now` returns the seconds since 1970; `unpriced`: models that the log has named."""

    def __init__(self, configuration: Configuration, now: Callable[[], float], unpriced: set[str]) -> None:
        self._configuration = configuration
        self._now = now
        self._unpriced = unpriced
        self.prices = Prices(configuration.prices, configuration.backends)

    def with_configuration(self, configuration: Configuration) -> "LimitPricing":
        """The prices by another configuration, with the same models named in the log."""
        return LimitPricing(configuration, self._now, self._unpriced)

    def dearest(self, model: str, operation: Operation, now: float) -> tuple[Price | None, float]:
        """The highest price of a model, of any for a run that leaves it to its assistant; and the time at which a price
        changes."""
        models = self._configuration.model_names() if operation.makes in ("run", "batch") and not model else (model,)
        known = [price for name in models if (price := self.prices.dearest(name, now)) is not None]
        dearest = max(known, key=lambda price: (price.output or 0, price.input or 0), default=None)
        return dearest, self.prices.next_change(now)

    def of_batch(self, batch: BatchSize, now: float, otherwise: Price | None) -> Price | None:
        """The highest price of a batch by the models or deployments that its requests name; `otherwise` if no backend
        has them."""
        served = [pair for backend in self._configuration.backends for pair in backend.deployments.items()]
        models = {name for name, own in served if not {name, own}.isdisjoint((batch.model, *batch.others))}
        known = [price for name in models if (price := self.prices.dearest(name, now, BATCH)) is not None]
        unknown = None if models else otherwise
        return max(known, key=lambda price: (price.output or 0, price.input or 0), default=unknown)

    def check(self, limits: CallLimits) -> None:
        """Raise `ModelWithoutPrice` by the configuration, else warn, if no budget can count the calls of a model. The
        model of a run may be its assistant's, which only the answer names."""
        if limits.priced and limits.price is None and limits.model:
            settings = self._configuration.limits
            if settings.unpriced == "refuse":
                raise ModelWithoutPrice(
                    f"The model {limits.model!r} has no known price, so no budget can count its calls. Ask "
                    f"{settings.contact} to set its price under `prices`."
                )
            self._warn_of_no_price(limits.model)

    def amounts(
        self, usage: Usage, target: Target | None, price: Price | None, requests: float, *, priced: bool
    ) -> Amounts:
        """The amounts of a usage, at the price of the target it was used on, else at this `price`."""
        usd = 0.0
        if priced:
            cost = pricing.cost(self.prices.of_call(usage, target, self._now()) if target else price, usage)
            if cost is None and target is not None:
                self._warn_of_no_price(target.model)
            usd = (cost or 0) / USD
        # A batch may be as large as days of calls, at a pace that its caller does not set: it counts towards budgets
        # alone.
        batch = usage.service_tier.partition("-")[0] == BATCH  # wherever its model ran
        tokens = 0 if batch else usage.input_tokens + usage.output_tokens
        return Amounts(requests, float(tokens), usd)

    def _warn_of_no_price(self, model: str) -> None:
        if model not in self._unpriced and len(self._unpriced) < _MOST_NAMED:  # callers may name any model
            self._unpriced.add(model)
            logger.warning("the model %s has no known price: its calls do not count towards budgets", model[:128])
