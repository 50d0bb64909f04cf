"""`make bench-limits`, first part: 1 to 1,000 instances of the gateway's limiter share one key, in simulated time.

The table has Azure's latencies: log-normal with a median of 4 ms per GET and 8 ms per PUT. Prints the worst seed per
case. `python -m bench.limits_simulation [--seeds 5] [--limits 20000,100000] [--instances 1,10]`
"""

import argparse
import asyncio
import logging
import math
import random
import selectors
import statistics
import time
from collections.abc import Sequence

import msgspec

from bench.limits_demand import Admission, Request, overshoot, possible, requests
from shared.azure_openai import operations as azure_openai
from shared.config.document import Configuration
from shared.config.limits import Limits
from shared.errors import GatewayError
from shared.limits import _token_bucket, scopes
from shared.limits._rows import to_properties
from shared.limits.limiter import Limiter
from shared.storage import Properties, Row, names
from shared.types import Call, Consumer, Usage
from tests.harness.memory_store import MemoryStore, MemoryTable

START = 1_795_262_400.0
CASES = {  # limit: (demand as a multiple of the limit, seconds)
    20_000: (2.0, 600.0),
    100_000: (2.0, 300.0),
    1_000_000: (2.0, 180.0),
    1_200_000: (3.0, 60.0),  # the case of bench.limits_processes
    10_000_000: (1.5, 60.0),
}
ALLOWED = {20_000: 0.15, 100_000: 0.06, 1_000_000: 0.03, 1_200_000: 0.03, 10_000_000: 0.02}
PROMPT = b"xyz " * 10_000


