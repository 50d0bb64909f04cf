"""A caller's WebSocket, as the ASGI server gives it."""

import asyncio
from typing import NamedTuple

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared.requests.websockets import STOPPING

BROKEN = 1006  # the code of a connection that ended without one
_LONGEST_REASON = 120  # bytes; a close frame takes 123


class Message(NamedTuple):
    """A message as it came. `binary`: its frames said so."""

    data: bytes
    binary: bool


class CallerClosed(Exception):
    """The caller's connection is over. `code`: the caller's, or `BROKEN`."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class CallerSocket:
    """The connection of one caller. `stopping` is set when the server is about to stop."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self.stopping: asyncio.Event = scope.get("extensions", {}).get(STOPPING) or asyncio.Event()
        self.accepted = False

    async def accept(self, subprotocol: str | None, headers: dict[str, str]) -> None:
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": raw})
        self.accepted = True

    async def refuse(self, response: Response) -> None:
        """Answer the upgrade with a response, or with a close code if the server cannot send one."""
        if "websocket.http.response" in self.scope.get("extensions", {}):
            await response(self.scope, self._receive, self._send)
        else:
            await self._send({"type": "websocket.close", "code": 1008, "reason": "refused"})

    async def receive(self) -> Message:
        """Wait for the next message. Raises `CallerClosed`."""
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            raise CallerClosed(message.get("code") or BROKEN)
        text = message.get("text")
        return Message(message["bytes"], True) if text is None else Message(text.encode(), False)

    async def send(self, message: Message) -> None:
        """Send a message, once the caller has taken most of what was sent before. Raises `CallerClosed`."""
        try:
            if message.binary:
                await self._send({"type": "websocket.send", "bytes": message.data})
            else:
                await self._send({"type": "websocket.send", "text": message.data.decode()})
        except OSError:  # uvicorn's ClientDisconnected is one
            raise CallerClosed(BROKEN) from None

    async def close(self, code: int, reason: str) -> None:
        """Close the connection. Does nothing if it is closed."""
        reason = reason.encode()[:_LONGEST_REASON].decode(errors="ignore")
        try:
            await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except (OSError, RuntimeError):  # it is closed; servers differ in how they say so
            return
