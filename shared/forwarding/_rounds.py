"""The waits between the rounds of a call, in each of which its targets are tried again. Pure."""

from shared.config.document import RetrySettings

_SPREAD = 0.2  # of a wait, so that callers who failed together do not come back together


class Rounds:
    """Those of one call."""

    __slots__ = ("_settings", "_waits")

    def __init__(self, settings: RetrySettings) -> None:
        self._settings = settings
        self._waits = 0

    def wait(self, earliest: float, left: float, chance: float) -> float | None:
        """Return the seconds until the next round; None: there is none. `earliest`: until a target is free again, which
        is not asked before; `left`: for the whole call. `chance` is random, 0 to 1."""
        settings = self._settings
        if self._waits >= settings.count:
            return None
        longest = settings.max_interval
        seconds = self._interval(self._waits) * (1 - _SPREAD + 2 * _SPREAD * chance)
        if longest is None:
            longest = self._interval(settings.count - 1) * (1 + _SPREAD)
        seconds = max(min(seconds, longest), earliest)
        if seconds > longest or seconds >= left:
            return None
        self._waits += 1
        return seconds

    def _interval(self, before: int) -> float:
        """The wait after so many others. The longest, if there is one, is approached exponentially."""
        settings = self._settings
        steps = before if settings.max_interval is None else 2.0**before - 1
        return settings.interval + steps * settings.delta
