"""Test bed of the routing scenarios: the simulator with four regions, Azurite, and instances of the gateway."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import msgspec

from bench.routing_load import Callers, Door, callers
from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.gateway_process import GatewayProcess, make_key

REGIONS = {"sweden": "swedencentral", "virginia": "eastus2", "japan": "japaneast", "norway": "norwayeast"}
THREE = ("sweden", "virginia", "japan")
SICK = "virginia"  # the region that fails in most scenarios
PLAIN = (
    "sick", "hanging", "retry-after", "streams", "long-streams", "brown-out", "all-brown", "slow", "flapping", "dead",
    "crowd", "killed", "storeless", "hung-up", "small-10s", "small-1s",
)  # fmt: skip
PACE = {"first_token_seconds": 0.1, "seconds_per_chunk": 0.01}  # an answer of 32 tokens takes 0.26 s
# Throughput of a provisioned deployment. A call of 32 tokens is corrected to these and the few of its prompt.
PROVISIONED_TOKENS_PER_MINUTE = 60_000


class Row(msgspec.Struct, frozen=True):
    """Result of a scenario."""

    case: str
    must: str
    measured: str
    held: bool


def simulated() -> dict[str, Any]:
    """The simulator's configuration."""
    deployments: list[dict[str, Any]] = [{"name": name, "model": "gpt-4o"} for name in (*PLAIN, "prefix", "spill")]
    deployments.append({"name": "ptu", "model": "gpt-4o", "sku": "ProvisionedManaged"})
    regions = [{"name": name, "deployments": deployments, **PACE} for name in REGIONS.values()]
    return {"regions": regions}


def configuration(simulator: SimulatorProcess, **more: Any) -> dict[str, Any]:
    """The gateway's configuration: four regions, a provisioned deployment that comes first, unresolvable backends."""
    backends: list[dict[str, Any]] = [
        {
            "name": name,
            "endpoint": simulator.regions[region],
            "region": region,
            "models": {model: model for model in (PLAIN if name in THREE else ())} | {"prefix": "prefix"},
        }
        for name, region in REGIONS.items()
    ]
    first = {"name": "provisioned", "endpoint": simulator.regions["swedencentral"], "region": "swedencentral"}
    backends.append({**first, "kind": "provisioned", "models": {"spill": "ptu"}})
    backends += [
        {**backends[i], "name": f"{backends[i]['name']}-second", "priority": 2, "models": {"spill": "spill"}}
        for i in (1, 2)
    ]
    for name, models in (("unknown", ["half-unknown", "unknown"]), ("hanging", ["half-hanging", "hanging-name"])):
        nowhere = {"name": name, "endpoint": f"https://toll.{name}.invalid", "region": "nowhere"}
        backends.append({**nowhere, "models": {model: model for model in models}})
        backends[0]["models"] |= {models[0]: "retry-after"}
    return {"backends": backends, **more}


class Open(msgspec.Struct, frozen=True):
    """Open resources of the instances: tasks by coroutine, and connections in use."""

    tasks: dict[str, int] = {}
    connections: int = 0

    @property
    def count(self) -> int:
        return sum(self.tasks.values()) + self.connections


class Leaks:
    """Resources open after a scenario, compared with those before it."""

    def __init__(self, before: Open) -> None:
        self.before = self.after = before

    @property
    def none(self) -> bool:
        return self.after.count <= self.before.count + 1 and self.after.connections <= self.before.connections

    def __str__(self) -> str:
        more = Counter(self.after.tasks) - Counter(self.before.tasks)
        names = "".join(f", {count} {name}" for name, count in more.items()) if not self.none else ""
        tasks = f"tasks {sum(self.before.tasks.values())} → {sum(self.after.tasks.values())}{names}"
        return f"{tasks}, connections in use {self.before.connections} → {self.after.connections}"


class System:
    """The simulator, the running instances and their callers."""

    def __init__(
        self,
        simulator: SimulatorProcess,
        azurite: Azurite,
        start: Callable[[], GatewayProcess],
        gateways: list[GatewayProcess],
        load: Callers,
    ) -> None:
        self.simulator = simulator
        self.azurite = azurite
        self._start = start
        self.gateways = gateways
        self.callers = load
        self._least = 0  # lowest number of open resources so far

    def restart(self, number: int) -> None:
        """Replace a killed process."""
        self.gateways[number] = self._start()
        self.callers.doors[number] = Door(self.gateways[number].url, self.callers.doors[number].key)

    def log(self, model: str) -> list[dict[str, Any]]:
        """Requests to the deployments of this name, in order of arrival."""
        entries = [entry for entry in self.simulator.log()["requests"] if entry["deployment"] == model]
        return sorted(entries, key=lambda entry: float(entry["time"]))

    async def warm(self, model: str, times: int = 8) -> None:
        """Set up connections, tokens and caches before measuring."""
        await self.callers.together(
            {"model": model, "messages": [{"role": "user", "content": "hi"}]} for _ in range(times)
        )

    @contextmanager
    def fault(self, kind: str, model: str, backend: str | None = None, **fields: Any) -> Iterator[None]:
        region = None if backend is None else REGIONS[backend]
        number = self.simulator.fault(kind, region=region, deployment=model, **fields)
        try:
            yield
        finally:
            self.simulator.delete_fault(number)

    async def open(self, enough: int, patience: float) -> Open:
        """Lowest count of open resources within `patience` seconds, since background tasks come and go. Returns early
        once the count is at most `enough`."""
        least, deadline = await self._look(), time.monotonic() + patience
        while least.count > enough and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
            least = min(least, await self._look(), key=lambda seen: seen.count)
        return least

    @asynccontextmanager
    async def watched(self) -> AsyncIterator["Leaks"]:
        """Resources that the block leaves open; read them after it."""
        leaks = Leaks(await self.open(self._least, patience=1.0))
        self._least = leaks.before.count
        yield leaks
        # Longer than the slow name resolution, which continues after its callers have given up.
        leaks.after = await self.open(self._least, patience=35.0)

    async def _look(self) -> Open:
        tasks: Counter[str] = Counter()
        connections = 0
        for gateway in self.gateways:
            if gateway.running:
                answer = await asyncio.to_thread(gateway.request, "GET", "/bench/look")
                seen = msgspec.json.decode(answer.body, type=Open)
                tasks, connections = tasks + Counter(seen.tasks), connections + seen.connections
        return Open(dict(tasks), connections)


@asynccontextmanager
async def running(azurite: Azurite, instances: int, **settings: Any) -> AsyncIterator[System]:
    """Run the simulator and the instances. `settings` are added to the gateway's configuration."""
    with contextlib.ExitStack() as stack:
        simulator = stack.enter_context(SimulatorProcess(simulated()))
        environ = {
            "GATEWAY_CONFIG": json.dumps(configuration(simulator, **settings)),
            "GATEWAY_STORAGE": azurite.connection_string,
            **simulator.identity_environment,
        }
        key = await asyncio.to_thread(make_key, azurite.connection_string, "routing")

        def start() -> GatewayProcess:
            return stack.enter_context(GatewayProcess("uvicorn", environ, app="bench.routing_gateway:app"))

        gateways = [await asyncio.to_thread(start) for _ in range(instances)]
        async with callers([Door(gateway.url, key) for gateway in gateways]) as load:
            yield System(simulator, azurite, start, gateways, load)
