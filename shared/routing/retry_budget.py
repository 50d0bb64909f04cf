"""Budgets for retries, so that trouble does not cause a flood of calls. Pure.

Both count over the last seconds, in slots of one second or more. Source: "Handling Overload" in Google's book on site
reliability, which calls the second one client-side throttling.
"""

from collections.abc import Callable

_ALWAYS = 100  # further tries in the window that need no calls to justify them
_SHARE = 0.2  # of the calls in the window
_BUDGET_WINDOW = 10
_THROTTLE_WINDOW = 30
_K = 1.5  # calls per accepted call: enough to notice soon that a deployment has room again


class Window:
    """A count over the last `seconds`."""

    __slots__ = ("_counts", "_last", "_seconds")

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._counts = [0] * seconds
        self._last = 0  # the second that was counted last

    def add(self, now: float) -> None:
        self._forget_until(second := int(now))
        self._counts[second % self._seconds] += 1

    def total(self, now: float) -> int:
        self._forget_until(int(now))
        return sum(self._counts)

    def _forget_until(self, second: int) -> None:
        """Drop the counts that are too old by this second."""
        for old in range(self._last + 1, min(second, self._last + self._seconds) + 1):
            self._counts[old % self._seconds] = 0
        self._last = second


class RetryBudget:
    """100 further tries, and 20 % of the calls of the last ten seconds. Tries after a 429 are not charged: they
    cost the backend no work."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._calls = Window(_BUDGET_WINDOW)
        self._spent = Window(_BUDGET_WINDOW)

    def called(self) -> None:
        """A call begins."""
        self._calls.add(self._clock())

    def take(self) -> bool:
        """Charge one more try. Return False if the budget is used up."""
        now = self._clock()
        if self._spent.total(now) >= _ALWAYS + _SHARE * self._calls.total(now):
            return False
        self._spent.add(now)
        return True


class AdaptiveThrottle:
    """Thins out the calls to a deployment that rejects them: the fewer it accepts, the fewer are sent."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._requests = Window(_THROTTLE_WINDOW)
        self._accepted = Window(_THROTTLE_WINDOW)

    def accepted(self) -> None:
        self._accepted.add(self._clock())

    def rejects(self, chance: float) -> bool:
        """Count a call. Return True if it is not to be sent. `chance` is random, 0 to 1."""
        now = self._clock()
        requests = self._requests.total(now)
        self._requests.add(now)
        return chance < max(0.0, (requests - _K * self._accepted.total(now)) / (requests + 1))
