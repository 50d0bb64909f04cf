"""OpenAI itself beside Azure, and keys whose calls must stay in a place, as callers and operators meet them."""

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.gateway_process import EDGES, ROOT, Answer, Edge
from tests.harness.system import System, chat_body, eventually, watched
from tests.harness.system import system as start_system

ALONE, LIMITED, SHARED, WRONG = "alone-at-openai", "limited", "shared", "not-at-openai"
FALLING = {edge: f"falling-{edge}" for edge in EDGES}  # both edges share what they know of deployments
FULL = {edge: f"full-{edge}" for edge in EDGES}  # provisioned
TYPED, GLOBAL, ZONED = "typed", "global-only", "zoned"
MODELS = (ALONE, LIMITED, SHARED, *FALLING.values(), TYPED, GLOBAL, ZONED, "spare")
AZURE_REGIONS = ("swedencentral", "francecentral", "eastus2")


@pytest.fixture(scope="module")
def places() -> Iterator[SimulatorProcess]:
    deployments = [{"name": name, "model": "gpt-4o"} for name in MODELS]
    provisioned = {"model": "gpt-4o", "sku": "DataZoneProvisionedManaged", "tokens_per_minute": 20}
    full = [{"name": name, **provisioned} for name in FULL.values()]
    azure = [{"name": region, "deployments": [*deployments, *full]} for region in AZURE_REGIONS]
    itself = {"name": "openai", "api": "openai", "deployments": deployments}
    with SimulatorProcess({"regions": [*azure, itself]}) as running:
        yield running


def settings(places: SimulatorProcess) -> dict[str, Any]:
    def azure(name: str, region: str, zone: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "endpoint": places.regions[region], "region": region, "data_zone": zone, **more}

    def typed(kind: str) -> dict[str, str]:
        return {"deployment": TYPED, "type": kind}

    itself = {
        "name": "openai",
        "endpoint": places.regions["openai"],
        "kind": "openai",
        "auth": {"api_key_env": "JAPAN_KEY"},
        "models": {m: m for m in (ALONE, LIMITED, SHARED, *FALLING.values(), TYPED)} | {WRONG: "gpt-9"},
    }
    sweden = {
        SHARED: SHARED,
        **{model: model for model in FALLING.values()},
        WRONG: SHARED,
        TYPED: typed("regional"),
        ZONED: {"deployment": ZONED, "type": "data_zone"},
        GLOBAL: {"deployment": GLOBAL, "type": "global"},
    }
    france = {TYPED: typed("data_zone"), GLOBAL: {"deployment": GLOBAL, "type": "global"}}
    provisioned = {name: {"deployment": name, "type": "data_zone"} for name in FULL.values()}
    spilled = {name: {"deployment": GLOBAL, "type": "global"} for name in FULL.values()}
    return {
        "backends": [
            {**itself, "priority": 1},
            azure("sweden", "swedencentral", "eu", priority=1, models=sweden),
            azure("france", "francecentral", "eu", priority=2, models=france),
            azure("virginia", "eastus2", "us", priority=0, models={TYPED: typed("global")}),
            azure("sweden-ptu", "swedencentral", "eu", kind="provisioned", priority=0, models=provisioned),
            azure("sweden-global", "swedencentral", "eu", priority=3, models=spilled),
        ],
        "models": {
            ALONE: {"completions_as_chat": True, "aliases": ["text-davinci-003"]},
            **{model: {"fallbacks": [ALONE]} for model in FALLING.values()},
            ZONED: {"fallbacks": [ALONE, GLOBAL], "shadow": {"model": ALONE, "share": 1.0}, "hedge": True},
        },
        "timeouts": {"connect": 0.5, "first_byte": 2.0},
    }


@pytest.fixture(scope="module")
def mixed_system(edge: Edge, azurite: Azurite, places: SimulatorProcess) -> Iterator[System]:
    with start_system(edge, settings(places), places, azurite.connection_string) as running:
        yield running


@pytest.fixture
def mixed(mixed_system: System) -> Iterator[System]:
    yield from watched(mixed_system)


def limited(system: System, **access: Any) -> str:
    made = system.manage("POST", "/gateway/consumers", {"name": f"limited-{uuid.uuid4()}", **access})
    return str(system.manage("POST", f"/gateway/consumers/{made.json()['id']}/keys", {}).json()["key"])


def ask(system: System, model: str, key: str = "", **fields: Any) -> Answer:
    return system.post("/v1/chat/completions", chat_body(model, **fields), key=key)


def asked(system: System) -> list[str]:
    return [entry["region"] for entry in system.simulator.log()["requests"]]


