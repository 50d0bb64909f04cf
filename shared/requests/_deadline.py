"""Time limits for a request's body."""

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any

from starlette.types import Message, Receive

from shared.errors import RequestTimeout

_SLOWEST = 16_384  # bytes a second, beyond the first seconds: a body that trickles holds a connection for ever


class BodyDeadline:
    """How long a body may take: some seconds, and more for what has come. Raises `RequestTimeout`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()

    async def receive(self, receive: Receive, received: int) -> Message:
        """The next message, within the time that what was received so far allows, and not after a long silence."""
        coming = receive()
        if isinstance(coming, Coroutine):
            try:
                waiting = coming.send(None)
            except StopIteration as done:  # it was there already, as small bodies are: no timer, which costs more
                message: Message = done.value
                return message
            coming = _resumed(coming, waiting)
        now = self._loop.time()
        deadline = min(self._started + self._seconds + received / _SLOWEST, now + self._seconds)
        try:
            async with asyncio.timeout_at(deadline):
                return await coming
        except TimeoutError:
            raise RequestTimeout(
                f"The request's body did not come in time: {received} bytes in {now - self._started:.0f} s or more."
            ) from None


@types.coroutine
def _resumed(coroutine: Coroutine[Any, Any, Message], waiting: Any) -> Generator[Any, Any, Message]:
    """Await a coroutine that has been started and waits for something."""
    try:
        while True:
            try:
                sent = yield waiting
            except BaseException as error:
                waiting = coroutine.throw(error)
            else:
                waiting = coroutine.send(sent)
    except StopIteration as done:
        message: Message = done.value
        return message
