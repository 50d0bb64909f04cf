"""`make bench-limits`, second part: processes with skewed clocks share one key on Azurite.

`python -m bench.limits_processes [fleet] [killed] [quota] [budget]`
"""

import asyncio
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec

from bench.children import start_tables
from bench.limits_demand import Admission, overshoot, requests
from bench.load import percentile
from local import azurite
from local.processes import Children
from shared.azure_openai import operations
from shared.billing.cost import USD, cost
from shared.billing.prices import Prices
from shared.config.document import Configuration
from shared.config.limits import Limits
from shared.errors import GatewayError
from shared.limits._rows import from_properties
from shared.limits.limiter import Limiter
from shared.storage import names
from shared.storage._clock import StoreClock
from shared.storage.tables import TablesStore
from shared.types import Call, Consumer, Usage

ROOT = Path(__file__).resolve().parent.parent
MODEL = "gpt-4o"


class Case(msgspec.Struct, frozen=True):
    """Demand of `times` the limit, from `processes`, for `seconds`. After every `kill_every` calls of the fleet one
    process is killed and replaced."""

    limits: Limits
    processes: int
    demand_limit: int
    times: float
    seconds: float
    key: str
    kill_every: int = 0


CASES = {
    "fleet": Case(Limits(tokens_per_minute=1_200_000), 16, 1_200_000, 3.0, 60.0, "fleet"),
    "killed": Case(Limits(tokens_per_minute=1_200_000), 16, 1_200_000, 3.0, 60.0, "killed", kill_every=150),
    "quota": Case(Limits(token_quota=600_000, token_quota_period="day"), 8, 1_200_000, 1.5, 30.0, "quota"),
    "budget": Case(Limits(budget_usd=2.0, budget_period="day"), 8, 1_200_000, 1.5, 30.0, "budget"),
}


class Decision(msgspec.Struct, frozen=True):
    """A call as its process reports it: the time of the decision and the seconds it took. Without tokens: rejected."""

    at: float
    waited: float
    tokens: int = 0
    usd: float = 0.0


async def worker(storage: str, case: Case, number: int, share: int, begins: float, seed: int) -> None:
    """A process of the fleet: sends its share of the demand, with a clock skew of up to half a second."""
    skew = random.Random(seed).uniform(-0.5, 0.5)
    store = TablesStore.from_connection_string(storage)
    store.clock = StoreClock(wall=lambda: time.time() + skew)
    store.now = store.clock.now
    limiter = Limiter(store, Configuration(backends=[]), lambda *_: None)
    consumer = Consumer(case.key, "bench", limits=case.limits)
    tariff = Prices().of(MODEL, time.time())

    async def serve(prompt: int, output: int, bound: int, lasts: float) -> None:
        body = b"xyz " * prompt
        call = Call(
            operation=operations.OPERATIONS[0],
            surface="openai",
            model=MODEL,
            body=body,
            max_output_tokens=bound,
        )
        started = time.perf_counter()
        usage = Usage(prompt, output)
        try:
            reservation = await limiter.reserve(consumer, call)
        except GatewayError:
            _report(Decision(time.time(), time.perf_counter() - started))
            return
        usd = (cost(tariff, usage) or 0) / USD
        _report(Decision(time.time(), time.perf_counter() - started, prompt + output, usd))
        await asyncio.sleep(lasts)
        limiter.settle(reservation, usage)

    demand = requests(case.demand_limit / share, case.times, case.seconds, seed)
    async with asyncio.TaskGroup() as group:
        for request in demand:
            wait = begins + request.at - time.time()
            if wait < -1:
                continue
            await asyncio.sleep(max(0.0, wait))
            group.create_task(serve(request.prompt, request.output, request.bound, request.lasts))
    await limiter.close()
    await store.close()


def _report(decision: Decision) -> None:
    os.write(1, msgspec.json.encode(decision) + b"\n")


