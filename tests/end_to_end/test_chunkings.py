"""Streams come through byte for byte, however the network cuts them; `make bench-chunkings` sends ten thousand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from bench.chunkings import pass_through, upstream
from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.gateway_process import Edge
from tests.harness.system import System, system

STREAMS = 300


WHOLE = b'data: {"choices":[{"index":0,"delta":{"content":"whole"}}]}\n\n'
BROKEN = b'data: {"choices":[{"index":0,"delta":{"content":"broken '


@asynccontextmanager
async def gateway_for(url: str, edge: Edge, azurite: Azurite, simulator: SimulatorProcess) -> AsyncIterator[System]:
    """A gateway whose one backend is `url`."""
    backend = {"name": "one", "endpoint": url, "region": "one", "models": {"m": "m"}}
    settings = {"backends": [{**backend, "auth": {"api_key_env": "JAPAN_KEY"}}]}
    opened = system(edge, settings, simulator, azurite.connection_string)
    gateway = await asyncio.to_thread(opened.__enter__)
    try:
        yield gateway
        gateway.assert_no_defect()
    finally:
        await asyncio.to_thread(opened.__exit__, None, None, None)


async def test_streams_in_random_pieces_arrive_byte_for_byte(
    edge: Edge, azurite: Azurite, simulator: SimulatorProcess
) -> None:
    async with upstream() as (running, url), gateway_for(url, edge, azurite, simulator) as gateway:
        headers = {"authorization": f"Bearer {gateway.key}"}
        passages = await pass_through(f"{gateway.url}/v1", headers, running, range(STREAMS))
    assert sum(not passage.same for passage in passages) == 0
    assert len(passages) == STREAMS


@asynccontextmanager
async def breaking_off(after: bytes) -> AsyncIterator[str]:
    """A backend that closes the connection after these bytes of a stream."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head + b"%x\r\n%b\r\n" % (len(after), after))
        await writer.drain()
        await asyncio.sleep(0.5)  # a connection that is closed at once may take its last bytes along
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("length", [20, 100_000])
async def test_a_stream_that_breaks_off_inside_an_event_is_never_taken_for_whole(
    edge: Edge, azurite: Azurite, simulator: SimulatorProcess, length: int
) -> None:
    broken = BROKEN + b"x" * length
    received = b""
    async with breaking_off(WHOLE + broken) as url, gateway_for(url, edge, azurite, simulator) as gateway:
        body = {"model": "m", "messages": [], "stream": True}
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"{gateway.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {gateway.key}"}
            ) as answer,
        ):
            try:
                async for piece in answer.content.iter_any():
                    received += piece
                closed_early = False
            except aiohttp.ClientPayloadError:
                closed_early = True
    if length > 65_536:
        assert (received, closed_early) == (WHOLE + broken, True)
    else:
        assert received.startswith(WHOLE + b'data: {"error":{')
        assert received.endswith(b"}}\n\n")
        assert closed_early  # so that clients that ignore the error event see a broken transfer
