"""A backend's response."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable

import aiohttp

from shared.azure_openai import answers, metering
from shared.azure_openai.event_reader import EventReader
from shared.azure_openai.event_relay import EventRelay
from shared.types import Attempt, Call, Target, Usage

_END_OF_BODY = 0.1  # seconds


CLOSED_EARLY = "closed the connection before its answer was complete"


class UpstreamResponse:
    """The answer of a target, committed. `head`: the part of the body that has been read; `complete`: all of it.

    `feed` meters the rest, and returns the bytes that may pass. `events`: of an event stream. `deadline`: when the rest
    must have come, on the event loop's clock; `silence`: seconds that it may pause meanwhile. `ended` is called
    once, when nothing more will come. One per call; to be closed by whoever relays it.
    """

    def __init__(
        self,
        call: Call,
        target: Target,
        response: aiohttp.ClientResponse,
        head: bytes,
        *,
        ended: Callable[[], None],
        deadline: float,
        silence: float = math.inf,
        events: EventRelay | None = None,
        complete: bool = False,
    ) -> None:
        self.call = call
        self.target = target
        self.status = response.status
        self.headers = answers.returned_headers(response.headers)
        if call.makes == "realtime_call":
            self.headers |= answers.returned_location(call, response.headers.get("location", ""))
        self.length = response.headers.get("content-length") if events is None else None
        self.content = response.content
        self.head = head
        self.deadline = deadline
        self.silence = silence
        self.events = events
        self.meter: EventReader | metering.BodyMeter
        if events is not None:
            self.meter, self.feed = events.reader, events.feed
        else:
            self.meter = metering.BodyMeter(call, response.status, b"" if complete else head)
            self.feed = self.meter.feed
        self.complete = complete
        self.attempts: tuple[Attempt, ...] = ()
        self._response = response
        self._ended: Callable[[], None] | None = ended
        if complete:
            self._end()

    @property
    def at_end(self) -> bool:
        """True if an event stream has said that it ends; some backends keep the connection open after that."""
        return self.events is not None and self.events.done

    def usage(self) -> Usage:
        """What the answer has taken, as far as it has passed."""
        if self.complete:
            return metering.usage_in_answer(self.call, self.status, self.head)
        return self.meter.usage()

    def text(self, usage: Usage) -> str:
        """The text of an answer whose usage is an estimate, where it streamed."""
        return self.meter.text() if usage.estimated and not self.complete else ""

    async def rest(self) -> AsyncIterator[bytes]:
        """What comes behind the end of a stream, where something does: a moment is enough for it."""
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(_END_OF_BODY):
                while chunk := await self.content.readany():
                    yield chunk

    async def read_to_end(self) -> None:
        """Behind an end marker nothing but the end of the body should come: wait for it, because only a connection that
        was read to its end can be used again."""
        async for _ in self.rest():
            pass

    def close(self) -> None:
        """Give back the connection of an answer read to its end; else close it, which tells the backend to stop."""
        self._end()
        if self.content.at_eof():
            self._response.release()
        else:
            self._response.close()

    def _end(self) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended()
