"""Drains on both edges: an operator takes a region out, and no call fails."""

import asyncio
import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest

from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.gateway_process import Answer, Edge, GatewayProcess, cli
from tests.harness.system import MANAGEMENT_KEY, System, chat_body, eventually, watched
from tests.harness.system import system as start_system

OPERATOR = {"authorization": f"Bearer {MANAGEMENT_KEY}"}


@pytest.fixture(scope="module")
def drained_system(edge: Edge, azurite: Azurite, simulator: SimulatorProcess) -> Iterator[System]:
    """Two backends of this edge's own: both edges share the tables."""
    simulator.clear()
    models = {"gpt-4o": "gpt-4o-prod", "gpt-5.4": "gpt-5.4"}
    backends = [
        {
            "name": f"{region}-{edge}",
            "endpoint": simulator.regions[region],
            "region": region,
            "models": models if region == "swedencentral" else {"gpt-4o": "gpt-4o-prod"},
        }
        for region in ("swedencentral", "eastus2")
    ]
    with start_system(edge, {"backends": backends}, simulator, azurite.connection_string) as running:
        yield running


@pytest.fixture
def two(drained_system: System) -> Iterator[System]:
    yield from watched(drained_system)


def drain(system: System, name: str, body: object, query: str = "") -> Answer:
    headers = OPERATOR | {"content-type": "application/json"}
    path = f"/gateway/backends/{name}/drain{query}"
    return system.gateway.request("PUT", path, json.dumps(body).encode(), headers)


def restore(system: System, name: str) -> Answer:
    return system.gateway.request("DELETE", f"/gateway/backends/{name}/drain", None, OPERATOR)


def shown(system: System, name: str) -> Any:
    backends = system.get("/gateway/backends").json()["backends"]
    return next(backend["drained"] for backend in backends if backend["name"] == name)


class Load:
    """Callers of several gateways at once; `calls` are (gateway, begin, status, region)."""

    def __init__(self, urls: list[str], key: str) -> None:
        self._urls = urls
        self._headers = {"api-key": key}
        self.calls: list[tuple[int, float, int, str]] = []
        self._over = False

    async def run(self) -> None:
        async with aiohttp.ClientSession(headers=self._headers) as session:
            await asyncio.gather(*(self._caller(session, i) for i in range(len(self._urls)) for _ in range(4)))

    def end(self) -> None:
        self._over = True

    async def _caller(self, session: aiohttp.ClientSession, i: int) -> None:
        while not self._over:
            begin = time.monotonic()
            body = chat_body(stream=True)
            async with session.post(f"{self._urls[i]}/v1/chat/completions", json=body) as answer:
                text = await answer.read()
                complete = answer.status == 200 and text.rstrip().endswith(b"[DONE]")
                region = answer.headers.get("x-gateway-region", "")
                self.calls.append((i, begin, answer.status if complete else 0, region))
            await asyncio.sleep(0.02)

    def regions(self, i: int, since: float = 0.0, until: float = math.inf) -> set[str]:
        return {region for one, begin, _, region in self.calls if one == i and since <= begin < until}

    def latest(self, i: int, count: int, since: float) -> set[str]:
        """The regions of the last so many calls; none if there are fewer."""
        regions = [region for one, begin, _, region in self.calls if one == i and since <= begin]
        return set(regions[-count:]) if len(regions) >= count else set()


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.02)


async def test_a_drain_holds_on_a_second_instance_within_five_seconds_and_no_call_fails(two: System) -> None:
    name, both = f"eastus2-{two.edge}", {"swedencentral", "eastus2"}
    with GatewayProcess(two.edge, two.gateway.environment) as second:
        load = Load([two.url, second.url], two.key)
        running = asyncio.create_task(load.run())
        try:
            await until(lambda: load.regions(0) == load.regions(1) == both)
            began = time.monotonic()
            answer = await asyncio.to_thread(drain, two, name, {"for": "1h", "reason": "patches"})
            assert answer.status == 200, answer.body
            here = time.monotonic()
            await until(lambda: load.latest(0, 20, here) == load.latest(1, 20, began) == {"swedencentral"})
            restored = time.monotonic()
            assert (await asyncio.to_thread(restore, two, name)).status == 204
            await until(lambda: load.regions(0, restored) == load.regions(1, restored) == both)
            back = time.monotonic()
        finally:
            load.end()
            await asyncio.wait_for(running, 30)
    assert {status for _, _, status, _ in load.calls} == {200}
    for i in range(2):
        assert load.regions(i, began + 5, restored) <= {"swedencentral"}
    assert load.regions(0, here, restored) == {"swedencentral"}  # where it was drained, at once
    assert back - restored < 6


