"""Through the gateway, callers see what Azure answers: the same programs are run against a region and through it."""

import base64
import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx2
import msgspec
import pytest
from openai import AzureOpenAI, OpenAI

from simulator.process import SimulatorProcess
from tests.harness import node_clients
from tests.harness.azurite import Azurite
from tests.harness.gateway_process import Edge
from tests.harness.programs import PROGRAMS, Caller
from tests.harness.recording import Exchange, Recorder
from tests.harness.simulated import PREVIEW
from tests.harness.system import DEPLOYMENTS, LONE_REGION, System, system, watched

Program = Callable[[Caller], None]


@pytest.fixture(scope="session")
def single_system(edge: Edge, emulator: Azurite, simulator: SimulatorProcess) -> Iterator[System]:
    backend = {"name": "only", "endpoint": simulator.regions[LONE_REGION], "region": LONE_REGION, "models": DEPLOYMENTS}
    with system(edge, {"backends": [backend]}, simulator, emulator.connection_string) as running:
        yield running


@pytest.fixture
def single(single_system: System) -> Iterator[System]:
    """A gateway in front of one region."""
    yield from watched(single_system)


def direct(simulator: SimulatorProcess, style: str) -> Caller:
    """A caller of the region itself, by the names that it gives the models."""
    endpoint, key = simulator.regions[LONE_REGION], simulator.api_key
    return Caller(lambda http: _client(endpoint, "v1" if style == "openai" else style, key, http), DEPLOYMENTS)


def through(gateway: System, style: str) -> Caller:
    """A caller of the gateway, by the names of its configuration."""
    return Caller(lambda http: _client(gateway.url, style, gateway.key, http), {})


def _client(url: str, style: str, key: str, http: httpx2.Client) -> OpenAI | AzureOpenAI:
    given: dict[str, Any] = {"api_key": key, "max_retries": 0, "http_client": http}
    given["default_headers"] = {"x-ms-client-request-id": "mine"}
    if style == "dated":
        return AzureOpenAI(azure_endpoint=url, api_version=PREVIEW, **given)
    return OpenAI(base_url=f"{url}/v1" if style == "openai" else f"{url}/openai/v1", **given)


def comparable(ours: Exchange, theirs: Exchange) -> Exchange:
    """A list of the caller's own objects is put together by the gateway: it has no headers of one backend."""
    own = ours.request.startswith("GET") and "x-ms-region" not in ours.headers and "data" in theirs.body
    return msgspec.structs.replace(ours, headers=theirs.headers) if own else ours


@pytest.mark.parametrize("style", ["openai", "dated"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_a_caller_sees_the_same_with_and_without_the_gateway(single: System, program: Program, style: str) -> None:
    expected, seen = direct(single.simulator, style), through(single, style)
    try:
        program(expected)
        single.simulator.clear()
        single.simulator.fault("rechunk", seed=random.randrange(1_000_000), largest=97)
        program(seen)
    finally:
        expected.close()
        seen.close()
    assert_same(seen.exchanges, expected.exchanges)


def assert_same(seen: list[Exchange], expected: list[Exchange]) -> None:
    for ours, theirs in zip(seen, expected, strict=False):
        assert comparable(ours, theirs) == theirs
    assert len(seen) == len(expected)


@pytest.mark.parametrize("style", ["openai", "v1"])
def test_a_caller_with_nodes_client_sees_the_same(single: System, style: str) -> None:
    simulator = single.simulator
    expected = _run_node(f"{simulator.regions[LONE_REGION]}/openai/v1", simulator.api_key, DEPLOYMENTS)
    simulator.clear()
    simulator.fault("rechunk", seed=random.randrange(1_000_000), largest=97)
    path = "v1" if style == "openai" else "openai/v1"
    assert_same(_run_node(f"{single.url}/{path}", single.key, {}), expected)
    assert len(expected) > 25


def _run_node(url: str, key: str, names: Mapping[str, str]) -> list[Exchange]:
    recorder = Recorder()
    for line in node_clients.run("program.mjs", url, key, json.dumps(names)):
        call = json.loads(line)
        recorder.add(call["method"], call["path"], call["status"], call["headers"], base64.b64decode(call["body"]))
    return recorder.exchanges
