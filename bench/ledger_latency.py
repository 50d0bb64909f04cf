"""`make bench-ledger`: the latency of quick calls by durability of their rows, with a table 8 ms slower than Azurite.
Has no thresholds. `python -m bench.ledger_latency [CALLS]`
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack

import aiohttp
import psutil

from bench.faulty_tables import Faults, faulty_tables
from bench.load import percentile
from shared.config.document import Durability
from simulator.process import SimulatorProcess
from tests.harness.azurite import azurite
from tests.harness.gateway_process import GatewayProcess, make_key

MODES: tuple[Durability, ...] = ("committed", "recorded", "deferred")
SLOW = Faults(refused=0.0, lost=0.0, stalled=1.0, seconds=0.008)
BACKEND_SECONDS = (0.002, 0.02, 0.1)
ROUNDS = 4
BODY = {"model": "embed", "input": "What does it cost to pass?"}


async def main(calls: int) -> None:
    with azurite() as tables:
        async with faulty_tables(tables.port, SLOW, seed=1) as slow:
            print(f"{calls} embeddings one after the other, milliseconds: median, 95 %; CPU of the gateway per call")
            for seconds in BACKEND_SECONDS:
                regions = [
                    {
                        "name": "one",
                        "first_token_seconds": seconds,
                        "deployments": [{"name": "embed", "model": "text-embedding-3-small"}],
                    }
                ]
                with SimulatorProcess({"regions": regions}) as simulator:
                    times, cpu = await _measure(simulator, slow.connection_string, tables.connection_string, calls)
                for mode in MODES:
                    print(
                        f"  backend {1000 * seconds:3g} ms, {mode:9} {statistics.median(times[mode]):6.1f} "
                        f"{percentile(times[mode], 0.95):6.1f} {1e6 * cpu[mode] / len(times[mode]):6.0f} µs",
                        flush=True,
                    )


async def _measure(
    simulator: SimulatorProcess, slow: str, tables: str, calls: int
) -> tuple[dict[Durability, list[float]], dict[Durability, float]]:
    """Measure in alternating rounds, so that noise on the machine affects all modes alike."""
    backend = {"name": "one", "endpoint": simulator.regions["one"], "region": "one", "models": {"embed": "embed"}}
    key = await asyncio.to_thread(make_key, tables, "bench")
    times: dict[Durability, list[float]] = {mode: [] for mode in MODES}
    cpu = dict.fromkeys(MODES, 0.0)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        gateways: dict[Durability, GatewayProcess] = {}
        for mode in MODES:
            ledger = {"durability": mode, "overflow_directory": folder}
            environ = {
                "GATEWAY_CONFIG": json.dumps({"backends": [backend], "ledger": ledger}),
                "GATEWAY_STORAGE": slow,
                **simulator.identity_environment,
            }
            gateway = await asyncio.to_thread(GatewayProcess, "uvicorn", environ)
            gateways[mode] = stack.enter_context(gateway)
        session = await stack.enter_async_context(aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}))
        for gateway in gateways.values():
            await _calls(session, gateway, 20)  # warm
        for _ in range(ROUNDS):
            for mode, gateway in gateways.items():
                before = _cpu(gateway)
                times[mode] += await _calls(session, gateway, calls // ROUNDS)
                cpu[mode] += _cpu(gateway) - before
        await asyncio.to_thread(_stop, list(gateways.values()))
    return times, cpu


async def _calls(session: aiohttp.ClientSession, gateway: GatewayProcess, count: int) -> list[float]:
    times = []
    for _ in range(count):
        started = time.perf_counter()
        async with session.post(f"{gateway.url}/v1/embeddings", json=BODY) as answer:
            await answer.read()
            assert answer.status == 200
        times.append(1000 * (time.perf_counter() - started))
        await asyncio.sleep(0.005)
    return times


def _cpu(gateway: GatewayProcess) -> float:
    spent = psutil.Process(gateway.pid).cpu_times()
    return float(spent.user + spent.system)


def _stop(gateways: list[GatewayProcess]) -> None:
    for gateway in gateways:
        gateway.stop()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 400))
