"""The gateway for benchmarks: without a ledger if `BENCH_LEDGER=off`, and with a watch on its event loop.

The watch is a task that wakes up every millisecond. At the end it writes the longest times between two wake-ups as JSON
to the file `BENCH_WATCH`: in wall time, which includes other load on the machine, and in CPU time of the loop's thread,
which is the gateway's own work.
"""

import asyncio
import json
import os
import time

from starlette.types import Receive, Scope, Send

from shared import asgi, bootstrap
from shared.types import Attempt, Call, Consumer, Outcome
from shared.usage._group_commit import Batch
from shared.usage.ledger import Entry, Ledger
from shared.usage.token_averages import Size


class NoLedger(Ledger):
    """Records nothing."""

    def begin(self, request_id: str, consumer: Consumer, call: Call, model: str) -> Entry:
        return Entry("", "", request_id, {}, Size(0), Batch("", "", 0.0))

    def end(self, entry: Entry, outcome: Outcome, *, goes_on: bool = False) -> asyncio.Future[None]:
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def charge(self, entry: Entry, number: int, attempt: Attempt) -> None:
        pass


if os.environ.get("BENCH_LEDGER") == "off":
    setattr(bootstrap, "Ledger", NoLedger)  # noqa: B010 - there is no setting for it


async def watch(into: str) -> None:
    """Measure from the first call on, to exclude the start of the process."""
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
        report = {"turns": len(wall), "wall": _longest(wall), "cpu": _longest(cpu)}
        with open(into, "w") as file:  # noqa: ASYNC230 - the loop is idle by now
            json.dump(report, file)


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
