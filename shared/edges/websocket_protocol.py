"""WebSockets of the ASGI edge: uvicorn's protocol on the library `websockets`, with bounds on what it holds.

`uvicorn shared.asgi:app` takes it by `--ws` in `UVICORN_OPTIONS`. A message is read when the app has taken the one
before, and written when the caller has taken most of what was sent; one that takes nothing loses its connection. No
compression: a few bytes could become many.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame
from websockets.http11 import Request

from shared.edges.write_timer import WriteTimer
from shared.requests.websockets import STOPPING

LARGEST_MESSAGE = 16 * 1024 * 1024  # bytes, in `UVICORN_OPTIONS` too; events with 15 MB of sound are the largest
_HANDSHAKE = (b"host", b"upgrade", b"connection", b"sec-websocket-key", b"sec-websocket-version")
_MOST_FRAGMENTS = 4096  # of one message; clients send a few
_EARLY = 65_536  # bytes that a caller may send before its upgrade is accepted
_PIECE = 16_384  # bytes that are read at once; a message takes 6 or more
_MOST_UNFINISHED = 256 * 1024 * 1024  # bytes of all messages of the process that have begun
_SMALL = 262_144  # bytes of a message that nobody counts
_LINGER = 1.0  # seconds in which a caller may read why its connection ends: closing at once can discard it
_INVALID, _TOO_BIG, _TRY_LATER = 1007, 1009, 1013

# Not uvicorn's own: its lines show queries, in which callers put keys.
_quiet = logging.getLogger("tollgate.sockets.protocol")
_quiet.setLevel(logging.ERROR)


class Unfinished:
    """The bytes of unfinished messages, of all connections together."""

    total = 0


class Protocol(WebSocketsSansIOProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.logger = _quiet
        self.conn.logger = _quiet
        self._headers: list[tuple[bytes, bytes]] = []
        self._pongs = b""  # unsent, while the caller does not read
        self._stopping = asyncio.Event()
        self._unread = bytearray()
        self._failed = False
        self._over = False  # the app has ended
        self._fragments = 0
        self._fragment_bytes = 0
        self._unfinished = 0
        self.release: Callable[[], None] = lambda: None  # see `http_protocol`

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._unsent = WriteTimer(self.transport, self.loop)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unsent.start()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unsent.stop()
        if self._pongs and not self.transport.is_closing():
            self.transport.write(self._pongs)
        self._pongs = b""
        if self._over:
            self._unsent.start()

    def upgraded(self, url: bytes, headers: list[tuple[bytes, bytes]], rest: bytes) -> None:
        """Take over a connection whose upgrade another protocol has read, with what followed it. The library's own
        reading of a head, which has to be gone through, takes short headers only."""
        self._headers = headers
        lines = [b"GET " + url + b" HTTP/1.1", *(name + b": " + value for name, value in headers if name in _HANDSHAKE)]
        self.data_received(b"\r\n".join([*lines, b"\r\n"]))
        if rest:
            self.data_received(rest)

    def data_received(self, data: bytes) -> None:
        if self._failed:
            return  # what is still on its way is taken and dropped, so that the caller can read the reason
        self._unread += data
        if not self.handshake_initiated or self.handshake_complete:
            self._read()
        elif len(self._unread) > _EARLY:
            self.transport.pause_reading()  # until the app accepts the connection, or refuses it

    def _read(self) -> None:
        """Read what has come, in pieces: a chunk may have thousands of messages, each of which would take memory."""
        while self._unread and (self.queue.empty() or self.close_sent or not self.handshake_initiated):
            piece = bytes(self._unread[:_PIECE])
            del self._unread[:_PIECE]
            super().data_received(piece)
        if self.handshake_complete and not self.close_sent:
            self._count(len(self.conn.reader.buffer) + self._fragment_bytes)

    async def receive(self) -> ASGIReceiveEvent:
        message = await super().receive()
        if self._unread and self.handshake_complete:
            self._read()
        return message

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            scope = cast(dict[str, Any], self.scope)  # for the app, whose task begins in the next turn of the loop
            scope["headers"] = self._headers
            offered = b",".join(value for name, value in self._headers if name == b"sec-websocket-protocol")
            scope["subprotocols"] = [name.strip() for name in offered.decode("latin-1").split(",") if name.strip()]
            scope["extensions"] = {**scope["extensions"], STOPPING: self._stopping}

    def handle_ping(self) -> None:
        """Answer pings. A caller that does not read what it is sent gets the answer to the last ones alone, when it
        reads again (RFC 6455, section 5.5.3): nothing else bounds them."""
        if self.writable.is_set():
            super().handle_ping()
        elif pongs := b"".join(self.conn.data_to_send()):
            self._pongs = pongs

    async def run_asgi(self) -> None:
        await super().run_asgi()
        self._over = True
        if not self.disconnected:  # it is lost when its caller has taken what is unsent
            self._unsent.start()

    def handle_text(self, event: Frame) -> None:
        self._begin(event)
        super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        self._begin(event)
        super().handle_bytes(event)

    def handle_cont(self, event: Frame) -> None:
        if self.close_sent:
            return
        self._fragments += 1
        self._fragment_bytes += len(event.data)
        if self._fragments > _MOST_FRAGMENTS:
            self._fail(_TOO_BIG, f"more than {_MOST_FRAGMENTS} fragments")
            return
        super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        self._fragments = self._fragment_bytes = 0
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self._fail(_INVALID, "invalid UTF-8")
                return
        super().send_receive_event_to_app()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.release()
        self._unsent.stop()
        self.frames = []
        self._unread.clear()
        self._count(0)

    def handle_parser_exception(self) -> None:
        """Close the connection for a frame that is not valid: at once for the app, and in a moment for the caller."""
        self._failed = True
        self.frames = []
        self._unread.clear()
        assert self.conn.close_sent is not None
        self.queue.put_nowait({"type": "websocket.disconnect", "code": self.conn.close_sent.code})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.close_timer = self.loop.call_later(_LINGER, self.transport.close)
        self.transport.resume_reading()

    def shutdown(self) -> None:
        """Let the app end the connection when the response under way has ended, or the server's patience has."""
        if self.handshake_complete and not self.close_sent:
            self._stopping.set()
        else:
            super().shutdown()

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.accept" and not self.transport.is_closing():
            if len(self._unread) > _EARLY:
                self.transport.resume_reading()
            self._read()
        elif message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True  # by a refusal, which uvicorn does not count as one

    def _begin(self, event: Frame) -> None:
        self._fragments, self._fragment_bytes = 1, len(event.data)

    def _count(self, unfinished: int) -> None:
        """Count what this connection holds of an unfinished message, and end it if the process holds too much."""
        Unfinished.total += unfinished - self._unfinished
        self._unfinished = unfinished
        if unfinished > _SMALL and Unfinished.total > _MOST_UNFINISHED:
            self._fail(_TRY_LATER, "the gateway receives too many large messages")

    def _fail(self, code: int, reason: str) -> None:
        """Fail the connection, as for a frame that is not valid."""
        if not self.close_sent:
            self.conn.fail(code, reason)
            self.handle_parser_exception()
