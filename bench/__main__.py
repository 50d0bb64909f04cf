"""`make bench`: what the gateway costs beside a bare forwarder, on one upstream, in one run. Prints, judges nothing.

CPU is user plus system time of the measured process alone; on a noisy machine that, and ratios, are what can be
compared. Accounting is on, in Azurite.
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

from bench.load import Place, percentile, streams, whole_answers
from local import azurite
from local.processes import Child, Children, free_port
from shared import bootstrap, config
from shared.consumers import Consumers
from shared.types import Limits
from simulator.process import SimulatorProcess

ROOT = Path(__file__).resolve().parent.parent
CALLS = 20_000
STREAMS, CHUNKS = 300, 100


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as logs,
        SimulatorProcess({"regions": [{"name": "one"}]}) as simulator,
        Children(ROOT, Path(logs)) as children,
    ):
        ports = {"table": free_port()}
        children.start("azurite", azurite.command(ports))
        children.wait_for_port("Azurite", ports["table"], 20)
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
        gateway, gateway_place, ready = _start_gateway(children, environ, key)
        print(f"start to first answer          {ready:7.2f} s")
        forwarder, forwarder_place = _start_forwarder(children, upstream, simulator.api_key)
        _compare_whole_answers(gateway, gateway_place, forwarder, forwarder_place)
        _compare_streams(gateway, gateway_place, forwarder, forwarder_place, direct)


def _compare_whole_answers(gateway: Child, gateway_place: Place, forwarder: Child, forwarder_place: Place) -> None:
    print(f"\n{CALLS} calls, not streamed, 32 at a time   CPU per call   memory afterwards")
    results = {}
    for name, child, place in (("bare forwarder", forwarder, forwarder_place), ("gateway", gateway, gateway_place)):
        asyncio.run(whole_answers(place, 500, 32))  # warm
        before = _cpu(child)
        asyncio.run(whole_answers(place, CALLS, 32))
        results[name] = (_cpu(child) - before) / CALLS
        print(f"{name:30} {results[name] * 1e6:17.0f} µs {_memory(child):15.1f} MB")
    print(f"{'gateway / forwarder':30} {results['gateway'] / results['bare forwarder']:17.2f}")
    asyncio.run(whole_answers(gateway_place, CALLS // 2, 32))
    print(f"{'gateway, after half as many more':30} {_memory(gateway):32.1f} MB")


def _compare_streams(
    gateway: Child, gateway_place: Place, forwarder: Child, forwarder_place: Place, direct: Place
) -> None:
    print(f"\n{STREAMS} streams of {CHUNKS} chunks, one at a time   CPU per chunk   first content: median, 95 %")
    for name, child, place in (
        ("direct", None, direct),
        ("bare forwarder", forwarder, forwarder_place),
        ("gateway", gateway, gateway_place),
    ):
        asyncio.run(streams(place, 20, 1, CHUNKS))  # warm
        before = _cpu(child) if child else 0.0
        waits = asyncio.run(streams(place, STREAMS, 1, CHUNKS))
        cpu = f"{(_cpu(child) - before) / STREAMS / CHUNKS * 1e6:8.1f} µs" if child else " " * 11
        print(f"{name:30} {cpu:>17} {statistics.median(waits):14.2f} ms {percentile(waits, 0.95):7.2f} ms")


def _start_gateway(children: Children, environ: dict[str, str], key: str) -> tuple[Child, Place, float]:
    port = free_port()
    place = Place(f"http://127.0.0.1:{port}/v1/chat/completions", {"authorization": f"Bearer {key}"})
    command = [sys.executable, "-m", "uvicorn", "shared.asgi:app", "--port", str(port), "--no-access-log"]
    started = time.perf_counter()
    child = children.start("gateway", command, environ)
    children.wait_for("The gateway", lambda: _answers(place) or None, 20)
    return child, place, time.perf_counter() - started


def _start_forwarder(children: Children, upstream: str, api_key: str) -> tuple[Child, Place]:
    port = free_port()
    child = children.start("forwarder", [sys.executable, "-m", "bench.forwarder", str(port), upstream])
    children.wait_for_port("The forwarder", port, 20)
    return child, Place(f"http://127.0.0.1:{port}/openai/v1/chat/completions", {"api-key": api_key})


def _answers(place: Place) -> bool:
    body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}).encode()
    request = urllib.request.Request(place.url, body, {"content-type": "application/json", **place.headers})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _cpu(child: Child) -> float:
    times = psutil.Process(child.process.pid).cpu_times()
    return float(times.user + times.system)


def _memory(child: Child) -> float:
    return float(psutil.Process(child.process.pid).memory_info().rss / 1e6)


async def _make_key(environ: dict[str, str]) -> str:
    async with bootstrap.open_store(config.load_storage(environ)) as store:
        _, key = await Consumers(store).create("bench", models=None, limits=Limits())
        return key


if __name__ == "__main__":
    main()
