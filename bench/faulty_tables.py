"""A failing table service: a proxy for Azurite that rejects requests, loses answers and stalls, at given rates."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import msgspec
from aiohttp import web
from yarl import URL

from local.azurite import connection_string
from local.processes import free_port

_HOP = frozenset(("transfer-encoding", "connection", "content-length", "keep-alive"))


class Faults(msgspec.Struct, frozen=True):
    """Shares of requests: rejected with 500, executed but their answer lost, or delayed by `seconds`."""

    refused: float = 0.10
    lost: float = 0.10
    stalled: float = 0.05
    seconds: float = 2.0


class FaultyTables:
    """The proxy: `done` counts its requests by outcome; `connection_string` points to it."""

    def __init__(self, port: int) -> None:
        self.connection_string = connection_string({"table": port})
        self.done: Counter[str] = Counter()


@asynccontextmanager
async def faulty_tables(
    upstream: int, faults: Faults, seed: int, concerned: Callable[[web.BaseRequest], bool] = lambda _: True
) -> AsyncIterator[FaultyTables]:
    """Run a proxy for the Azurite on port `upstream`. `concerned`: the requests that may fail."""
    chance = random.Random(seed)
    port = free_port()
    tables = FaultyTables(port)
    # Added headers that the signature does not cover, such as Content-Type, would invalidate it.
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        auto_decompress=False,
        skip_auto_headers=("Content-Type", "User-Agent", "Accept", "Accept-Encoding"),
    ) as session:

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            body, die = await request.read(), chance.random() if concerned(request) else 1.0
            if die < faults.refused:
                tables.done["refused"] += 1
                return web.Response(status=500, text="rejected by the proxy")
            if faults.refused + faults.lost <= die < faults.refused + faults.lost + faults.stalled:
                tables.done["stalled"] += 1
                await asyncio.sleep(faults.seconds)
                if request.transport is None or request.transport.is_closing():  # whoever asked is gone
                    return web.Response(status=500)
            url = URL(f"http://127.0.0.1:{upstream}{request.raw_path}", encoded=True)
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
            async with session.request(request.method, url, data=body or None, headers=headers) as answer:
                content = await answer.read()
            if faults.refused <= die < faults.refused + faults.lost:
                tables.done["lost"] += 1
                assert request.transport is not None
                request.transport.abort()
            else:
                tables.done["passed"] += 1
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
            return web.Response(status=answer.status, body=content, headers=kept)

        runner = web.ServerRunner(web.Server(handle))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield tables
        finally:
            await runner.cleanup()
