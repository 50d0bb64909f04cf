"""`ptu`: whether provisioned capacity would pay."""

from collections import defaultdict
from enum import StrEnum
from typing import Annotated, Any

import typer

from shared.billing import ptu
from shared.billing.charges import Tariff
from shared.billing.cost import USD, cost
from shared.billing.ptu import Hour, Terms
from shared.cli._terminal import AsJson, fail, settings, show, with_store
from shared.storage import Store
from shared.usage import hours, query
from shared.usage.aggregates import Counts, Dimensions
from shared.usage.query import HourRange

commands = typer.Typer()


class DeploymentName(StrEnum):
    globally = "global"
    data_zone = "data_zone"
    regional = "regional"


@commands.command("ptu")
def break_even(
    days: Annotated[int, typer.Option(min=1, max=92, help="Whole days of usage to look back on.")] = 28,
    model: Annotated[
        str | None, typer.Option(help="Only this one; default: every one whose throughput is known.")
    ] = None,
    deployment: Annotated[
        DeploymentName, typer.Option(help="The type of what would be bought.")
    ] = DeploymentName.globally,
    region: Annotated[str, typer.Option(help="Where, as prices differ.")] = "",
    usd_per_unit_hour: Annotated[
        float | None, typer.Option(min=0, help="What a unit costs you; default: Azure's price without a reservation.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Input tokens a unit serves a minute; default: as Azure states.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The cheapest number of provisioned throughput units for each model's own hourly usage, and when one pays."""
    tariff = Tariff.of(settings().configuration)

    async def run(store: Store) -> None:
        now = store.now()
        end = hours.day_start(hours.hour_of(now))
        each = tariff.prices.unit_hour(deployment.value, region, now)
        if usd_per_unit_hour is not None:
            each = round(usd_per_unit_hour * USD)
        if each is None:
            fail(f"--usd-per-unit-hour: expected one, since no price of a {deployment.value} unit is known")
        rows = []
        for name, used in sorted((await _hourly(store, tariff, end - days * hours.DAY, end)).items()):
            known = ptu.throughput(name)
            per_minute = tokens_per_minute or (known.tokens_per_minute if known else None)
            if (model or name) != name or per_minute is None:
                continue
            terms = Terms(per_minute, each)
            if deployment is DeploymentName.regional:
                least = known.regional if known else 50
                terms = Terms(per_minute, each, least, least)
            rows.append(_told(name, ptu.plan(used, terms)))
        heads = [
            *("model", "hours", "usd_by_tokens", "average_units", "peak_units", "break_even_percent"),
            *("cheapest_units", "usd_with_them", "usd_saved"),
        ]
        if rows or as_json:
            show(rows, heads, as_json)
        else:
            of = f" of {model}" if model else ""
            print(
                f"Nothing to weigh: in the last {days} whole days (UTC) there is no use{of} whose price and throughput "
                "are known. See --days, --tokens-per-minute, and `prices` in the configuration."
            )

    with_store(run)


async def _hourly(store: Store, tariff: Tariff, first: int, end: int) -> dict[str, list[Hour]]:
    """Every hour of every model that was used: by its name in the configuration."""
    pieces = [HourRange(hour, hour + 1) for hour in range(first, end)]
    found: defaultdict[str, list[Hour]] = defaultdict(lambda: [Hour(0.0, 0)] * len(pieces))
    for number, (piece, lines) in enumerate(zip(pieces, await query.read(store, pieces), strict=True)):
        for line, counts in lines.items():
            used = _hour(tariff, piece, line, counts)
            if used is not None:
                before = found[line.model][number]
                found[line.model][number] = Hour(before.need + used.need, before.picodollars + used.picodollars)
    return dict(found)


def _hour(tariff: Tariff, piece: HourRange, line: Dimensions, counts: Counts) -> Hour | None:
    """None for what has no price, or is not charged by tokens of input and output."""
    price = tariff.price(piece, line)
    money = cost(price, counts)
    if price is None or money is None or not price.input or price.output is None or not counts.input_tokens:
        return None
    fresh = counts.input_tokens - counts.cached_input_tokens
    return Hour(fresh + counts.output_tokens * price.output / price.input, money)


def _told(model: str, plan: ptu.Purchase) -> dict[str, Any]:
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
