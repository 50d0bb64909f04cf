"""Attempts that go on after another one has answered their call. Their backends charge what they generate, whether
anybody reads it or not, and their answers say how much that is."""

import asyncio
import logging
from collections.abc import Callable

from shared.forwarding._failures import AttemptFailed, Superseded
from shared.forwarding.response import Answer, WholeAnswer
from shared.types import Call, Usage

logger = logging.getLogger("tollgate.forwarding")

type AttemptTask = asyncio.Task[Answer | None]

_MOST = 100  # at a time; each keeps a connection, and up to 4 MiB of an answer


def charge_of(answer: Answer) -> Usage:
    """The usage that an answer nobody receives has reported so far, else an estimate."""
    return answer.usage if isinstance(answer, WholeAnswer) else answer.usage()


def usage_of(attempt: AttemptTask, call: Call, prompt: Usage | None) -> Usage | None:
    """The charge for an attempt that has ended; None: it was not charged. `prompt`: the charge if no more is known."""
    if attempt.cancelled():
        return prompt
    match attempt.exception():
        case None:
            answer = attempt.result()
            if answer is None:
                return None
            answer.close()
            usage = charge_of(answer)
            return None if usage == Usage() else usage
        case Superseded():
            return prompt
        case AttemptFailed() as failed:
            return failed.charge(call)
        case defect:
            logger.error("an attempt that went on failed by a defect of the gateway", exc_info=defect)
            return prompt


class LateAttempts:
    """One per process. Each attempt ends in its own time, or with the process."""

    def __init__(self) -> None:
        self._tasks: set[AttemptTask] = set()

    @property
    def have_room(self) -> bool:
        return len(self._tasks) < _MOST

    def add(self, attempt: AttemptTask, ended: Callable[[AttemptTask], None]) -> None:
        """Let an attempt go on, and call `ended` with it when it has ended."""
        self._tasks.add(attempt)
        attempt.add_done_callback(self._tasks.discard)
        attempt.add_done_callback(ended)

    async def close(self) -> None:
        """End those under way. `ended` has been called for all of them then."""
        while self._tasks:
            for attempt in self._tasks:
                attempt.cancel()
            await asyncio.wait(tuple(self._tasks))
