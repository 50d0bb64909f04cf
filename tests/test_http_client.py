"""The client for requests at hand, on real sockets: its bytes, its connections and its errors."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import aiohttp
import pytest

from shared.http_client import HttpClient, read_some
from tests.harness.patience import eventually

NO_LIMIT = aiohttp.ClientTimeout(None)
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 2\r\n\r\n{}"


class Server(NamedTuple):
    """Answers each request with the next of `answers`, the last one from then on; b"" ends the connection."""

    origin: str
    answers: list[bytes]
    heads: list[bytes]
    bodies: list[bytes]
    connections: list[asyncio.StreamWriter]


@asynccontextmanager
async def serving(*answers: bytes) -> AsyncIterator[Server]:
    left, heads, bodies, connections = list(answers), list[bytes](), list[bytes](), list[asyncio.StreamWriter]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                heads.append(head)
                length = [int(line.split(b":")[1]) for line in head.splitlines() if line.startswith(b"content-length")]
                bodies.append(await reader.readexactly(sum(length)))
                if not (answer := left.pop(0) if len(left) > 1 else left[0]):
                    break
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Server(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", left, heads, bodies, connections)
    finally:
        server.close()
        for writer in connections:
            writer.close()


@asynccontextmanager
async def client(*, force_close: bool = False) -> AsyncIterator[HttpClient]:
    connector = aiohttp.TCPConnector(limit=0, force_close=force_close)
    async with connector:
        yield HttpClient(connector)


async def test_a_request_is_written_as_it_is_given() -> None:
    async with serving(WHOLE) as server, client() as http:
        response = await http.send(
            "POST", f"{server.origin}/a%2Fb?c=%20d", {"x-one": "ü", "x-two": ""}, b"body", NO_LIMIT
        )
        assert (response.status, response.content_type, await response.read()) == (200, "application/json", b"{}")
        host = server.origin.removeprefix("http://")
        assert server.heads == [
            f"POST /a%2Fb?c=%20d HTTP/1.1\r\nhost: {host}\r\nx-one: ü\r\nx-two: \r\ncontent-length: 4\r\n\r\n".encode()
        ]
        assert server.bodies == [b"body"]


@pytest.mark.parametrize(
    ("method", "length"), [("POST", b"content-length: 0\r\n"), ("DELETE", b"content-length: 0\r\n"), ("GET", b"")]
)
async def test_only_methods_with_a_body_say_that_they_have_none(method: str, length: bytes) -> None:
    async with serving(WHOLE) as server, client() as http:
        await (await http.send(method, server.origin, {}, b"", NO_LIMIT)).read()
        host = server.origin.removeprefix("http://").encode()
        assert server.heads == [method.encode() + b" / HTTP/1.1\r\nhost: " + host + b"\r\n" + length + b"\r\n"]


@pytest.mark.parametrize(
    "headers", [{"a": "b\r\nc: d"}, {"a": "b\nc: d"}, {"a\r\nb": "c"}, {"a": "b\rc"}, {"a": "b\0"}]
)
async def test_a_header_that_would_not_stay_one_is_refused_before_anything_is_sent(headers: dict[str, str]) -> None:
    async with serving(WHOLE) as server, client() as http:
        with pytest.raises(ValueError, match="line break or another control"):
            await http.send("GET", server.origin, headers, b"", NO_LIMIT)
        assert server.connections == []


@pytest.mark.parametrize("path", ["/\0a", "/a\x0b", "/a b", "/a\x7f"])
async def test_an_address_that_would_not_stay_one_is_refused(path: str) -> None:
    async with serving(WHOLE) as server, client() as http:
        with pytest.raises(ValueError, match="control character"):
            await http.send("GET", server.origin + path, {}, b"", NO_LIMIT)
        assert server.connections == []


async def test_a_closed_connector_sends_nothing() -> None:
    async with serving(WHOLE) as server:
        async with client() as http:
            pass
        with pytest.raises(aiohttp.ClientConnectionError, match="closed"):
            await http.send("GET", server.origin, {}, b"", NO_LIMIT)
        assert server.connections == []


async def test_a_response_that_nobody_asked_for_answers_no_request() -> None:
    unasked = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 5\r\n\r\nSTALE"
    async with serving(WHOLE) as server, client() as http:
        await (await http.send("GET", server.origin, {}, b"", NO_LIMIT)).read()
        server.connections[0].write(unasked)
        (pooled,) = (connection for pool in http._connector._conns.values() for connection, _ in pool)
        await eventually(lambda: pooled.should_close)
        response = await http.send("GET", server.origin, {}, b"", NO_LIMIT)
        assert (response.status, await response.read()) == (200, b"{}")
        assert len(server.connections) == 2


async def test_a_request_that_is_given_up_half_sent_ends_at_once() -> None:
    ended = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.5)  # the request is given up meanwhile
        with contextlib.suppress(ConnectionError):
            received = 0
            while chunk := await reader.read(1_000_000):
                received += len(chunk)
            assert received < 100_000_000
        ended.set()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0, limit=1024)
    async with client() as http:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
                await http.send("POST", address, {}, bytes(100_000_000), NO_LIMIT)
        await asyncio.wait_for(ended.wait(), 30)
    server.close()


async def test_a_body_of_any_size_arrives_whole() -> None:
    async with serving(WHOLE) as server, client() as http:
        for size in (65_535, 65_536, 65_537, 3_000_000):
            body = bytes(size)
            assert await (await http.send("PUT", server.origin, {}, body, NO_LIMIT)).read() == b"{}"
            assert server.bodies.pop() == body


async def test_a_connection_serves_one_request_after_the_other_once_each_body_was_read() -> None:
    async with serving(WHOLE) as server, client() as http:
        for _ in range(5):
            await (await http.send("POST", server.origin, {}, b"{}", NO_LIMIT)).read()
        assert len(server.connections) == 1


async def test_a_body_that_was_not_read_costs_its_connection() -> None:
    endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
    async with serving(endless) as server, client() as http:
        for end in ("close", "release"):
            response = await http.send("GET", server.origin, {}, b"", NO_LIMIT)
            assert await response.content.readany() == b"a"
            getattr(response, end)()
        (await http.send("GET", server.origin, {}, b"", NO_LIMIT)).close()
        assert len(server.connections) == 3


async def test_a_response_that_comes_before_the_end_of_its_request_costs_its_connection() -> None:
    connections: list[asyncio.StreamWriter] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")

    server = await asyncio.start_server(refuse, "127.0.0.1", 0, limit=1024)
    async with client() as http:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for _ in range(2):
            async with asyncio.timeout(30):
                response = await http.send("POST", address, {}, bytes(30_000_000), NO_LIMIT)
                assert (response.status, await response.read()) == (413, b"")
        assert len(connections) == 2
    for writer in connections:
        writer.transport.abort()
    server.close()


async def test_whoever_reads_a_response_that_is_closed_gets_an_error() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n") as server, client() as http:
        response = await http.send("GET", server.origin, {}, b"", NO_LIMIT)
        reading = asyncio.ensure_future(response.read())
        await asyncio.sleep(0)
        response.close()
        with pytest.raises(aiohttp.ClientConnectionError, match="Connection closed"):
            await reading


async def test_a_connection_of_its_own_is_announced_as_such() -> None:
    async with serving(WHOLE) as server, client(force_close=True) as http:
        for _ in range(2):
            await (await http.send("GET", server.origin, {}, b"", NO_LIMIT)).read()
        assert len(server.connections) == 2
        assert all(b"\r\nconnection: close\r\n" in head for head in server.heads)


async def test_early_hints_are_skipped() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    async with serving(hints + WHOLE) as server, client() as http:
        response = await http.send("GET", server.origin, {}, b"", NO_LIMIT)
        assert (response.status, await response.read()) == (200, b"{}")


async def test_a_response_without_a_body_ends_at_its_head() -> None:
    async with serving(b"HTTP/1.1 204 No Content\r\n\r\n") as server, client() as http:
        for _ in range(2):
            response = await http.send("DELETE", server.origin, {}, b"", NO_LIMIT)
            assert (response.status, response.content_type, await response.read()) == (
                204,
                "application/octet-stream",
                b"",
            )
        assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", aiohttp.ServerDisconnectedError),
        (b"220 mail.example ESMTP\r\n\r\n", aiohttp.ClientResponseError),
        (b"HTTP/1.1 200 OK\r\nA: " + bytes(9000) + b"\r\n\r\n", aiohttp.ClientResponseError),
    ],
)
async def test_a_connection_that_gives_no_response_is_an_error_and_is_not_used_again(
    answer: bytes, error: type[Exception]
) -> None:
    async with serving(answer, WHOLE) as server, client() as http:
        with pytest.raises(error):
            await http.send("POST", server.origin, {"authorization": "secret"}, b"{}", NO_LIMIT)
        assert await (await http.send("POST", server.origin, {}, b"{}", NO_LIMIT)).read() == b"{}"
        assert len(server.connections) == 2


async def test_a_body_that_breaks_off_is_an_error() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"") as server, client() as http:
        response = await http.send("GET", server.origin, {}, b"", NO_LIMIT)
        server.connections[0].close()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_what_came_before_a_break_is_read_first() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"") as server, client() as http:
        response = await http.send("GET", server.origin, {}, b"", NO_LIMIT)
        server.connections[0].transport.abort()
        await eventually(lambda: response.content.exception() is not None)
        assert await read_some(response.content) == b"half"
        with pytest.raises(aiohttp.ClientPayloadError):
            await read_some(response.content)
        response.close()


async def test_a_request_that_is_given_up_closes_its_connection() -> None:
    async with serving(b"HTTP/1.1 100 Continue\r\n\r\n", WHOLE) as server, client() as http:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await http.send("GET", server.origin, {}, b"", NO_LIMIT)
        await (await http.send("GET", server.origin, {}, b"", NO_LIMIT)).read()
        assert len(server.connections) == 2


async def test_it_says_when_a_request_is_about_to_be_written() -> None:
    noted: list[int] = []
    async with serving(WHOLE) as server, client() as http:
        await (await http.send("GET", server.origin, {}, b"", NO_LIMIT, lambda: noted.append(len(server.heads)))).read()
        assert noted == [0]
    async with client() as http:
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.send("GET", server.origin, {}, b"", NO_LIMIT, lambda: noted.append(-1))
    assert noted == [0]
