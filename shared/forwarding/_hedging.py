"""Hedges an attempt: starts a second one elsewhere when the first takes too long, and returns the faster answer."""

import asyncio
from typing import Protocol

from shared.forwarding._attempt import AttemptTimeout
from shared.forwarding.response import Answer
from shared.types import Role, Target

type _Attempt = asyncio.Task[Answer | None]


class Attempts(Protocol):
    """The attempts of one call (`ForwardedCall`)."""

    async def attempt(self, target: Target, timeout: AttemptTimeout, role: Role = "try") -> Answer | None:
        """Make an attempt. None: it failed, and is in the record."""
        ...

    def look_again(self, target: Target, started: float, limit: float) -> float:
        """Return the seconds until an attempt is to be looked at again; 0: it is time for a second one."""
        ...

    def another(self, target: Target) -> tuple[Target, AttemptTimeout] | None:
        """Return a second target and the time it may take. This call then asks it once, here."""
        ...

    def seems_hung(self, target: Target, started: float) -> bool:
        """Return True if a target answers nobody."""
        ...

    def superseded(self, target: Target, since: float, role: Role) -> None:
        """Record an attempt for which another one was faster."""
        ...

    def discard(self, answer: Answer) -> None:
        """Close the answer of a second attempt that came too late, and take it from the record."""
        ...

    def now(self) -> float: ...


class HedgedAttempt:
    """An attempt, and perhaps a second one while it lasts; the first answer counts. An object, because nested functions
    would refer to each other, and every call would leave work for the garbage collector."""

    __slots__ = ("_attempts", "_first_ended", "_second", "_since", "_started", "_target", "_timeout", "_timer")

    def __init__(self, attempts: Attempts, target: Target, timeout: AttemptTimeout) -> None:
        """`timeout`: of the first attempt, watched."""
        self._attempts = attempts
        self._target = target
        self._timeout = timeout
        self._started = attempts.now()
        self._first_ended = False
        self._second: tuple[_Attempt, Target] | None = None
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, first_look: float) -> Answer | None:
        """Return the first answer; None: all attempts failed. `first_look`: seconds after which the first attempt may
        take too long."""
        self._timer = asyncio.get_running_loop().call_later(min(first_look, self._timeout.seconds), self._look)
        answer: Answer | None = None
        try:
            answer = await self._attempts.attempt(self._target, self._timeout)
            self._first_ended = True
            if answer is None and self._second is not None:
                answer = await self._second[0]
                self._second = None
            return answer
        finally:
            self._first_ended = True
            self._timer.cancel()
            if self._second is not None:
                try:
                    await self._drop(*self._second)
                except BaseException:  # the caller left meanwhile: nobody receives the answer
                    if answer is not None:
                        answer.close()
                    raise

    def _look(self) -> None:
        self._timeout.start()
        loop = asyncio.get_running_loop()
        if (seconds := self._attempts.look_again(self._target, self._started, self._timeout.seconds)) > 0:
            self._timer = loop.call_later(seconds, self._look)
        elif (second := self._attempts.another(self._target)) is not None:
            target, timeout = second
            self._since = self._attempts.now()
            task = loop.create_task(self._attempts.attempt(target, timeout, "hedge"))
            task.add_done_callback(self._second_ended)
            self._second = task, target

    def _second_ended(self, task: _Attempt) -> None:
        if not self._first_ended and not task.cancelled() and not task.exception() and task.result() is not None:
            self._timeout.supersede(hung=self._attempts.seems_hung(self._target, self._started))

    async def _drop(self, task: _Attempt, target: Target) -> None:
        """End a second attempt that is not needed."""
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled():
            if (answer := task.result()) is None:
                return
            self._attempts.discard(answer)  # both answered at the same moment
        self._attempts.superseded(target, self._since, "hedge")
