"""Keeps a connection alive while the backends are silent."""

import asyncio
from collections.abc import Mapping

import msgspec
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from shared.errors import GatewayError
from shared.responses.relay import RelayedResponse
from shared.responses.rendering import INTERRUPTED, KEEP_ALIVE_COMMENT, error_response, send_part


class KeepAliveResponse(Response):
    """An event stream whose backend has said nothing for so long that comments have to keep the connection alive.

    What answers in the end, or refuses, comes from `answer`; since status and headers are committed by the first
    comment, an error is told by an event.
    """

    def __init__(self, answer: asyncio.Future[Response], headers: Mapping[str, str], seconds: float) -> None:
        super().__init__(headers={**headers, "content-type": "text/event-stream; charset=utf-8"})
        self._answer = answer
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send_part(send, KEEP_ALIVE_COMMENT)
            while not (await asyncio.wait((self._answer,), timeout=self._seconds))[0]:
                await send_part(send, KEEP_ALIVE_COMMENT)
            try:
                response = self._answer.result()
            except GatewayError as error:
                response = error_response(error, {})
        finally:
            self._answer.cancel()
        if isinstance(response, RelayedResponse) and response.event_stream:
            await response(scope, receive, _without_start(send))
        else:
            said = _Collected()
            await response(scope, receive, said)
            body = said.body or msgspec.json.encode({"error": INTERRUPTED})
            event = b"".join(b"data: " + line + b"\n" for line in body.splitlines() if line) + b"\n"
            await send({"type": "http.response.body", "body": event})


def _without_start(send: Send) -> Send:
    async def send_body(message: Message) -> None:
        if message["type"] == "http.response.body":
            await send(message)

    return send_body


class _Collected:
    """An answer that is not to go out as it is."""

    def __init__(self) -> None:
        self.body = b""

    async def __call__(self, message: Message) -> None:
        self.body += message.get("body", b"")
