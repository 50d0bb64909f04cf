"""The time that a request's body may take."""

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

from starlette.types import Message, Receive

from shared.errors import RequestTimeout

_SLOWEST = 16_384  # bytes per second after the first seconds; a slower body would hold its connection for hours


class BodyDeadline:
    """Allows a body some seconds, and more for each byte received. Raises `RequestTimeout`.

    `before_waiting` is called once, before the first wait: bodies that are there already have none.
    """

    def __init__(self, seconds: float, before_waiting: Callable[[], Awaitable[None]]) -> None:
        self._seconds = seconds
        self._before_waiting: Callable[[], Awaitable[None]] | None = before_waiting
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()

    async def receive(self, receive: Receive, received: int) -> Message:
        """Return the next message. `received`: bytes so far."""
        coming = receive()
        if isinstance(coming, Coroutine):
            try:
                waiting = coming.send(None)
            except StopIteration as done:  # small bodies are there already, and need no timer
                message: Message = done.value
                return message
            if (admit := self._before_waiting) is not None:
                self._before_waiting = None
                try:
                    await admit()
                except BaseException:
                    coming.close()
                    raise
            coming = _resumed(coming, waiting)
        now = self._loop.time()
        deadline = min(self._started + self._seconds + received / _SLOWEST, now + self._seconds)
        try:
            async with asyncio.timeout_at(deadline):
                return await coming
        except TimeoutError:
            raise RequestTimeout(
                f"The request's body did not arrive in time: {received} bytes in {now - self._started:.0f} s or more."
            ) from None


@types.coroutine
def _resumed(coroutine: Coroutine[Any, Any, Message], waiting: Any) -> Generator[Any, Any, Message]:
    """Await a coroutine that was started and yielded `waiting`."""
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
