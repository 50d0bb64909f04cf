"""Large bodies are counted until their calls have ended, however these end."""

import asyncio
import json

import pytest

from tests.harness.in_process import Exchange, Reply, Tables, backend, call, chat, gateway, key
from tests.harness.patience import eventually

CHAT = "/v1/chat/completions"
MB = 1_000_000
BODY = {"model": "gpt-4o", "messages": [], "user": "x" * 900_000}  # no text whose tokens would be counted
FIT = 16 // 2  # bodies of one key: half of 16 times the largest


@pytest.mark.parametrize("ending", ["answered", "streamed", "hung up", "failed"])
async def test_the_bodies_of_calls_under_way_are_bounded_until_these_end(ending: str) -> None:
    tables, goes_on, left, at_backend = Tables(), asyncio.Event(), asyncio.Event(), asyncio.Semaphore(0)

    async def script(exchange: Exchange) -> None:
        if len(exchange.body) > MB // 2:
            at_backend.release()
            await goes_on.wait()
        if ending == "failed":
            exchange.answer(400, {"error": {"message": "no"}})
        elif ending == "streamed":
            exchange.stream()
            await exchange.event({"choices": [{"index": 0, "delta": {"content": "hi"}}]})
            await exchange.event("[DONE]")
            exchange.end()
        else:
            exchange.answer(200, chat())

    async with (
        backend("a", {"gpt-4o": "g"}, script) as one,
        gateway(tables, [one], max_request_bytes=MB) as application,
    ):
        ann, bob = await key(tables), await key(tables)
        data = json.dumps({**BODY, "stream": ending == "streamed"}).encode()
        pieces = [data[:500_000], data[500_000:]]

        async def ask(who: str, gone: asyncio.Event | None = None) -> Reply:
            return await call(application, who, CHAT, list(pieces), gone=gone)

        async def begun(who: str) -> "asyncio.Task[Reply]":
            task = asyncio.create_task(ask(who, left if ending == "hung up" else None))
            await asyncio.wait_for(at_backend.acquire(), 10)
            return task

        under_way = [await begun(ann) for _ in range(FIT)]
        refused = await ask(ann)
        assert (refused.status, json.loads(refused.body)["error"]["code"]) == (429, "rate_limit_exceeded")
        assert b"under way with this key" in refused.body
        small = await call(application, ann, CHAT, {"model": "gpt-4o", "messages": []})
        assert small.status == (400 if ending == "failed" else 200)
        under_way.append(await begun(bob))
        assert not any(task.done() for task in under_way)
        left.set() if ending == "hung up" else goes_on.set()
        await asyncio.wait_for(asyncio.gather(*under_way), 10)
        goes_on.set()
        again = await asyncio.wait_for(ask(ann), 10)
        assert again.status == (400 if ending == "failed" else 200)
        await eventually(lambda: not application._running.buffers.under_way.total)
