"""HTTP/1.1 of the container edge, from raw sockets: what other stacks send, and what attackers do."""

import asyncio
import gc
import inspect
import itertools
import json
import logging
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from shared.edges import http_protocol
from shared.edges._joined_head import JoinedHead
from shared.edges.http_protocol import UVICORN_OPTIONS
from tests.harness.gateway_process import ROOT
from tests.harness.protocol_server import served
from tests.harness.system import eventually


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with what the app sees of a request; `/stream` in three pieces of unknown length."""
    request = Request(scope, receive)
    try:
        body = await request.body()
    except ClientDisconnect:
        return
    if scope["path"] == "/stream":

        async def pieces() -> Any:
            for number in range(3):
                yield f"data: {number}\n\n"
                await asyncio.sleep(0.01)

        await StreamingResponse(pieces(), media_type="text/event-stream")(scope, receive, send)
        return
    if scope["path"] == "/late":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await asyncio.sleep(1.0)
        await send({"type": "http.response.body", "body": b"late"})
        return
    seen = {"method": scope["method"], "path": scope["path"], "body": body.decode("latin-1")}
    seen["headers"] = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
    await JSONResponse(seen)(scope, receive, send)


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    with served(echo) as place:
        yield place


def exchange(address: tuple[str, int], *pieces: bytes) -> bytes:
    """Everything that the server sends until it closes the connection."""
    with socket.create_connection(address, timeout=10) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.02)
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
    return received


def parsed(answer: bytes) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON body of one answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    return int(status.split()[1]), {name.lower(): value for name, _, value in pairs}, json.loads(body)


CLOSE = b"host: x\r\nconnection: close\r\n"
H2C = b"host: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
LAST = b"GET /last HTTP/1.1\r\n" + CLOSE + b"\r\n"


def id_of(headers: dict[str, str], body: Any) -> str:
    """The id of a refusal, which stands in its message and its headers alike."""
    request_id = headers["x-request-id"]
    assert request_id == headers["x-gateway-request-id"] == headers["apim-request-id"]
    assert body["error"]["message"].endswith(f" (request {request_id})")
    return request_id


def answers(received: bytes) -> list[Any]:
    """The JSON bodies of answers that follow each other on one connection."""
    bodies = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().split("\r\n")
        length = next(int(line.partition(": ")[2]) for line in lines if line.startswith("content-length"))
        bodies.append(json.loads(rest[:length]))
        received = rest[length:]
    return bodies


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(
    ("framing", "sent"),
    [(b"content-length: 5\r\n", b"hello"), (b"transfer-encoding: chunked\r\n", b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")],
)
def test_an_offer_of_h2c_is_ignored_and_the_body_kept(
    address: tuple[str, int], framing: bytes, sent: bytes, *, split: bool
) -> None:
    """Java's default client offers it with every first request; the connection goes on with HTTP/1.1."""
    head = b"POST /first HTTP/1.1\r\n" + H2C + framing + b"\r\n"
    pieces = [head, sent[:3], sent[3:], LAST] if split else [head + sent + LAST]
    first, last = answers(exchange(address, *pieces))
    assert (first["method"], first["path"], first["body"]) == ("POST", "/first", "hello")
    assert first["headers"]["upgrade"] == "h2c"
    assert (last["path"], last["body"]) == ("/last", "")


def test_a_websocket_reaches_the_app_as_http(address: tuple[str, int]) -> None:
    upgrade = b"host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    request = b"GET /v1/realtime HTTP/1.1\r\n" + upgrade + b"Sec-WebSocket-Version: 13\r\n\r\n"
    first, last = answers(exchange(address, request, LAST))
    assert (first["method"], first["path"], first["headers"]["upgrade"]) == ("GET", "/v1/realtime", "websocket")
    assert last["path"] == "/last"


@pytest.mark.parametrize("split", [False, True])
def test_trailers_never_become_headers(address: tuple[str, int], *, split: bool) -> None:
    head = b"POST / HTTP/1.1\r\n" + CLOSE + b"transfer-encoding: chunked\r\ntrailer: x-forwarded-for\r\n\r\n"
    trailer = b"X-Forwarded-For: 10.0.0.1\r\nAuthorization: Bearer stolen\r\n\r\n"
    chunks = b"5\r\nhello\r\n0\r\n"
    pieces = [head, chunks, trailer] if split else [head + chunks + trailer]
    status, _, seen = parsed(exchange(address, *pieces))
    assert (status, seen["body"]) == (200, "hello")
    assert not {"x-forwarded-for", "authorization"} & seen["headers"].keys()


