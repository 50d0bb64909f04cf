"""Compares provisioned capacity with pay-as-you-go, from the hours of past usage or from a forecast. Pure.

A unit serves a number of input tokens per minute. Cached tokens are free; an output token counts as many input tokens
as the ratio of their prices. For each number of units on sale, need beyond the units is paid by the token:

    cost(units) = hours * units * price of a unit-hour
                + sum over hours of cost_h * max(0, 1 - units * 60 * tpm / need_h)

and the cheapest wins, which may be no units. Hours are averages: busy minutes within an hour would spill over as well,
so the real saving is a little lower.

A forecast has an average and a busiest minute. The units are those of the busiest minute, so nothing spills over.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from shared.billing.cost import USD
from shared.billing.provisioned import Reservation

HOURS_PER_MONTH, HOURS_PER_YEAR = 730, 8760  # as Azure's price calculator counts


class Terms(msgspec.Struct, frozen=True):
    """The units on sale. `unit_hour` is the price in picodollars."""

    tokens_per_minute: int
    unit_hour: int
    minimum: int
    step: int

    def units(self, tokens_per_minute: float) -> int:
        """The fewest units on sale that serve so many input tokens, or their equivalent, per minute."""
        beyond = tokens_per_minute / self.tokens_per_minute - self.minimum
        return self.minimum + self.step * max(0, math.ceil(round(beyond / self.step, 9)))


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


class Payment(NamedTuple):
    """A way to pay for units; `unit_hour` in picodollars."""

    name: str
    unit_hour: int


def payments(unit_hour: int | None, reservation: Reservation | None) -> list[Payment]:
    """The ways to pay whose prices are known, in the order of their commitment."""
    known = [] if unit_hour is None else [Payment("hourly", unit_hour)]
    if reservation is not None:
        known.append(Payment("month reservation", round(reservation.month * USD / HOURS_PER_MONTH)))
        known.append(Payment("year reservation", round(reservation.year * USD / HOURS_PER_YEAR)))
    return known


class Workload(NamedTuple):
    """A forecast. `peak`: the busiest minute as a multiple of the average; `each`: the need of a request in input
    tokens or their equivalent; `picodollars`: its pay-as-you-go cost."""

    requests_per_minute: float
    peak: float
    each: float
    picodollars: int

    @property
    def average(self) -> float:
        """Input tokens, or their equivalent, in an average minute."""
        return self.requests_per_minute * self.each

    @property
    def by_tokens(self) -> float:
        """Picodollars an hour, pay-as-you-go."""
        return self.requests_per_minute * 60 * self.picodollars


class Offer(msgspec.Struct, frozen=True):
    """The units that serve a forecast with their cost per hour in picodollars. `break_even`: the average requests per
    minute at which the tokens would cost as much; None if these units cannot serve so many. `break_even_use`: the same
    for any number of units, as the share of their throughput that is in use on average."""

    units: int
    cost: float
    break_even: float | None
    break_even_use: float | None


def offer(work: Workload, terms: Terms) -> Offer:
    """Requires that a request has a need and a cost."""
    units = terms.units(work.average * work.peak)
    cost = units * terms.unit_hour
    break_even = cost / (60 * work.picodollars)
    most = units * terms.tokens_per_minute / (work.each * work.peak)
    worth = 60 * terms.tokens_per_minute / work.each * work.picodollars  # of the tokens that a unit serves in an hour
    return Offer(units, cost, break_even if break_even <= most else None, terms.unit_hour / worth)


def dollars(picodollars: int) -> float:
    return round(picodollars / USD, 2)
