"""`ptu`: break-even of provisioned capacity."""

from collections import defaultdict
from typing import Annotated, Any

import typer

from shared.billing import ptu
from shared.billing.charges import Tariff
from shared.billing.cost import USD, cost
from shared.billing.ptu import Hour, Terms
from shared.cli._terminal import AsJson, fail, settings, show, with_store
from shared.config.document import Deployment
from shared.storage import Store
from shared.usage import hours, query
from shared.usage.aggregates import Counts, Dimensions
from shared.usage.query import HourRange

commands = typer.Typer()


@commands.command("ptu")
def break_even(
    days: Annotated[int, typer.Option(min=1, max=92, help="Whole days of past usage to analyze.")] = 28,
    model: Annotated[str | None, typer.Option(help="Only this model; default: all with a known throughput.")] = None,
    deployment: Annotated[Deployment, typer.Option(help="Deployment type of the capacity.")] = "global",
    region: Annotated[str, typer.Option(help="Region of the capacity, since prices differ.")] = "",
    usd_per_unit_hour: Annotated[
        float | None, typer.Option(min=0, help="Your price of a unit; default: Azure's price without a reservation.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Input tokens per minute of a unit; default: as Azure states.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the cheapest number of provisioned throughput units for the hourly usage of each model."""
    tariff = Tariff.of(settings().configuration)

    async def run(store: Store) -> None:
        now = store.now()
        end = hours.day_start(hours.hour_of(now))
        unit_price = tariff.prices.unit_hour(deployment, region, now)
        if usd_per_unit_hour is not None:
            unit_price = round(usd_per_unit_hour * USD)
        if unit_price is None:
            fail(f"--usd-per-unit-hour: expected a price, since Azure's for a {deployment} unit is not known")
        rows = []
        for name, used in sorted((await _hourly(store, tariff, end - days * hours.DAY, end)).items()):
            terms = _terms(name, tokens_per_minute, unit_price, deployment)
            if terms is not None and model in (None, name):
                rows.append(_row(name, ptu.plan(used, terms)))
        if rows or as_json:
            show(rows, list(rows[0]) if rows else [], as_json)
        else:
            of = f" of {model}" if model else ""
            print(
                f"Nothing to compare: the last {days} whole days (UTC) have no usage{of} with a known price and "
                "throughput. See --days, --tokens-per-minute, and `prices` in the configuration."
            )

    with_store(run)


def _terms(model: str, tokens_per_minute: int | None, unit_price: int, deployment: Deployment) -> Terms | None:
    """The terms of provisioned capacity, None if the model's throughput is not known."""
    throughput = ptu.throughput(model)
    per_minute = tokens_per_minute or (throughput.tokens_per_minute if throughput else None)
    if per_minute is None:
        return None
    if deployment != "regional":
        return Terms(per_minute, unit_price)
    least = throughput.regional if throughput else 50
    return Terms(per_minute, unit_price, least, least)


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
    fresh = counts.input_tokens - counts.cached_input_tokens
    return Hour(fresh + counts.output_tokens * price.output / price.input, money)


def _row(model: str, plan: ptu.Purchase) -> dict[str, Any]:
    return {
        "model": model,
        "hours": plan.hours,
        "usd_by_tokens": ptu.dollars(plan.by_tokens),
        "average_units": round(plan.average, 2),
        "peak_units": round(plan.peak, 2),
        "break_even_percent": None if plan.break_even is None else round(100 * plan.break_even, 1),
        "cheapest_units": plan.units,
        "usd_with_them": ptu.dollars(plan.cost),
        "usd_saved": ptu.dollars(plan.by_tokens - plan.cost),
    }
