"""A gateway in front of the simulator and Azurite, and what tests ask of the three together."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import openai

from simulator.process import SimulatorProcess
from tests.gateway_process import Answer, Edge, GatewayProcess, cli, make_key

PATIENT: dict[str, Any] = {"max_retries": 0, "timeout": 30.0}


class System:
    """A gateway together with its simulator and its store, and what tests ask of them."""

    def __init__(self, gateway: GatewayProcess, simulator: SimulatorProcess, storage: str, key: str) -> None:
        self.gateway = gateway
        self.simulator = simulator
        self.storage = storage
        self.key = key
        self.url = gateway.url
        self.edge = gateway.edge

    def openai(self, key: str = "", **options: Any) -> openai.OpenAI:
        given: dict[str, Any] = {"base_url": f"{self.url}/v1", **PATIENT, **options}
        return openai.OpenAI(api_key=key or self.key, **given)

    def async_openai(self, key: str = "", **options: Any) -> openai.AsyncOpenAI:
        given: dict[str, Any] = {"base_url": f"{self.url}/v1", **PATIENT, **options}
        return openai.AsyncOpenAI(api_key=key or self.key, **given)

    def azure(self, key: str = "", **options: Any) -> openai.AzureOpenAI:
        given: dict[str, Any] = {"api_version": "2024-10-21", **PATIENT, **options}
        return openai.AzureOpenAI(azure_endpoint=self.url, api_key=key or self.key, **given)

    def post(self, path: str, body: object, headers: Mapping[str, str] | None = None, *, key: str = "") -> Answer:
        """A POST with this key; a body that is not bytes is sent as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = {"authorization": f"Bearer {key or self.key}", "content-type": "application/json"}
        return self.gateway.request("POST", path, data, head | dict(headers or {}))

    def chat(self, model: str = "gpt-4o", content: str = "Hello", **fields: Any) -> Answer:
        """A chat completion that is not streamed, or the whole of one that is."""
        return self.post("/v1/chat/completions", chat_body(model, content, **fields))

    def make_key(self, name: str, *, models: Sequence[str] | None = None, expires: float = 0.0) -> str:
        """A key as `keys create` makes it."""
        return make_key(self.storage, name, models=models, expires=expires)

    def usage(self, by: str = "key") -> dict[str, dict[str, Any]]:
        """What `python -m shared.cli usage --json` tells, by name of the consumer, model, region or backend."""
        rows = cli(self.gateway.environment, "usage", "--by", by, "--json")
        return {row["name" if by == "key" else by]: row for row in rows}

    def no_invocation_is_left(self, patience: float = 5.0) -> None:
        """Under the functions host: every invocation has ended."""
        if self.edge == "functions":
            eventually(lambda: self.gateway.invocations()["running"] == [], patience)

    def nothing_failed(self) -> None:
        """No defect in the gateway's log."""
        logs = self.gateway.logs()
        assert "Traceback" not in logs, logs[-4000:]
        assert "never retrieved" not in logs, logs[-4000:]


def chat_body(model: str = "gpt-4o", content: str = "Hello", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], **fields}


def eventually(holds: Callable[[], bool], patience: float = 5.0) -> None:
    """Wait until `holds()` is true."""
    deadline = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.03)


@contextmanager
def system(
    edge: Edge,
    configuration: Mapping[str, Any],
    simulator: SimulatorProcess,
    storage: str,
    *,
    environment: Mapping[str, str] | None = None,
    key: str = "",
) -> Iterator[System]:
    """Start a gateway of its own."""
    environ = {
        "GATEWAY_CONFIG": json.dumps(configuration),
        "GATEWAY_STORAGE": storage,
        **simulator.identity_environment,
        **(environment or {}),
    }
    with GatewayProcess(edge, environ) as gateway:
        yield System(gateway, simulator, storage, key or make_key(storage, "tests"))
