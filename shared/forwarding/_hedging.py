"""A try that takes too long, and the second one elsewhere that takes its place if it is faster."""

import asyncio
from typing import Protocol

from shared.forwarding._attempt import AttemptTimeout
from shared.forwarding.response import UpstreamResponse
from shared.types import Role, Target

type _Try = asyncio.Task[UpstreamResponse | None]


class Tries(Protocol):
    """The tries of one call (`forwarding.py`)."""

    async def attempt(self, target: Target, patience: AttemptTimeout, role: Role = "try") -> UpstreamResponse | None:
        """One try; None: it has failed, and stands in the record."""
        ...

    def look_again(self, target: Target, started: float, limit: float) -> float:
        """Seconds until a try is to be looked at again; 0: it is time for a second one."""
        ...

    def another(self, target: Target) -> tuple[Target, AttemptTimeout] | None:
        """Who may be asked as well, and how long it may take. It is asked then, and by nobody else in this call."""
        ...

    def silent(self, target: Target, started: float) -> bool:
        """Whether a target seems to hang."""
        ...

    def lost(self, target: Target, since: float, role: Role) -> None:
        """Put a try on record that another one has beaten."""
        ...

    def unseen(self, answer: UpstreamResponse) -> None:
        """Close the answer of a second try that came too late, and take it from the record."""
        ...

    def now(self) -> float: ...


class HedgedTry:
    """One try, and perhaps a second one while it lasts; the first answer counts. An object, not a nest of functions:
    those would refer to each other, and every call would leave work for the garbage collector."""

    __slots__ = (
        "_first_is_over",
        "_limit",
        "_patience",
        "_second",
        "_since",
        "_started",
        "_target",
        "_timer",
        "_tries",
    )

    def __init__(self, tries: Tries, target: Target, limit: float) -> None:
        self._tries = tries
        self._target = target
        self._limit = limit
        self._patience = AttemptTimeout(limit, watched=True)
        self._started = tries.now()
        self._first_is_over = False
        self._second: tuple[_Try, Target] | None = None
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, first_look: float) -> UpstreamResponse | None:
        """The first answer; None where there is none. `first_look`: seconds until it may take too long."""
        self._timer = asyncio.get_running_loop().call_later(min(first_look, self._limit), self._look)
        answer: UpstreamResponse | None = None
        try:
            answer = await self._tries.attempt(self._target, self._patience)
            self._first_is_over = True
            if answer is None and self._second is not None:
                answer = await self._second[0]
                self._second = None
            return answer
        finally:
            self._first_is_over = True
            self._timer.cancel()
            if self._second is not None:
                try:
                    await self._drop(*self._second)
                except BaseException:  # the caller left meanwhile: nobody receives the answer
                    if answer is not None:
                        answer.close()
                    raise

    def _look(self) -> None:
        self._patience.start()
        loop = asyncio.get_running_loop()
        if (again := self._tries.look_again(self._target, self._started, self._limit)) > 0:
            self._timer = loop.call_later(again, self._look)
        elif (other := self._tries.another(self._target)) is not None:
            target, patience = other
            self._since = self._tries.now()
            task = loop.create_task(self._tries.attempt(target, patience, "hedge"))
            task.add_done_callback(self._is_over)
            self._second = task, target

    def _is_over(self, task: _Try) -> None:
        if not self._first_is_over and not task.cancelled() and not task.exception() and task.result() is not None:
            self._patience.end(silent=self._tries.silent(self._target, self._started))

    async def _drop(self, task: _Try, target: Target) -> None:
        """End a second try that is not needed any more."""
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled():
            if (answer := task.result()) is None:
                return
            self._tries.unseen(answer)  # both came at the same moment
        self._tries.lost(target, self._since, "hedge")
