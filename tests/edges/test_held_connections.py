"""Connections whose callers do not read, do not end their bodies, or send what is no HTTP behind calls under way."""

import asyncio
import json
import select
import socket
import time
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from shared.edges import http_protocol, write_timer
from shared.edges.websocket_protocol import Protocol as WebSocketProtocol
from tests.harness.protocol_server import served

LARGE = 12_000_000  # bytes, more than the kernel takes for a caller
MESSAGES = 30
HOST = b"host: x\r\n"
UPGRADE = b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\n"
sent: list[int] = []
NO_HTTP = b"this is not HTTP\r\n\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with so many bytes (`/large`), before the body has come (`/early`), in pieces (`/stream`), or the body; on
    a WebSocket, with messages."""

    async def pieces() -> Any:
        for number in range(5):
            yield f"<{number}>"
            await asyncio.sleep(0.01)

    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        for number in range(MESSAGES):
            await send({"type": "websocket.send", "bytes": b"y" * 100_000})
            sent.append(number)
        return
    response: Response
    match scope["path"]:
        case "/large":
            response = Response(b"x" * LARGE)
        case "/early":
            response = PlainTextResponse("early", 401)
        case "/stream":
            response = StreamingResponse(pieces())
        case _:
            response = Response(await Request(scope, receive).body())
    await response(scope, receive, send)


def connected(address: tuple[str, int]) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(10)
    connection.connect(address)
    return connection


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    received = b""
    while chunk := connection.recv(65_536):
        received += chunk
    return received


def is_served(address: tuple[str, int]) -> bool:
    """True if the server has a connection left."""
    with connected(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nconnection: close\r\n" + HOST + b"\r\n")
        return connection.recv(65_536).startswith(b"HTTP/1.1 200 ")


def is_served_within(address: tuple[str, int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not is_served(address):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("header", [b"", b"connection: close\r\n"], ids=["kept", "closed"])
@pytest.mark.parametrize("requests", [1, 3])
def test_a_caller_that_does_not_read_its_answer_loses_its_connection(
    monkeypatch: pytest.MonkeyPatch, loop: str, header: bytes, requests: int
) -> None:
    monkeypatch.setattr(write_timer, "SECONDS", 1.0)
    with served(app, loop=loop, limit_concurrency=1) as address, connected(address) as connection:
        connection.sendall((b"GET /large HTTP/1.1\r\n" + header + HOST + b"\r\n") * requests)
        assert not is_served(address)
        assert is_served_within(address, 20.0)
        ends = select.poll()
        ends.register(connection, select.POLLHUP)
        assert ends.poll(15_000)  # the kernel holds nothing for it either


def test_a_websocket_behind_an_answer_that_is_not_read_waits_for_it() -> None:
    sent.clear()
    with served(app, ws=WebSocketProtocol) as address, connected(address) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n")
        assert connection.recv(12) == b"HTTP/1.1 200"  # all of it is written now
        nonce = b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        connection.sendall(b"GET / HTTP/1.1\r\n" + HOST + UPGRADE + nonce + b"\r\n")
        time.sleep(0.2)
        assert sent == []
        received = 12
        while received < LARGE + MESSAGES * 100_000:
            received += len(connection.recv(1_000_000))
        assert len(sent) == MESSAGES


def test_what_is_left_of_an_answer_is_not_held_for_ever_by_an_idle_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of it is too little for the server to stop writing."""
    monkeypatch.setattr(write_timer, "SECONDS", 0.5)
    with (
        served(app, limit_concurrency=1, timeout_keep_alive=1) as address,
        connected(address) as connection,
    ):
        connection.sendall(b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n")
        taken = 0
        while taken < LARGE - 3_000_000:  # the kernel has most of the rest by now
            taken += len(connection.recv(65_536))
        assert is_served_within(address, 20.0)


def test_a_caller_that_reads_slowly_gets_the_whole_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_timer, "SECONDS", 1.0)
    monkeypatch.setattr(write_timer, "LEAST", 4096)
    with served(app) as address, connected(address) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nconnection: close\r\n" + HOST + b"\r\n")
        size, began = 0, time.monotonic()
        while chunk := connection.recv(65_536):
            size += len(chunk)
            time.sleep(0.005 if time.monotonic() - began < 2.2 else 0)
        assert size > LARGE
        assert time.monotonic() - began > 2.0


def test_a_body_that_does_not_end_behind_its_answer_ends_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "_REST_SECONDS", 0.5)
    with served(app, limit_concurrency=1) as address, connected(address) as connection:
        connection.sendall(b"POST /early HTTP/1.1\r\ncontent-length: 1000000000\r\n" + HOST + b"\r\n{")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 401 ")
        began = time.monotonic()
        with pytest.raises(OSError, match=r"reset|pipe"):
            while time.monotonic() - began < 20:
                connection.sendall(b" ")
                time.sleep(0.05)
        assert is_served_within(address, 20.0)


def test_a_connection_goes_on_when_a_body_ends_behind_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "_REST_SECONDS", 2.0)
    with served(app, limit_concurrency=1) as address, connected(address) as connection:
        connection.sendall(b"POST /early HTTP/1.1\r\ncontent-length: 3\r\n" + HOST + b"\r\n{")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 401 ")
        connection.sendall(b" }")
        time.sleep(2.3)
        connection.sendall(b"POST / HTTP/1.1\r\ncontent-length: 3\r\n" + HOST + b"\r\n{ }")
        assert connection.recv(65_536).endswith(b"{ }")


def test_a_connection_that_is_idle_after_such_a_body_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "_HEAD_SECONDS", 0.5)
    with served(app, limit_concurrency=1) as address, connected(address) as connection:
        connection.sendall(b"POST /early HTTP/1.1\r\ncontent-length: 3\r\n" + HOST + b"\r\n{")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 401 ")
        connection.sendall(b" }")
        assert connection.recv(65_536) == b""
        assert is_served_within(address, 20.0)


GET_STREAM = b"GET /stream HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST /echo HTTP/1.1\r\n" + HOST
WHOLE_STREAM = b"".join(b"3\r\n<%d>\r\n" % number for number in range(5)) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("requests", "answered"),
    [
        (GET_STREAM + NO_HTTP, 1),
        (GET_STREAM + GET_STREAM + NO_HTTP, 2),
        (GET_STREAM + POST + b"content-length: 5\r\n\r\nhello" + NO_HTTP, 2),
        (GET_STREAM + POST + b"transfer-encoding: chunked\r\n\r\nhello\r\n", 1),
        (GET_STREAM + GET_STREAM + POST + b"transfer-encoding: chunked\r\n\r\nhello\r\n", 2),
        (POST + b"transfer-encoding: chunked\r\n\r\nhello\r\n", 0),
    ],
)
def test_a_refusal_stands_behind_the_answers_to_the_requests_before(requests: bytes, answered: int) -> None:
    with served(app) as address, connected(address) as connection:
        connection.sendall(requests)
        received = rest(connection)
    before, separator, refusal = received.rpartition(b"HTTP/1.1 400 ")
    assert separator, received
    assert json.loads(refusal.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_request"
    assert before.count(b"HTTP/1.1 200 ") == answered
    assert before.count(WHOLE_STREAM) == requests.count(GET_STREAM)
    assert before.count(b"HTTP/1.1 ") == answered
