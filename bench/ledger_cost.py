"""`make bench-ledger`: the cost of the ledger per call, compared with a gateway without one, and how long it blocks the
event loop. Has no thresholds. `python -m bench.ledger_cost [CALLS]`
"""

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path

from bench import usage_tables
from bench.children import cpu_seconds, start_forwarder, start_tables
from bench.load import Place, streams, whole_answers
from local import azurite
from local.processes import Child, Children, free_port
from shared.edges.http_protocol import UVICORN_OPTIONS
from simulator.process import SimulatorProcess
from tests.harness.gateway_process import make_key

ROOT = Path(__file__).resolve().parent.parent
AT_ONCE, ROUNDS, CHUNKS = 32, 12, 50
MODES = ("committed", "recorded", "deferred", "off")
BASELINE = "forwarder"  # shows the current speed of the machine


def main(calls: int) -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        SimulatorProcess({"regions": [{"name": "one"}]}) as simulator,
        Children(ROOT, Path(name)) as children,
    ):
        ports = start_tables(children)
        backend = {"name": "one", "endpoint": simulator.regions["one"], "region": "one", "models": {"gpt-4o": "gpt-4o"}}
        storage = azurite.connection_string(ports)
        key = make_key(storage, "bench")
        settings = {"backends": [backend]}
        common = {**os.environ, **simulator.identity_environment, "GATEWAY_STORAGE": storage}

        def start(children: Children, mode: str, into: str = "") -> tuple[Child, Place]:
            durability = {"ledger": {"durability": mode}} if mode != "off" else {}
            environ = {
                **common,
                "GATEWAY_CONFIG": json.dumps({**settings, **durability}),
                "BENCH_LEDGER": mode,
                "BENCH_WATCH": into,
            }
            port = free_port()
            command = [sys.executable, "-m", "uvicorn", "bench.ledger_app:app", "--port", str(port), *UVICORN_OPTIONS]
            child = children.start(mode, command, environ)
            children.wait_for_port("The gateway", port, 30)
            return child, Place(f"http://127.0.0.1:{port}/v1/chat/completions", {"authorization": f"Bearer {key}"})

        forwarder = start_forwarder(children, simulator.regions["one"], simulator.api_key, "asyncio")
        gateways = {mode: start(children, mode) for mode in MODES}
        measure({BASELINE: forwarder, **gateways}, calls, storage)
        print(f"{calls // 20} streams of {CHUNKS} chunks, {AT_ONCE} concurrent: longest iterations of the loop, ms")
        for mode in MODES:  # separately, since the watch itself costs CPU
            with Children(ROOT, Path(name)) as watched:
                _, place = start(watched, mode, f"{name}/{mode}.json")
                asyncio.run(whole_answers(place, calls // 20, AT_ONCE))
                asyncio.run(streams(place, calls // 20, AT_ONCE, CHUNKS))
            report = json.loads(Path(f"{name}/{mode}.json").read_text())
            print(f"  ledger {mode:10} CPU {report['cpu']}, wall time {report['wall']}", flush=True)


def measure(places: dict[str, tuple[Child, Place]], calls: int, storage: str) -> None:
    """Measure in alternating rounds, so that noise on the machine affects all modes alike."""
    cpu = dict.fromkeys(places, 0.0)
    for _, place in places.values():
        asyncio.run(whole_answers(place, 300, AT_ONCE))  # warm
    for _ in range(ROUNDS):
        for mode, (child, place) in places.items():
            usage_tables.drop(storage)
            before = cpu_seconds(child)
            asyncio.run(whole_answers(place, calls // ROUNDS, AT_ONCE))
            cpu[mode] += cpu_seconds(child) - before
    print(f"{calls} calls, not streamed, {AT_ONCE} concurrent")
    baseline = cpu.pop(BASELINE)
    print(f"  a bare forwarder  {baseline / calls * 1e6:6.0f} µs of CPU per call")
    for mode, seconds in cpu.items():
        more = seconds - cpu["off"]
        part = f"{more / calls * 1e6:+.0f}, {more / baseline:+.0%} of the forwarder's"
        print(f"  ledger {mode:10} {seconds / calls * 1e6:6.0f} µs of CPU per call ({part})", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 12_000)
