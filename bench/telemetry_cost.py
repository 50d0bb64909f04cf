"""`make bench-telemetry`: CPU time of telemetry per call, in the event loop and in the export thread.

It calls the same objects as the gateway and subtracts the cost of a call without telemetry. The real exporters send
kept calls to a receiver in another process; all CPU time of this process is counted.
"""

import argparse
import asyncio
import logging
import multiprocessing
import os
import time
from multiprocessing.connection import Connection

from shared import ulid
from shared.azure_openai import operations, requests
from shared.config.document import Backend
from shared.config.environment import TelemetrySettings
from shared.telemetry import spans
from shared.telemetry.batches import Batch
from shared.telemetry.exporter import ExportThread
from shared.telemetry.recorder import Telemetry
from shared.types import Attempt, Call, Consumer, Outcome, Target, Usage
from tests.harness.telemetry_receivers import Receivers

BUDGET = 40.0  # µs per call, with sampling
CALLS_PER_SECOND = 500.0  # assumed load of one core

_BACKENDS = [
    Backend(name=n, endpoint=f"https://{n}.openai.azure.com", region=n, models={}) for n in ("sweden", "japan")
]
_TARGETS = [Target(backend, "gpt-4o", "gpt-4o-prod") for backend in _BACKENDS]
_HEADER = f"00-{'ab' * 16}-{'cd' * 8}-01"
_LINE = '{"request":"01M7YZSZPWHAPBSD1FQ9JFR7JP","consumer":"vmznc9b34r","model":"gpt-4o","status":200,"ms":4}'


class Nowhere:
    """Discards batches."""

    busy = False

    def send(self, batch: Batch) -> None:
        pass

    async def close(self) -> None:
        pass


def one_call(telemetry: Telemetry, logger: logging.Logger, call: Call, consumer: Consumer, *, failed: bool) -> None:
    """Do the telemetry of one call."""
    started = time.monotonic()
    where = telemetry.begin(ulid.new(time.time()), started, _HEADER)
    attempts: tuple[Attempt, ...] = (Attempt(_TARGETS[1], 200, "", 2.0, started=started),)
    if failed:
        attempts = (Attempt(_TARGETS[0], 500, "status 500", 1.0, started=started), *attempts)
    usage = Usage(input_tokens=900, output_tokens=300, cached_input_tokens=512, reasoning_tokens=64)
    outcome = Outcome(status=200, usage=usage, attempts=attempts, served_by=_TARGETS[1], first_byte_ms=1, total_ms=3)
    telemetry.ended(where, consumer, call, outcome)
    logger.info(_LINE)


def bare(logger: logging.Logger) -> None:
    """Do the work of a call without telemetry: its values and its log line."""
    started = time.monotonic()
    ulid.new(time.time())
    attempts = (Attempt(_TARGETS[1], 200, "", 2.0, started=started),)
    usage = Usage(input_tokens=900, output_tokens=300, cached_input_tokens=512, reasoning_tokens=64)
    Outcome(status=200, usage=usage, attempts=attempts, served_by=_TARGETS[1], first_byte_ms=1, total_ms=3)
    logger.info(_LINE)


async def in_the_loop(calls: int, per_second: float) -> float:
    """µs per call, if `per_second` of `CALLS_PER_SECOND` calls are kept."""
    clock = iter(range(10**9))
    telemetry = Telemetry(Nowhere(), per_second, 60, lambda: next(clock) / CALLS_PER_SECOND / 2, time.time)
    body = b'{"model":"gpt-4o","stream":true,"messages":[]}'
    route = operations.match("POST", "/v1/chat/completions")
    call = requests.parse_call(route, "", {}, body)
    consumer, logger = Consumer("vmznc9b34r", "bench"), logging.getLogger("tollgate.requests")
    logging.getLogger("tollgate").setLevel(logging.INFO)
    logging.getLogger("tollgate").propagate = False
    null = logging.NullHandler()
    logging.getLogger("tollgate").addHandler(null)
    began = time.process_time()
    for _ in range(calls):
        bare(logger)
    without = time.process_time() - began
    telemetry.start({})
    began = time.process_time()
    for number in range(calls):
        one_call(telemetry, logger, call, consumer, failed=number % 100 == 0)
    spent = time.process_time() - began
    await telemetry.close()
    logging.getLogger("tollgate").removeHandler(null)
    return (spent - without) / calls * 1e6


def receive(pipe: Connection) -> None:
    with Receivers() as receivers:
        pipe.send((receivers.connection_string, receivers.url))
        pipe.recv()


async def exported(kept: int, settings: TelemetrySettings) -> float:
    """µs of CPU per kept call with one attempt and its log line, from the queue to the socket."""
    sender = ExportThread(settings, "bench")
    call = requests.parse_call(
        operations.match("POST", "/v1/chat/completions"), "", {}, b'{"model":"gpt-4o","messages":[]}'
    )
    usage = Usage(input_tokens=900, output_tokens=300)

    async def flush(count: int) -> None:
        batch: list[spans.Span] = []
        for _ in range(count):
            now = time.monotonic()
            where = spans.trace_context(ulid.new(time.time()), now, "")
            attempts = (Attempt(_TARGETS[1], 200, "", 2.0, started=now),)
            outcome = Outcome(status=200, usage=usage, attempts=attempts, served_by=_TARGETS[1])
            epoch = time.time() - now
            batch += spans.of_call(
                where, Consumer("vmznc9b34r", "b"), call, outcome, ended=now, epoch=epoch, represents=7, usd=0.001
            )
        sender.send(Batch(batch))
        while sender.busy:  # noqa: ASYNC110 - polls a thread's queue
            await asyncio.sleep(0.01)

    await flush(1)  # warm up imports and connections
    began = time.process_time()
    for _ in range(10):
        await flush(kept // 10)
    spent = time.process_time() - began
    await sender.close()
    return spent / kept * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=50_000)
    arguments = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    receiver = multiprocessing.get_context("spawn").Process(target=receive, args=(theirs,))
    receiver.start()
    connection_string, url = ours.recv()
    dropped = asyncio.run(in_the_loop(arguments.calls, 0.0))
    sampled = asyncio.run(in_the_loop(arguments.calls, 1.0))
    everything = asyncio.run(in_the_loop(arguments.calls // 10, 1e9))
    azure = asyncio.run(exported(2000, TelemetrySettings(connection_string=connection_string)))
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = url
    otlp = asyncio.run(exported(2000, TelemetrySettings(otlp=True)))
    ours.send(None)
    receiver.join()
    print(f"CPU in the event loop per call, {arguments.calls} calls:")
    print(f"  not kept                              {dropped:6.1f} µs")
    print(f"  1 of {CALLS_PER_SECOND:.0f} calls per second kept         {sampled:6.1f} µs")
    print(f"  all kept                              {everything:6.1f} µs")
    print("CPU in the thread per kept call (two spans):")
    print(f"  Application Insights                  {azure:6.1f} µs")
    print(f"  OTLP                                  {otlp:6.1f} µs")
    share = 2 / CALLS_PER_SECOND  # one trace of successful calls and one of others per second
    print(f"Total with sampling: {sampled + azure * share:.1f} µs of CPU per call (budget {BUDGET:.0f})")


if __name__ == "__main__":
    main()
