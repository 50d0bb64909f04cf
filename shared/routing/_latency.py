"""Times to the first content of a deployment's last answers. Pure."""

from collections import deque
from collections.abc import Sequence

_KEPT = 256  # answers; enough for a 99th percentile, few enough to forget a bad hour soon
_ENOUGH = 20  # answers below which a percentile says nothing


class Latency:
    """The times of one deployment in milliseconds, of streams and of whole answers apart, each with its call's size."""

    __slots__ = ("_streams", "_whole")

    def __init__(self) -> None:
        self._streams: deque[tuple[float, int]] = deque(maxlen=_KEPT)
        self._whole: deque[tuple[float, int]] = deque(maxlen=_KEPT)

    def note(self, milliseconds: float, *, stream: bool, tokens: float = 0.0) -> None:
        (self._streams if stream else self._whole).append((milliseconds, _size(tokens)))

    def usual(self, *, stream: bool) -> float | None:
        """The 95th percentile, or None with too few answers."""
        times = self._streams if stream else self._whole
        return percentile(sorted(time for time, _ in times), 0.95) if len(times) >= _ENOUGH else None

    def usual_for(self, tokens: float, *, stream: bool) -> float | None:
        """The median for calls of about so many tokens, of all calls if there was no call of that size; None
        without answers."""
        times = self._streams if stream else self._whole
        alike = [time for time, size in times if size == _size(tokens)]
        known = sorted(alike or (time for time, _ in (*self._streams, *self._whole)))
        return percentile(known, 0.5) if known else None

    def summary(self) -> dict[str, dict[str, float]]:
        """The number of answers and the percentiles, by kind of answer."""
        apart = {"streams": self._streams, "whole_answers": self._whole}
        kinds = {kind: sorted(time for time, _ in times) for kind, times in apart.items()}
        shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
        return {
            kind: {"answers": float(len(times))}
            | {name: round(percentile(times, share), 1) for name, share in shares.items()}
            for kind, times in kinds.items()
            if times
        }


def _size(tokens: float) -> int:
    """The class of a call's size: each holds four times the tokens of the one below."""
    return int(tokens).bit_length() // 2


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    """
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
