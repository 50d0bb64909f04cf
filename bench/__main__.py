"""`make bench`: the cost of the gateway compared with a bare forwarder, on one upstream, in one run. Has no thresholds.

CPU is the user and system time of the measured process. On a noisy machine compare only CPU and ratios. The ledger is
on, in Azurite.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil

from bench import usage_tables
from bench.children import cpu_seconds, start_forwarder, start_tables
from bench.load import Place, percentile, streams, whole_answers
from local import azurite
from local.processes import Child, Children, free_port
from shared import bootstrap
from shared.auth.consumers import Consumers
from shared.config import environment
from shared.config.limits import Limits
from shared.edges.http_protocol import UVICORN_OPTIONS
from simulator.process import SimulatorProcess
from tests.harness.consumers import create_consumer

ROOT = Path(__file__).resolve().parent.parent
CALLS, AT_ONCE = 20_000, 32
STREAMS, CHUNKS = 400, 100
ROUNDS = 10

type Places = dict[str, tuple[Child, Place]]


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as logs,
        SimulatorProcess({"regions": [{"name": "one"}]}) as simulator,
        Children(ROOT, Path(logs)) as children,
    ):
        ports = start_tables(children)
        upstream = simulator.regions["one"]
        backend = {"name": "one", "endpoint": upstream, "region": "one", "models": {"gpt-4o": "gpt-4o"}}
        environ = {
            **os.environ,
            **simulator.identity_environment,
            "GATEWAY_CONFIG": json.dumps({"backends": [backend]}),
            "GATEWAY_STORAGE": azurite.connection_string(ports),
        }
        key = asyncio.run(_make_key(environ))
        direct = Place(f"{upstream}/openai/v1/chat/completions", {"api-key": simulator.api_key})
        places = {
            f"bare forwarder, {loop}": start_forwarder(children, upstream, simulator.api_key, loop)
            for loop in ("asyncio", "uvloop")
        }
        child, place, ready = _start_gateway(children, environ, key)
        places["gateway"] = (child, place)
        print(f"start to first answer {ready:.2f} s", flush=True)
        _compare_whole_answers(places, environ["GATEWAY_STORAGE"])
        _compare_streams(places, direct)


def _compare_whole_answers(places: Places, storage: str) -> None:
    """Measure in alternating rounds, so that noise on the machine affects all processes alike."""
    print(f"\n{CALLS} calls, not streamed, {AT_ONCE} concurrent", flush=True)
    cpu = dict.fromkeys(places, 0.0)
    memory: list[float] = []
    for _, place in places.values():
        asyncio.run(whole_answers(place, 500, AT_ONCE))  # warm
    for _ in range(ROUNDS):
        for name, (child, place) in places.items():
            before = cpu_seconds(child)
            asyncio.run(whole_answers(place, CALLS // ROUNDS, AT_ONCE))
            cpu[name] += cpu_seconds(child) - before
        usage_tables.drop(storage)
        memory.append(_memory(places["gateway"][0]))
    for name, seconds in cpu.items():
        ratio = cpu["gateway"] / seconds
        print(f"  {name:24} {seconds / CALLS * 1e6:6.0f} µs of CPU per call   gateway / this: {ratio:.2f}")
    print(f"  memory of the gateway after each round: {', '.join(f'{size:.1f}' for size in memory)} MB", flush=True)


def _compare_streams(places: Places, direct: Place) -> None:
    print(f"\n{STREAMS} streams of {CHUNKS} chunks, one at a time", flush=True)
    waits: dict[str, list[float]] = {name: [] for name in ("direct", *places)}
    cpu = dict.fromkeys(waits, 0.0)
    for _ in range(ROUNDS):
        for name in waits:
            child, place = places.get(name, (None, direct))
            before = cpu_seconds(child) if child else 0.0
            waits[name] += asyncio.run(streams(place, STREAMS // ROUNDS, 1, CHUNKS))
            cpu[name] += cpu_seconds(child) - before if child else 0.0
    base = statistics.median(waits["direct"])
    for name, times in waits.items():
        middle, late = statistics.median(times), percentile(times, 0.95)
        per_chunk = cpu[name] / STREAMS / CHUNKS * 1e6
        print(
            f"  {name:24} {per_chunk:5.1f} µs of CPU per chunk   first content after {middle:.2f} ms"
            f" ({middle - base:+.2f}; 95 %: {late:.2f})"
        )


def _start_gateway(children: Children, environ: dict[str, str], key: str) -> tuple[Child, Place, float]:
    port = free_port()
    place = Place(f"http://127.0.0.1:{port}/v1/chat/completions", {"authorization": f"Bearer {key}"})
    command = [sys.executable, "-m", "uvicorn", "shared.asgi:app", "--port", str(port), *UVICORN_OPTIONS]
    started = time.perf_counter()
    child = children.start("gateway", command, environ)
    children.wait_for("The gateway", lambda: _answers(place) or None, 20)
    return child, place, time.perf_counter() - started


def _answers(place: Place) -> bool:
    body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}).encode()
    request = urllib.request.Request(place.url, body, {"content-type": "application/json", **place.headers})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _memory(child: Child) -> float:
    return float(psutil.Process(child.process.pid).memory_info().rss / 1e6)


async def _make_key(environ: dict[str, str]) -> str:
    async with bootstrap.open_store(environment.load_storage(environ)) as store:
        _, key = await create_consumer(Consumers(store), "bench", models=None, limits=Limits())
        return key


if __name__ == "__main__":
    main()
