"""The connections of one client address: those of the container edge, and the calls behind a proxy."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from shared.edges import http_protocol
from tests.harness.patience import eventually
from tests.harness.sockets import Served, served

MOST = 3
MANAGEMENT_KEY = "m" * 40
BEHIND_A_PROXY = {"client_address": {"header": "x-forwarded-for"}}
UNFINISHED = b"content-length: 9\r\n\r\n{"
ALICE, BOB = "198.51.100.1", "203.0.113.2"


class Connection:
    """A raw connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, key: str, caller: str, rest: bytes) -> None:
        """Send the head of a call, with the address that a proxy saw."""
        head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\napi-key: {key}\r\nx-forwarded-for: {caller}\r\n"
        self._writer.write(head.encode() + rest)

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = head.strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = await self._reader.readexactly(int(headers["content-length"]))
        return int(status.split(" ")[1]), headers, json.loads(body)

    def is_closed(self) -> bool:
        """True if the gateway takes nothing more: it has not only ended its own side."""
        self._writer.write(b"x")
        return self._writer.is_closing()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


@contextlib.asynccontextmanager
async def gateway(**document: Any) -> AsyncIterator[Served]:
    async with served(limits={"addresses": {"connections": MOST}}, **document) as running:
        yield running


async def opened(running: Served, source: str = "127.0.0.1") -> Connection:
    """A connection from an address of this machine."""
    place = urlsplit(running.url)
    return Connection(*await asyncio.open_connection(place.hostname, place.port, local_addr=(source, 0)))


async def status(running: Served, source: str = "127.0.0.1", caller: str = "") -> int:
    """The status of a call without a valid key on a connection of its own."""
    connection = await opened(running, source)
    connection.send("tg_no", caller, b"content-length: 2\r\nconnection: close\r\n\r\n{}")
    code, _, _ = await connection.answer()
    await connection.close()
    return code


def socket(running: Served, key: str, caller: str = "") -> connect:
    headers = {"authorization": f"Bearer {key}", "x-forwarded-for": caller}
    return connect(f"{running.url}/v1/responses", additional_headers=headers, proxy=None)


def held_by(running: Served, address: str) -> int:
    return running.application.connections.held.get(address, 0)


async def limits_of(running: Served) -> dict[str, Any]:
    """The state of the limits, asked for from another address."""
    headers, url = {"authorization": f"Bearer {MANAGEMENT_KEY}"}, running.url.replace("ws", "http", 1)
    connector = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
    async with (
        aiohttp.ClientSession(connector=connector, headers=headers) as session,
        session.get(f"{url}/gateway/limits") as answer,
    ):
        return dict(await answer.json())


async def test_an_address_has_so_many_connections_and_others_are_served() -> None:
    async with gateway() as running:
        held = [await opened(running) for _ in range(MOST)]
        await eventually(lambda: held_by(running, "127.0.0.1") == MOST)
        one_more = await opened(running)
        code, headers, body = await one_more.answer()  # before it has sent anything
        assert (code, headers["retry-after"], headers["connection"]) == (429, "1", "close")
        assert body["error"]["code"] == "rate_limit_exceeded"
        assert f"has {MOST} connections" in body["error"]["message"]
        assert await status(running, "127.0.0.2") == 401
        await held.pop().close()
        await eventually(lambda: held_by(running, "127.0.0.1") < MOST)
        assert await status(running) == 401
        for connection in (*held, one_more):
            await connection.close()
        await eventually(lambda: held_by(running, "127.0.0.1") == 0)


async def test_refused_connections_take_no_place_and_linger_in_small_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "_LINGER", 60.0)
    monkeypatch.setattr(http_protocol, "_MOST_LINGERING", 2)
    async with gateway() as running:
        held = [await opened(running) for _ in range(MOST)]
        await eventually(lambda: held_by(running, "127.0.0.1") == MOST)
        refused = [await opened(running) for _ in range(4)]
        for connection in refused:
            assert (await connection.answer())[0] == 429
        assert len(running.server.server_state.connections) == MOST
        assert len(http_protocol._lingering) == 2
        for connection in refused[2:]:
            await eventually(connection.is_closed)
        for connection in (*held, *refused):
            await connection.close()
        await eventually(lambda: not http_protocol._lingering)


async def test_refusals_are_counted_as_those_of_limits(caplog: pytest.LogCaptureFixture) -> None:
    async with gateway(management_key=MANAGEMENT_KEY) as running:
        held = [await opened(running) for _ in range(MOST)]
        await eventually(lambda: held_by(running, "127.0.0.1") == MOST)
        assert [await status(running) for _ in range(2)] == [429, 429]
        hits = [{"scope": "address", "limit": "connections", "calls": 2}]
        assert (await limits_of(running))["hits"] == hits
        for connection in held:
            await connection.close()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line for line in warnings if line.startswith("127.0.0.1 has 3 connections")] == warnings[-1:]


async def test_websockets_are_connections_of_their_address() -> None:
    async with gateway() as running:
        key = await running.key()
        held = [await socket(running, key) for _ in range(MOST)]
        with pytest.raises(InvalidStatus) as refused:
            await socket(running, key)
        assert refused.value.response.status_code == 429
        await held.pop().close()
        await eventually(lambda: held_by(running, "127.0.0.1") < MOST)
        assert await status(running) == 401
        for connection in held:
            await connection.close()
        await eventually(lambda: held_by(running, "127.0.0.1") == 0)


async def test_a_proxy_has_no_bound_and_its_callers_have() -> None:
    async with gateway(**BEHIND_A_PROXY) as running:
        key, held = await running.key(), [await opened(running) for _ in range(3 * MOST)]
        for connection in held[:MOST]:
            connection.send(key, ALICE, UNFINISHED)
        await eventually(lambda: held_by(running, ALICE) == MOST)
        assert await status(running, caller=ALICE) == 429
        assert await status(running, caller=f"{ALICE}, {BOB}") == 401  # the first entry is the caller's own
        held[-1].send(key, ALICE, UNFINISHED)
        assert (await held[-1].answer())[0] == 429
        for connection in held[:MOST]:
            await connection.close()
        await eventually(lambda: held_by(running, ALICE) < MOST)
        assert await status(running, caller=ALICE) == 401
        for connection in held[MOST:]:
            await connection.close()


async def test_websockets_behind_a_proxy_count_for_their_callers() -> None:
    async with gateway(**BEHIND_A_PROXY) as running:
        key = await running.key()
        held: list[ClientConnection] = [await socket(running, key, ALICE) for _ in range(MOST)]
        with pytest.raises(InvalidStatus) as refused:
            await socket(running, key, ALICE)
        assert refused.value.response.status_code == 429
        assert json.loads(refused.value.response.body)["error"]["code"] == "rate_limit_exceeded"
        async with socket(running, key, BOB):
            pass
        await held.pop().close()
        await eventually(lambda: held_by(running, ALICE) < MOST)
        assert await status(running, caller=ALICE) == 401
        for connection in held:
            await connection.close()
        await eventually(lambda: held_by(running, ALICE) == 0)


async def test_a_bound_of_0_is_none() -> None:
    async with served(limits={"addresses": {"connections": 0}}) as running:
        held = [await opened(running) for _ in range(2 * MOST)]
        assert await status(running) == 401
        for connection in held:
            await connection.close()
