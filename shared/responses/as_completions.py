"""Renders the response to a chat that stands for a legacy completion."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from shared.azure_openai.completions_as_chat import Rendering
from shared.azure_openai.outline import LARGE

_LENGTH = b"content-length"


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
        self._body.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        body = b"".join(self._body)
        if len(body) <= LARGE:
            body = self._rendering.whole(body)
        else:
            async with self._one_at_a_time:
                body = await asyncio.to_thread(self._rendering.whole, body)
        length = (_LENGTH, str(len(body)).encode())
        await self._send({**self._start, "headers": [*_without_length(self._start["headers"]), length]})
        await self._send({"type": "http.response.body", "body": body})


def _without_length(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name.lower() != _LENGTH]
