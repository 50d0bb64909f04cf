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

from bench.load import Place, streams, whole_answers
from local import azurite
from local.processes import Child, Children, free_port
from simulator.process import SimulatorProcess
from tests.gateway_process import make_key

ROOT = Path(__file__).resolve().parent.parent
AT_ONCE, ROUNDS, CHUNKS = 32, 6, 50


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
        places: dict[str, tuple[Child, Place]] = {}
        for mode in ("committed", "deferred", "off"):
            durability = "deferred" if mode == "deferred" else "committed"
            settings = {"backends": [backend], "ledger": {"durability": durability}}
            environ = {
                **os.environ,
                **simulator.identity_environment,
                "GATEWAY_CONFIG": json.dumps(settings),
                "GATEWAY_STORAGE": storage,
                "BENCH_LEDGER": mode,
                "BENCH_WATCH": f"{name}/{mode}.json",
            }
            port = free_port()
            command = [sys.executable, "-m", "uvicorn", "bench.ledger_app:app", "--port", str(port), "--no-access-log"]
            child = children.start(mode, command, environ)
            children.wait_for_port("The gateway", port, 30)
            places[mode] = (
                child,
                Place(f"http://127.0.0.1:{port}/v1/chat/completions", {"authorization": f"Bearer {key}"}),
            )
        measure(places, calls)
        for mode, (child, _) in places.items():
            child.stop(15)
            told = json.loads(Path(f"{name}/{mode}.json").read_text())
            print(f"  ledger {mode:10} longest turns of the loop, ms: {told['cpu']} of its CPU, {told['wall']} in all")


def measure(places: dict[str, tuple[Child, Place]], calls: int) -> None:
    """In rounds, one mode after the other, so that a noisy neighbour troubles all of them."""
    cpu = dict.fromkeys(places, 0.0)
    for _, place in places.values():
        asyncio.run(whole_answers(place, 300, AT_ONCE))  # warm
    for _ in range(ROUNDS):
        for mode, (child, place) in places.items():
            before = _cpu(child)
            asyncio.run(whole_answers(place, calls // ROUNDS, AT_ONCE))
            cpu[mode] += _cpu(child) - before
    print(f"{calls} calls, not streamed, {AT_ONCE} at a time")
    for mode, seconds in cpu.items():
        more = (seconds - cpu["off"]) / calls * 1e6
        print(f"  ledger {mode:10} {seconds / calls * 1e6:6.0f} µs of CPU a call ({more:+.0f})", flush=True)
    for _, place in places.values():
        asyncio.run(streams(place, calls // 20, AT_ONCE, CHUNKS))


def _cpu(child: Child) -> float:
    times = psutil.Process(child.process.pid).cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 12_000)