class ImpatientSelector(selectors.DefaultSelector):
    """Never blocks, since there is no network."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(0)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next scheduled callback."""

    def __init__(self) -> None:
        super().__init__(ImpatientSelector())
        self._simulated = 0.0

    def time(self) -> float:
        return self._simulated

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self._simulated = max(self._simulated, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


class DistantTable(MemoryTable):
    """A table with network latency. A `put` takes effect in the middle of its latency."""

    def __init__(self, store: "DistantStore", name: str) -> None:
        super().__init__(store, name)
        self._distant = store

    async def get(self, partition: str, key: str) -> Row | None:
        await self._distant.travel(0.004)
        return await super().get(partition, key)

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        wait = self._distant.latency(0.008)
        await self._distant.travel(0, wait * 0.6)
        answer = await super().put(partition, key, properties, etag)
        await self._distant.travel(0, wait * 0.4)
        return answer


class DistantStore(MemoryStore):
    """`outage`: start and end in seconds. Nothing answers meanwhile, and answers are slow for two seconds after."""

    def __init__(self, seed: int, outage: tuple[float, float] | None = None) -> None:
        super().__init__(lambda: START + asyncio.get_running_loop().time())
        self._rng = random.Random(seed)
        self._outage = outage
        self.operations = 0

    def table(self, name: str) -> MemoryTable:
        return DistantTable(self, name)

    def latency(self, median: float) -> float:
        return median * math.exp(self._rng.gauss(0, 0.4))

    async def travel(self, median: float, wait: float | None = None) -> None:
        self.operations += 1
        at = self.now() - START
        if self._outage is not None and self._outage[0] <= at < self._outage[1]:
            await asyncio.sleep(self._outage[1] - at)
        elif self._outage is not None and self._outage[1] <= at < self._outage[1] + 2:
            await asyncio.sleep(self._rng.uniform(0.1, 2.0))
        await asyncio.sleep(self.latency(median) if wait is None else wait)


class Result(msgspec.Struct, frozen=True):
    overshoot: float
    undershoot: float
    operations: float  # per request
    median_ms: float
    p99_ms: float
    longest_ms: float
    unanswered: int


async def run(
    demand: Sequence[Request], limit: int, instances: int, seed: int, full: float, outage: tuple[float, float] | None
) -> Result:
    random.seed(seed)
    store, rng = DistantStore(seed, outage), random.Random(seed)
    limits = Limits(tokens_per_minute=limit)
    consumer = Consumer("k", "bench", limits=limits)
    scope = scopes.scope("key", "k", limits)
    if full < 1:
        bounds = scopes.bounds(limits, START, scope.shards)
        row = _token_bucket.fresh(bounds, START)
        low = [level and msgspec.structs.replace(level, level=level.level * full) for level in row.levels]
        properties = to_properties(msgspec.structs.replace(row, levels=tuple(low)))
        for shard in range(scope.shards):
            await MemoryTable(store, names.LIMITS).put(scope.key, str(shard), properties, None)
    configuration = Configuration(backends=[])
    fleet = [Limiter(store, configuration, lambda *_: None) for _ in range(instances)]
    loop = asyncio.get_running_loop()
    admissions: list[Admission] = []
    waits: list[float] = []
    answered = 0

    async def serve(request: Request, limiter: Limiter) -> None:
        nonlocal answered
        call = Call(
            operation=azure_openai.OPERATIONS[0],
            surface="openai",
            model="m",
            body=PROMPT[: request.prompt * 4],
            max_output_tokens=request.bound,
        )
        started = loop.time()
        try:
            reservation = await limiter.reserve(consumer, call)
        except GatewayError:
            answered += 1
            waits.append(loop.time() - started)
            return
        answered += 1
        waits.append(loop.time() - started)
        admissions.append(Admission(loop.time(), request.prompt + request.output))
        await asyncio.sleep(request.lasts)
        limiter.settle(reservation, Usage(request.prompt, request.output))

    async with asyncio.TaskGroup() as group:
        for request in demand:
            if request.at > loop.time():
                await asyncio.sleep(request.at - loop.time())
            group.create_task(serve(request, fleet[rng.randrange(instances)]))
    operations = store.operations / len(demand)
    await asyncio.gather(*(limiter.close() for limiter in fleet))
    taken = sum(admission.tokens for admission in admissions)
    cuts = statistics.quantiles(waits, n=100)
    return Result(
        overshoot(admissions, limit, full),
        1 - taken / possible(demand, limit, full),
        operations,
        cuts[49] * 1000,
        cuts[98] * 1000,
        max(waits) * 1000,
        len(demand) - answered,
    )


def simulate(
    limit: int, instances: int, seed: int, outage: tuple[float, float] | None = None, seconds: float | None = None
) -> Result:
    times, usual = CASES[limit]
    demand = requests(limit, times, seconds or usual, seed)
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(run(demand, limit, instances, seed, 1.0 if limit < 5_000_000 else 0.05, outage))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--limits", default=",".join(map(str, CASES)))
    parser.add_argument("--instances", default="1,10,100,1000")
    parser.add_argument("--outage", action="store_true", help="the table is down for 60 s, then slow for 2 s")
    arguments = parser.parse_args()
    logging.getLogger("tollgate").setLevel(logging.CRITICAL)
    print(
        f"worst of {arguments.seeds} seeds: overshoot, undershoot, table operations per request, wait in milliseconds"
    )
    print(f"{'limit':>28} {'instances':>10} {'over':>9} {'allowed':>9} {'under':>11} {'operations':>11}", end="")
    print(f" {'50 %':>14} {'99 %':>7} {'max':>7}")
    for limit in map(int, arguments.limits.split(",")):
        for instances in map(int, arguments.instances.split(",")):
            started = time.perf_counter()
            outage, seconds = ((30.0, 90.0), 150.0) if arguments.outage else (None, None)
            results = [simulate(limit, instances, seed, outage, seconds) for seed in range(1, arguments.seeds + 1)]
            worst = [max(values) for values in zip(*(msgspec.structs.astuple(r) for r in results), strict=True)]
            print(
                f"{'outage' if outage else '':12}{limit:16,} {instances:10} {worst[0]:9.2%} {ALLOWED[limit]:9.0%}"
                f" {worst[1]:11.2%} {worst[2]:11.2f} {worst[3]:14.1f} {worst[4]:7.1f} {worst[5]:7.1f}"
                f"   unanswered {worst[6]:.0f}   ({time.perf_counter() - started:.0f} s)",
                flush=True,
            )


if __name__ == "__main__":
    main()
