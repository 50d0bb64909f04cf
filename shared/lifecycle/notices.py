"""The headers by which answers announce the end of their model. They are made once a day, not per call."""

import math
from collections.abc import Callable, Mapping

from shared.config.document import Configuration
from shared.lifecycle import retirement

_DAY = 86_400
_NONE: Mapping[str, str] = {}


class Notices:
    """One per configuration. `clock` gives seconds since 1970."""

    def __init__(self, configuration: Configuration, clock: Callable[[], float]) -> None:
        self._configuration = configuration
        self._clock = clock
        self._headers: Mapping[str, Mapping[str, str]] = {}
        self._until = -math.inf

    def headers(self, model: str) -> Mapping[str, str]:
        """The headers for answers to calls that name this model: none until its end is near."""
        now = self._clock()
        if now >= self._until:
            ends = retirement.of_all(self._configuration)
            self._headers = {name: end.headers() for name, end in ends.items() if end.is_near(now)}
            self._until = (now // _DAY + 1) * _DAY
        return self._headers.get(model, _NONE)