class Fleet:
    """Starts the processes, collects their reports, and kills some of them."""

    def __init__(self, storage: str, case: Case) -> None:
        self._storage = storage
        self._case = case
        self._begins = time.time() + 6.0
        self._lock = threading.Lock()
        self._seeds = 0
        self.decisions: list[Decision] = []
        self.kills = 0
        self._running: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []

    def run(self) -> None:
        for _ in range(self._case.processes):
            self._start()
        while any(thread.is_alive() for thread in self._threads):
            time.sleep(0.2)
            due = len(self.decisions) // self._case.kill_every if self._case.kill_every else 0
            if due > self.kills and time.time() < self._begins + self._case.seconds - 5:
                self.kills += 1
                victim = self._running.pop(0)
                victim.kill()
                self._start()

    def _start(self) -> None:
        self._seeds += 1
        words = json.dumps([self._storage, self._case.key, self._seeds, self._begins])
        command = [sys.executable, "-m", "bench.limits_processes", "--worker", words]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
        self._running.append(child)
        thread = threading.Thread(target=self._listen, args=(child,))
        thread.start()
        self._threads.append(thread)

    def _listen(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout is not None
        for line in child.stdout:
            try:
                decision = msgspec.json.decode(line, type=Decision)
            except msgspec.DecodeError:  # the process was killed in the middle of a line
                continue
            with self._lock:
                self.decisions.append(decision)
        child.stdout.close()
        child.wait()


def measure(storage: str, name: str) -> None:
    case = CASES[name]
    fleet = Fleet(storage, case)
    fleet.run()
    counted, spent = asyncio.run(_counted(storage, case.key))
    admitted = [decision for decision in fleet.decisions if decision.tokens]
    truth = sum(decision.tokens for decision in admitted)
    dollars = sum(decision.usd for decision in admitted)
    waits = sorted(decision.waited * 1000 for decision in fleet.decisions)
    print(
        f"\n{name}: {case.processes} processes, {len(fleet.decisions)} calls, {len(admitted)} admitted, "
        f"{fleet.kills} killed"
    )
    print(f"  wait for admission: median {percentile(waits, 0.5):.2f} ms, 99 % {percentile(waits, 0.99):.1f} ms")
    if counted:
        print(f"  rows: {counted:,.0f} tokens; actual {truth:,}; difference {counted / truth - 1:+.3%}")
    if spent:
        print(f"  rows: {spent:.4f} USD; actual {dollars:.4f}; difference {spent / dollars - 1:+.3%}")
    if limit := case.limits.tokens_per_minute:
        admissions = [Admission(decision.at, decision.tokens) for decision in admitted]
        first = min(admission.at for admission in admissions)
        relative = [Admission(admission.at - first, admission.tokens) for admission in admissions]
        print(f"  overshoot {overshoot(relative, limit):.2%} of the limit")
    if quota := case.limits.token_quota:
        print(f"  overshoot {truth / quota - 1:+.2%} of the quota; largest call {max(t.tokens for t in admitted):,}")
    if budget := case.limits.budget_usd:
        largest = max(decision.usd for decision in admitted)
        print(f"  overshoot {dollars / budget - 1:+.2%} of the budget; most expensive call {largest:.4f}")


async def _counted(storage: str, key: str) -> tuple[float, float]:
    """Tokens and USD used in the current period, from the rows of a key."""
    store = TablesStore.from_connection_string(storage)
    rows = [from_properties(row.properties) async for row in store.table(names.LIMITS).scan(f"key:{key}")]
    await store.close()
    tokens, usd = (sum(level.used for row in rows if (level := row.levels[i])) for i in (1, 2))
    return tokens, usd


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        logging.getLogger("tollgate").setLevel(logging.CRITICAL)
        storage, key, seed, begins = json.loads(sys.argv[2])
        case = CASES[key]
        asyncio.run(worker(storage, case, seed, case.processes, begins, seed))
        return
    with tempfile.TemporaryDirectory() as logs, Children(ROOT, Path(logs)) as children:
        ports = start_tables(children)
        for name in sys.argv[1:] or CASES:
            measure(azurite.connection_string(ports), name)


if __name__ == "__main__":
    main()
