"""The attempts of one call, for its record."""

from collections.abc import Callable

import msgspec

from shared.config.document import FallbackReason
from shared.types import BEATEN, Attempt, Role, Target, Usage

_REFUSED = "refused: "


class AttemptLog:
    """In order; the one that answered is the last. `clock` is monotonic; `tell` is called for each, with its number."""

    __slots__ = ("_attempts", "_clock", "_listener")

    def __init__(self, clock: Callable[[], float], tell: Callable[[int, Attempt], None] | None = None) -> None:
        self._clock = clock
        self._listener = tell
        self._attempts: list[Attempt] = []

    def all(self) -> tuple[Attempt, ...]:
        return tuple(self._attempts)

    def add(
        self, target: Target, status: int, problem: str, started: float, role: Role, usage: Usage | None = None
    ) -> None:
        self._attempts.append(Attempt(target, status, problem, self._milliseconds(started), role, usage, started))
        self._tell(len(self._attempts))

    def add_beaten(self, target: Target, since: float, role: Role, usage: Usage | None) -> tuple[int, Attempt]:
        """Add an attempt that another one has beaten, with what its backend charges; return it and its number."""
        attempt = Attempt(target, 0, BEATEN, self._milliseconds(since), role, usage, started=since)
        answered = bool(self._attempts) and not self._attempts[-1].problem
        place = len(self._attempts) - answered
        self._attempts.insert(place, attempt)
        self._tell(place + 1)
        return place + 1, attempt

    def drop_second(self) -> None:
        """Drop a second attempt that has answered, too late."""
        self._attempts = [attempt for attempt in self._attempts if attempt.role != "hedge" or attempt.problem]

    def refused(self, reason: FallbackReason, usage: Usage) -> None:
        """Mark the last attempt as refused, since another one may take the call: its usage is charged beside that."""
        charged = usage if usage != Usage() else None
        self._attempts[-1] = msgspec.structs.replace(self._attempts[-1], problem=_REFUSED + reason, usage=charged)
        self._tell(len(self._attempts))

    def return_refusal(self) -> None:
        """Give a refusal to the caller after all: its usage is no longer that of a failed attempt."""
        self._attempts = [
            msgspec.structs.replace(attempt, usage=None) if attempt.problem.startswith(_REFUSED) else attempt
            for attempt in self._attempts
        ]

    def _tell(self, number: int) -> None:
        if self._listener is not None:
            self._listener(number, self._attempts[number - 1])

    def _milliseconds(self, started: float) -> float:
        return (self._clock() - started) * 1000
