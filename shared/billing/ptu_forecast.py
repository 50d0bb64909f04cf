"""Provisioned capacity for a forecast of requests, weighed against pay-as-you-go. Pure."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from shared.billing import provisioned, ptu
from shared.billing.cost import USD, Price, cost
from shared.billing.prices import Prices
from shared.billing.ptu import HOURS_PER_MONTH, Payment, Terms, Workload
from shared.config.prices import DeploymentType
from shared.types import Usage

BY_TOKENS = "by tokens"
_PIECES = 40  # of a curve
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


class _Weighed(NamedTuple):
    work: Workload
    per_minute: int  # input tokens of a unit
    sizes: tuple[int, int]
    price_source: str


def _weighed(
    model: str, forecast: Forecast, place: Place, prices: Prices, now: float, tokens_per_minute: int | None
) -> _Weighed | None:
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
    return _Weighed(work, per_minute, sizes, price_source)


def weigh(
    model: str,
    forecast: Forecast,
    place: Place,
    prices: Prices,
    payments: Sequence[Payment],
    now: float,
    tokens_per_minute: int | None = None,
) -> dict[str, Any] | None:
    """The needs of a model, the cost of each way to pay, and the sources; None if its price per token, its throughput
    or the sizes on sale are not known."""
    weighed = _weighed(model, forecast, place, prices, now, tokens_per_minute)
    if weighed is None:
        return None
    work, per_minute, sizes, price_source = weighed
    by_tokens = _payment(BY_TOKENS, work, ptu.Offer(0, work.by_tokens, None, None))
    offers = [_payment(one.name, work, ptu.offer(work, Terms(per_minute, one.unit_hour, *sizes))) for one in payments]
    return {
        "model": model,
        "units_needed_on_average": round(work.average / per_minute, 2),
        "units_needed_at_peak": round(work.average * work.peak / per_minute, 2),
        "minimum_units": sizes[0],
        "step_units": sizes[1],
        "payments": [by_tokens, *offers],
        "offered": list(provisioned.regions(model, place.deployment)),
        "price_source": price_source,
        "throughput_source": "--tokens-per-minute" if tokens_per_minute else provisioned.facts().throughput.cited,
    }


class Curve(NamedTuple):
    """USD per month by way to pay, at each of these average requests per minute; the peak keeps its multiple."""

    requests_per_minute: list[float]
    usd_per_month: dict[str, list[float]]


def payments_for(prices: Prices, place: Place, now: float) -> list[Payment]:
    """Azure's ways to pay for a unit whose prices are known, by the hour and reserved."""
    reservation = provisioned.facts().reservations.usd.get(place.deployment)
    return ptu.payments(prices.unit_hour(place.deployment, place.region, now), reservation)


def sources(prices: Prices, place: Place, now: float) -> dict[str, str]:
    """The sources of what all models share."""
    facts = provisioned.facts()
    hourly = prices.unit_hour_line(place.deployment, place.region, now)
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


def curve(
    model: str, forecast: Forecast, place: Place, prices: Prices, payments: Sequence[Payment], now: float
) -> Curve | None:
    """The cost of each way to pay from no requests to twice the forecast; None as for `weigh`."""
    weighed = _weighed(model, forecast, place, prices, now, None)
    if weighed is None:
        return None
    rates = [2 * forecast.requests_per_minute * piece / _PIECES for piece in range(_PIECES + 1)]
    works = [weighed.work._replace(requests_per_minute=rate) for rate in rates]
    month = HOURS_PER_MONTH / USD
    costs = {BY_TOKENS: [round(work.by_tokens * month, 2) for work in works]}
    for payment in payments:
        terms = Terms(weighed.per_minute, payment.unit_hour, *weighed.sizes)
        costs[payment.name] = [round(ptu.offer(work, terms).cost * month, 2) for work in works]
    return Curve([round(rate, 4) for rate in rates], costs)


def _payment(name: str, work: Workload, found: ptu.Offer) -> dict[str, Any]:
    month, use = HOURS_PER_MONTH / USD, found.break_even_use
    return {
        "payment": name,
        "units": found.units,
        "usd_per_hour": round(found.cost / USD, 4),
        "usd_per_month": round(found.cost * month, 2),
        "usd_saved_per_month": round((work.by_tokens - found.cost) * month, 2),
        "break_even_requests_per_minute": None if found.break_even is None else round(found.break_even, 1),
        "break_even_percent": None if use is None else round(100 * use, 1),
    }
