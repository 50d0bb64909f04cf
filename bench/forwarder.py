"""The yardstick: the least that an aiohttp program can do to pass a call on. No keys, no limits, no accounts.

python -m bench.forwarder PORT UPSTREAM asyncio|uvloop
"""

import sys

import aiohttp
import uvloop
from aiohttp import web


async def make_app(upstream: str) -> web.Application:
    session = aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(limit=0))

    async def forward(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {"content-type": "application/json", "api-key": request.headers["api-key"]}
        async with session.post(upstream + request.path_qs, data=body, headers=headers) as answer:
            if answer.content_type != "text/event-stream":
                return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)
            out = web.StreamResponse(status=answer.status, headers={"content-type": answer.headers["content-type"]})
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
