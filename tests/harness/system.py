"""A gateway in front of the simulator and Azurite, and what tests ask of the three together."""

import contextlib
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

from anthropic import Anthropic
from openai import AsyncOpenAI, AzureOpenAI, OpenAI

from shared import bootstrap
from shared.config.environment import Storage
from shared.errors import StoreUnavailable
from simulator.process import SimulatorProcess
from tests.harness.gateway_process import Answer, Edge, GatewayProcess, cli, make_key, request, run_apart
from tests.harness.patience import PATIENCE

MANAGEMENT_KEY = "the operator's, for tests: 0123456789"
REGIONS = {"swedencentral": "Sweden Central", "eastus2": "East US 2", "japaneast": "Japan East"}
BACKENDS = {"sweden": "swedencentral", "virginia": "eastus2", "japan": "japaneast"}
DEPLOYMENTS = {  # model -> deployment; some have names of their own, so that the gateway has to translate
    "gpt-4o": "gpt-4o-prod",
    "gpt-5.4": "gpt-5.4",
    "gpt-5.4-mini": "gpt-5.4-mini",
    "gpt-image-2": "gpt-image-2",
    "gpt-4o-mini": "gpt-4o-mini",
    "o4-mini": "thinker",
    "text-embedding-3-small": "embed",
    "gpt-35-turbo-instruct": "instruct",
    "gpt-image-1": "painter",
    "dall-e-3": "dall-e-3",
    "tts": "speaker",
    "gpt-4o-mini-tts": "gpt-4o-mini-tts",
    "whisper": "listener",
    "gpt-4o-mini-transcribe": "gpt-4o-mini-transcribe",
    "omni-moderation-latest": "moderation",
    "gpt-realtime": "realtime",
}
CLAUDES = {"claude-sonnet-5-5": "claude-prod", "claude-haiku-5-5": "claude-haiku-5-5"}  # of Anthropic's API
CLAUDE_SPARES = [f"claude-spare-{number:02}" for number in range(30)]
# A gateway remembers the health of every deployment, so a test that injects faults takes models that no other one uses:
# a spare one is in all three regions, a lone one in a single region.
SPARES = [f"spare-{number:03}" for number in range(150)]
WITH_FALLBACK = "spare-with-fallback"
LONE = [f"lone-{number:03}" for number in range(50)]
LONE_REGION = "swedencentral"
# A fourth region is as slow as the real ones, so that what is sent together is not received together.
SLOW = [f"slow-{number:03}" for number in range(50)]
SLOW_REGION = "norwayeast"
SECONDS_PER_CHUNK = 0.01

PATIENT: dict[str, Any] = {"max_retries": 0, "timeout": 30.0}


def simulated_regions() -> dict[str, Any]:
    """The configuration of the simulator for the gateway's `configuration`."""
    deployments = [{"name": deployment, "model": model} for model, deployment in DEPLOYMENTS.items()]
    deployments += [{"name": name, "model": "gpt-4o"} for name in (*SPARES, *LONE, WITH_FALLBACK)]
    deployments += [{"name": deployment, "model": model} for model, deployment in CLAUDES.items()]
    deployments += [{"name": name, "model": "claude-sonnet-5-5"} for name in CLAUDE_SPARES]
    deployments.append({"name": "reserved", "model": "gpt-5.4", "sku": "ProvisionedManaged"})
    regions: list[dict[str, Any]] = [
        {"name": name, "display": display, "deployments": deployments} for name, display in REGIONS.items()
    ]
    slow = [{"name": name, "model": "gpt-4o"} for name in SLOW]
    regions.append({"name": SLOW_REGION, "deployments": slow, "seconds_per_chunk": SECONDS_PER_CHUNK})
    return {"regions": regions}


def configuration(simulator: SimulatorProcess, **more: Any) -> dict[str, Any]:
    """Three backends; another at the third's address, called by key and by a dated version of the API; a slow one. Rows
    are committed before the end of an answer, so that tests can read them then."""
    backends = [
        {
            "name": name,
            "endpoint": simulator.regions[region],
            "region": region,
            "models": DEPLOYMENTS
            | CLAUDES
            | {model: model for model in (*SPARES, *CLAUDE_SPARES, WITH_FALLBACK)}
            | ({model: model for model in LONE} if region == LONE_REGION else {}),
        }
        for name, region in BACKENDS.items()
    ]
    dated = {
        "name": "japan-dated",
        "endpoint": simulator.regions["japaneast"],
        "region": "japaneast",
        "auth": {"api_key_env": "JAPAN_KEY"},
        "api_version": "2024-10-21",
        "models": {"gpt-4o-dated": "gpt-4o-prod"},
    }
    slow = {
        "name": "norway",
        "endpoint": simulator.regions[SLOW_REGION],
        "region": SLOW_REGION,
        "models": {model: model for model in SLOW},
    }
    models = {
        "gpt-4o": {"aliases": ["gpt-4o-2024-11-20"]},
        WITH_FALLBACK: {"fallbacks": ["gpt-4o-mini"]},
    }
    return {"backends": [*backends, dated, slow], "models": models, **more}


