"""The gateway for benchmarks: with no ledger where `BENCH_LEDGER=off`, and with a watch on its event loop.

The watch is a task that wakes up every millisecond. What it tells at the end, as a line of JSON in the file that
`BENCH_WATCH` names: the longest times between two turns, by the clock on the wall (a busy machine adds to it), and by
the CPU time of the loop's own thread, which is what the gateway itself held the loop up for.
"""

import asyncio
import json
import os
import time

from starlette.types import Receive, Scope, Send

from shared import asgi, bootstrap
from shared.types import Attempt, Call, Consumer, Outcome
from shared.usage.ledger import Entry, Ledger


class NoLedger(Ledger):
    """Notes nothing."""

    def open(self, request_id: str, consumer: Consumer, call: Call, model: str) -> Entry:
        return Entry("", "", request_id)

    def close(self, entry: Entry, outcome: Outcome) -> asyncio.Future[None]:
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def charge(self, entry: Entry, number: int, attempt: Attempt) -> None:
        pass


if os.environ.get("BENCH_LEDGER") == "off":
    setattr(bootstrap, "Ledger", NoLedger)  # noqa: B010 - what it chooses is its own affair otherwise


async def watch(into: str) -> None:
    """From the first call on, which is when the process has started."""
    wall: list[float] = []
    cpu: list[float] = []
    await served.wait()
    before, spent = time.perf_counter(), time.thread_time()
    try:
        while True:
            await asyncio.sleep(0.001)
            now, used = time.perf_counter(), time.thread_time()
            wall.append(now - before)
            cpu.append(used - spent)
            before, spent = now, used
    finally:
        told = {"turns": len(wall), "wall": _longest(wall), "cpu": _longest(cpu)}
        with open(into, "w") as file:  # noqa: ASYNC230 - the loop has nothing else to do any more
            json.dump(told, file)


def _longest(seconds: list[float]) -> list[float]:
    return [round(1000 * value, 1) for value in sorted(seconds)[-5:]]


served = asyncio.Event()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan" and (into := os.environ.get("BENCH_WATCH")):
        watching = asyncio.ensure_future(watch(into))
        await asgi.app(scope, receive, send)
        watching.cancel()
        await asyncio.wait((watching,))
        return
    await asgi.app(scope, receive, send)
    served.set()
