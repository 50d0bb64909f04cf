"""The store's clock, read off the `Date` of its answers. All instances share it, whatever their own clocks say."""

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

DRIFT = 200e-6  # a quartz clock gains or loses some 50e-6 at most; cloud machines are steered more coarsely


class StoreClock:
    """`now()` is the local clock, corrected as far as the answers prove it wrong and no further.

    `Date` has whole seconds. An answer stamped D to a request sent at s and received at r, local time, proves that
    the offset lies between D - r and D + 1 - s. The intervals of all answers are intersected, so a few answers pin
    the offset to the shortest round trip; they widen with age by `DRIFT`. Between two answers `now()` never goes back.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.local = monotonic
        self._offset = wall() - monotonic()
        self._low, self._high = float("-inf"), float("inf")
        self._learned = monotonic()
        self._last_date = ("", 0.0)

    def now(self) -> float:
        return self.local() + self._offset

    def learn(self, date: str | None, sent: float, received: float) -> None:
        """Take in the `Date` header of an answer; `sent` and `received` are readings of `local()`."""
        stamp = self._seconds(date)
        if stamp is None:
            return
        low, high = stamp - received, stamp + 1 - sent
        widened = (received - self._learned) * DRIFT
        self._low, self._high = max(low, self._low - widened), min(high, self._high + widened)
        if self._low > self._high:  # a clock was set, or the machine slept: only the newest answer counts
            self._low, self._high = low, high
        self._learned = received
        self._offset = min(max(self._offset, self._low), self._high)

    def _seconds(self, date: str | None) -> float | None:
        if not date:
            return None
        if self._last_date[0] != date:
            try:
                self._last_date = (date, parsedate_to_datetime(date).timestamp())
            except ValueError:
                return None
        return self._last_date[1]