# --- OpenAI -----------------------------------------------------------------------------------------------------------


def test_openai_serves_whole_and_streamed_with_its_key_and_nothing_of_azures(mixed: System) -> None:
    answer = ask(mixed, ALONE)
    assert (answer.status, answer.headers["x-gateway-backend"]) == (200, "openai")
    assert (answer.headers["x-gateway-region"], answer.headers["x-gateway-deployment-type"]) == ("openai", "global")
    assert "openai-organization" not in answer.headers
    sent = {name.lower(): value for name, value in mixed.simulator.last_headers("openai")}
    assert sent["authorization"].startswith("Bearer")
    assert sent["x-client-request-id"] == answer.headers["x-gateway-request-id"]
    assert not [name for name in sent if name.startswith(("x-ms-", "api-key", "aoai-"))]
    chunks = list(
        mixed.openai().chat.completions.create(model=ALONE, messages=[{"role": "user", "content": "Hi"}], stream=True)
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    [whole, streamed] = mixed.usage_rows()[-2:]
    for row in (whole, streamed):
        assert (row["e_backend"], row["e_region"]) == ("openai", "openai")
        assert row["e_output"] > 0
        assert not row.get("e_est")


def test_dated_paths_reach_openai_by_translation_of_the_path_alone(mixed: System) -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    answer = mixed.post(f"/openai/deployments/{ALONE}/chat/completions?api-version=2024-10-21", body)
    assert answer.status == 200
    direct = mixed.azure().chat.completions.create(model=ALONE, messages=[{"role": "user", "content": "Hello"}])
    assert direct.choices[0].message.content == answer.json()["choices"][0]["message"]["content"]
    assert json.loads(mixed.simulator.last_body("openai"))["model"] == ALONE
    [first, *_] = mixed.simulator.log()["requests"]
    assert (first["path"], first["api_version"]) == ("/v1/chat/completions", None)
    grounded = ask(mixed, ALONE, data_sources=[])
    assert (grounded.status, grounded.error()["param"]) == (400, "data_sources")
    assert {ask(mixed, SHARED, data_sources=[]).headers["x-gateway-backend"] for _ in range(3)} == {"sweden"}


def test_legacy_completions_are_served_by_a_model_that_chats(mixed: System) -> None:
    chatml = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    fields: Any = {"max_tokens": 7, "stop": ["<|im_end|>"], "echo": True}
    whole = mixed.post("/v1/engines/text-davinci-003/completions", {"prompt": chatml, **fields})
    assert (whole.status, whole.headers["content-length"]) == (200, str(len(whole.body)))
    answer = whole.json()
    assert (answer["object"], answer["choices"][0]["finish_reason"]) == ("text_completion", "length")
    assert answer["choices"][0]["text"].startswith(chatml)
    sent = json.loads(mixed.simulator.last_body("openai"))
    assert [one["role"] for one in sent["messages"]] == ["system", "user"]
    assert (sent["max_completion_tokens"], "stop" in sent, "prompt" in sent) == (7, False, False)
    chunks = list(mixed.openai().completions.create(model=ALONE, prompt=chatml, stream=True, **fields))
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer["choices"][0]["text"]
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    rows = mixed.usage_rows()[-2:]
    assert [row["e_output"] for row in rows] == [answer["usage"]["completion_tokens"]] * 2 == [7, 7]
    assert not any(row.get("e_est") for row in rows)
    refused = mixed.post("/v1/completions", {"model": ALONE, "prompt": ["a", "b"]})
    assert (refused.status, refused.error()["param"]) == (400, "prompt")
    plain = mixed.post("/v1/completions", {"model": SHARED, "prompt": "Hi"})
    assert plain.status in (400, 404)  # without the setting, the backends' own refusal
    deep = mixed.post("/v1/completions", b'{"model": "%s", "prompt": %s}' % (ALONE.encode(), b"[" * 9000 + b"]" * 9000))
    assert deep.status == 400


def test_an_object_made_at_openai_is_found_there_again(mixed: System) -> None:
    client = mixed.openai()
    made = client.responses.create(model=ALONE, input="Remember me")
    assert client.responses.retrieve(made.id).id == made.id
    assert mixed.azure(api_version="2025-04-01-preview").responses.retrieve(made.id).id == made.id
    client.responses.delete(made.id)
    uploaded = client.files.create(file=("a.txt", b"hello"), purpose="assistants")  # next to the response
    assert client.files.content(uploaded.id).read() == b"hello"
    dated = mixed.azure().with_options(max_retries=0)
    with pytest.raises(openai.NotFoundError, match="works on Azure OpenAI only"):
        dated.files.retrieve(uploaded.id)
    client.files.delete(uploaded.id)


def test_calls_are_shared_with_azure_and_fail_over_both_ways(mixed: System) -> None:
    assert {ask(mixed, SHARED).headers["x-gateway-backend"] for _ in range(6)} == {"openai", "sweden"}
    for region, other in (("openai", "sweden"), ("swedencentral", "openai")):
        mixed.simulator.clear()
        mixed.simulator.fault("status", status=503, region=region, deployment=SHARED, times=2)
        answers = [ask(mixed, SHARED) for _ in range(2)]
        assert all(answer.status == 200 for answer in answers)
        assert other in {answer.headers["x-gateway-backend"] for answer in answers}


def test_an_empty_account_is_no_throttle_and_openais_words_stay_inside(mixed: System) -> None:
    before, falling = len(mixed.gateway.logs()), FALLING[mixed.edge]
    error = {"message": "You exceeded your current quota of org-secret.", "type": "insufficient_quota", "param": None}
    body = {"error": {**error, "code": "insufficient_quota"}}
    for region in ("openai", "swedencentral"):
        mixed.simulator.fault("status", status=429, body=body, region=region, deployment=falling)
    answers = [ask(mixed, falling) for _ in range(4)]
    assert {a.status for a in answers} == {200}  # the fallback model
    assert {a.headers["x-gateway-fallback"] for a in answers} == {ALONE}
    tried = [entry for entry in mixed.simulator.log()["requests"] if entry["deployment"] == falling]
    assert [entry["region"] for entry in tried].count("openai") == 1  # not again for a minute
    alert = f"ALERT backend openai refuses the gateway on deployment {falling} (status 429 insufficient_quota)"
    eventually(lambda: alert in mixed.gateway.logs()[before:])
    listed = mixed.get("/gateway/backends").json()["backends"]
    states = {d["deployment"]: d for one in listed if one["name"] == "openai" for d in one["deployments"]}
    assert (states[falling]["state"], states[falling]["ejected_for"] > 10) == ("ejected", True)
    assert "org-secret" not in json.dumps([answer.body.decode() for answer in answers])


def test_a_model_that_openai_does_not_have_is_served_elsewhere(mixed: System) -> None:
    answers = [ask(mixed, WRONG) for _ in range(4)]
    assert {(answer.status, answer.headers["x-gateway-backend"]) for answer in answers} == {(200, "sweden")}


def test_openais_limits_are_read_in_its_own_forms(mixed: System) -> None:
    message = "Rate limit reached for lone in organization org-secret. Please try again in 6.5s."
    error = {"message": message, "type": "tokens", "param": None, "code": "rate_limit_exceeded"}
    resets = {"x-ratelimit-reset-tokens": "59.9s", "x-ratelimit-reset-requests": "23h59m0s"}
    mixed.simulator.fault("status", status=429, body={"error": error}, headers=resets, deployment=LIMITED, times=1)
    for _ in range(2):  # throttled at OpenAI, then by what the gateway knows
        answer = ask(mixed, LIMITED)
        assert (answer.status, answer.error()["code"]) == (429, "rate_limit_exceeded")
        assert 5 < float(answer.headers["retry-after-ms"]) / 1000 <= 7.2
        assert "org-secret" not in answer.body.decode()
    assert asked(mixed) == ["openai"]


def test_check_calls_openai_and_names_what_is_wrong(mixed: System) -> None:
    command = [sys.executable, "-m", "shared.cli", "check", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=mixed.gateway.environment, capture_output=True, timeout=60)
    assert done.returncode == 1
    rows = {row["model"]: row for row in json.loads(done.stdout) if row["backend"] == "openai"}
    assert {model for model, row in rows.items() if row["usable"]} == {
        ALONE,
        LIMITED,
        SHARED,
        *FALLING.values(),
        TYPED,
    }
    assert rows[WRONG]["result"].startswith("404 Not Found: no such model")
    assert f"its deployments of {GLOBAL} are global" in done.stderr.decode()


# --- residency --------------------------------------------------------------------------------------------------------


def test_a_limited_key_reaches_only_deployments_that_stay(mixed: System) -> None:
    europe, sweden = limited(mixed, data_zones=["eu"]), limited(mixed, regions=["swedencentral"])
    anyone = {ask(mixed, TYPED).headers["x-gateway-deployment-type"] for _ in range(2)}
    assert anyone == {"global"}  # it goes first
    in_zone = [ask(mixed, TYPED, europe) for _ in range(4)]
    assert {(a.status, a.headers["x-gateway-backend"]) for a in in_zone} == {(200, "sweden")}
    assert {a.headers["x-gateway-deployment-type"] for a in in_zone} == {"regional"}
    assert ask(mixed, TYPED, sweden).headers["x-gateway-deployment-type"] == "regional"
    mixed.simulator.clear()
    mixed.simulator.fault("status", status=503, region="swedencentral", deployment=TYPED)
    assert ask(mixed, TYPED, europe).headers["x-gateway-deployment-type"] == "data_zone"  # France
    assert ask(mixed, TYPED, sweden).status == 503
    assert not {"openai", "eastus2"} & set(asked(mixed))


def test_neither_fallback_nor_shadow_nor_hedge_leads_out(mixed: System) -> None:
    europe = limited(mixed, data_zones=["eu"])
    assert ask(mixed, ZONED, europe).headers["x-gateway-deployment-type"] == "data_zone"
    mixed.simulator.fault("slow_first_token", seconds=1.0, region="swedencentral", deployment=ZONED, times=1)
    assert ask(mixed, ZONED, europe, stream=True).status == 200
    mixed.simulator.fault("status", status=503, region="swedencentral", deployment=ZONED)
    assert ask(mixed, ZONED, europe).status == 503
    named = mixed.post("/v1/chat/completions", chat_body(ZONED), {"x-gateway-fallback": ALONE}, key=europe)
    assert named.status in (403, 503)
    assert set(asked(mixed)) == {"swedencentral"}


def test_what_a_full_provisioned_deployment_refuses_never_leads_out(mixed: System) -> None:
    """Neither by the gateway's order, nor by a header with which callers choose where Azure spills over to."""
    europe, model = limited(mixed, data_zones=["eu"]), FULL[mixed.edge]
    spill = {"x-ms-spillover-deployment": GLOBAL}
    answers = [mixed.post("/v1/chat/completions", chat_body(model), spill, key=europe) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 429, 429, 429]
    assert answers[0].headers["x-gateway-deployment-type"] == "data_zone"
    received = mixed.simulator.log()["requests"]
    assert {(entry["deployment"], entry["spilled_to"]) for entry in received} == {(model, None)}
    other = ask(mixed, model)  # of a key without limits, which the gateway spills over
    assert (other.status, other.headers["x-gateway-deployment-type"]) == (200, "global")


@pytest.mark.parametrize("model", [GLOBAL, ALONE, ZONED])
def test_what_would_leave_is_refused_with_the_reason(mixed: System, model: str) -> None:
    key = limited(mixed, regions=["swedencentral"])
    refused = ask(mixed, model, key)
    assert (refused.status, refused.error()["code"]) == (403, "region_not_allowed")
    kind = {GLOBAL: "the type global", ALONE: "not in a region", ZONED: "the type data_zone"}[model]
    assert kind in refused.error()["message"]
    assert asked(mixed) == []
    listed = [one["id"] for one in mixed.get("/v1/models", key).json()["data"]]
    assert model not in listed
    assert TYPED in listed


def test_tools_that_leave_are_refused_for_limited_keys_alone(mixed: System) -> None:
    europe = limited(mixed, data_zones=["eu"])
    for tool in ({"type": "web_search"}, {"type": "mcp", "server_label": "x", "server_url": "https://mcp.example"}):
        with pytest.raises(openai.PermissionDeniedError, match="calls other services") as refused:
            mixed.openai(europe).responses.create(model=TYPED, input="Hi", tools=[tool])  # type: ignore[list-item]
        assert (refused.value.code, refused.value.param) == ("region_not_allowed", "tools[0]")
    assert asked(mixed) == []
    staying: Any = {"type": "code_interpreter", "container": {"type": "auto"}}
    assert mixed.openai(europe).responses.create(model=TYPED, input="Hi", tools=[staying]).id
    assert mixed.openai().responses.create(model=TYPED, input="Hi", tools=[{"type": "web_search"}]).id
    hidden = mixed.post("/v1/batches", {"input_file_id": "file-1", "endpoint": "/v1/chat/completions"}, key=europe)
    assert hidden.status in (403, 404)


def test_the_start_and_check_warn_of_a_zone_beside_global_deployments(mixed: System) -> None:
    warning = f"backend sweden: it has the data_zone eu, but its deployments of {GLOBAL} are global"
    eventually(lambda: warning in mixed.gateway.logs())
    assert any(warning in line for line in mixed.get("/gateway/configuration").json()["warnings"])
