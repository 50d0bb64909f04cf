"""Provisioned capacity for a forecast of requests, weighed against pay-as-you-go. Pure."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from shared.billing import provisioned, ptu
from shared.billing.cost import USD, Price, cost
from shared.billing.prices import Prices
from shared.billing.ptu import HOURS_PER_MONTH, Payment, Terms, Workload
from shared.config.prices import DeploymentType
from shared.types import Usage

BY_TOKENS = "by tokens"
_PIECES = 40  # of a curve
_MONTH = HOURS_PER_MONTH / USD  # USD per month for a picodollar an hour
_WIDER: tuple[DeploymentType, ...] = ("data_zone", "global")  # some models have regional capacity only as provisioned


class Forecast(NamedTuple):
    """`cached`: the share of input tokens that the prompt cache serves."""

    requests_per_minute: float
    input_tokens: int
    output_tokens: int
    cached: float
    peak: float


class Place(NamedTuple):
    deployment: DeploymentType
    region: str


class Weighed(NamedTuple):
    """A model whose price by the token, throughput and sizes on sale are known. `per_minute`: input tokens of a unit;
    `sizes`: the minimum and the step of deployments, in units."""

    model: str
    work: Workload
    place: Place
    per_minute: int
    sizes: tuple[int, int]
    price_source: str
    throughput_source: str

    def plan(self, payments: Iterable[Payment]) -> dict[str, Any]:
        """The needs of the model, the cost of each way to pay, and the sources."""
        work, (minimum, step) = self.work, self.sizes
        by_tokens = _payment(BY_TOKENS, work, ptu.Offer(0, work.by_tokens, None, None))
        return {
            "model": self.model,
            "units_needed_on_average": round(work.average / self.per_minute, 2),
            "units_needed_at_peak": round(work.average * work.peak / self.per_minute, 2),
            "minimum_units": minimum,
            "step_units": step,
            "payments": [by_tokens, *(_payment(one.name, work, ptu.offer(work, self._terms(one))) for one in payments)],
            "offered": list(provisioned.regions(self.model, self.place.deployment)),
            "price_source": self.price_source,
            "throughput_source": self.throughput_source,
        }

    def curve(self, payments: Iterable[Payment]) -> dict[str, Any]:
        """USD per month by way to pay, at average requests per minute from none to twice the forecast; the peak keeps
        its multiple."""
        rates = [2 * self.work.requests_per_minute * piece / _PIECES for piece in range(_PIECES + 1)]
        works = [self.work._replace(requests_per_minute=rate) for rate in rates]
        costs = {BY_TOKENS: [round(work.by_tokens * _MONTH, 2) for work in works]}
        for payment in payments:
            costs[payment.name] = [round(ptu.offer(work, self._terms(payment)).cost * _MONTH, 2) for work in works]
        return {"requests_per_minute": [round(rate, 4) for rate in rates], "usd_per_month": costs}

    def _terms(self, payment: Payment) -> Terms:
        return Terms(self.per_minute, payment.unit_hour, *self.sizes)


def weigh(
    model: str, forecast: Forecast, place: Place, prices: Prices, now: float, tokens_per_minute: int | None = None
) -> Weighed | None:
    """A model with its need for a forecast; None if its price per token, its throughput or the sizes on sale are not
    known. `tokens_per_minute`: of a unit; None: as published."""
    price, price_source = _price(model, place, prices, now)
    known = provisioned.throughput(model)
    per_minute = tokens_per_minute or (known.tokens_per_minute if known else None)
    sizes = provisioned.sizes(model, place.deployment)
    if price is None or not price.input or per_minute is None or sizes is None:
        return None
    cached = round(forecast.input_tokens * forecast.cached)
    request = cost(price, Usage(forecast.input_tokens, forecast.output_tokens, cached_input_tokens=cached))
    ratio = known.output_ratio if known else (price.output or 0) / price.input
    each = forecast.input_tokens - cached + forecast.output_tokens * ratio
    if not request or not each:
        return None
    work = Workload(forecast.requests_per_minute, forecast.peak, each, request)
    throughput_source = "--tokens-per-minute" if tokens_per_minute else provisioned.facts().throughput.cited
    return Weighed(model, work, place, per_minute, sizes, price_source, throughput_source)


def payments_for(prices: Prices, place: Place, now: float) -> list[Payment]:
    """Azure's ways to pay for a unit whose prices are known, by the hour and reserved."""
    reservation = provisioned.facts().reservations.usd.get(place.deployment)
    return ptu.payments(prices.of_any_model("unit_hour", place.deployment, place.region, now), reservation)


def sources(prices: Prices, place: Place, now: float) -> dict[str, str]:
    """The sources of what all models share."""
    facts = provisioned.facts()
    hourly = prices.line_of_any_model("unit_hour", place.deployment, place.region, now)
    sizes = facts.throughput.cited + ("" if place.deployment == "regional" else ", the same for all models there")
    return {
        "Price of a unit by the hour": hourly.source if hourly else "not known",
        "Price of a reservation": facts.reservations.cited,
        "Regions": facts.offers.cited,
        "Minimum and step": sizes,
    }


def _price(model: str, place: Place, prices: Prices, now: float) -> tuple[Price | None, str]:
    """The price by the token of the same deployment type, or of the next wider one that has any; and its source."""
    for deployment in dict.fromkeys((place.deployment, *_WIDER)):
        line = prices.line(model, now, region=place.region, deployment=deployment)
        if line is not None:
            source = line.source if deployment == place.deployment else f"{line.source}, for a {deployment} deployment"
            return prices.of(model, now, region=place.region, deployment=deployment), source
    return None, ""


def _payment(name: str, work: Workload, offer: ptu.Offer) -> dict[str, Any]:
    use = offer.break_even_use
    return {
        "payment": name,
        "units": offer.units,
        "usd_per_hour": round(offer.cost / USD, 4),
        "usd_per_month": round(offer.cost * _MONTH, 2),
        "usd_saved_per_month": round((work.by_tokens - offer.cost) * _MONTH, 2),
        "break_even_requests_per_minute": None if offer.break_even is None else round(offer.break_even, 1),
        "break_even_percent": None if use is None else round(100 * use, 1),
    }
