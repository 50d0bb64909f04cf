"""What the routing scenarios run on: the simulator with four regions, Azurite, and instances of the gateway; and how a
scenario tells what it found."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import msgspec
import psutil

from bench.routing_load import Callers, Door, callers
from simulator.process import SimulatorProcess
from tests.azurite import Azurite
from tests.gateway_process import GatewayProcess, make_key

REGIONS = {"sweden": "swedencentral", "virginia": "eastus2", "japan": "japaneast", "norway": "norwayeast"}
THREE = ("sweden", "virginia", "japan")
SICK = "virginia"  # the one that is in trouble where one is
PLAIN = (
    "sick", "hanging", "told", "streams", "long-streams", "brown-out", "all-brown", "slow", "flapping", "dead",
    "crowd", "killed", "storeless", "hung-up", "small-10s", "small-1s",
)  # fmt: skip
PACE = {"first_token_seconds": 0.1, "seconds_per_chunk": 0.01}  # an answer of 32 tokens takes 0.26 s
# A provisioned deployment works off this much; a call of 32 tokens, and a few for its prompt, is corrected to these.
PROVISIONED_TOKENS_PER_MINUTE = 60_000
_SETTLE = 6.0  # seconds within which what a call left behind has to be gone


class Row(msgspec.Struct, frozen=True):
    """A line of the table."""

    case: str
    must: str
    measured: str
    held: bool


def simulated() -> dict[str, Any]:
    """The simulator's configuration."""
    deployments: list[dict[str, Any]] = [{"name": name, "model": "gpt-4o"} for name in (*PLAIN, "prefix", "spill")]
    provisioned = {"name": "ptu", "model": "gpt-4o", "sku": "ProvisionedManaged", "window_seconds": 10}
    provisioned["tokens_per_minute"] = PROVISIONED_TOKENS_PER_MINUTE // 6
    regions = [{"name": name, "deployments": [*deployments, provisioned], **PACE} for name in REGIONS.values()]
    return {"regions": regions}


def configuration(simulator: SimulatorProcess, **more: Any) -> dict[str, Any]:
    """The gateway's: four regions, a provisioned deployment in front of pay-as-you-go, backends that do not resolve."""
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
        backends[0]["models"] |= {models[0]: "told"}
    return {"backends": backends, **more}


class Leaks:
    """What was open before a scenario and is after it. Idle connections are kept for the next calls: no leak as long as
    they are not more than were ever needed at a time, and none of them is one that the other side has closed."""

    def __init__(self, tasks: int) -> None:
        self.tasks_before = self.tasks_after = tasks
        self.most_at_once = 0
        self.connections: dict[str, int] = {}

    @property
    def none(self) -> bool:
        enough = self.tasks_after <= self.tasks_before + 2
        return (
            enough and sum(self.connections.values()) <= 8 + self.most_at_once and "CLOSE_WAIT" not in self.connections
        )

    def __str__(self) -> str:
        states = ", ".join(f"{count} {state.lower()}" for state, count in sorted(self.connections.items()))
        return f"tasks {self.tasks_before} → {self.tasks_after}, connections {states or 'none'}"


class System:
    """Running instances, the simulator, and callers. `doors` are the instances in their order."""

    def __init__(
        self,
        simulator: SimulatorProcess,
        azurite: Azurite,
        environ: Mapping[str, str],
        gateways: list[GatewayProcess],
        load: Callers,
    ) -> None:
        self.simulator = simulator
        self.azurite = azurite
        self.environ = environ
        self.gateways = gateways
        self.callers = load

    def restart(self, number: int) -> None:
        """Another process in the place of one that was killed."""
        self.gateways[number] = started(self.environ)
        self.callers.doors[number] = Door(self.gateways[number].url, self.callers.doors[number].key)

    def log(self, model: str) -> list[dict[str, Any]]:
        """What reached the deployments of this name, in order of arrival."""
        entries = [entry for entry in self.simulator.log()["requests"] if entry["deployment"] == model]
        return sorted(entries, key=lambda entry: float(entry["time"]))

    async def warm(self, model: str, times: int = 8) -> None:
        """Connections, tokens and caches are there before anything is measured."""
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

    async def tasks(self) -> int:
        """Of all instances that run, when nothing has changed for a moment."""
        last, deadline = -1, time.monotonic() + _SETTLE
        while (now := sum([sum((await self._look(gateway)).values()) for gateway in self._running()])) != last:
            last = now
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.3)
        return now

    def connections(self) -> dict[str, int]:
        """Of the instances to the regions, by state."""
        ports = {int(url.rpartition(":")[2]) for url in self.simulator.regions.values()}
        states: dict[str, int] = {}
        for gateway in self._running():
            for connection in psutil.Process(gateway.pid).net_connections("tcp"):
                if connection.raddr and connection.raddr.port in ports:
                    states[connection.status] = states.get(connection.status, 0) + 1
        return states

    @asynccontextmanager
    async def watched(self) -> AsyncIterator["Leaks"]:
        """What the block leaves open, to be read after it."""
        leaks = Leaks(await self.tasks())
        yield leaks
        leaks.tasks_after = await self.tasks()
        leaks.most_at_once = self.callers.most_at_once
        leaks.connections = self.connections()

    def _running(self) -> list[GatewayProcess]:
        return [gateway for gateway in self.gateways if gateway.running]

    async def _look(self, gateway: GatewayProcess) -> dict[str, int]:
        answer = await asyncio.to_thread(gateway.request, "GET", "/bench/look")
        told: dict[str, int] = answer.json()
        return told


def started(environ: Mapping[str, str]) -> GatewayProcess:
    return GatewayProcess("uvicorn", environ, app="bench.routing_gateway:app")


@asynccontextmanager
async def running(azurite: Azurite, instances: int, **settings: Any) -> AsyncIterator[System]:
    """The simulator and so many instances on these tables; `settings` are the configuration's."""
    with SimulatorProcess(simulated()) as simulator:
        environ = {
            "GATEWAY_CONFIG": json.dumps(configuration(simulator, **settings)),
            "GATEWAY_STORAGE": azurite.connection_string,
            **simulator.identity_environment,
        }
        key = await asyncio.to_thread(make_key, azurite.connection_string, "routing")
        gateways: list[GatewayProcess] = []
        try:
            for _ in range(instances):  # one by one, so that those that run are stopped when the next does not start
                gateways.append(await asyncio.to_thread(started, environ))  # noqa: PERF401
            async with callers([Door(gateway.url, key) for gateway in gateways]) as load:
                yield System(simulator, azurite, environ, gateways, load)
        finally:
            for gateway in gateways:
                gateway.stop()
