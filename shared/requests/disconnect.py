"""Detects that a caller hangs up."""

import asyncio
from collections.abc import Callable

from starlette.types import Receive


class CallerDisconnected(Exception):
    """The caller hung up."""


class CallerConnection:
    """Detects that a caller hangs up, from the end of its request until the answer is complete.

    As a context manager it runs a block for this caller: if the caller hangs up, the block is cancelled and
    `CallerDisconnected` raised. It may be entered several times, one after the other, from different tasks. Listening
    ends by itself: ASGI sends `http.disconnect` after a complete answer, too.
    """

    def __init__(self, receive: Receive) -> None:
        loop = asyncio.get_running_loop()
        self._listener = asyncio.Task(self._listen(receive), loop=loop, eager_start=True)
        self._owner: asyncio.Task[object] | None = None
        self._cancelled = False

    def at_end(self, ended: Callable[[], None]) -> None:
        """Call `ended` once the answer is complete, or the caller has hung up."""
        self._listener.add_done_callback(lambda _: ended())

    async def __aenter__(self) -> None:
        self._owner = asyncio.current_task()
        self._listener.add_done_callback(self._cancel)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        owner, self._owner = self._owner, None  # a callback that is scheduled already must cancel nobody
        self._listener.remove_done_callback(self._cancel)
        if self._cancelled and owner is not None:
            self._cancelled = False
            others = owner.uncancel()
            if kind is not None and issubclass(kind, asyncio.CancelledError) and not others:
                raise CallerDisconnected from None

    def _cancel(self, _: asyncio.Future[None]) -> None:
        if self._owner is not None and not self._cancelled:
            self._cancelled = True
            self._owner.cancel()

    @staticmethod
    async def _listen(receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
