"""`make bench-ledger`: what the ledger costs a call, committed, beside a gateway without one, in one run; and how long
it holds up the event loop. Prints, judges nothing. `python -m bench.ledger_cost [CALLS]`
"""

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path

import psutil

from bench import usage_tables
from bench.load import Place, streams, whole_answers
from local import azurite
from local.processes import Child, Children, free_port
from simulator.process import SimulatorProcess
from tests.harness.gateway_process import make_key

ROOT = Path(__file__).resolve().parent.parent
AT_ONCE, ROUNDS, CHUNKS = 32, 12, 50
MODES = ("committed", "deferred", "off")
YARDSTICK = "forwarder"  # tells how fast this machine is now


def main(calls: int) -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        SimulatorProcess({"regions": [{"name": "one"}]}) as simulator,
        Children(ROOT, Path(name)) as children,
    ):
        ports = {"table": free_port()}
        children.start("azurite", azurite.command(ports))
        children.wait_for_port("Azurite", ports["table"], 20)
        backend = {"name": "one", "endpoint": simulator.regions["one"], "region": "one", "models": {"gpt-4o": "gpt-4o"}}
        storage = azurite.connection_string(ports)
        key = make_key(storage, "bench")
        settings = {"backends": [backend]}
        common = {**os.environ, **simulator.identity_environment, "GATEWAY_STORAGE": storage}

        def start(children: Children, mode: str, into: str = "") -> tuple[Child, Place]:
            durability = {"ledger": {"durability": "deferred"}} if mode == "deferred" else {}
            environ = {
                **common,
                "GATEWAY_CONFIG": json.dumps({**settings, **durability}),
                "BENCH_LEDGER": mode,
                "BENCH_WATCH": into,
            }
            port = free_port()
            command = [sys.executable, "-m", "uvicorn", "bench.ledger_app:app", "--port", str(port), "--no-access-log"]
            child = children.start(mode, command, environ)
            children.wait_for_port("The gateway", port, 30)
            return child, Place(f"http://127.0.0.1:{port}/v1/chat/completions", {"authorization": f"Bearer {key}"})

        port = free_port()
        upstream = simulator.regions["one"]
        yardstick = children.start(YARDSTICK, [sys.executable, "-m", "bench.forwarder", str(port), upstream, "asyncio"])
        children.wait_for_port("The forwarder", port, 20)
        forwarder = Place(f"http://127.0.0.1:{port}/openai/v1/chat/completions", {"api-key": simulator.api_key})
        gateways = {mode: start(children, mode) for mode in MODES}
        measure({YARDSTICK: (yardstick, forwarder), **gateways}, calls, storage)
        print(f"{calls // 20} streams of {CHUNKS} chunks, {AT_ONCE} at a time: longest turns of the loop, ms")
        for mode in MODES:  # watched apart, since a watch that wakes up all the time is no small part of a call's CPU
            with Children(ROOT, Path(name)) as watched:
                _, place = start(watched, mode, f"{name}/{mode}.json")
                asyncio.run(whole_answers(place, calls // 20, AT_ONCE))
                asyncio.run(streams(place, calls // 20, AT_ONCE, CHUNKS))
            told = json.loads(Path(f"{name}/{mode}.json").read_text())
            print(f"  ledger {mode:10} {told['cpu']} of its CPU, {told['wall']} in all", flush=True)


def measure(places: dict[str, tuple[Child, Place]], calls: int, storage: str) -> None:
    """In rounds, one mode after the other, so that a noisy neighbour troubles all of them."""
    cpu = dict.fromkeys(places, 0.0)
    for _, place in places.values():
        asyncio.run(whole_answers(place, 300, AT_ONCE))  # warm
    for _ in range(ROUNDS):
        for mode, (child, place) in places.items():
            usage_tables.drop(storage)
            before = _cpu(child)
            asyncio.run(whole_answers(place, calls // ROUNDS, AT_ONCE))
            cpu[mode] += _cpu(child) - before
    print(f"{calls} calls, not streamed, {AT_ONCE} at a time")
    yardstick = cpu.pop(YARDSTICK)
    print(f"  a bare forwarder  {yardstick / calls * 1e6:6.0f} µs of CPU a call")
    for mode, seconds in cpu.items():
        more = seconds - cpu["off"]
        part = f"{more / calls * 1e6:+.0f}, {more / yardstick:+.0%} of the forwarder's"
        print(f"  ledger {mode:10} {seconds / calls * 1e6:6.0f} µs of CPU a call ({part})", flush=True)


def _cpu(child: Child) -> float:
    times = psutil.Process(child.process.pid).cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 12_000)
