"""Hedges an attempt: starts a second one elsewhere when the first takes too long, and returns the faster answer."""

import asyncio
from typing import TYPE_CHECKING

from shared.forwarding._attempt import AttemptTimeout
from shared.forwarding.response import Answer
from shared.types import Target

if TYPE_CHECKING:
    from shared.forwarding.forwarder import ForwardedCall

type _Attempt = asyncio.Task[Answer | None]


class HedgedAttempt:
    """An attempt, and perhaps a second one while it lasts; the first answer counts. An object, because nested functions
    would refer to each other, and every call would leave work for the garbage collector."""

    __slots__ = ("_call", "_first_ended", "_second", "_since", "_started", "_target", "_timeout", "_timer")

    def __init__(self, call: "ForwardedCall", target: Target, timeout: AttemptTimeout) -> None:
        """`timeout`: of the first attempt, watched."""
        self._call = call
        self._target = target
        self._timeout = timeout
        self._started = call.now()
        self._first_ended = False
        self._second: tuple[_Attempt, Target, AttemptTimeout] | None = None
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, first_look: float) -> Answer | None:
        """Return the first answer; None: all attempts failed. `first_look`: seconds after which the first attempt may
        take too long."""
        self._timer = asyncio.get_running_loop().call_later(min(first_look, self._timeout.seconds), self._look)
        answer: Answer | None = None
        try:
            answer = await self._call.attempt(self._target, self._timeout)
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
        if (seconds := self._call.look_again(self._target, self._started)) > 0:
            self._timer = loop.call_later(seconds, self._look)
        elif (second := self._call.another(self._target)) is not None:
            target, timeout = second
            self._since = self._call.now()
            task = loop.create_task(self._call.attempt(target, timeout, "hedge"))
            task.add_done_callback(self._second_ended)
            self._second = task, target, timeout

    def _second_ended(self, task: _Attempt) -> None:
        if not self._first_ended and not task.cancelled() and not task.exception() and task.result() is not None:
            self._call.answered_first(self._target, self._started, self._timeout)

    async def _drop(self, task: _Attempt, target: Target, timeout: AttemptTimeout) -> None:
        """End a second attempt that is not needed."""
        task.cancel()
        await asyncio.wait((task,))
        usage = self._call.prompt(timeout)
        if not task.cancelled():
            if (answer := task.result()) is None:
                return
            usage = self._call.discard(answer)  # both answered at the same moment
        self._call.superseded(target, self._since, "hedge", usage)
