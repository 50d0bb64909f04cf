"""Distributions of durations as histograms that can be added. Pure.

Up to 63 ms a bucket holds one value; beyond, each doubling has 32 buckets of equal width. A quantile is the middle of
its bucket, so it is wrong by at most 1/64 of the true value, 1.6 %. All is integer arithmetic: sums are the same in any
order and on any machine. There are at most 736 buckets, 8 KB as text.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec

_LONGEST = (1 << 27) - 1  # ms, 37 hours; what takes longer counts as that


class Durations(msgspec.Struct, frozen=True):
    """Numbers of durations by bucket."""

    counts: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __add__(self, other: "Durations") -> "Durations":
        if not other.counts:
            return self
        sums = dict(self.counts)
        for place, count in other.counts.items():
            sums[place] = sums.get(place, 0) + count
        return Durations(sums)

    def __sub__(self, other: "Durations") -> "Durations":
        """The rest without others; a bucket never has less than none."""
        left = {place: count - other.counts.get(place, 0) for place, count in self.counts.items()}
        return Durations({place: count for place, count in left.items() if count > 0})

    def quantile(self, share: float) -> int | None:
        """The duration in ms that this share of all durations does not exceed; None if there are none."""
        rank, seen = share * sum(self.counts.values()), 0
        for place, count in sorted(self.counts.items()):
            seen += count
            if seen >= rank:
                return _middle(place)
        return None


def of_buckets(buckets: Iterable[int]) -> Durations:
    return Durations(dict(Counter(buckets)))


def bucket(ms: int) -> int:
    """The bucket of a duration.

    >>> [bucket(ms) for ms in (0, 63, 64, 65, 66, 127, 128)]
    [0, 63, 64, 64, 65, 95, 96]
    """
    if ms < 64:
        return max(ms, 0)
    ms = min(ms, _LONGEST)
    shift = ms.bit_length() - 6
    return (shift << 5) + (ms >> shift)


def _middle(place: int) -> int:
    if place < 64:
        return place
    shift = (place >> 5) - 1
    return ((place - (shift << 5)) << shift) + (1 << shift >> 1)


def as_text(durations: Durations) -> str:
    """The buckets in order, each as its distance from the one before and its count.

    >>> as_text(of_buckets([70, 70, 68]))
    '[68,1,2,2]'
    """
    flat: list[int] = []
    last = 0
    for place, count in sorted(durations.counts.items()):
        flat += (place - last, count)
        last = place
    return msgspec.json.encode(flat).decode()


def from_text(text: str) -> Durations:
    """The inverse of `as_text`. Raises `msgspec.DecodeError` or `ValueError`."""
    flat, place = msgspec.json.decode(text, type=list[int]), 0
    counts: dict[int, int] = {}
    for distance, count in zip(flat[::2], flat[1::2], strict=True):
        place += distance
        counts[place] = count
    return Durations(counts)
