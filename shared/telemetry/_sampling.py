"""The decision to keep a trace. Pure."""

_BURST = 10.0  # seconds' worth of traces that may be kept at once


class Budget:
    """A rate of traces per second, and the number of calls that each kept trace represents."""

    def __init__(self, per_second: float) -> None:
        self._rate = per_second
        self._left = per_second * _BURST
        self._at = 0.0
        self._skipped = 0

    def take(self, now: float) -> int:
        """Return the number of calls that this one represents, including itself; 0: drop it. `now` is monotonic."""
        self._left = min(self._rate * _BURST, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            self._skipped += 1
            return 0
        self._left -= 1
        represents, self._skipped = 1 + self._skipped, 0
        return represents
