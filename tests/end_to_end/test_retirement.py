"""The end of a model as callers and operators see it, on both edges: announced, and survived by a dated switch."""

import email.utils
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.gateway_process import Answer, Edge
from tests.harness.system import System, configuration, eventually, watched
from tests.harness.system import system as start_system

ENDING, REPLACED, SUCCESSOR, NOT_YET = (f"spare-{number}" for number in (130, 131, 132, 133))
LIMITED = {"uvicorn": "spare-134", "functions": "spare-135"}  # both edges share the row of a limit


TODAY = time.time()  # of the whole file, though it may run past midnight


def day(days: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(TODAY + days * 86_400))


@pytest.fixture(scope="module")
def own(edge: Edge, azurite: Azurite, simulator: SimulatorProcess) -> Iterator[System]:
    settings = configuration(simulator)
    settings["models"] = {
        ENDING: {"retires": day(20), "aliases": ["the-ending-one"]},
        REPLACED: {"retires": day(40), "replaced_by": {"model": SUCCESSOR, "from": day(0)}},
        LIMITED[edge]: {"limits": {"requests_per_minute": 2}},
        "gone-for-long": {"replaced_by": {"model": LIMITED[edge], "from": "2026-01-01"}},
        NOT_YET: {"replaced_by": {"model": SUCCESSOR, "from": day(2)}},
    }
    with start_system(edge, settings, simulator, azurite.connection_string) as running:
        yield running


@pytest.fixture
def gateway(own: System) -> Iterator[System]:
    yield from watched(own)


def chat(system: System, model: str, key: str = "", **fields: Any) -> Answer:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **fields}
    return system.post("/v1/chat/completions", body, key=key)


def test_answers_of_a_model_that_ends_soon_say_when(gateway: System) -> None:
    answers = [chat(gateway, ENDING), chat(gateway, "the-ending-one", stream=True)]
    gateway.simulator.fault("status", deployment=ENDING, status=400, times=1)
    answers.append(chat(gateway, ENDING))
    gateway.simulator.fault("status", deployment=ENDING, status=500, times=9)
    answers.append(chat(gateway, ENDING))
    assert [answer.status for answer in answers] == [200, 200, 400, 500]
    for answer in answers:
        ends = email.utils.parsedate_to_datetime(answer.headers["sunset"])
        assert ends.strftime("%Y-%m-%d") == day(20)
        assert answer.headers["deprecation"] == f"@{ends.timestamp() - 90 * 86_400:.0f}"
    other = chat(gateway, SUCCESSOR)
    assert not {"sunset", "deprecation", "x-gateway-replacement"} & other.headers.keys()


def test_from_its_day_on_the_successor_serves_and_the_answer_says_so(gateway: System) -> None:
    key = gateway.make_key("allowed-the-old-one", models=[REPLACED])
    answer = chat(gateway, REPLACED, key)
    assert answer.status == 200
    assert answer.headers["x-gateway-replacement"] == SUCCESSOR
    assert "x-gateway-fallback" not in answer.headers
    assert "sunset" in answer.headers  # of the model that the caller still names
    assert chat(gateway, SUCCESSOR, key).status == 403
    request = answer.headers["x-gateway-request-id"]
    row = gateway.gateway.record(request)
    assert row["model"] == REPLACED
    (row,) = gateway.usage_rows(key)
    assert (row["s_model"], row["e_model"]) == (SUCCESSOR, SUCCESSOR)  # usage and cost are the successor's
    assert "x-gateway-replacement" not in chat(gateway, NOT_YET).headers
    with gateway.openai(key) as client:
        assert client.chat.completions.create(model=REPLACED, messages=[{"role": "user", "content": "x"}]).choices


def test_the_limits_of_the_successor_hold_for_calls_that_name_a_model_that_is_gone(gateway: System) -> None:
    statuses = [chat(gateway, "gone-for-long").status for _ in range(4)]
    assert statuses.count(200) == 2
    assert statuses.count(429) == 2


def test_a_key_may_be_limited_to_a_model_that_is_gone(gateway: System) -> None:
    made = gateway.manage("POST", "/gateway/consumers", {"name": f"gone-{gateway.edge}", "models": ["gone-for-long"]})
    assert made.status == 201
    key = made.json()["key"]
    assert chat(gateway, "gone-for-long", key).status in (200, 429)  # the successor's own limit
    assert chat(gateway, "gpt-4o", key).status == 403
    limits = {"model_limits": {"gone-for-long": {"requests_per_minute": 1}}}
    refused = gateway.manage("PATCH", f"/gateway/consumers/{made.json()['id']}", limits)
    assert (refused.status, refused.error()["param"]) == (400, "model_limits")  # its calls count for the successor


def test_callers_see_ends_and_successors_in_the_list_of_models(gateway: System) -> None:
    listed = {model["id"]: model for model in gateway.get("/v1/models", gateway.key).json()["data"]}
    assert time.strftime("%Y-%m-%d", time.gmtime(listed[ENDING]["deprecation"]["inference"])) == day(20)
    assert listed[REPLACED]["replaced_by"] == {"model": SUCCESSOR, "from": day(0)}
    assert "gone-for-long" in listed
    assert listed[SUCCESSOR].keys() == {"id", "object", "created", "owned_by"}
    one = gateway.get(f"/v1/models/{REPLACED}", gateway.key).json()
    assert one == listed[REPLACED]
    with gateway.openai() as client:
        assert REPLACED in {model.id for model in client.models.list()}


def test_operators_see_every_model_with_its_places_price_and_end(gateway: System) -> None:
    assert gateway.get("/gateway/models", gateway.key).status == 401
    answer = gateway.get("/gateway/models")
    assert answer.status == 200
    models = {model["model"]: model for model in answer.json()["models"]}
    ending = models[ENDING]
    assert (ending["retires"], ending["source"]) == (day(20), "configuration")
    assert ending["days_left"] in (19, 20)
    assert ending["aliases"] == ["the-ending-one"]
    assert {place["backend"] for place in ending["backends"]} == {"sweden", "virginia", "japan"}
    assert {place["deployment"] for place in models["gpt-4o"]["backends"]} == {"gpt-4o-prod"}
    assert (models["gpt-4o"]["price_known"], ending["price_known"]) == (True, False)
    assert models["gpt-4o"]["read"]
    assert (models["gpt-4o"]["format"], models["claude-sonnet-5-5"]["format"]) == ("openai", "anthropic")
    assert models[REPLACED]["served_by"] == SUCCESSOR
    assert models["gone-for-long"]["backends"] == []
    assert gateway.get("/gateway/models?colour=red").status == 400


def test_the_log_of_the_start_warns(gateway: System) -> None:
    eventually(lambda: f"the model {ENDING} ends on {day(20)}" in gateway.gateway.logs())
    log = gateway.gateway.logs()
    assert f"the model {REPLACED} ends" not in log  # its successor serves already
    assert "the model o4-mini ended on" in log
    assert json.dumps(log).count("the model o4-mini ended on") == 1
