"""Renders the response to a chat that stands for a legacy completion."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from shared.azure_openai.completions_as_chat import Rendering
from shared.azure_openai.outline import LARGE
from shared.errors import AnswerTooLarge
from shared.responses.rendering import ErrorResponse

_LENGTH = b"content-length"
_CONTENT = (_LENGTH, b"content-type", b"content-encoding")
_LARGEST = 8 * 1024 * 1024  # bytes of an answer that is rendered as a whole: it takes some four times as many


class CompletionsResponse(Response):
    """Sends another response with its body rendered: events as they come, a whole body when it is whole. What is no
    answer of a chat, such as an error, passes as it is. `one_at_a_time`: held while a large body is rendered, on
    another thread."""

    def __init__(self, response: Response, rendering: Rendering, one_at_a_time: asyncio.Lock) -> None:
        self.status_code = response.status_code
        self.background = None
        self.raw_headers = response.raw_headers
        self._response = response
        self._rendering = rendering
        self._one_at_a_time = one_at_a_time

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._response(scope, receive, _Rendered(send, self._rendering, self._one_at_a_time))


class _Rendered:
    """The way to the caller. `__call__` takes the messages of the response."""

    def __init__(self, send: Send, rendering: Rendering, one_at_a_time: asyncio.Lock) -> None:
        self._send = send
        self._rendering = rendering
        self._one_at_a_time = one_at_a_time
        self._start: MutableMapping[str, Any] = {}
        self._streams = False
        self._body: list[bytes] = []
        self._size = 0  # bytes of the body so far

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = dict(message["headers"]).get(b"content-type", b"")
            self._streams = kind.startswith(b"text/event-stream")
            self._start = message
            if self._streams:
                await self._send({**message, "headers": _without_length(message["headers"])})
        elif message["type"] != "http.response.body":
            await self._send(message)
        elif self._streams:
            await self._pass(message)
        else:
            await self._collect(message)

    async def _pass(self, message: Message) -> None:
        data, more = self._rendering.feed(message.get("body", b"")), message.get("more_body", False)
        if not more:
            data += self._rendering.finish()
        if data or not more:
            await self._send({**message, "body": data})

    async def _collect(self, message: Message) -> None:
        self._body.append(piece := message.get("body", b""))
        self._size += len(piece)
        if self._size > _LARGEST:
            self._body.clear()  # and read on: the answer is paid for, and accounted for when it is whole
        if message.get("more_body", False):
            return
        if self._size > _LARGEST:
            await self._refuse()
            return
        body = b"".join(self._body)
        self._body.clear()
        if len(body) <= LARGE:
            body = self._rendering.whole(body)
        else:
            async with self._one_at_a_time:
                body = await asyncio.to_thread(self._rendering.whole, body)
        length = (_LENGTH, str(len(body)).encode())
        await self._send({**self._start, "headers": [*_without_length(self._start["headers"]), length]})
        await self._send({"type": "http.response.body", "body": body})

    async def _refuse(self) -> None:
        """Replace an answer that is too large."""
        error = AnswerTooLarge(
            f"The answer has {self._size} bytes, but a chat can be converted into a completion up to {_LARGEST} bytes "
            "only. It is charged. Ask for less (`n`, `logprobs`, `max_tokens`), or stream."
        )
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self._start["headers"]}
        kept = {name: value for name, value in headers.items() if name.lower().encode() not in _CONTENT}
        response = ErrorResponse(error, kept)
        await self._send({**self._start, "status": error.status, "headers": response.raw_headers})
        await self._send({"type": "http.response.body", "body": response.body})


def _without_length(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name.lower() != _LENGTH]
