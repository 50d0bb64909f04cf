"""The answer of a backend: complete, or still arriving."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping

import aiohttp
import msgspec

from shared.anthropic.batch_requests import with_own_address
from shared.azure_openai import answers, metering
from shared.azure_openai.event_relay import EventRelay
from shared.azure_openai.metering import BodyMeter
from shared.config.document import FallbackReason
from shared.http_client import HttpResponse, read_some
from shared.types import Call, Target, Usage

_END_OF_BODY = 0.1  # seconds

_BATCHES = frozenset(f"messages.batches.{name}" for name in ("create", "get", "cancel"))

type Answer = WholeAnswer | OpenAnswer
type BackendResponse = HttpResponse | aiohttp.ClientResponse  # the latter to an upload


class WholeAnswer(msgspec.Struct, frozen=True):
    """A complete answer, served by `target`. `headers`: those that the caller receives. `refusal`: the reason for which
    another model may take the call; None: this answer is the caller's."""

    target: Target
    status: int
    headers: dict[str, str]
    body: bytes
    usage: Usage
    refusal: FallbackReason | None = None

    @property
    def is_empty(self) -> bool:
        """True if reasoning took all the tokens that the call allowed."""
        return self.usage.empty

    def close(self) -> None:
        """Do nothing: the connection is free already."""


def whole_answer(call: Call, target: Target, status: int, headers: Mapping[str, str], body: bytes) -> WholeAnswer:
    """Make a `WholeAnswer` of a backend's status, headers and body."""
    usage = metering.usage_in_answer(call, status, body)
    refusal = answers.fallback_reason(status, body) if status == 400 else None
    if call.operation.name in _BATCHES and status == 200:
        body = with_own_address(body)
    return WholeAnswer(target, status, returned_headers(call, headers), body, usage, refusal)


def returned_headers(call: Call, headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that the caller receives."""
    returned = answers.returned_headers(headers)
    if call.makes == "realtime_call":
        returned |= answers.returned_location(call, headers.get("location", ""))
    return returned


class OpenAnswer(msgspec.Struct, kw_only=True, eq=False):
    """An answer whose body is still arriving, served by `target`. The relay closes it.

    `headers`: those that the caller receives. `head`: the part of the body read so far, as much of it as may go to the
    caller; `body` meters what `content` brings. `deadline`: the latest end of the body, on the event loop's clock;
    `silence`: the longest pause in it, in seconds. The reader of the body calls `on_chunk` for each chunk. `ended` is
    called once, by the first `close`.
    """

    call: Call
    target: Target
    response: BackendResponse
    headers: dict[str, str]
    head: bytes
    body: EventRelay | BodyMeter
    on_chunk: Callable[[], None]
    ended: Callable[[], None] | None
    deadline: float
    silence: float

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def content(self) -> aiohttp.StreamReader:
        return self.response.content

    @property
    def length(self) -> str | None:
        """The header content-length; None for a stream, which may lose an event on its way."""
        return self.response.headers.get("content-length") if self.events is None else None

    @property
    def events(self) -> EventRelay | None:
        """The events of a stream; None for a body of another kind."""
        return self.body if isinstance(self.body, EventRelay) else None

    @property
    def is_empty(self) -> bool:
        """True for a stream that has run out of tokens before any content, as far as it has come."""
        return isinstance(self.body, EventRelay) and self.body.reader.is_empty

    @property
    def owes_usage(self) -> bool:
        """True for a stream that has shown its whole answer, or an image, but has not reported the usage of that."""
        return isinstance(self.body, EventRelay) and self.body.owes_usage

    def usage(self) -> Usage:
        """The usage that the body has reported so far, else an estimate."""
        return self.body.reader.usage() if isinstance(self.body, EventRelay) else self.body.usage()

    async def rest(self) -> AsyncIterator[bytes]:
        """Yield what follows the end of a stream, for at most 0.1 s."""
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(_END_OF_BODY):
                while chunk := await read_some(self.content):
                    yield chunk

    async def read_to_end(self) -> None:
        """Wait up to 0.1 s for the end of the body: only a connection read to its end can be used again."""
        async for _ in self.rest():
            pass

    def close(self) -> None:
        """Return the connection if the body was read to its end; else close it, so that the backend stops."""
        ended, self.ended = self.ended, None
        if ended is not None:
            ended()
        if self.content.at_eof():
            self.response.release()
        else:
            self.response.close()
