"""What the use of an hour, or of a longer time, cost whom: tokens at their prices, capacity by its use. Pure.

No money is stored beside the usage. Prices are looked up when usage is read, so a price that was wrong is mended in the
table, for history too, and nothing has to be rewritten but what was exported (`cli reprice`).

An hour of provisioned capacity costs the same however much it is used. It is shared out among those who used it in that
hour, in proportion to what their tokens would have cost at the model's price without it: prices stand in about the
ratio in which Azure counts tokens of input and output against a unit's capacity. An hour that nobody used is a line of
its own.
"""

from collections.abc import Iterator, Sequence

import msgspec

from shared.billing.cost import USD, Price, cost
from shared.billing.prices import Prices
from shared.config.document import Backend, Configuration, ProvisionedCapacity, since_seconds
from shared.usage import hours
from shared.usage.aggregates import Counts, Dimensions, Lines
from shared.usage.query import HourRange

UNUSED = "unused"  # the role of capacity that was paid for and not used
NOBODY = "-"


class Charge(msgspec.Struct, frozen=True):
    """A line of usage with its cost in picodollars; None when it has no known price.

    `price` is what its tokens were charged at; `unit_hour`, where they were not, what an hour of a provisioned unit
    costs of which this is a share."""

    line: Dimensions
    counts: Counts
    picodollars: int | None
    price: Price | None = None
    unit_hour: int = 0


class Tariff:
    """Prices, and the capacity that is paid for."""

    def __init__(self, prices: Prices, backends: Sequence[Backend]) -> None:
        self.prices = prices
        self._backends = {backend.name: backend for backend in backends}

    @classmethod
    def of(cls, configuration: Configuration) -> "Tariff":
        return cls(Prices(configuration.prices, configuration.backends), configuration.backends)

    def cuts(self, first: int, end: int) -> Iterator[int]:
        """The hours at which a period must be cut so that each piece has one price, and capacity is shared by the hour.

        Costs of pieces add up because of that, whatever period is asked for."""
        yield from (change // hours.HOUR for change in self.prices.changes)
        starts = [_hour(entry) for backend in self._backends.values() for entry in backend.capacity]
        if starts:
            yield from range(max(first, min(starts)), end)

    def charges(self, span: HourRange, lines: Lines, now: float) -> Iterator[Charge]:
        """What each line of a piece cost. Hours that are still to come have cost nothing yet."""
        shared: dict[tuple[str, str], list[tuple[Dimensions, Counts]]] = {}
        for line, counts in lines.items():
            backend = self._backends.get(line.backend)
            if backend is None or backend.kind != "provisioned":
                price = self.price(span, line)
                yield Charge(line, counts, cost(price, counts), price)
            else:
                shared.setdefault((line.backend, line.model), []).append((line, counts))
        for name, backend in self._backends.items():
            for model in dict.fromkeys(entry.model for entry in backend.capacity):
                if (capacity := self._capacity(backend, model, span)) is not None:
                    used = shared.pop((name, model), [])
                    yield from self._shares(span, backend, model, *capacity, used, now)
        for used in shared.values():
            yield from (Charge(line, counts, self._unknown(counts)) for line, counts in used)

    def price(self, span: HourRange, line: Dimensions) -> Price | None:
        """What the tokens of a line are charged at, or would be where capacity serves them."""
        return self.prices.of(
            line.model,
            span.first * hours.HOUR,
            served=line.served,
            backend=line.backend,
            region=line.region,
            tier=line.tier,
            long=line.context == "long",
        )

    @staticmethod
    def _unknown(counts: Counts) -> int | None:
        """The cost of what has no price: none is known, but for using nothing."""
        return cost(None, counts)

    def _capacity(self, backend: Backend, model: str, span: HourRange) -> tuple[int, int] | None:
        """The units of a model's capacity, and what one costs an hour; None where nothing is said of it."""
        entries = [entry for entry in backend.capacity if entry.model == model and _hour(entry) <= span.first]
        if not entries:
            return None
        entry = max(entries, key=_hour)
        if entry.usd_per_unit_hour is not None:
            each: int | None = round(entry.usd_per_unit_hour * USD)
        else:
            each = self.prices.unit_hour(backend.deployment, backend.region, span.first * hours.HOUR)
        return None if each is None else (entry.units, each)

    def _shares(
        self,
        span: HourRange,
        backend: Backend,
        model: str,
        units: int,
        each: int,
        used: Sequence[tuple[Dimensions, Counts]],
        now: float,
    ) -> Iterator[Charge]:
        """Every share rounded down, the rest to the largest, so that the shares add up to the whole."""
        whole = units * each * max(0, min(span.end, hours.hour_of(now) + 1) - span.first)
        listed = [cost(self.price(span, line), counts) for line, counts in used]
        tokens = [counts.input_tokens + counts.output_tokens for _, counts in used]
        weights = tokens if any(price is None for price in listed) else [price or 0 for price in listed]
        total = sum(weights)
        if total == 0:
            yield from (Charge(line, counts, 0, unit_hour=each) for line, counts in used)
            if whole:
                unused = Dimensions(
                    NOBODY, model, backend.name, backend.region, deployment=backend.models.get(model, "-"), role=UNUSED
                )
                yield Charge(unused, Counts(), whole, unit_hour=each)
            return
        shares = [whole * weight // total for weight in weights]
        shares[weights.index(max(weights))] += whole - sum(shares)
        for (line, counts), share in zip(used, shares, strict=True):
            yield Charge(line, counts, share, unit_hour=each)


def _hour(entry: ProvisionedCapacity) -> int:
    return since_seconds(entry.since) // hours.HOUR
