"""Backends that break the protocol of WebSockets: the connection ends for the caller, and nothing is a defect."""

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import WSMsgType, web
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.harness import in_process
from tests.harness.in_process import Tables
from tests.harness.sockets import listening


async def broken_text(socket: web.WebSocketResponse) -> None:
    assert socket._writer is not None
    await socket._writer.send_frame(b'{"type":"session.created"\xff}', WSMsgType.TEXT)
    await socket.receive()


async def without_lanes(socket: web.WebSocketResponse) -> None:
    """Answers two responses that are asked for at once, and names no lane."""
    asked = [await socket.receive_json() for _ in range(2)]
    for number, event in enumerate(asked):
        about = {"id": f"resp_{number}", "model": event["model"]}
        usage = {"input_tokens": 1, "output_tokens": number + 1, "total_tokens": number + 2}
        await socket.send_json({"type": "response.created", "response": about})
        await socket.send_json({"type": "response.completed", "response": {**about, "usage": usage}})
    await socket.receive()


@asynccontextmanager
async def backend(path: str, talk: Callable[[web.WebSocketResponse], Awaitable[None]]) -> AsyncIterator[str]:
    """The address of a backend that talks so on each connection."""

    async def answer(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await talk(socket)
        return socket

    app = web.Application()
    app.router.add_get(path, answer)
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
    async with backend("/openai/v1/realtime", broken_text) as endpoint:
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
    assert "unexpected error" not in caplog.text


async def test_responses_of_a_backend_without_lanes_are_those_that_were_asked_for() -> None:
    tables, models = Tables(), {"first": "first", "second": "second"}
    async with backend("/openai/v1/responses", without_lanes) as endpoint:
        own = {"name": "a", "endpoint": endpoint, "region": "a", "auth": {"api_key_env": "K"}, "models": models}
        async with in_process.gateway(tables, [own]) as application:
            server, task = await listening(application, None)
            host, port = server.servers[0].sockets[0].getsockname()
            headers = {"authorization": f"Bearer {await in_process.key(tables)}"}
            try:
                url = f"ws://{host}:{port}/v1/responses"
                async with connect(url, additional_headers=headers, compression=None) as connection:
                    for model in models:
                        create = {"type": "response.create", "stream_id": model, "model": model, "input": "x"}
                        await connection.send(json.dumps(create))
                    events = [json.loads(await connection.recv())["type"] for _ in range(4)]
            finally:
                server.should_exit = True
                await task
    assert events == ["response.created", "response.completed"] * 2
    booked = {(row["s_model"], row["e_output"]) for row in tables.usage().values() if "e_output" in row}
    assert booked == {("first", 1), ("second", 2)}
