"""Hedges an attempt: starts a second one elsewhere when the first takes too long, and returns the faster answer."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from shared.forwarding._attempt import AttemptTimeout
from shared.forwarding.late_attempts import AttemptTask
from shared.forwarding.response import Answer
from shared.types import Target

if TYPE_CHECKING:
    from shared.forwarding.forwarded_call import ForwardedCall


class HedgedAttempt:
    """An attempt, and perhaps a second one while it lasts; the first answer counts. An object, because nested functions
    would refer to each other, and every call would leave work for the garbage collector."""

    __slots__ = ("_beaten", "_call", "_first_ended", "_second", "_since", "_started", "_target", "_timeout", "_timer")

    def __init__(self, call: "ForwardedCall", target: Target, timeout: AttemptTimeout) -> None:
        """`timeout`: of the first attempt, watched."""
        self._call = call
        self._target = target
        self._timeout = timeout
        self._started = call.now()
        self._first_ended = False
        self._beaten: asyncio.Future[None] | None = None  # the first attempt is a task, and goes on without the call
        self._second: tuple[AttemptTask, Target, AttemptTimeout] | None = None
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, first_look: float) -> Answer | None:
        """Return the first answer; None: all attempts failed. `first_look`: seconds after which the first attempt may
        take too long."""
        self._timer = asyncio.get_running_loop().call_later(min(first_look, self._timeout.seconds), self._look)
        answer: Answer | None = None
        try:
            attempt = self._call.attempt(self._target, self._timeout)
            answer = await (self._first(attempt) if self._call.hedged and self._call.may_be_late else attempt)
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
                    await self._drop(*self._second, answered=answer is not None)
                except BaseException:  # the caller left meanwhile: nobody receives the answer
                    if answer is not None:
                        answer.close()
                    raise

    async def _first(self, attempt: Coroutine[Any, Any, Answer | None]) -> Answer | None:
        """Make the first attempt in a task, and leave it alone when the second one has answered."""
        loop = asyncio.get_running_loop()
        self._beaten, task = loop.create_future(), loop.create_task(attempt)
        try:
            await asyncio.wait((task, self._beaten), return_when=asyncio.FIRST_COMPLETED)
        except BaseException:  # the caller left
            task.cancel()
            await asyncio.wait((task,))
            if not task.cancelled() and not task.exception() and (answer := task.result()) is not None:
                answer.close()
            raise
        if task.done():
            return task.result()
        self._call.let_end(task, self._target, self._started, self._timeout)
        return None

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

    def _second_ended(self, task: AttemptTask) -> None:
        if not self._first_ended and not task.cancelled() and not task.exception() and task.result() is not None:
            beaten = self._beaten
            goes_on = self._call.answered_first(self._target, self._started, self._timeout, in_task=beaten is not None)
            if goes_on and beaten is not None:
                beaten.set_result(None)

    async def _drop(self, task: AttemptTask, target: Target, timeout: AttemptTimeout, *, answered: bool) -> None:
        """End a second attempt that is not needed, or leave it alone."""
        if answered and not task.done() and self._call.may_be_late:
            self._call.let_end(task, target, self._since, timeout, "hedge")
            return
        task.cancel()
        await asyncio.wait((task,))
        usage = self._call.prompt(timeout)
        if not task.cancelled():
            if (answer := task.result()) is None:
                return
            usage = self._call.discard(answer)  # both answered at the same moment
        self._call.superseded(target, self._since, "hedge", usage)