def test_a_drain_is_shown_and_on_record_and_ends_by_itself(two: System) -> None:
    name = f"eastus2-{two.edge}"
    assert shown(two, name) is None
    answer = drain(two, name, {"for": "6s", "reason": "a test"})
    assert answer.json()["name"] == name
    assert answer.json()["drained"].keys() == {"until", "since", "reason", "by"}
    assert (shown(two, name)["reason"], shown(two, name)["by"]) == ("a test", "management-key")
    records = two.get(f"/gateway/audit?object={name}").json()["data"]
    assert (records[0]["action"], records[0]["state"], records[0]["before"]) == ("backend.drain", "done", None)
    assert records[0]["after"]["reason"] == "a test"
    regions = {two.chat().headers["x-gateway-region"] for _ in range(6)}
    assert regions == {"swedencentral"}
    eventually(lambda: two.chat().headers["x-gateway-region"] == "eastus2")
    assert shown(two, name) is None


def test_the_last_backend_of_a_model_is_drained_by_force_alone(two: System) -> None:
    name = f"swedencentral-{two.edge}"
    refused = drain(two, name, {"for": "1m"})
    assert (refused.status, refused.error()["code"]) == (409, "still_needed")
    assert "gpt-5.4" in refused.error()["message"]
    stored = two.post("/v1/responses", {"model": "gpt-5.4", "input": "Hello"}).json()["id"]
    try:
        assert drain(two, name, {"for": "PT1M"}, "?force=true").status == 200
        unserved = two.chat("gpt-5.4")
        assert (unserved.status, unserved.error()["code"]) == (503, "no_backend_available")
        assert "drained" in unserved.error()["message"]
        kept = two.get(f"/v1/responses/{stored}", two.key)
        assert (kept.status, kept.json()["id"]) == (200, stored)  # it can be nowhere else
        more = {"model": "gpt-5.4", "input": "Go on", "previous_response_id": stored}
        assert two.post("/v1/responses", more).status == 200
    finally:
        assert restore(two, name).status == 204
    assert two.chat("gpt-5.4").status == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "for"),
        ({"for": "2"}, "for"),
        ({"for": "31d"}, "for"),
        ({"for": "0s"}, "for"),
        ({"for": "P"}, "for"),
        ({"for": 7200}, "for"),
        ({"for": "²h"}, "for"),
        ({"for": "1h", "reason": "two\nlines"}, "reason"),
        ({"for": "1h", "reason": 1}, "reason"),
        ({"for": "1h", "until": "x"}, "until"),
        ([], None),
    ],
)
def test_a_wrong_drain_is_refused(two: System, body: object, param: str | None) -> None:
    refused = drain(two, f"eastus2-{two.edge}", body)
    assert (refused.status, refused.error()["param"]) == (400, param)
    assert shown(two, f"eastus2-{two.edge}") is None


def test_an_unknown_backend_is_not_found(two: System) -> None:
    for answer in (drain(two, "nowhere", {"for": "1h"}), restore(two, "nowhere")):
        assert (answer.status, answer.error()["code"]) == (404, "resource_not_found")


def test_the_commands_drain_and_restore(two: System) -> None:
    name, environ = f"eastus2-{two.edge}", two.gateway.environment
    cli(environ, "backends", "drain", name, "--for", "10m", "--reason", "by command", "--json")
    listed = {line["name"]: line for line in cli(environ, "backends", "list", "--json")}
    assert listed[name]["reason"] == "by command"
    assert listed[name]["drained_until"] is not None
    assert listed[f"swedencentral-{two.edge}"]["drained_until"] is None
    eventually(lambda: {two.chat().headers["x-gateway-region"] for _ in range(4)} == {"swedencentral"})
    cli(environ, "backends", "restore", name, "--json")
    eventually(lambda: "eastus2" in {two.chat().headers["x-gateway-region"] for _ in range(4)})