def test_http_1_0_gets_no_chunks(address: tuple[str, int]) -> None:
    received = exchange(address, b"GET /stream HTTP/1.0\r\n\r\n")
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
    status, headers, seen = parsed(exchange(address, b"POST / HTTP/1.0\r\ncontent-length: 2\r\n\r\n{}"))
    assert (status, headers["connection"], seen["body"]) == (200, "close", "{}")
    newer = exchange(address, b"GET /stream HTTP/1.1\r\n" + CLOSE + b"\r\n")
    assert b"transfer-encoding: chunked" in newer.lower()
    assert newer.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_head_comes_with_its_body_but_does_not_wait_for_one(loop: str) -> None:
    with served(echo, loop=loop) as address, socket.create_connection(address, timeout=10) as connection:
        for _ in range(50):
            connection.sendall(LAST.replace(CLOSE, b""))
            head, _, body = connection.recv(65_536).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            assert body.endswith(b"}"), body
        connection.sendall(b"GET /late HTTP/1.1\r\n\r\n")
        assert connection.recv(65_536).endswith(b"content-length: 4\r\n\r\n")
        assert connection.recv(65_536) == b"late"
        connection.sendall(b"HEAD /last HTTP/1.1\r\n" + CLOSE + b"\r\n")
        assert connection.recv(65_536).endswith(b"connection: close\r\n\r\n")
        assert connection.recv(65_536) == b""


