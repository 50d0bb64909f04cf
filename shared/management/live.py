"""The routing as it happens: `GET /gateway/backends/events`, a stream of events from the instance that answers.

`try`: an attempt has ended; `call`: a call has; `refused`: a call was, before any attempt; `pool`: the state of all
deployments, every two seconds; `dropped`: so many events were too many for this watcher. A browser reads it with
`fetch`, which sends credentials in a header.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import msgspec
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from shared.concurrency import Tasks
from shared.errors import RateLimitExceeded
from shared.forwarding.live import MOST_LISTENERS, Event, Listener, LiveCalls
from shared.management.routes import ManagementRequest, Route
from shared.responses.rendering import KEEP_ALIVE_COMMENT
from shared.routing.report import BackendsReport

_POOL_EVERY = 2.0  # seconds
_HEARTBEAT = 10.0  # seconds of silence; the Functions host ends what is silent for 240
_LONGEST = 240.0  # seconds; a listener then reconnects, and is authorized again


class LiveRoutes:
    """The stream of events."""

    def __init__(self, report: BackendsReport, live: LiveCalls, longest: float = _LONGEST) -> None:
        self._report = report
        self._live = live
        self._longest = longest

    def routes(self) -> Sequence[Route]:
        return (Route("GET", "/gateway/backends/events", "operator", self._events, streams=True),)

    async def _events(self, request: ManagementRequest) -> Response:
        """Stream tries, calls, refused calls and the state of the pool as server-sent events."""
        if self._live.full:
            message = f"{MOST_LISTENERS} streams are open on this instance. Close another tab, or ask for the report."
            raise RateLimitExceeded(message, 5.0)
        return _EventStream(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[bytes]:
        telling, ends = Tasks(), time.monotonic() + self._longest
        with self._live.listen() as listener:
            telling.start(self._tell_pool(listener))
            try:
                while not listener.closed and (left := ends - time.monotonic()) > 0:
                    events = await listener.take(min(_HEARTBEAT, left))
                    yield b"".join(map(_encoded, events)) or KEEP_ALIVE_COMMENT
            finally:
                await telling.close()

    async def _tell_pool(self, listener: Listener) -> None:
        while True:
            listener.put(Event("pool", await self._report.report()))
            await asyncio.sleep(_POOL_EVERY)


class _EventStream(StreamingResponse):
    """A stream that is not begun for a HEAD."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await Response(headers=dict(self.headers))(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def _encoded(event: Event) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (event.name.encode(), msgspec.json.encode(event.data))
