"""Callers of the gateway for the routing scenarios, and their answers."""

import asyncio
import contextlib
import itertools
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import aiohttp
import msgspec

TOO_LATE = 0.3  # seconds; if callers are later than this, the machine is too busy for valid figures
PATIENCE = 100.0  # seconds until a caller gives up

_CONTENT = re.compile(rb'"content":"[^"]')
_ERROR = re.compile(rb'data: {"error":[^\n]*\n\n$')


class Door(msgspec.Struct, frozen=True):
    """Address and key of one gateway instance."""

    url: str
    key: str


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """A call. `at`: epoch seconds when it was sent, as in the simulator's log. `seconds`: until the end of the answer.
    `status` 0: no answer, for the reason in `code`. `ended`: the end of the body."""

    at: float
    seconds: float
    status: int
    door: int
    request_id: str = ""
    attempts: int = 0
    backend: str = ""
    region: str = ""
    code: str = ""
    retry_after: float | None = None
    first_content: float | None = None
    ended: Literal["whole", "error event", "cut"] = "cut"

    @property
    def served(self) -> bool:
        return self.status == 200 and self.ended == "whole"


def chat(model: str, content: str = "What is the toll?", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], **fields}


def mixed(model: str) -> Callable[[int], dict[str, Any]]:
    """Bodies of which every third one is streamed."""
    return lambda number: chat(model, stream=number % 3 == 0)


class Callers:
    """Sends calls to all instances in turn."""

    def __init__(self, doors: Sequence[Door], session: aiohttp.ClientSession) -> None:
        self.doors = list(doors)
        self._turns = itertools.cycle(range(len(doors)))
        self._session = session
        self.late = 0.0  # maximum delay of sending a call, in seconds, because the machine was busy

    async def call(
        self, body: dict[str, Any], door: int | None = None, headers: dict[str, str] | None = None
    ) -> Answered:
        """Make one call. Raises nothing except CancelledError."""
        number = next(self._turns) if door is None else door
        there = self.doors[number]
        head = {"authorization": f"Bearer {there.key}", "content-type": "application/json", **(headers or {})}
        at, started = time.time(), time.perf_counter()
        answer: aiohttp.ClientResponse | None = None
        data, first, broken = b"", None, ""
        try:
            async with self._session.post(
                f"{there.url}/v1/chat/completions", data=msgspec.json.encode(body), headers=head
            ) as answer:
                async for chunk in answer.content.iter_any():
                    data += chunk
                    if first is None and _CONTENT.search(data):
                        first = time.perf_counter() - started
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            broken = type(error).__name__
        return _answered(at, time.perf_counter() - started, number, answer, data, broken, first)

    async def arrivals(
        self, rate: float, seconds: float, body: Callable[[int], dict[str, Any]], door: int | None = None
    ) -> list[Answered]:
        """Make calls with Poisson arrivals at a mean `rate` per second, without waiting for earlier answers."""
        rng, begins = random.Random(1), time.perf_counter()
        at, calls = 0.0, []
        async with asyncio.TaskGroup() as group:
            for number in itertools.count():
                at += rng.expovariate(rate)
                if at > seconds:
                    break
                await asyncio.sleep(max(0.0, begins + at - time.perf_counter()))
                self.late = max(self.late, time.perf_counter() - begins - at)
                calls.append(group.create_task(self.call(body(number), door)))
        return [call.result() for call in calls]

    async def together(self, bodies: Iterable[dict[str, Any]]) -> list[Answered]:
        """Make all calls concurrently."""
        return await asyncio.gather(*(self.call(body) for body in bodies))


@asynccontextmanager
async def callers(doors: Sequence[Door], patience: float = PATIENCE) -> AsyncIterator[Callers]:
    timeout = aiohttp.ClientTimeout(total=patience)
    # Less than the five seconds after which uvicorn closes idle connections, to avoid a race with a call being sent.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Callers(doors, session)


@asynccontextmanager
async def meanwhile(script: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a script concurrently with the load, and raise its errors."""
    task = asyncio.create_task(script)
    try:
        yield
        await task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def between(calls: Iterable[Answered], begin: float, end: float) -> list[Answered]:
    return [call for call in calls if begin <= call.at < end]


def statuses(calls: Iterable[Answered]) -> str:
    """Counts by status and incomplete end, such as "200: 312, 200 (cut): 2, 503: 4"."""
    counts: dict[str, int] = {}
    for call in calls:
        name = str(call.status or call.code) + ("" if call.ended == "whole" else f" ({call.ended})")
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items())) or "no calls"


def slowest(calls: Iterable[Answered]) -> float:
    return max((call.seconds for call in calls), default=0.0)


def at_rank(calls: Iterable[Answered], share: float) -> float:
    """Seconds within which this share of the calls was answered."""
    times = sorted(call.seconds for call in calls)
    return times[min(len(times) - 1, int(share * len(times)))] if times else 0.0


def _answered(
    at: float,
    seconds: float,
    door: int,
    answer: aiohttp.ClientResponse | None,
    data: bytes,
    broken: str,
    first: float | None,
) -> Answered:
    if answer is None:
        return Answered(at=at, seconds=seconds, status=0, door=door, code=broken)
    headers = answer.headers
    streamed = answer.content_type == "text/event-stream"
    ended: Literal["whole", "error event", "cut"] = "cut" if broken else "whole"
    if streamed and not data.endswith(b"data: [DONE]\n\n"):
        ended = "error event" if _ERROR.search(data) else "cut"  # the transfer breaks off behind the event
    wait = headers.get("retry-after-ms")
    return Answered(
        at=at,
        seconds=seconds,
        status=answer.status,
        door=door,
        request_id=headers.get("x-gateway-request-id", ""),
        attempts=int(headers.get("x-gateway-attempts", "0")),
        backend=headers.get("x-gateway-backend", ""),
        region=headers.get("x-gateway-region", ""),
        code="" if answer.status == 200 else _code(data),
        retry_after=float(wait) / 1000 if wait else None,
        first_content=first,
        ended=ended,
    )


def _code(data: bytes) -> str:
    with contextlib.suppress(msgspec.DecodeError, AttributeError):
        return str(msgspec.json.decode(data).get("error", {}).get("code"))
    return "not JSON"
