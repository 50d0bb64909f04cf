"""Load: calls of one kind at a fixed concurrency, and their latency."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping

import aiohttp
import msgspec

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What does it cost to pass? " * 40}]}


class Place(msgspec.Struct, frozen=True):
    """Target of calls: the URL of chat completions and its credentials."""

    url: str
    headers: Mapping[str, str]


async def repeat(times: int, at_once: int, call: Callable[[], Awaitable[None]]) -> None:
    """Make `times` calls, `at_once` of them concurrently."""
    left = iter(range(times))

    async def worker() -> None:
        for _ in left:
            await call()

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(worker())


async def whole_answers(place: Place, times: int, at_once: int) -> None:
    """Make calls without streaming. Raises RuntimeError for a status other than 200."""
    body = msgspec.json.encode(CHAT)
    headers = {"content-type": "application/json", **place.headers}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def call() -> None:
            async with session.post(place.url, data=body, headers=headers) as answer:
                text = await answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"{place.url} answered {answer.status}: {text[:300]!r}")

        await repeat(times, at_once, call)


async def streams(place: Place, times: int, at_once: int, chunks: int) -> list[float]:
    """Make streamed calls of `chunks` content chunks. Returns the milliseconds to the first content of each."""
    prompt = [{"role": "user", "content": f"simulate_output_tokens={2 * chunks}"}]
    body = msgspec.json.encode({"model": "gpt-4o", "messages": prompt, "stream": True})
    headers = {"content-type": "application/json", **place.headers}
    waits: list[float] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def call() -> None:
            started, seen, tail = time.perf_counter(), False, b""
            async with session.post(place.url, data=body, headers=headers) as answer:
                async for chunk in answer.content.iter_any():
                    if not seen and b'"content":"' in (tail := tail + chunk):
                        seen = True
                        waits.append((time.perf_counter() - started) * 1000)
                if answer.status != 200 or not seen:
                    raise RuntimeError(f"{place.url} answered {answer.status} without content")

        await repeat(times, at_once, call)
    return waits


def percentile(values: list[float], share: float) -> float:
    """The value below which this share of the values lies."""
    return statistics.quantiles(values, n=1000)[min(998, int(share * 1000) - 1)]
