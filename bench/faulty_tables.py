"""A table service that fails: a proxy before Azurite that refuses, loses answers and stalls, as often as it is told."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import msgspec
from aiohttp import web
from yarl import URL

from local.azurite import connection_string
from local.processes import free_port

_HOP = frozenset(("transfer-encoding", "connection", "content-length", "keep-alive"))


class Faults(msgspec.Struct, frozen=True):
    """Shares of the requests: refused with 500 before they are done, done without an answer, done after `seconds`."""

    refused: float = 0.10
    lost: float = 0.10
    stalled: float = 0.05
    seconds: float = 2.0


class FaultyTables:
    """What the proxy did so far, by kind; `connection_string` leads to it."""

    def __init__(self, port: int) -> None:
        self.connection_string = connection_string({"table": port})
        self.done: Counter[str] = Counter()


@asynccontextmanager
async def faulty_tables(upstream: int, faults: Faults, seed: int) -> AsyncIterator[FaultyTables]:
    """A proxy before the Azurite on the port `upstream`."""
    chance = random.Random(seed)
    port = free_port()
    tables = FaultyTables(port)
    # A header that the signature does not know, such as a type of content where there is none, would void it.
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        auto_decompress=False,
        skip_auto_headers=("Content-Type", "User-Agent", "Accept", "Accept-Encoding"),
    ) as session:

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            body, die = await request.read(), chance.random()
            if die < faults.refused:
                tables.done["refused"] += 1
                return web.Response(status=500, text="the proxy says no")
            if faults.refused + faults.lost <= die < faults.refused + faults.lost + faults.stalled:
                tables.done["stalled"] += 1
                await asyncio.sleep(faults.seconds)
            url = URL(f"http://127.0.0.1:{upstream}{request.raw_path}", encoded=True)
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
            async with session.request(request.method, url, data=body or None, headers=headers) as answer:
                said = await answer.read()
            if faults.refused <= die < faults.refused + faults.lost:
                tables.done["lost"] += 1
                assert request.transport is not None
                request.transport.abort()
            else:
                tables.done["passed"] += 1
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
            return web.Response(status=answer.status, body=said, headers=kept)

        runner = web.ServerRunner(web.Server(handle))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield tables
        finally:
            await runner.cleanup()
