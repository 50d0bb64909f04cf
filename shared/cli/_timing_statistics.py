"""Statistics of timed calls: quantiles, and the difference of two ways with its confidence interval. Pure."""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

FEWEST = 10  # values on each side, below which an interval would say nothing
_RESAMPLES = 10_000
_SEED = 1  # so that the same measurements give the same interval


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that this share of the values does not exceed; None without values."""
    return sorted(values)[_rank(len(values), share) - 1] if values else None


class Difference(NamedTuple):
    """The difference of a quantile, with its interval of 95 % confidence; None: too few values."""

    value: float
    low: float | None
    high: float | None


def difference(of: Sequence[float], to: Sequence[float], share: float) -> Difference | None:
    """The quantile of the first values minus that of the second; None if one side has none.

    The interval is the percentile bootstrap over 10,000 pairs of resamples. The k-th smallest of n values drawn with
    replacement is the one at place floor(n * u), where u, the k-th smallest of n uniform numbers, has the distribution
    Beta(k, n - k + 1). So one number is drawn per resample instead of n."""
    first, second = quantile(of, share), quantile(to, share)
    if first is None or second is None:
        return None
    if min(len(of), len(to)) < FEWEST:
        return Difference(first - second, None, None)
    chance = random.Random(_SEED)
    resampled = (_Resamples(of, share, chance), _Resamples(to, share, chance))
    differences = sorted(resampled[0].draw() - resampled[1].draw() for _ in range(_RESAMPLES))
    return Difference(
        first - second, differences[round(0.025 * _RESAMPLES)], differences[round(0.975 * _RESAMPLES) - 1]
    )


class _Resamples:
    """The quantile in resamples of values."""

    def __init__(self, values: Sequence[float], share: float, chance: random.Random) -> None:
        self._values = sorted(values)
        self._rank = _rank(len(values), share)
        self._chance = chance

    def draw(self) -> float:
        count = len(self._values)
        place = int(count * self._chance.betavariate(self._rank, count - self._rank + 1))
        return self._values[min(place, count - 1)]


def _rank(count: int, share: float) -> int:
    return max(1, math.ceil(share * count - 1e-9))  # 0.95 * 20 is 19.000000000000004 for some shares