class System:
    """A gateway together with its simulator and its store, and what tests ask of them."""

    def __init__(self, gateway: GatewayProcess, simulator: SimulatorProcess, storage: str) -> None:
        self.gateway = gateway
        self.simulator = simulator
        self.storage = storage
        self.key = self.make_key("tests")
        self.url = gateway.url
        self.edge = gateway.edge
        # From the other end on the other edge: both gateways share a store, and with it what they know of deployments.
        order = -1 if gateway.edge == "functions" else 1
        self._spares = iter(SPARES[::order])
        self._lone = iter(LONE[::order])
        self._slow = iter(SLOW[::order])
        self._claudes = iter(CLAUDE_SPARES[::order])
        self._clients: list[OpenAI | Anthropic] = []

    def spare(self) -> str:
        """A model in all three regions that no test has used; its deployments have its name."""
        return next(self._spares)

    def lone(self) -> str:
        """The same, in one region."""
        return next(self._lone)

    def claude(self) -> str:
        """A model of Anthropic's API in all three regions that no test has used; its deployments have its name."""
        return next(self._claudes)

    def slow(self) -> str:
        """The same, in a slow region."""
        return next(self._slow)

    def openai(self, key: str = "", **options: Any) -> OpenAI:
        given: dict[str, Any] = {"base_url": f"{self.url}/v1", **PATIENT, **options}
        return self._closed_later(OpenAI(api_key=key or self.key, **given))

    def async_openai(self, key: str = "", **options: Any) -> AsyncOpenAI:
        given: dict[str, Any] = {"base_url": f"{self.url}/v1", **PATIENT, **options}
        return AsyncOpenAI(api_key=key or self.key, **given)

    def anthropic(self, key: str = "", **options: Any) -> Anthropic:
        given: dict[str, Any] = {"base_url": self.url, **PATIENT, **options}
        return self._closed_later(Anthropic(api_key=key or self.key, **given))

    def azure(self, key: str = "", **options: Any) -> AzureOpenAI:
        given: dict[str, Any] = {"api_version": "2024-10-21", **PATIENT, **options}
        return self._closed_later(AzureOpenAI(azure_endpoint=self.url, api_key=key or self.key, **given))

    def _closed_later[C: (OpenAI, AzureOpenAI, Anthropic)](self, client: C) -> C:
        """Close a client that its test leaves open: a socket left open would fail whichever test comes later."""
        self._clients.append(client)
        return client

    def close_clients(self) -> None:
        """Close the clients that tests have opened."""
        while self._clients:
            self._clients.pop().close()

    def post(self, path: str, body: object, headers: Mapping[str, str] | None = None, *, key: str = "") -> Answer:
        """A POST with this key; a body that is not bytes is sent as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = {"authorization": f"Bearer {key or self.key}", "content-type": "application/json"}
        return self.gateway.request("POST", path, data, head | dict(headers or {}))

    def get(self, path: str, key: str = MANAGEMENT_KEY) -> Answer:
        """An answer of the management API."""
        return self.gateway.request("GET", path, None, {"authorization": f"Bearer {key}"})

    def manage(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        key: str = MANAGEMENT_KEY,
    ) -> Answer:
        """A request of an operator; a body that is not bytes is sent as JSON."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        head = {"authorization": f"Bearer {key}", **({"content-type": "application/json"} if data else {})}
        return self.gateway.request(method, path, data, head | dict(headers or {}))

    def chat(self, model: str = "gpt-4o", content: str = "Hello", **fields: Any) -> Answer:
        """A chat completion that is not streamed, or the whole of one that is."""
        return self.post("/v1/chat/completions", chat_body(model, content, **fields))

    def direct(self, path: str, body: object, region: str = LONE_REGION) -> Answer:
        """The same POST to a simulated region, without the gateway."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        host, port = self.simulator.regions[region].removeprefix("http://").split(":")
        headers = {"api-key": self.simulator.api_key, "content-type": "application/json"}
        return request((host, int(port)), "POST", path, data, headers)

    def make_key(self, name: str, *, models: Sequence[str] | None = None, expires: float = 0.0) -> str:
        """A key as `keys create` makes it."""
        return make_key(self.storage, name, models=models, expires=expires)

    def usage_of(self, key: str) -> dict[str, Any]:
        """The line of this key's consumer in `tollgate usage --json`."""
        return self.usage()[key.split("_")[1]]

    def usage_rows(self, key: str = "") -> list[dict[str, Any]]:
        """The ledger's rows of the consumer that this key belongs to, in the order of the requests."""
        rows = run_apart(_usage_rows(self.storage))
        return [row for row in rows if row.get("s_key") == (key or self.key).split("_")[1]]

    def usage(self, by: str = "key") -> dict[str, dict[str, Any]]:
        """The lines of `tollgate usage --json`, by id of the consumer, model, region or backend."""
        return {row[by]: row for row in cli(self.gateway.environment, "usage", "--by", by, "--json")}

    def running_invocations(self) -> list[str]:
        """The invocations of the functions host that have not ended."""
        return list(self.gateway.invocations()["running"]) if self.edge == "functions" else []

    def no_invocation_is_left(self) -> None:
        """Every invocation has ended, without the ten seconds that one waits for its request."""
        eventually(lambda: not self.running_invocations(), 8.0)

    def assert_no_defect(self, since: int = 0) -> None:
        """No traceback in the log, from this position on."""
        logs = self.gateway.logs()[since:]
        for sign in ("Traceback", "never retrieved", "never awaited", "unexpected error"):
            assert sign not in logs, logs[-6000:]


