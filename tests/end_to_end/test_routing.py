"""Routing as callers and operators meet it: regions, pins, deadlines, hedges, fallbacks, canaries, shadows, reports."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from shared import bootstrap
from shared.auth.consumers import Consumers
from shared.config.environment import Storage
from shared.config.limits import Limits
from shared.types import Access
from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.backends import DENIED
from tests.harness.consumers import create_consumer
from tests.harness.gateway_process import Answer, GatewayProcess
from tests.harness.system import Caller, System, chat_body, eventually, system

OPERATOR = "the-operators-secret-0123456789abcdef"
ZONES = {"swedencentral": "eu", "eastus2": "us", "japaneast": None}
# Each test has models of its own, because health is remembered; these are the last of the simulator's spare ones.
MODELS = [f"spare-{number}" for number in range(120, 150)]
NEXT, FULL, EMPTY = MODELS[-1], MODELS[-2], MODELS[-3]
CANARIED, SHADOWED, HEDGED, FALLING = MODELS[-4], MODELS[-5], MODELS[-6], MODELS[-7]
FALLEN, CAREFUL = MODELS[-8], MODELS[-9]
ONLY_US = "only-us"


def settings(simulator: SimulatorProcess) -> dict[str, Any]:
    backends = [
        {
            "name": f"in-{region}",
            "endpoint": simulator.regions[region],
            "region": region,
            "models": {model: model for model in MODELS if model not in (NEXT, FULL, EMPTY, FALLEN)}
            | ({NEXT: NEXT, FALLEN: FALLEN} if region != "eastus2" else {ONLY_US: "gpt-4o-prod"}),
        }
        | ({"data_zone": zone} if zone else {})
        for region, zone in ZONES.items()
    ]
    reserved = {
        "name": "reserved",
        "endpoint": simulator.regions["swedencentral"],
        "region": "swedencentral",
        "kind": "provisioned",
        "models": {FULL: FULL, CAREFUL: FULL},
    }
    standby = {
        "name": "standby",
        "endpoint": simulator.regions["swedencentral"],
        "region": "swedencentral",
        "models": {FULL: EMPTY},
    }
    models = {
        CANARIED: {"canary": {"model": NEXT, "share": 1.0}},
        SHADOWED: {"shadow": {"model": NEXT, "share": 1.0}},
        HEDGED: {"hedge": True, "first_byte": 8.0},
        NEXT: {"first_byte": 8.0},
        FALLING: {"fallbacks": [FALLEN]},
        CAREFUL: {"fallbacks": [FALLEN], "fallback_on": ["context_window"]},
    }
    timeouts = {"connect": 0.5, "first_byte": 2.0, "total": 10.0}
    return {"backends": [*backends, reserved, standby], "models": models, "timeouts": timeouts}


@contextmanager
def gateway_on(simulator: SimulatorProcess, storage: str, configuration: dict[str, Any]) -> Iterator[System]:
    environ = {
        "GATEWAY_CONFIG": json.dumps(configuration),
        "GATEWAY_STORAGE": storage,
        "GATEWAY_MANAGEMENT_KEY": OPERATOR,
        **simulator.identity_environment,
    }
    with GatewayProcess("uvicorn", environ) as process:
        yield System(process, simulator, storage)


@pytest.fixture(scope="module")
def running(azurite: Azurite, simulator: SimulatorProcess) -> Iterator[System]:
    with gateway_on(simulator, azurite.connection_string, settings(simulator)) as running:
        eventually(lambda: running.chat(MODELS[0]).status == 200)
        yield running


_unused = iter(MODELS[1:21])


@pytest.fixture
def routed(running: System) -> Iterator[System]:
    running.simulator.clear()
    before = len(running.gateway.logs())
    yield running
    running.simulator.clear()
    running.assert_no_defect(before)


@pytest.fixture
def model() -> str:
    return next(_unused)


def key_with(system: System, **access: Any) -> str:
    async def create() -> str:
        async with bootstrap.open_store(Storage(connection_string=system.storage)) as store:
            _, text = await create_consumer(
                Consumers(store), "c", models=None, limits=Limits(), access=Access(**access)
            )
            return text

    return asyncio.run(create())


def ask(system: System, model: str, key: str = "", body: Any = None, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return system.post("/v1/chat/completions", body or chat_body(model), named, key=key)


def refuse(system: System, model: str, code: str, region: str | None = None) -> None:
    body = {"error": {"message": "No.", "type": "invalid_request_error", "param": None, "code": code}}
    system.simulator.fault("status", status=400, body=body, deployment=model, region=region)


def backends(system: System) -> dict[str, Any]:
    answer = system.gateway.request("GET", "/gateway/backends", headers={"authorization": f"Bearer {OPERATOR}"})
    assert answer.status == 200
    report: dict[str, Any] = answer.json()
    return report


def deployment(system: System, backend: str, name: str) -> dict[str, Any]:
    report = next(one for one in backends(system)["backends"] if one["name"] == backend)
    return next(one for one in report["deployments"] if one["deployment"] == name)


# --- regions and pins -------------------------------------------------------------------------------------------------


def test_a_key_of_one_data_zone_never_leaves_it_even_when_the_zone_is_down(routed: System, model: str) -> None:
    european = key_with(routed, data_zones=frozenset({"eu"}))
    answers = [ask(routed, model, european) for _ in range(6)]
    assert {(a.status, a.headers["x-gateway-region"]) for a in answers} == {(200, "swedencentral")}
    routed.simulator.fault("status", status=503, body="<html>", deployment=model, region="swedencentral")
    assert {ask(routed, model, european).status for _ in range(4)} == {503}
    asked = {entry["region"] for entry in routed.simulator.log()["requests"] if entry["deployment"] == model}
    assert asked == {"swedencentral"}


def test_a_call_to_a_model_outside_the_regions_of_its_key_reaches_no_backend(routed: System) -> None:
    for access in ({"data_zones": frozenset({"eu"})}, {"regions": frozenset({"japaneast"})}):
        answer = ask(routed, ONLY_US, key_with(routed, **access))
        assert (answer.status, answer.error()["code"]) == (403, "region_not_allowed")
    assert ask(routed, ONLY_US, key_with(routed, regions=frozenset({"eastus2"}))).status == 200


def test_a_key_sees_only_the_models_in_its_regions(routed: System) -> None:
    european, american = (key_with(routed, data_zones=frozenset({zone})) for zone in ("eu", "us"))

    def shown(key: str) -> set[str]:
        answer = routed.gateway.request("GET", "/v1/models", headers={"authorization": f"Bearer {key}"})
        return {model["id"] for model in answer.json()["data"]}

    assert shown(american) - shown(european) == {ONLY_US}
    answer = routed.gateway.request("GET", f"/v1/models/{ONLY_US}", headers={"authorization": f"Bearer {european}"})
    assert (answer.status, answer.error()["code"]) == (403, "region_not_allowed")


def test_a_fallback_stays_in_the_zone_too(routed: System) -> None:
    refuse(routed, FALLING, "context_length_exceeded")
    answer = ask(routed, FALLING, key_with(routed, data_zones=frozenset({"us"})))
    assert (answer.status, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    answers = [ask(routed, FALLING, key_with(routed, data_zones=frozenset({"eu"}))) for _ in range(3)]
    assert {(a.status, a.headers["x-gateway-region"]) for a in answers} == {(200, "swedencentral")}


def test_a_pinned_call_goes_to_its_backend_or_nowhere(routed: System, model: str) -> None:
    chooser = key_with(routed, pin=True)
    for _ in range(4):
        assert ask(routed, model, chooser, x_gateway_backend="in-eastus2").headers["x-gateway-backend"] == "in-eastus2"
    routed.simulator.fault("reset", deployment=model, region="eastus2")
    assert ask(routed, model, chooser, x_gateway_backend="in-eastus2").status == 503
    unknown = ask(routed, model, chooser, x_gateway_backend="atlantis")
    assert (unknown.status, unknown.error()["param"]) == (400, "x-gateway-backend")
    refused = ask(routed, model, x_gateway_backend="in-eastus2")
    assert (refused.status, refused.error()["code"]) == (403, "pin_not_allowed")


def test_only_a_permitted_key_gets_the_routing_decisions(routed: System, model: str) -> None:
    routed.simulator.fault("status", status=500, deployment=model, region="eastus2")
    curious = key_with(routed, explain=True)
    explained = [ask(routed, model, curious, x_gateway_explain="true").headers["x-gateway-explain"] for _ in range(3)]
    assert any("in-eastus2, status 500 after" in line and "200 after" in line for line in explained)
    assert "x-gateway-explain" not in ask(routed, model, x_gateway_explain="true").headers
    assert "x-gateway-explain" not in ask(routed, model, curious).headers


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_bounds_the_time_of_its_call(routed: System, model: str, stream: bool) -> None:
    routed.simulator.fault("hang", deployment=model)
    started = time.monotonic()
    answer = ask(routed, model, body=chat_body(model, stream=stream), x_request_timeout_ms="700")
    assert (answer.status, answer.error()["code"]) == (504, "upstream_timeout")
    assert 0.6 < time.monotonic() - started < 5.0
    wrong = ask(routed, model, x_request_timeout_ms="soon")
    assert (wrong.status, wrong.error()["param"]) == (400, "x-request-timeout-ms")


def test_a_stream_that_outlives_the_callers_time_ends_with_an_error_event(routed: System, model: str) -> None:
    routed.simulator.fault("stall", deployment=model, after_chunks=4, seconds=30)
    started = time.monotonic()
    answer = ask(routed, model, body=chat_body(model, stream=True), x_request_timeout_ms="800")
    assert time.monotonic() - started < 10  # the stall lasts 30 s; the machine may be slow
    assert answer.status == 200
    assert b"upstream_interrupted" in answer.body
    assert b"[DONE]" not in answer.body


@pytest.mark.parametrize("stream", [False, True])
def test_a_slow_call_is_hedged_and_the_slower_answer_is_booked(routed: System, stream: bool) -> None:
    key = key_with(routed)
    routed.simulator.fault("hang", deployment=HEDGED, times=1)
    started = time.monotonic()
    answer = ask(routed, HEDGED, key, chat_body(HEDGED, stream=stream))
    assert answer.status == 200
    assert time.monotonic() - started < 7  # the slow one would have had 8 s
    assert answer.headers["x-gateway-attempts"] == "2"
    rows: list[dict[str, Any]] = []

    def booked() -> bool:
        rows[:] = [row for row in routed.usage_rows(key) if "e_role" in row]
        return len(rows) == 1

    eventually(booked)
    assert rows[0]["e_role"] == "try"
    assert rows[0]["e_input"] > 0
    assert rows[0]["e_backend"] != answer.headers["x-gateway-backend"]


def test_a_caller_who_leaves_during_a_hedge_is_booked_for_both_calls(routed: System) -> None:
    key = key_with(routed)
    routed.simulator.fault("hang", deployment=HEDGED, times=2)
    with Caller(routed, key, chat_body(HEDGED)) as caller:
        caller.send()
        eventually(lambda: not routed.simulator.faults(), 7.0)  # both were asked
        caller.leave(reset=True)
    rows: list[dict[str, Any]] = []

    def booked() -> bool:
        rows[:] = routed.usage_rows(key)
        return len(rows) == 2 and all("e_input" in row for row in rows)

    eventually(booked)
    call, hedge = sorted(rows, key=lambda row: "e_role" in row)
    assert (call["e_ended"], call["e_attempts"], hedge["e_role"]) == ("hung_up", 2, "hedge")
    assert call["e_backend"] != hedge["e_backend"]
    assert call["e_input"] == hedge["e_input"] > 0


def test_a_quick_call_is_not_hedged(routed: System, model: str) -> None:
    for _ in range(5):
        assert ask(routed, model, x_gateway_hedge="true").headers["x-gateway-attempts"] == "1"


def test_no_call_waits_the_whole_timeout_of_a_hanging_region(
    azurite: Azurite, simulator: SimulatorProcess, model: str
) -> None:
    """It has answered so far, so its trouble is unknown; but calls that several callers wait for at once are hedged."""
    patient = settings(simulator) | {"timeouts": {"first_byte": 20.0}}
    with gateway_on(simulator, azurite.connection_string, patient) as running, ThreadPoolExecutor(24) as pool:
        list(pool.map(lambda _: running.chat(model), range(75)))
        simulator.fault("hang", deployment=model, region="eastus2")
        started = time.monotonic()
        answers = list(pool.map(lambda _: running.chat(model), range(24)))
        assert {answer.status for answer in answers} == {200}
        assert time.monotonic() - started < 15  # 3 s until it is doubted; the machine may be slow
        assert deployment(running, "in-eastus2", model)["state"] == "ejected"
        simulator.clear()


# --- other models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["context_length_exceeded", "content_filter"])
def test_a_fallback_model_serves_a_refused_call_and_the_usage_names_it(routed: System, code: str) -> None:
    refuse(routed, FALLING, code)
    key = key_with(routed)
    answer = ask(routed, FALLING, key)
    assert answer.status == 200
    assert answer.headers["x-gateway-fallback"] == FALLEN
    assert answer.headers["x-gateway-attempts"] == "2"
    row = next(row for row in routed.usage_rows(key) if "e_role" not in row)
    assert (row["s_model"], row["e_model"], row["e_output"]) == (FALLING, FALLEN, 32)
    charged = code == "content_filter"  # a refused prompt is charged, one that is too long is not
    eventually(lambda: sum("e_role" in row for row in routed.usage_rows(key)) == charged)


def test_if_the_fallback_model_refuses_too_the_caller_gets_the_first_refusal(routed: System) -> None:
    refuse(routed, FALLING, "content_filter")
    refuse(routed, FALLEN, "content_filter")
    answer = ask(routed, FALLING)
    assert (answer.status, answer.json()["error"]["code"]) == (400, "content_filter")
    refuse(routed, CAREFUL, "content_filter")
    assert ask(routed, CAREFUL).headers["x-gateway-attempts"] == "1"


def test_a_caller_can_name_fallbacks(routed: System, model: str) -> None:
    routed.simulator.fault("status", status=500, deployment=model)
    answer = ask(routed, model, x_gateway_fallback=f"{FALLEN}")
    assert (answer.status, answer.headers["x-gateway-fallback"]) == (200, FALLEN)
    unknown = ask(routed, model, x_gateway_fallback="no-such-model")
    assert (unknown.status, unknown.error()["code"]) == (404, "model_not_found")


def test_a_canary_takes_its_share_and_its_failure_is_not_the_callers(routed: System) -> None:
    answer = ask(routed, CANARIED)
    assert (answer.status, answer.headers["x-gateway-canary"]) == (200, NEXT)
    routed.simulator.fault("status", status=500, deployment=NEXT)
    answer = ask(routed, CANARIED)
    assert answer.status == 200
    assert "x-gateway-canary" not in answer.headers
    assert "x-gateway-fallback" not in answer.headers


@pytest.mark.parametrize("stream", [False, True])
def test_a_shadow_is_booked_apart_and_never_seen(routed: System, stream: bool) -> None:
    key = key_with(routed)
    answer = ask(routed, SHADOWED, key, chat_body(SHADOWED, stream=stream))
    assert answer.headers["x-gateway-attempts"] == "1"
    eventually(lambda: any(row.get("e_role") == "shadow" for row in routed.usage_rows(key)))
    call, shadow = routed.usage_rows(key)
    assert (call["e_model"], shadow["e_model"]) == (SHADOWED, NEXT)
    assert call["e_output"] == shadow["e_output"] == 32
    assert shadow["id"].startswith(call["id"] + "-")


def test_a_shadow_that_hangs_does_not_delay_the_call(routed: System) -> None:
    routed.simulator.fault("hang", deployment=NEXT)
    started = time.monotonic()
    assert ask(routed, SHADOWED).status == 200
    assert time.monotonic() - started < 7  # the shadow has 8 s


# --- quotas and prompt caches -----------------------------------------------------------------------------------------


def test_a_call_that_a_quota_would_refuse_goes_elsewhere_at_once(routed: System, model: str) -> None:
    routed.simulator.limits(region="eastus2", deployment=model, tokens_per_minute=60)
    for _ in range(6):
        assert ask(routed, model, body=chat_body(model, max_tokens=20)).status == 200
    refused = [entry for entry in routed.simulator.log()["requests"] if entry["deployment"] == model]
    assert [entry["status"] for entry in refused if entry["region"] == "eastus2"].count(429) <= 1
    large = [ask(routed, model, body=chat_body(model, max_tokens=500)) for _ in range(6)]
    assert {answer.headers["x-gateway-attempts"] for answer in large} == {"1"}


def test_calls_with_the_same_prompt_cache_key_stay_with_one_backend(routed: System, model: str) -> None:
    answers = [ask(routed, model, body=chat_body(model, str(i), prompt_cache_key="k")) for i in range(20)]
    assert len({answer.headers["x-gateway-backend"] for answer in answers}) == 1
    others = [ask(routed, model).headers["x-gateway-backend"] for _ in range(40)]
    chosen = answers[0].headers["x-gateway-backend"]
    assert others.count(chosen) == 0 or others.count(chosen) < 10  # it has had its turns
    assert len(set(others)) >= 2


def test_a_call_spilled_by_azure_is_booked_on_the_deployment_that_served_it(routed: System) -> None:
    key = key_with(routed)
    headers = {"x-ms-spillover-from-deployment": FULL, "x-ms-deployment-name": "pay-as-you-go"}
    body = {
        "id": "x",
        "object": "chat.completion",
        "choices": [],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2},
    }
    routed.simulator.fault("status", status=200, headers=headers, body=body, deployment=FULL)
    assert ask(routed, FULL, key).headers["x-gateway-backend"] == "reserved"
    row = routed.usage_rows(key)[0]
    assert (row["e_deployment"], row["e_input"]) == ("pay-as-you-go", 5)


def test_a_call_whose_spillover_by_azure_failed_is_not_spilled_again(routed: System) -> None:
    headers = {"x-ms-spillover-error": "429", "retry-after-ms": "300"}
    routed.simulator.fault("status", status=429, headers=headers, deployment=FULL)
    answer = ask(routed, FULL)
    assert answer.status == 429
    assert answer.headers["x-gateway-attempts"] == "1"
    assert 0 < int(answer.headers["retry-after-ms"]) <= 300


def test_provisioned_capacity_goes_first_and_spills_over_when_it_is_full(routed: System) -> None:
    time.sleep(1.2)  # what the tests before have throttled
    assert ask(routed, FULL).headers["x-gateway-backend"] == "reserved"
    routed.simulator.fault("status", status=429, headers={"retry-after": "30"}, deployment=FULL, times=1)
    assert ask(routed, FULL).headers["x-gateway-backend"] == "standby"
    assert ask(routed, FULL).headers["x-gateway-attempts"] == "1"
    time.sleep(1.2)  # a lone instance tries again after a second, in spite of the Retry-After: the capacity is paid for
    assert ask(routed, FULL).headers["x-gateway-backend"] == "reserved"


# --- health -----------------------------------------------------------------------------------------------------------


def test_the_operator_sees_how_every_backend_is_doing(routed: System, model: str) -> None:
    routed.simulator.fault("status", status=500, deployment=model, region="eastus2")
    for _ in range(9):
        assert ask(routed, model).status == 200
    sick, well = deployment(routed, "in-eastus2", model), deployment(routed, "in-japaneast", model)
    assert (sick["state"], sick["reason"], sick["ejections"]) == ("ejected", "status 500", 1)
    assert 0 < sick["ejected_for"] <= 6
    assert well["state"] == "usable"
    assert well["first_byte_ms"]["whole_answers"]["p95"] > 0
    assert sick["in_flight"] == well["in_flight"] == 0
    eventually(lambda: deployment(routed, "in-eastus2", model)["shared"] is not None)
    assert deployment(routed, "in-eastus2", model)["shared"]["reason"] == "status 500"
    assert routed.gateway.request("GET", "/gateway/backends").status == 401


def test_the_operator_sees_the_throttle_of_a_tier_apart_from_the_standard_tier(routed: System, model: str) -> None:
    routed.simulator.fault("status", status=429, headers={"retry-after": "60"}, deployment=model, times=3)
    assert ask(routed, model, body=chat_body(model, service_tier="flex")).status == 429
    assert ask(routed, model).headers["x-gateway-attempts"] == "1"
    for backend in backends(routed)["backends"][: len(ZONES)]:
        standard, flex = (one for one in backend["deployments"] if one["deployment"] == model)
        assert ("tier" not in standard, standard["state"], standard["cooling_for"]) == (True, "usable", 0)
        assert (flex["tier"], flex["models"], flex["state"]) == ("flex", [model], "cooling")
        assert 30 < flex["cooling_for"] <= 75


def test_another_instance_avoids_a_failing_region_without_calls_to_it(
    routed: System, model: str, simulator: SimulatorProcess
) -> None:
    routed.simulator.fault("status", status=401, body=DENIED, deployment=model, region="eastus2")
    assert all(ask(routed, model).status == 200 for _ in range(3))
    eventually(lambda: deployment(routed, "in-eastus2", model)["shared"] is not None)
    with gateway_on(simulator, routed.storage, settings(simulator)) as other:
        assert other.chat(ONLY_US).status == 200  # the first call has it read the table
        eventually(lambda: deployment(other, "in-eastus2", model)["state"] == "ejected")
        before = len(routed.simulator.log()["requests"])
        assert all(other.chat(model).status == 200 for _ in range(6))
        asked = routed.simulator.log()["requests"][before:]
        assert "eastus2" not in {entry["region"] for entry in asked if entry["deployment"] == model}


class Forgetful(threading.Thread):
    """A backend that closes a connection when a second request comes on it, as servers do that tire of waiting."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests = 0

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        body = b'{"id": "x", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}'
        with connection:
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
            connection.sendall(b"content-length: %d\r\n\r\n" % len(body) + body)
            self.requests += 1
            connection.recv(65_536)
            self.requests += 1

    def close(self) -> None:
        self._listener.close()


