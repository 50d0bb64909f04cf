"""HTTP/1.1 of both edges: uvicorn's protocol with bounded heads, for older and other HTTP stacks, too.

`uvicorn shared.asgi:app` takes it by the options in `UVICORN_OPTIONS`. The bounds are those of Kestrel, the server in
front of the Functions edge.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import httptools
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from shared.edges import _handshake
from shared.edges._joined_head import JoinedHead
from shared.edges.write_timer import WriteTimer
from shared.errors import (
    GatewayError,
    HeadTooLarge,
    InvalidRequest,
    RateLimitExceeded,
    RequestTimeout,
    TooManyConnections,
)
from shared.requests.connections import STATE, Connections
from shared.responses.early_refusal import early_refusal

# Idle connections outlive those of the pools and proxies in front. `client_address` alone decides whom a forwarded
# header may speak for.
UVICORN_OPTIONS = (
    *("--http", "shared.edges.http_protocol:Protocol", "--ws", "shared.edges.websocket_protocol:Protocol"),
    *("--ws-per-message-deflate", "false", "--ws-max-size", "16777216"),
    *("--no-proxy-headers", "--no-access-log", "--no-server-header"),
    *("--timeout-keep-alive", "130", "--limit-concurrency", "4096"),
)

_MOST_BYTES = 32_768  # of a head, or of what follows a body
_MOST_FIELDS = 100
_MOST_WAITING = 16  # requests of a pipeline behind the one that is being answered
_HEAD_SECONDS = 30.0
_REST_SECONDS = 30.0  # in which a body may arrive whose answer has been sent: it is read and dropped
_LINGER = 1.0  # seconds in which a refused caller may read the reason: closing at once can discard it
_MOST_LINGERING = 256  # connections without a place that are given this time: the others are closed at once
_FRAMING = (b"content-length", b"transfer-encoding")

_lingering: set["Protocol"] = set()  # the connections without a place


class Protocol(HttpToolsProtocol):
    """One connection. A head that is too large, too slow or not HTTP is answered here; all else by the app."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.limit_concurrency = None  # this class counts the connections itself
        self._most_connections = config.limit_concurrency
        self._between_bodies = True  # a head is arriving, or nothing
        self._unparsed = 0  # bytes since the last whole head or piece of a body
        self._head_timer: asyncio.TimerHandle | None = None
        self._over = False  # the connection is lost, or another protocol's
        self._refusal: GatewayError | None = None
        self._linger = _LINGER
        self._refuses_next = False  # when the calls under way have ended
        self._running: RequestResponseCycle | None = None  # the call of the pipeline that is being answered
        self._continues = False  # the parser was replaced in the middle of a request
        self._release: Callable[[], None] = lambda: None  # the place of this connection among those of its address

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._unread = WriteTimer(transport, self.loop)
        if self._most_connections is not None and len(self.connections) > self._most_connections:
            self._turn_away(TooManyConnections("The gateway has too many connections. Try again shortly."))
            return
        try:
            self._take_place()
        except RateLimitExceeded as error:
            self._turn_away(error)
        else:
            self._await_head()

    def _turn_away(self, error: GatewayError) -> None:
        """Refuse a connection that has no place: it does not count, or else one address could use up all places."""
        self.connections.discard(self)
        if len(_lingering) < _MOST_LINGERING:
            _lingering.add(self)
        else:
            self._linger = 0.0
        self._refuse(error)

    def _take_place(self) -> None:
        """Count this connection for its address. Raises `RateLimitExceeded`."""
        connections: Connections | None = self.app_state.get(STATE)
        if connections is not None:
            held = connections.connected({"client": self.client})
            self._release = partial(connections.released, held)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        _lingering.discard(self)
        self._release()
        self._cancel_head_timer()
        self._unread.stop()
        self._over = True

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread.start()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread.stop()
        self._watch_end()

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        self._unset_keepalive_if_required()
        self._unparsed += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("The request is not valid HTTP/1.1.")
        else:
            if self._unparsed > _MOST_BYTES:
                self._refuse(_head_too_large())
            elif self._between_bodies and self._unparsed and self._head_timer is None:
                self._await_head()

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal or InvalidRequest(msg))

    def on_message_begin(self) -> None:
        if not self._continues:
            super().on_message_begin()

    def on_headers_complete(self) -> None:
        if not self._continues:
            whole = self._unparsed <= _MOST_BYTES or _size(self.url, self.headers) <= _MOST_BYTES
            if not whole or len(self.headers) > _MOST_FIELDS:
                self._refusal = _head_too_large()
            elif len(self.pipeline) == _MOST_WAITING:  # one piece of 64 kB brings hundreds, each with its scope
                self._refusal = _too_many_waiting()
            if self._refusal is not None:
                raise self._refusal
            super().on_headers_complete()
            self.headers = []  # takes the trailers: only the app's scope has the headers
        self._continues = self._between_bodies = False
        self._unparsed = 0
        self._cancel_head_timer()

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():  # otherwise the body is still to come: see `_ignore_upgrade`
            self._unparsed, self._between_bodies = 0, True
            super().on_message_complete()
            if self._head_timer is not None:  # this body's own: its answer has been sent
                self._cancel_head_timer()
                self._await_head()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        head = JoinedHead(cycle, self.loop)
        cycle.transport, cycle.send = cast(asyncio.Transport, head), head.send  # type: ignore[assignment]
        old = cycle.scope["http_version"] == "1.0"
        task = self.loop.create_task(cycle.run_asgi(partial(_without_chunks, app, cycle) if old else app))
        task.add_done_callback(self._task_ended)
        self.tasks.add(task)
        self._running = cycle

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """See to it that a connection without a call has a timer, whatever its caller sends or does not read."""
        self.tasks.discard(task)
        if self._over:
            return
        if self.transport.is_closing():
            self._watch_end()
        elif self._refusal is not None:
            if self._refuses_next and self._running is not None and self._running.response_complete:
                self._send_refusal(self._refusal)
        elif self.cycle.response_complete and self._head_timer is None:
            if not self._between_bodies:
                self._head_timer = self.loop.call_later(_REST_SECONDS, self._close)
            elif self.timeout_keep_alive_task is None:
                self._await_head()

    def _close(self) -> None:
        self.transport.close()
        self._watch_end()

    def _watch_end(self) -> None:
        """A connection that closes is lost when its caller has taken what is unsent."""
        if self.transport.is_closing() and not self._over:
            self._unread.start()

    def _upgrade(self, rest: bytes) -> None:
        """Hand the connection over to the protocol of WebSockets, if it is to be one and this server takes them."""
        headers = dict(self.scope["headers"])
        if self.ws_protocol_class is None or headers.get(b"upgrade", b"").lower() != b"websocket":
            self._ignore_upgrade(rest)
        elif (fault := _handshake.fault(self.scope["method"], self.url, headers, waits=self._calls_wait)) is not None:
            self._between_bodies = True  # the requests before it are whole, and get their answers
            self._refuse(fault)
        else:
            self.connections.discard(self)
            self._unread.stop()
            self._over = True
            make: Any = self.ws_protocol_class
            protocol = make(config=self.config, server_state=self.server_state, app_state=self.app_state)
            protocol.release = self._release
            protocol.connection_made(self.transport)
            self.transport.set_protocol(protocol)
            if self.flow.write_paused:  # by the answer before; the transport says it once
                protocol.pause_writing()
            protocol.upgraded(self.url, self.scope["headers"], rest)

    @property
    def _calls_wait(self) -> bool:
        """True if a request has no whole answer yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Go on with HTTP/1.1, as a server may (RFC 9110, section 7.8). The parser cannot: it takes all that follows
        the head for another protocol. A new one reads the body, by the framing of the original head."""
        framing = [name + b": " + value + b"\r\n" for name, value in self.scope["headers"] if name in _FRAMING]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._continues = True
        self.data_received(b"".join([b"POST / HTTP/1.1\r\n", *framing, b"\r\n", rest]))

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._head_is_late)

    def _head_is_late(self) -> None:
        if self._calls_wait:  # an answer to the request before is on its way
            self._await_head()
        elif self._unparsed:
            self._refuse(RequestTimeout(f"The head of the request did not arrive within {_HEAD_SECONDS:.0f} s."))
        else:
            self._close()

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, error: GatewayError) -> None:
        """Answer with an error, behind the answers to earlier requests, and close the connection. A request whose body
        is at fault gets no other answer."""
        self._refusal = error
        self._cancel_head_timer()
        cycle = self.cycle
        under_way = cycle is not None and not cycle.response_complete
        if under_way and not self._between_bodies:
            cycle.disconnected = True
            cycle.message_event.set()
            if self.pipeline:
                self.pipeline.popleft()  # it is the last one, and has not begun
            elif cycle.response_started:
                self._close()
                return
            else:
                under_way = False
        self._refuses_next = under_way
        if not under_way:
            self._send_refusal(error)

    def _send_refusal(self, error: GatewayError) -> None:
        self._refuses_next = False
        response = early_refusal(error)
        response.headers["connection"] = "close"
        lines = [name + b": " + value + b"\r\n" for name, value in response.raw_headers]
        self.transport.write(b"".join([STATUS_LINE[error.status], *lines, b"\r\n", response.body]))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(self._linger, self._close)


async def _without_chunks(
    app: ASGIApp, cycle: RequestResponseCycle, scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer an HTTP/1.0 caller, which knows no chunks: a body without a length ends with the connection."""

    unframed = False

    async def send_unframed(message: Message) -> None:
        nonlocal unframed
        if message["type"] == "http.response.start":
            unframed = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
            if unframed:
                cycle.chunked_encoding = False
        elif unframed:
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    await app(scope, receive, send_unframed)


def _size(url: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    """The bytes of a head, roughly: each line with its colon and its end."""
    return len(url) + sum(len(name) + len(value) + 4 for name, value in headers)


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(
        f"The head of the request is too large: expected at most {_MOST_BYTES} bytes and {_MOST_FIELDS} headers."
    )


def _too_many_waiting() -> InvalidRequest:
    return InvalidRequest(
        f"Too many requests wait on this connection: expected at most {_MOST_WAITING} behind the one being answered. "
        "Read the answers first, or use more connections."
    )