class Caller:
    """A caller on a raw socket, who may leave at any moment."""

    def __init__(self, system: System, key: str, body: Mapping[str, Any], *, buffer: int = 0) -> None:
        self._socket = socket.socket()
        if buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._socket.settimeout(20)
        self._socket.connect(system.gateway.address)
        data = json.dumps(body).encode()
        head = (
            f"host: gateway\r\nconnection: close\r\nauthorization: Bearer {key}\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        self.request = b"POST /v1/chat/completions HTTP/1.1\r\n" + head.encode() + data
        self.received = b""

    @property
    def port(self) -> int:
        """The caller's own end of the connection."""
        port: int = self._socket.getsockname()[1]
        return port

    def send(self, most: int | None = None) -> Self:
        """The request, or its beginning; a negative number leaves out its end."""
        self._socket.sendall(self.request[:most])
        return self

    def read_until(self, count: int, mark: bytes = b'"content":"') -> Self:
        """Until this mark has come so often."""
        while self.received.count(mark) < count:
            data = self._socket.recv(65_536)
            assert data, "the connection ended early"
            self.received += data
        return self

    def skip_until(self, mark: bytes) -> Self:
        """Until this mark has come. Only the last of what comes is kept."""
        while mark not in self.received:
            data = self._socket.recv(1_000_000)
            assert data, "the connection ended early"
            self.received = self.received[-16_384:] + data
        return self

    def read_to_the_end(self, seconds: float) -> bool:
        """True if the connection ends in this time. Only the last bytes are kept."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(ConnectionResetError):
            while data := self._socket.recv(1_000_000):
                self.received = (self.received + data)[-16_384:]
                if time.monotonic() > deadline:
                    return False
        return True

    @property
    def request_id(self) -> str:
        """The head of the answer."""
        return self.received.partition(b"x-gateway-request-id: ")[2].partition(b"\r\n")[0].decode()

    def leave(self, *, reset: bool = False) -> None:
        if reset:  # closing with a linger time of zero sends RST
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def chat_body(model: str = "gpt-4o", content: str = "Hello", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], **fields}


async def _usage_rows(storage: str) -> list[dict[str, Any]]:
    deadline = time.monotonic() + PATIENCE
    async with bootstrap.open_store(Storage(connection_string=storage)) as store:
        while True:
            with contextlib.suppress(StoreUnavailable):  # it gives up after two seconds
                rows = [row for name in await store.names("usage2") async for row in store.table(name).scan_all()]
                return [{"id": row.key, **row.properties} for row in sorted(rows, key=lambda row: row.key)]
            assert time.monotonic() < deadline, "the table does not answer"


def final(row: dict[str, Any]) -> bool:
    """True if a row has the end of its call, and its estimated tokens have been counted."""
    return "e_status" in row and ("e_counted" in row or not row.get("e_est"))


def eventually(holds: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait until `holds()` is true."""
    deadline = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.03)


def quickest(ask: Callable[[], object]) -> float:
    """The seconds of the quickest of three calls: a pause of the machine lengthens one, a wait of the gateway all."""

    def seconds() -> float:
        started = time.monotonic()
        ask()
        return time.monotonic() - started

    return min(seconds() for _ in range(3))


@contextmanager
def system(
    edge: Edge,
    configuration: Mapping[str, Any],
    simulator: SimulatorProcess,
    storage: str,
    *,
    command: Sequence[str] | None = None,
    app: str = "shared.asgi:app",
    tables: str = "",
) -> Iterator[System]:
    """Start a gateway of its own. `tables`: the way to the store that only the gateway takes."""
    environ = {
        "GATEWAY_CONFIG": json.dumps(configuration),
        "GATEWAY_STORAGE": tables or storage,
        "GATEWAY_MANAGEMENT_KEY": MANAGEMENT_KEY,
        "JAPAN_KEY": simulator.api_key,
        "GATEWAY_SIMULATOR": simulator.control,
        **simulator.identity_environment,
    }
    with GatewayProcess(edge, environ, command=command, app=app) as gateway:
        running = System(gateway, simulator, storage)
        try:
            yield running
        finally:
            running.close_clients()


def watched(running: System) -> Iterator[System]:
    """The body of a fixture: a clean simulator before the test; no defect in the gateway's log and no waiting
    invocation after it."""
    running.simulator.clear()
    before = len(running.gateway.logs())
    yield running
    running.close_clients()
    running.assert_no_defect(before)
    eventually(lambda: not running.running_invocations())  # an invocation waits 10 s for its request
