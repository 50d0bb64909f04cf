"""Backends that break the protocol of WebSockets: the connection ends for the caller, and nothing is a defect."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import WSMsgType, web
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.harness import in_process
from tests.harness.in_process import Tables
from tests.harness.sockets import listening


@asynccontextmanager
async def backend(first: bytes) -> AsyncIterator[str]:
    """The address of a backend whose first text frame has these bytes."""

    async def answer(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        assert socket._writer is not None
        await socket._writer.send_frame(first, WSMsgType.TEXT)
        await socket.receive()
        return socket

    app = web.Application()
    app.router.add_get("/openai/v1/realtime", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_text_that_is_not_utf_8_is_the_backends_fault(caplog: pytest.LogCaptureFixture) -> None:
    tables = Tables()
    async with backend(b'{"type":"session.created"\xff}') as endpoint:
        own = {"name": "a", "endpoint": endpoint, "region": "a", "auth": {"api_key_env": "K"}}
        async with in_process.gateway(tables, [{**own, "models": {"gpt-realtime": "gpt-realtime"}}]) as application:
            server, task = await listening(application, None)
            host, port = server.servers[0].sockets[0].getsockname()
            key = await in_process.key(tables)
            try:
                with caplog.at_level(logging.WARNING), pytest.raises(ConnectionClosed) as closed:
                    headers = {"authorization": f"Bearer {key}"}
                    url = f"ws://{host}:{port}/v1/realtime?model=gpt-realtime"
                    async with connect(url, additional_headers=headers, compression=None) as connection:
                        await connection.recv()
            finally:
                server.should_exit = True
                await task
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1011, "the backend sent a text that is not UTF-8")
    assert "defect" not in caplog.text
