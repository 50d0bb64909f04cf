"""Compares provisioned capacity with pay-as-you-go, from the hours of past usage. Pure.

A unit serves a number of input tokens per minute. Cached tokens are free; an output token counts as many input tokens
as the ratio of their prices. For each number of units on sale, need beyond the units is paid by the token:

    cost(units) = hours * units * price of a unit-hour
                + sum over hours of cost_h * max(0, 1 - units * 60 * tpm / need_h)

and the cheapest wins, which may be no units. Hours are averages: busy minutes within an hour would spill over as well,
so the real saving is a little lower.

Source of the figures: "Provisioned throughput sizing", learn.microsoft.com, 2026-03.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from shared.billing.cost import USD

_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}$")


class Throughput(NamedTuple):
    """Input tokens per minute and unit; and the minimum units of a regional deployment, which is also its step."""

    tokens_per_minute: int
    regional: int


OF_MODELS = {
    "gpt-5.5": Throughput(1_200, 50),
    "gpt-5.4": Throughput(2_400, 50),
    "gpt-5.3-codex": Throughput(3_400, 50),
    "gpt-5.2": Throughput(3_400, 50),
    "gpt-5.2-codex": Throughput(3_400, 50),
    "gpt-5.1": Throughput(4_750, 50),
    "gpt-5.1-codex": Throughput(4_750, 50),
    "gpt-5": Throughput(4_750, 50),
    "gpt-5-mini": Throughput(23_750, 25),
    "gpt-4.1": Throughput(3_000, 50),
    "gpt-4.1-mini": Throughput(14_900, 25),
    "gpt-4.1-nano": Throughput(59_400, 25),
    "o3": Throughput(3_000, 50),
    "o4-mini": Throughput(5_400, 25),
    "gpt-4o": Throughput(2_500, 50),
    "gpt-4o-mini": Throughput(37_000, 25),
}
MINIMUM, STEP = 15, 5  # of global and data zone deployments


class Terms(msgspec.Struct, frozen=True):
    """The units on sale. `unit_hour` is the price in picodollars."""

    tokens_per_minute: int
    unit_hour: int
    minimum: int = MINIMUM
    step: int = STEP


class Hour(NamedTuple):
    """The need of an hour, in input tokens or their equivalent, and its pay-as-you-go cost in picodollars."""

    need: float
    picodollars: int


class Purchase(msgspec.Struct, frozen=True):
    """The cheapest number of units. Money is in picodollars, for all hours together. `average` and `peak` are the units
    that the average and the busiest hour need. `break_even` is the average utilisation at which a unit costs as much as
    the tokens that it serves; None without usage."""

    hours: int
    by_tokens: int
    average: float
    peak: float
    units: int
    cost: int
    break_even: float | None


def throughput(model: str) -> Throughput | None:
    return OF_MODELS.get(_DATED.sub("", model))


def plan(usage: Sequence[Hour], terms: Terms) -> Purchase:
    """`usage` has every hour of the period, including idle ones."""
    each = terms.tokens_per_minute * 60
    by_tokens = sum(hour.picodollars for hour in usage)
    need = sum(hour.need for hour in usage)
    busy = [hour for hour in usage if hour.need > 0]

    def cost(units: int) -> int:
        spilled = sum(round(hour.picodollars * max(0.0, 1 - units * each / hour.need)) for hour in busy)
        return len(usage) * units * terms.unit_hour + spilled

    best, units = (by_tokens, 0), terms.minimum
    last = None
    while last is None or cost(units) < last:  # convex beyond the minimum: once it grows, it keeps growing
        last = cost(units)
        best = min(best, (last, units))
        units += terms.step
    # Of the tokens that a unit can serve in an hour, in picodollars.
    worth = by_tokens / need * each if need else 0.0
    return Purchase(
        hours=len(usage),
        by_tokens=by_tokens,
        average=need / each / len(usage) if usage else 0.0,
        peak=max((hour.need for hour in usage), default=0.0) / each,
        units=best[1],
        cost=best[0],
        break_even=terms.unit_hour / worth if worth else None,
    )


def dollars(picodollars: int) -> float:
    return round(picodollars / USD, 2)
