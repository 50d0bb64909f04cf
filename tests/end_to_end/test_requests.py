"""Single calls as operators find them, on both edges: by id, by filter, and those that were refused."""

from typing import Any

import pytest

from tests.harness.gateway_process import cli
from tests.harness.system import System, chat_body, eventually


def one(system: System, request_id: str) -> dict[str, Any]:
    """The call, once its row is in the table."""
    path = f"/gateway/requests/{request_id}"
    eventually(lambda: system.get(path).status == 200)
    call: dict[str, Any] = system.get(path).json()
    return call


def listed(system: System, query: str) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = system.get(f"/gateway/requests?{query}").json()["data"]
    return lines


def test_a_call_is_found_by_the_id_of_its_answer(gateway: System) -> None:
    key = gateway.make_key("found")
    answer = gateway.post("/v1/chat/completions", chat_body(), key=key)
    usage = answer.json()["usage"]
    call = one(gateway, answer.headers["x-gateway-request-id"])
    assert (call["consumer"], call["name"], call["model"]) == (key.split("_")[1], "found", "gpt-4o")
    assert (call["operation"], call["status"], call["ended"]) == ("chat.completions", 200, "complete")
    assert (call["input_tokens"], call["output_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert call["cost_usd"] == pytest.approx((usage["prompt_tokens"] * 2.5 + usage["completion_tokens"] * 10) / 1e6)
    (only,) = call["tries"]
    assert (only["backend"], only["status"], only["problem"]) == (answer.headers["x-gateway-backend"], 200, "")
    assert call["charges"] == []
    assert call == cli(gateway.gateway.environment, "requests", "show", call["id"], "--json")


def test_a_call_shows_each_of_its_tries(impatient: System) -> None:
    model = impatient.spare()
    for _ in range(2):
        impatient.simulator.fault("status", region="eastus2", deployment=model, times=1, status=503)
        impatient.simulator.fault("status", region="swedencentral", deployment=model, times=1, status=500)
    answers = [impatient.chat(model) for _ in range(3)]
    answer = next(answer for answer in answers if int(answer.headers["x-gateway-attempts"]) > 1)
    call = one(impatient, answer.headers["x-gateway-request-id"])
    assert call["attempts"] == int(answer.headers["x-gateway-attempts"]) == len(call["tries"])
    *failed, last = call["tries"]
    assert {one["status"] for one in failed} <= {500, 503}
    assert all(one["problem"] for one in failed)
    assert (last["backend"], last["status"], last["problem"]) == (answer.headers["x-gateway-backend"], 200, "")


def test_a_call_that_no_backend_served_shows_the_code(impatient: System) -> None:
    model = impatient.spare()
    impatient.simulator.fault("reset", region=None, deployment=model, times=None)
    answer = impatient.chat(model)
    assert answer.status == 503
    call = one(impatient, answer.headers["x-gateway-request-id"])
    assert (call["status"], call["ended"], call["code"]) == (503, "refused", "no_backend_available")
    assert {one["backend"] for one in call["tries"]} == {"sweden", "virginia", "japan"}
    assert len(call["tries"]) == call["attempts"]


def test_a_refused_call_is_found_and_says_why(gateway: System) -> None:
    key = gateway.make_key("narrow", models=["gpt-4o-mini"])
    answer = gateway.post("/v1/chat/completions", chat_body("gpt-4o"), key=key)
    assert answer.status == 403
    call = one(gateway, answer.headers["x-request-id"])
    assert (call["status"], call["code"], call["ended"]) == (403, "model_not_allowed", "refused")
    assert (call["consumer"], call["model"], call["call"]) == (
        key.split("_")[1],
        "gpt-4o",
        "POST /v1/chat/completions",
    )
    assert call["message"] in answer.error()["message"]
    line = gateway.gateway.record(call["id"])
    assert (line["consumer"], line["model"], line["code"]) == (call["consumer"], "gpt-4o", "model_not_allowed")


def test_refused_calls_are_counted_by_code_exactly(gateway: System) -> None:
    key = gateway.make_key("counted", models=["gpt-4o-mini"])
    consumer = key.split("_")[1]
    for _ in range(25):
        gateway.post("/v1/chat/completions", chat_body("gpt-4o"), key=key)
    gateway.post("/v1/chat/completions", {"messages": []}, key=key)
    gateway.post("/v1/chat/completions", chat_body("gpt-4o-mini"), key=key)

    def lines() -> dict[str, tuple[int, int]]:
        rows = gateway.get(f"/gateway/usage?by=code&key={consumer}").json()["lines"]
        return {line["code"]: (line["requests"], line["refused"]) for line in rows}

    expected = {"-": (1, 0), "model_not_allowed": (0, 25), "missing_model": (0, 1)}
    eventually(lambda: lines() == expected)
    assert gateway.get(f"/gateway/usage?key={consumer}").json()["total"]["refused"] == 26
    assert gateway.usage_of(key)["refused"] == 26
    described = listed(gateway, f"consumer={consumer}&code=model_not_allowed")
    assert 3 <= len(described) <= 25


def test_strangers_are_counted_and_leave_no_rows(gateway: System) -> None:
    def refused() -> int:
        rows = gateway.get("/gateway/usage?by=key,code").json()["lines"]
        return sum(line["refused"] for line in rows if (line["key"], line["code"]) == ("-", "invalid_api_key"))

    eventually(lambda: refused() == refused())
    before = refused()
    answers = [gateway.post("/v1/chat/completions", chat_body(), key="tg_nonsense") for _ in range(20)]
    assert {answer.status for answer in answers} == {401}
    eventually(lambda: refused() >= before + 20)
    assert gateway.get(f"/gateway/requests/{answers[0].headers['x-request-id']}").status == 404


def test_operators_filter_calls_and_read_them_page_by_page(gateway: System) -> None:
    key = gateway.make_key("listed", models=["gpt-4o-mini", "gpt-4o"])
    consumer = key.split("_")[1]
    ids = []
    for model in ("gpt-4o", "gpt-4o-mini", "gpt-4o", "nonesuch", "gpt-4o-mini"):
        answer = gateway.post("/v1/chat/completions", chat_body(model), key=key)
        ids.append(answer.headers["x-gateway-request-id"])
    ids.reverse()
    eventually(lambda: [line["id"] for line in listed(gateway, f"consumer={consumer}")] == ids)
    assert [line["id"] for line in listed(gateway, f"consumer={consumer}&status=2xx&model=gpt-4o")] == [ids[2], ids[4]]
    assert [line["code"] for line in listed(gateway, f"consumer={consumer}&status=404")] == ["model_not_found"]
    assert listed(gateway, f"consumer={consumer}&until=2026-01-02") == []
    seen, after = [], ""
    while True:
        page = gateway.get(f"/gateway/requests?consumer={consumer}&limit=2{after}").json()
        seen += [line["id"] for line in page["data"]]
        if page["after"] is None:
            break
        after = f"&after={page['after']}"
    assert seen == ids
    environ = gateway.gateway.environment
    assert [line["id"] for line in cli(environ, "requests", "list", "--consumer", consumer, "--json")] == ids


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("status=abc", "status"),
        ("status=9xx", "status"),
        ("since=yesterday", "since"),
        ("after=x", "after"),
        ("limit=0", "limit"),
        ("colour=red", "colour"),
    ],
)
def test_wrong_filters_are_refused(gateway: System, query: str, param: str) -> None:
    refused = gateway.get(f"/gateway/requests?{query}")
    assert (refused.status, refused.error()["param"]) == (400, param)


def test_unknown_ids_are_not_found(gateway: System) -> None:
    for wrong in ("x", "01M8JZ305JSKQNBFZ5VG0P74SV", "7" + "Z" * 25):
        answer = gateway.get(f"/gateway/requests/{wrong}")
        assert (answer.status, answer.error()["code"]) == (404, "resource_not_found")


def test_callers_do_not_see_single_calls(gateway: System) -> None:
    assert gateway.get("/gateway/requests", gateway.key).status == 401
