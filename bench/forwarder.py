"""The baseline: a bare aiohttp forwarder. It passes on requests and responses with their headers and does nothing else:
no keys, limits, failover or accounting.

python -m bench.forwarder PORT UPSTREAM asyncio|uvloop
"""

import sys

import aiohttp
import uvloop
from aiohttp import web

# Headers of one connection (RFC 9110, 7.6.1). aiohttp sets the lengths.
HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host", "content-length"}


async def make_app(upstream: str) -> web.Application:
    session = aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(limit=0))

    async def forward(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        async with session.post(upstream + request.path_qs, data=body, headers=headers) as answer:
            headers = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
            if answer.content_type != "text/event-stream":
                return web.Response(status=answer.status, body=await answer.read(), headers=headers)
            out = web.StreamResponse(status=answer.status, headers=headers)
            await out.prepare(request)
            async for chunk in answer.content.iter_any():
                await out.write(chunk)
            await out.write_eof()
            return out

    async def close(_: web.Application) -> None:
        await session.close()

    app = web.Application()
    app.router.add_post("/{path:.*}", forward)
    app.on_cleanup.append(close)
    return app


if __name__ == "__main__":
    port, upstream, loop = sys.argv[1:]
    web.run_app(
        make_app(upstream),
        host="127.0.0.1",
        port=int(port),
        access_log=None,
        print=lambda _: None,
        loop=uvloop.new_event_loop() if loop == "uvloop" else None,
    )