def test_a_lone_backend_that_has_closed_an_idle_connection_is_tried_once_more(
    azurite: Azurite, simulator: SimulatorProcess
) -> None:
    backend = Forgetful()
    backend.start()
    alone = {"name": "alone", "endpoint": backend.url, "region": "r", "models": {"m": "m"}}
    with system("uvicorn", {"backends": [alone]}, simulator, azurite.connection_string) as lonely:
        with lonely.openai() as client:
            for _ in range(4):
                client.chat.completions.create(**chat_body("m"))
        assert backend.requests > 4
        lonely.assert_no_defect()
    backend.close()


def test_a_lone_backend_that_always_closes_is_reported_as_such(routed: System, model: str) -> None:
    chooser = key_with(routed, pin=True)
    routed.simulator.fault("reset", deployment=model, region="japaneast")
    answer = ask(routed, model, chooser, x_gateway_backend="in-japaneast")
    assert (answer.status, answer.headers["x-gateway-attempts"]) == (503, "2")
    with routed.openai() as client:  # the others do not mind
        assert client.chat.completions.create(**chat_body(model)).choices


def test_the_model_of_the_image_tool_reaches_a_backend_as_its_deployment_if_the_key_may_use_it(gateway: System) -> None:
    named = {"x-ms-oai-image-generation-deployment": "gpt-image-1"}
    body = {"model": "gpt-4o", "input": "a ship", "store": False}
    assert gateway.post("/v1/responses", body, named).status == 200
    headers = {name.lower(): value for name, value in gateway.simulator.last_headers()}
    assert headers["x-ms-oai-image-generation-deployment"] == "painter"
    refused = gateway.post("/v1/responses", body, named, key=gateway.make_key("no painter", models=["gpt-4o"]))
    assert (refused.status, refused.error()["code"]) == (403, "model_not_allowed")
