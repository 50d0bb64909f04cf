"""Counters and histograms that add up values in the process until they are exported. Pure.

The OpenTelemetry SDK's own instruments take 14 to 22 µs per value, and a call records about seven; these take 0.5. The
values of dimensions come from the configuration or from a short list, which bounds the number of time series; each
instrument has a hard bound as well.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

_MOST_SERIES = 1000  # of an instrument
_REST = "other"

Labels = tuple[str, ...]


class Instrument(msgspec.Struct, frozen=True):
    """A metric, in OpenTelemetry's terms. `dimensions` are the names of its attributes, in the order of `Labels`.
    `bounds` are the upper bounds of a histogram's buckets."""

    kind: Literal["histogram", "counter", "gauge"]
    name: str
    unit: str
    description: str
    dimensions: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


class Distribution:
    """The values of one time series of a histogram. A value equal to a bound is in the bucket below it."""

    __slots__ = ("bounds", "buckets", "count", "largest", "smallest", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.count = 0
        self.sum = 0.0
        self.smallest = float("inf")
        self.largest = float("-inf")

    def record(self, value: float) -> None:
        self.buckets[bisect_left(self.bounds, value)] += 1
        self.count += 1
        self.sum += value
        if value < self.smallest:
            self.smallest = value
        if value > self.largest:
            self.largest = value

    def add(self, other: "Distribution") -> None:
        """Add the values of another distribution with the same bounds."""
        self.buckets = [mine + theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True)]
        self.count += other.count
        self.sum += other.sum
        self.smallest = min(self.smallest, other.smallest)
        self.largest = max(self.largest, other.largest)


class Histogram(dict[Labels, Distribution]):
    """A histogram's time series by the values of its dimensions. Looking one up creates it."""

    def __init__(self, instrument: Instrument) -> None:
        super().__init__()
        self.instrument = instrument

    def __missing__(self, labels: Labels) -> Distribution:
        if len(self) >= _MOST_SERIES:
            labels = (_REST,) * len(self.instrument.dimensions)
        return self.setdefault(labels, Distribution(self.instrument.bounds))


class Counter(dict[Labels, float]):
    """A counter's time series."""

    def __init__(self, instrument: Instrument) -> None:
        super().__init__()
        self.instrument = instrument

    def add(self, labels: Labels, value: float = 1) -> None:
        if labels not in self and len(self) >= _MOST_SERIES:
            labels = (_REST,) * len(self.instrument.dimensions)
        self[labels] = self.get(labels, 0) + value


class Point(msgspec.Struct, frozen=True):
    """The value of one time series: of a gauge now, of histograms and counters since the last export."""

    instrument: Instrument
    labels: Labels
    value: float | Distribution

    def attributes(self) -> dict[str, str]:
        """The attributes, without empty values."""
        named = zip(self.instrument.dimensions, self.labels, strict=True)
        return {name: value for name, value in named if value}


def drained(*families: Histogram | Counter) -> Iterator[Point]:
    """Return every time series with new values, and reset them."""
    for family in families:
        series: Mapping[Labels, float | Distribution] = dict(family)
        family.clear()
        yield from (Point(family.instrument, labels, value) for labels, value in series.items())


def summed(before: Point | None, new: Point) -> Point:
    """Add two points of one series."""
    if before is None:
        return new
    if isinstance(before.value, Distribution) and isinstance(new.value, Distribution):
        total = Distribution(new.instrument.bounds)
        total.add(before.value)
        total.add(new.value)
        return Point(new.instrument, new.labels, total)
    assert not isinstance(before.value, Distribution)
    assert not isinstance(new.value, Distribution)
    return Point(new.instrument, new.labels, before.value + new.value)
