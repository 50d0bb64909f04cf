"""`ptu`: provisioned capacity against pay-as-you-go, for past usage or for a forecast."""

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from shared.billing import provisioned, ptu
from shared.billing.charges import Tariff
from shared.billing.cost import USD, cost
from shared.billing.prices import Prices
from shared.billing.ptu import Hour, Payment, Terms
from shared.billing.ptu_forecast import Forecast, Place, payments_for, sources, weigh
from shared.cli._terminal import AsJson, fail, known_configuration, settings, show, with_store
from shared.config.prices import DeploymentType
from shared.storage import Store
from shared.usage import hours, query
from shared.usage.folds import Counts, Dimensions
from shared.usage.query import HourRange

commands = typer.Typer()
_WHOLE = ("--requests-per-minute", "--input", "--output")


@commands.command("ptu")
def break_even(
    requests_per_minute: Annotated[
        float | None, typer.Option(min=0.01, help="Forecast instead of past usage: requests in an average minute.")
    ] = None,
    input_tokens: Annotated[
        int | None, typer.Option("--input", min=1, help="Forecast: input tokens of an average request.")
    ] = None,
    output_tokens: Annotated[
        int | None, typer.Option("--output", min=0, help="Forecast: output tokens of an average request.")
    ] = None,
    peak: Annotated[
        float, typer.Option(min=1, help="Forecast: the busiest minute, as a multiple of the average.")
    ] = 1.0,
    cached: Annotated[
        float, typer.Option(min=0, max=1, help="Forecast: share of the input that the prompt cache serves.")
    ] = 0.0,
    days: Annotated[int, typer.Option(min=1, max=92, help="Whole days of past usage to analyze.")] = 28,
    model: Annotated[str | None, typer.Option(help="Only this model; default: all with a known throughput.")] = None,
    deployment: Annotated[DeploymentType, typer.Option(help="Deployment type of the capacity.")] = "global",
    region: Annotated[str, typer.Option(help="Region of the capacity, since prices differ.")] = "",
    usd_per_unit_hour: Annotated[
        float | None, typer.Option(min=0, help="Your price of a unit; default: Azure's, by the hour and reserved.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Input tokens per minute of a unit; default: as Azure states.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Weigh provisioned throughput units against paying by the token.

    With --requests-per-minute, --input and --output: for a forecast, without any history. Otherwise for the hourly
    usage of each model in the past: the cheapest number of units."""
    place = Place(deployment, region)
    forecast_options = (requests_per_minute, input_tokens, output_tokens)
    if requests_per_minute is not None and input_tokens is not None and output_tokens is not None:
        forecast = Forecast(requests_per_minute, input_tokens, output_tokens, cached, peak)
        _show_forecast(forecast, place, model, usd_per_unit_hour, tokens_per_minute, as_json)
        return
    if any(value is not None for value in forecast_options) or peak != 1 or cached:
        missing = [option for option, value in zip(_WHOLE, forecast_options, strict=True) if value is None]
        fail(f"{missing[0]}: expected a number: a forecast takes {', '.join(_WHOLE)} together")
    _show_past(days, place, model, usd_per_unit_hour, tokens_per_minute, as_json)


def _show_past(
    days: int, place: Place, model: str | None, own: float | None, tokens_per_minute: int | None, as_json: bool
) -> None:
    tariff = Tariff.of(settings().configuration)

    async def run(store: Store) -> None:
        now = store.now()
        end = hours.day_start(hours.hour_of(now))
        payments = _payments(tariff.prices, place, own, now)
        rows = []
        for name, used in sorted((await _hourly(store, tariff, end - days * hours.DAY, end)).items()):
            if model in (None, name):
                rows += _rows(name, used, payments, tokens_per_minute, place.deployment)
        if rows or as_json:
            show(rows, list(rows[0]) if rows else [], as_json)
        else:
            of = f" of {model}" if model else ""
            print(
                f"Nothing to compare: the last {days} whole days (UTC) have no usage{of} with a known price and "
                "throughput. See --days, --tokens-per-minute, and `prices` in the configuration."
            )

    with_store(run)


def _payments(prices: Prices, place: Place, own: float | None, now: float) -> list[Payment]:
    if own is not None:
        return [Payment("your price", round(own * USD))]
    payments = payments_for(prices, place, now)
    if not payments:
        fail(f"--usd-per-unit-hour: expected a price, since Azure's for a {place.deployment} unit is not known")
    return payments


def _show_forecast(
    forecast: Forecast, place: Place, model: str | None, own: float | None, tokens_per_minute: int | None, as_json: bool
) -> None:
    now, document = time.time(), known_configuration()
    prices = Prices(document.prices if document else ())
    payments = _payments(prices, place, own, now)
    names = [model] if model else list(provisioned.facts().throughput.models)
    weighed = (weigh(name, forecast, place, prices, now, tokens_per_minute) for name in names)
    plans = [one.plan(payments) for one in weighed if one is not None]
    if not plans:
        fail(
            f"--model: the throughput, the price or the sizes on sale of {model}, {place.deployment}, are not known; "
            "give --tokens-per-minute, or a line of `prices` in the configuration"
        )
    about_all = _sources(prices, place, own, now)
    if as_json:
        print(json.dumps({"models": plans, "sources": about_all}, indent=2))
        return
    rows = [{"model": plan["model"], **payment} for plan in plans for payment in plan["payments"]]
    show(rows, list(rows[0]), False)
    for plan in plans:
        print("\n" + _sentences(plan, place))
    for about, source in about_all.items():
        print(f"{about}: {source}")


def _sentences(plan: dict[str, Any], place: Place) -> str:
    offered, region = plan["offered"], place.region.lower().replace(" ", "")
    where = f"offered in {', '.join(offered)}" if offered else "no region is published"
    if region and offered and region not in offered:
        where += f"; not in {region}"
    return (
        f"{plan['model']} needs {plan['units_needed_at_peak']} units in the busiest minute, "
        f"{plan['units_needed_on_average']} on average. A {place.deployment} deployment has at least "
        f"{plan['minimum_units']} units, and grows by {plan['step_units']}; {where}.\n"
        f"Price by the token: {plan['price_source']}. Throughput of a unit: {plan['throughput_source']}."
    )


def _sources(prices: Prices, place: Place, own: float | None, now: float) -> dict[str, str]:
    citations = sources(prices, place, now)
    if own is None:
        return citations
    return {"Price of a unit": "--usd-per-unit-hour"} | {
        name: citations[name] for name in ("Regions", "Minimum and step")
    }


async def _hourly(store: Store, tariff: Tariff, first: int, end: int) -> dict[str, list[Hour]]:
    """Hours of each used model, by its name in the configuration."""
    ranges = [HourRange(hour, hour + 1) for hour in range(first, end)]
    models: defaultdict[str, list[Hour]] = defaultdict(lambda: [Hour(0.0, 0)] * len(ranges))
    for number, (hour, lines) in enumerate(zip(ranges, await query.read(store, ranges), strict=True)):
        for line, counts in lines.items():
            if (used := _hour(tariff, hour, line, counts)) is not None:
                sums = models[line.model]
                sums[number] = Hour(sums[number].need + used.need, sums[number].picodollars + used.picodollars)
    return dict(models)


def _hour(tariff: Tariff, hour: HourRange, line: Dimensions, counts: Counts) -> Hour | None:
    """None if there is no price, or none per token of input and output."""
    price = tariff.price(hour, line)
    money = cost(price, counts)
    if price is None or money is None or not price.input or price.output is None or not counts.input_tokens:
        return None
    known = provisioned.throughput(line.model)
    ratio = known.output_ratio if known else price.output / price.input
    return Hour(counts.input_tokens - counts.cached_input_tokens + counts.output_tokens * ratio, money)


def _rows(
    model: str, used: Sequence[Hour], payments: Sequence[Payment], per_minute: int | None, deployment: DeploymentType
) -> list[dict[str, Any]]:
    """A line per way to pay; none if the model's throughput or the sizes on sale are not known."""
    known, sizes = provisioned.throughput(model), provisioned.sizes(model, deployment)
    per_minute = per_minute or (known.tokens_per_minute if known else None)
    if per_minute is None or sizes is None:
        return []
    return [
        _row(model, payment.name, ptu.plan(used, Terms(per_minute, payment.unit_hour, *sizes))) for payment in payments
    ]


def _row(model: str, payment: str, plan: ptu.Purchase) -> dict[str, Any]:
    return {
        "model": model,
        "payment": payment,
        "hours": plan.hours,
        "usd_by_tokens": ptu.dollars(plan.by_tokens),
        "average_units": round(plan.average, 2),
        "peak_units": round(plan.peak, 2),
        "break_even_percent": None if plan.break_even is None else round(100 * plan.break_even, 1),
        "cheapest_units": plan.units,
        "usd_with_them": ptu.dollars(plan.cost),
        "usd_saved": ptu.dollars(plan.by_tokens - plan.cost),
    }
