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
        self.bounds, self.buckets = bounds, [0] * (len(bounds) + 1)
        self.count, self.sum = 0, 0.0
        self.smallest, self.largest = float("inf"), float("-inf")

    def record(self, value: float) -> None:
        self.buckets[bisect_left(self.bounds, value)] += 1
        self.count += 1
        self.sum += value
        if value < self.smallest:
            self.smallest = value
        if value > self.largest:
            self.largest = value

    def __add__(self, other: "Distribution") -> "Distribution":
        total = Distribution(self.bounds)
        total.buckets = [mine + theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True)]
        total.count, total.sum = self.count + other.count, self.sum + other.sum
        total.smallest, total.largest = min(self.smallest, other.smallest), max(self.largest, other.largest)
        return total


class _Family[V](dict[Labels, V]):
    """The time series of an instrument, by the values of its dimensions."""

    def __init__(self, instrument: Instrument) -> None:
        super().__init__()
        self.instrument = instrument

    def _bounded(self, labels: Labels) -> Labels:
        full = len(self) >= _MOST_SERIES and labels not in self
        return (_REST,) * len(self.instrument.dimensions) if full else labels


class Histogram(_Family[Distribution]):
    """Looking a time series up creates it."""

    def __missing__(self, labels: Labels) -> Distribution:
        return self.setdefault(self._bounded(labels), Distribution(self.instrument.bounds))


class Counter(_Family[float]):
    def add(self, labels: Labels, value: float = 1) -> None:
        labels = self._bounded(labels)
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
    if before is None:
        return new
    value = before.value + new.value  # type: ignore[operator]  # both are of one kind
    return Point(new.instrument, new.labels, value)
