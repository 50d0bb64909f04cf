"""The store's clock, derived from the `Date` header of its answers. All instances share it."""

import functools
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

DRIFT = 200e-6  # per second: quartz clocks drift by 50e-6 at most, the steered clocks of cloud machines by more


class StoreClock:
    """The local clock, corrected as far as the answers prove it wrong. `Date` has whole seconds. An answer with date D
    to a request sent at s and received at r, in local time, proves that the offset is between D - r and D + 1 - s. The
    clock intersects the intervals of all answers, so a few answers bound the offset to the shortest round trip. The
    interval widens with age by `DRIFT`. Between two answers `now()` never goes back."""

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.local = monotonic
        self._offset = wall() - monotonic()
        self._low, self._high = float("-inf"), float("inf")
        self._learned = monotonic()

    def now(self) -> float:
        return self.local() + self._offset

    def learn(self, date: str | None, sent: float, received: float) -> None:
        """Correct the clock by the `Date` header of an answer. `sent` and `received` are readings of `local()`."""
        stamp = _seconds(date)
        if stamp is None:
            return
        low, high = stamp - received, stamp + 1 - sent
        widened = (received - self._learned) * DRIFT
        self._low, self._high = max(low, self._low - widened), min(high, self._high + widened)
        if self._low > self._high:  # a clock was set, or the machine slept: use only the newest answer
            self._low, self._high = low, high
        self._learned = received
        self._offset = min(max(self._offset, self._low), self._high)


@functools.lru_cache(1)  # most answers share their second with the one before
def _seconds(date: str | None) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() if date else None
    except ValueError:
        return None
