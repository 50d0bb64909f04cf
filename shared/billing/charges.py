"""The cost of each line of usage: tokens at their prices, provisioned capacity in proportion to its use. Pure.

The tables store no money. Prices are looked up when usage is read, so correcting a price also corrects the past; only
exported files must be written again (`cli reprice`).

An hour of provisioned capacity has a fixed cost. It is divided among the consumers of that hour in proportion to the
cost of their tokens at the model's price: input and output prices have about the ratio in which Azure counts tokens
against a unit's capacity. An unused hour is a line without a consumer.
"""

from collections.abc import Iterator, Sequence

import msgspec

from shared.billing.cost import USD, Price, cost
from shared.billing.prices import Prices
from shared.config.days import since_seconds
from shared.config.document import Backend, Configuration, ProvisionedCapacity
from shared.usage import hours
from shared.usage.folds import NOBODY, Counts, Dimensions, Lines
from shared.usage.query import HourRange

UNUSED = "unused"  # the role of capacity that was paid for and not used


class Charge(msgspec.Struct, frozen=True):
    """A line of usage with its cost in picodollars; None if the price is unknown. `price` is that of its tokens. If the
    cost is a share of provisioned capacity, `unit_hour` is the price of a unit's hour."""

    line: Dimensions
    counts: Counts
    picodollars: int | None
    price: Price | None = None
    unit_hour: int = 0


class Tariff:
    def __init__(self, prices: Prices, backends: Sequence[Backend]) -> None:
        self.prices = prices
        self._backends = {backend.name: backend for backend in backends}

    @classmethod
    def of(cls, configuration: Configuration) -> "Tariff":
        return cls(Prices(configuration.prices, configuration.backends), configuration.backends)

    def cuts(self, first: int, end: int) -> Iterator[int]:
        """The hours at which to cut a period so that each piece has one price, and capacity is shared hour by hour. The
        costs of any pieces add up because of that."""
        yield from (change // hours.HOUR for change in self.prices.changes)
        starts = [_hour(entry) for backend in self._backends.values() for entry in backend.capacity]
        if starts:
            yield from range(max(first, min(starts)), end)

    def charges(self, span: HourRange, lines: Lines, now: float) -> Iterator[Charge]:
        """The charges of the lines of a piece. Future hours of capacity cost nothing yet."""
        shared: dict[tuple[str, str], list[tuple[Dimensions, Counts]]] = {}
        for line, counts in lines.items():
            backend = self._backends.get(line.backend)
            if backend is None or not backend.provisioned or _spilled_over(line, backend):
                price = self.price(span, line)
                yield Charge(line, counts, cost(price, counts), price)
            else:
                shared.setdefault((line.backend, line.model), []).append((line, counts))
        for name, backend in self._backends.items():
            for model in dict.fromkeys(entry.model for entry in backend.capacity):
                if (capacity := self._capacity(backend, model, span)) is not None:
                    units, each = capacity
                    whole = units * each * max(0, min(span.end, hours.hour_of(now) + 1) - span.first)
                    yield from self._shares(span, backend, model, whole, each, shared.pop((name, model), []))
        for used in shared.values():
            yield from (Charge(line, counts, cost(None, counts)) for line, counts in used)

    def price(self, span: HourRange, line: Dimensions) -> Price | None:
        """The price of a line's tokens; if capacity serves them, the price that they would have without it."""
        return self.prices.of(
            line.model,
            span.first * hours.HOUR,
            served=line.served,
            backend=self.prices.serving(line.backend, line.deployment),
            region=line.region,
            tier=line.tier,
            long=line.context == "long",
        )

    def of_call(self, line: Dimensions, counts: Counts, hour: int) -> int | None:
        """The cost of one call in picodollars; None if its price is unknown, or if provisioned capacity served it,
        whose cost is divided by all calls of an hour."""
        backend = self._backends.get(line.backend)
        if backend is not None and backend.provisioned and not _spilled_over(line, backend):
            return None
        return cost(self.price(HourRange(hour, hour + 1), line), counts)

    def _capacity(self, backend: Backend, model: str, span: HourRange) -> tuple[int, int] | None:
        """The units of a model's capacity, and the price of a unit's hour; None if not configured."""
        entries = [entry for entry in backend.capacity if entry.model == model and _hour(entry) <= span.first]
        if not entries:
            return None
        entry = max(entries, key=_hour)
        if entry.usd_per_unit_hour is not None:
            return entry.units, round(entry.usd_per_unit_hour * USD)
        at = span.first * hours.HOUR
        each = self.prices.of_any_model("unit_hour", backend.priced_as(model), backend.region, at)
        return None if each is None else (entry.units, each)

    def _shares(
        self,
        span: HourRange,
        backend: Backend,
        model: str,
        whole: int,
        each: int,
        used: list[tuple[Dimensions, Counts]],
    ) -> Iterator[Charge]:
        """Divide the cost. Shares are rounded down and the largest gets the rest, so they add up."""
        listed = [cost(self.price(span, line), counts) for line, counts in used]
        tokens = [counts.input_tokens + counts.output_tokens for _, counts in used]
        weights = tokens if any(price is None for price in listed) else [price or 0 for price in listed]
        total = sum(weights)
        if total == 0:
            yield from (Charge(line, counts, 0, unit_hour=each) for line, counts in used)
            if whole:
                deployment = backend.deployments.get(model, NOBODY)
                unused = Dimensions(NOBODY, model, backend.name, backend.region, deployment=deployment, role=UNUSED)
                yield Charge(unused, Counts(), whole, unit_hour=each)
            return
        shares = [whole * weight // total for weight in weights]
        shares[weights.index(max(weights))] += whole - sum(shares)
        for (line, counts), share in zip(used, shares, strict=True):
            yield Charge(line, counts, share, unit_hour=each)


def _spilled_over(line: Dimensions, backend: Backend) -> bool:
    """True if Azure served these calls of a provisioned backend by another deployment, which is pay-as-you-go."""
    own = backend.deployments.get(line.model)
    return own is not None and line.deployment not in (NOBODY, own)


def _hour(entry: ProvisionedCapacity) -> int:
    return since_seconds(entry.since) // hours.HOUR
