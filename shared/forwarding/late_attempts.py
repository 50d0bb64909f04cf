"""Attempts and answers that go on when nobody waits for them any more: another attempt has answered their call, or the
caller has left. Their backends charge what they generate, whether anybody reads it or not, and say how much that is."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

import aiohttp

from shared.concurrency import Tasks
from shared.forwarding._failures import AttemptFailed, Superseded
from shared.forwarding.response import Answer, OpenAnswer, WholeAnswer
from shared.http_client import read_some
from shared.types import Call, Usage

logger = logging.getLogger("tollgate.forwarding")

type AttemptTask = asyncio.Task[Answer | None]

_MOST = 100  # at a time; each keeps a connection, and up to 4 MiB of an answer, or 8 MiB of an event
_REPORT = 5.0  # seconds in which a backend has to report the usage of an answer that its caller has left


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
            logger.error("unexpected error in an attempt that went on after its call", exc_info=defect)
            return prompt


async def _until_reported(answer: OpenAnswer) -> None:
    """Read a stream until it has reported what it owes, or goes on with more, which nobody wants."""
    until = min(answer.deadline, asyncio.get_running_loop().time() + _REPORT)
    with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
        async with asyncio.timeout_at(until):
            while answer.owes_usage and (chunk := await read_some(answer.content)):
                answer.on_chunk()
                answer.body.feed(chunk)
            if not answer.owes_usage:
                await answer.read_to_end()


class LateAttempts:
    """One per process. Each attempt ends in its own time, or with the process."""

    def __init__(self) -> None:
        self._tasks = Tasks()
        self._closed = False

    @property
    def have_room(self) -> bool:
        return len(self._tasks) < _MOST and not self._closed

    def add(self, attempt: AttemptTask, ended: Callable[[AttemptTask], None]) -> None:
        """Let an attempt go on, and call `ended` with it when it has ended."""
        self._tasks.add(attempt).add_done_callback(ended)

    def read_on(self, answer: Answer, ended: Callable[[], None]) -> bool:
        """Read on an answer that its caller has left, if all of it is there but its usage, and call `ended` when that
        has come or is not waited for any longer. Return False if there is nothing to wait for."""
        if not (isinstance(answer, OpenAnswer) and answer.owes_usage and self.have_room):
            return False

        def read(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (defect := task.exception()) is not None:
                logger.error("unexpected error while reading an answer that its caller had left", exc_info=defect)
            ended()

        self._tasks.start(_until_reported(answer)).add_done_callback(read)
        return True

    async def close(self) -> None:
        """End those under way. `ended` has been called for all of them then."""
        self._closed = True
        await self._tasks.close()