HEADS = {
    "a long header": b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"x" * 33_000 + b"\r\n\r\n",
    "a long path": b"GET /" + b"x" * 33_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 101 + b"\r\n",
    "many headers with a body": b"POST / HTTP/1.1\r\ncontent-length: 2\r\n" + b"a: b\r\n" * 101 + b"\r\n{}",
    "a header without an end": b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"x" * 33_000,
    "a path without an end": b"GET /" + b"x" * 33_000,
    "empty lines without an end": b"\r\n" * 17_000,
    "trailers without an end": b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\na: "
    + b"x" * 600_000,
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("size", [1000, 10**9])
def test_a_head_that_is_too_large_is_refused(address: tuple[str, int], name: str, size: int) -> None:
    with socket.create_connection(address, timeout=10) as connection:
        try:
            for start in range(0, len(HEADS[name]), size):
                connection.sendall(HEADS[name][start : start + size])
        except (BrokenPipeError, ConnectionResetError):
            pytest.fail("the connection was closed before the refusal was read")
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
    status, headers, body = parsed(received)
    assert (status, body["error"]["code"], headers["connection"]) == (431, "head_too_large", "close")
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert id_of(headers, body)


def test_heads_below_the_bounds_pass(address: tuple[str, int]) -> None:
    lines = b"".join(b"x-%d: %s\r\n" % (number, b"x" * 300) for number in range(97))
    body = b"x" * 300_000
    request = b"POST / HTTP/1.1\r\n" + CLOSE + lines + b"content-length: 300000\r\n\r\n" + body
    status, _, seen = parsed(exchange(address, request))
    assert (status, len(seen["body"]), len(seen["headers"])) == (200, 300_000, 100)


def test_a_pipeline_is_bounded(address: tuple[str, int]) -> None:
    late, one = b"GET /late HTTP/1.1\r\nhost: x\r\n\r\n", b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n"
    waiting = [one % number for number in range(1000)]
    received = exchange(address, late + b"".join(waiting))
    _, _, rest = received.partition(b"late")
    *answered, refusal = answers(rest)
    assert [seen["path"] for seen in answered] == [f"/{number}" for number in range(16)]
    assert "at most 16" in refusal["error"]["message"]
    allowed = exchange(address, late + b"".join(waiting[:15]) + LAST)
    assert [seen["path"] for seen in answers(allowed.partition(b"late")[2])][-2:] == ["/14", "/last"]


@pytest.mark.parametrize("framing", [b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n"])
def test_a_caller_who_waits_to_be_told_to_go_on_is_told(address: tuple[str, int], framing: bytes) -> None:
    """curl waits so with bodies above 1 MB, and .NET and Java if they are asked to."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(b"POST /waits HTTP/1.1\r\n" + CLOSE + b"expect: 100-continue\r\n" + framing + b"\r\n")
        assert connection.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hello" if b"length" in framing else b"5\r\nhello\r\n0\r\n\r\n")
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
    status, _, body = parsed(received)
    assert (status, body["path"], body["body"]) == (200, "/waits", "hello")


def test_what_stands_in_for_the_transport_has_all_that_uvicorn_uses_of_it() -> None:
    used = set(re.findall(r"self\.transport\.(\w+)", inspect.getsource(RequestResponseCycle)))
    assert used >= {"write", "close", "is_closing"}
    assert used <= set(dir(JoinedHead))


@pytest.mark.parametrize("access_log", [False, True])
@pytest.mark.parametrize("path", ["/", "/stream", "/late", "/own"])
def test_a_call_leaves_no_work_for_the_garbage_collector(path: str, *, access_log: bool) -> None:
    """`shared/asgi.py` has it collect seldom."""

    def alive() -> int:
        return sum(isinstance(one, RequestResponseCycle | JoinedHead) for one in gc.get_objects())

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/own":
            await echo(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": b""})

    gc.collect()
    gc.disable()
    try:
        with served(app, access_log=access_log) as address:
            for _ in range(20):
                exchange(address, f"GET {path} HTTP/1.1\r\n".encode() + CLOSE + b"\r\n")
            assert alive() < 10
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "header",
    [
        (b"x y", b"b"),
        (b"x:", b"b"),
        (b"a", b"b\r\nc: d"),
        (b"a", b"b\n"),
        (b"a\r", b"b"),
        (b"a", b"\0"),
        (b"a", b"\x7f"),
    ],
)
def test_a_header_that_would_not_stay_one_never_leaves(header: tuple[bytes, bytes]) -> None:
    async def careless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [header]})
        await send({"type": "http.response.body", "body": b"{}"})

    with served(careless) as address:
        received = exchange(address, LAST)
    assert received.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert received.count(b"HTTP/1.1") == 1
    assert b"\r\nc: d" not in received


@pytest.mark.parametrize(
    ("method", "status", "headers", "framing"),
    [
        (b"GET", 200, [(b"Content-Length", b"2")], [b"Content-Length: 2"]),
        (b"GET", 200, [], [b"transfer-encoding: chunked"]),
        (b"GET", 204, [], []),
        (b"GET", 304, [], []),
        (b"HEAD", 200, [], []),
        (b"HEAD", 200, [(b"content-length", b"9")], [b"content-length: 9"]),
    ],
)
def test_the_head_of_a_response_says_how_its_body_ends(
    method: bytes, status: int, headers: list[tuple[bytes, bytes]], framing: list[bytes]
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if status != 200 else b"{}"})

    with served(app) as address, socket.create_connection(address, timeout=10) as connection:
        connection.sendall(method + b" / HTTP/1.1\r\nhost: x\r\n\r\n")
        connection.sendall(method + b" / HTTP/1.1\r\n" + CLOSE + b"\r\n")
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
    heads = [one.partition(b"\r\n\r\n")[0].split(b"\r\n") for one in received.split(b"HTTP/1.1 ")[1:]]
    own = [[line for line in head[1:] if not line.startswith((b"date", b"server"))] for head in heads]
    assert [int(head[0].split()[0]) for head in heads] == [status, status]
    assert own == [framing, [*framing, b"connection: close"]]


def test_what_is_not_http_is_a_bad_request(address: tuple[str, int]) -> None:
    status, headers, body = parsed(exchange(address, b"hello\r\n\r\n"))
    assert (status, body["error"]["code"], headers["connection"]) == (400, "invalid_request", "close")


def test_a_refusal_of_the_server_itself_has_an_id_that_stands_in_the_log(
    address: tuple[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "tollgate.requests"):
        ids = [id_of(*parsed(exchange(address, b"hello\r\n\r\n"))[1:]) for _ in range(2)]
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "tollgate.requests"]
    assert lines == [{"request": one, "status": 400, "code": "invalid_request"} for one in ids]
    assert len({*ids}) == 2


def test_a_head_that_does_not_arrive_in_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "_HEAD_SECONDS", 0.3)
    with served(echo) as address:
        for pieces in [(b"GET / HT",), (b"GET / HTTP/1.1\r\n", b"a: b\r\n", b"c: "), (b"\r\n",)]:
            started = time.monotonic()
            status, headers, body = parsed(exchange(address, *pieces))
            assert id_of(headers, body)
            assert (status, body["error"]["code"]) == (408, "request_timeout")
            assert time.monotonic() - started < 20
        assert exchange(address) == b""  # nothing was asked, so nothing is answered
        second = exchange(address, b"GET /first HTTP/1.1\r\nhost: x\r\n\r\n", b"GET / HT")
        assert second.count(b"HTTP/1.1 ") == 2
        assert b"HTTP/1.1 408 " in second


def test_connections_beyond_the_limit_are_refused() -> None:
    with served(echo, limit_concurrency=3) as address:
        held = [socket.create_connection(address, timeout=10) for _ in range(3)]
        held[0].sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert held[0].recv(65_536).startswith(b"HTTP/1.1 200 ")
        status, headers, body = parsed(exchange(address))
        assert (status, body["error"]["code"], headers["retry-after"]) == (503, "too_many_connections", "1")
        assert id_of(headers, body)
        for connection in held:
            connection.close()
        eventually(lambda: parsed(exchange(address, LAST))[0] == 200)


def test_idle_connections_live_longer_than_those_of_the_pools_in_front() -> None:
    options = dict(itertools.pairwise(UVICORN_OPTIONS))
    assert int(options["--timeout-keep-alive"]) > 120  # Application Gateway's pool
    seconds = int(options["--timeout-keep-alive"])
    with (
        served(echo, timeout_keep_alive=seconds) as address,
        socket.create_connection(address, timeout=10) as connection,
    ):
        for wait in (0.0, 6.0):  # uvicorn's own limit is 5 s
            time.sleep(wait)
            connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_the_container_runs_with_these_options() -> None:
    command = (ROOT / "Dockerfile").read_text().rpartition("CMD ")[2].replace("\\\n", "")
    words = json.loads(command)
    assert words[:4] == ["python", "-m", "uvicorn", "shared.asgi:app"]
    assert " ".join(UVICORN_OPTIONS) in " ".join(words)
