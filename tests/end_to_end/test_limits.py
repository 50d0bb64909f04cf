"""Limits as callers meet them: the official client in front of a running gateway."""

import asyncio
import json
import time
from typing import Any

import aiohttp
import openai
import pytest

from shared import bootstrap
from shared.auth.consumers import Consumers
from shared.config.environment import Storage
from shared.config.limits import Limits
from shared.config.parsing import parse
from shared.errors import ConfigurationError
from shared.limits import report as limits_report
from shared.limits import scopes
from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.consumers import create_consumer
from tests.harness.gateway_process import GatewayProcess, cli
from tests.harness.system import WITH_FALLBACK, Caller, System, chat_body, configuration, eventually


def make_key(system: System, **limits: Any) -> str:
    async def create() -> str:
        async with bootstrap.open_store(Storage(connection_string=system.storage)) as store:
            _, text = await create_consumer(Consumers(store), "limited", models=None, limits=Limits(**limits))
            return text

    return asyncio.run(create())


def limit_headers(answer: Any) -> dict[str, str]:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return {name: value for name, value in headers.items() if name.startswith("x-ratelimit-")}


def test_the_official_client_waits_as_the_429_says_and_then_succeeds(gateway: System) -> None:
    key = make_key(gateway, requests_per_minute=30)
    with gateway.openai(key) as client:
        for _ in range(30):
            client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hello"}])
        with pytest.raises(openai.RateLimitError) as refused:
            for _ in range(30):  # every two seconds another call may pass
                client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hello"}])
    assert refused.value.code == "rate_limit_exceeded"
    assert "30 requests per minute" in refused.value.message
    assert "the gateway's operator" in refused.value.message
    wait = float(refused.value.response.headers["retry-after-ms"])
    assert 0 < wait <= 2000
    assert float(refused.value.response.headers["retry-after"]) * 1000 >= wait
    with gateway.openai(key, max_retries=1) as client:
        started = time.monotonic()
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hello"}])
    assert time.monotonic() - started < 15


def test_every_answer_has_the_callers_limits_in_its_headers(gateway: System) -> None:
    key = make_key(gateway, requests_per_minute=100, tokens_per_minute=50_000)
    first = gateway.post("/v1/chat/completions", chat_body(), key=key)
    limits = limit_headers(first)
    assert limits["x-ratelimit-limit-requests"] == "100"
    assert limits["x-ratelimit-limit-tokens"] == "50000"
    assert limits["x-ratelimit-remaining-requests"] == "99"
    assert 0 < int(limits["x-ratelimit-remaining-tokens"]) < 50_000
    assert limits["x-ratelimit-reset-requests"].endswith("ms")  # of 600
    assert limits["x-ratelimit-reset-tokens"].endswith("s")
    for answer in (
        gateway.post("/v1/chat/completions", chat_body(stream=True), key=key),
        gateway.post("/v1/chat/completions", chat_body(model="nonesuch"), key=key),
        gateway.post("/v1/chat/completions", chat_body(temperature=99), key=key),
    ):
        assert limit_headers(answer)["x-ratelimit-limit-requests"] == "100"
    unlimited = gateway.post("/v1/chat/completions", chat_body())
    assert limit_headers(unlimited) == {}


async def test_of_a_thousand_at_once_ten_pass_a_limit_of_ten(gateway: System) -> None:
    callers = 1000 if gateway.edge == "uvicorn" else 100  # the functions host makes a process's worth of work of each
    key = await asyncio.to_thread(make_key, gateway, requests_per_minute=10)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers={"api-key": key}) as session:

        async def ask() -> int:
            async with session.post(f"{gateway.url}/v1/chat/completions", json=chat_body()) as answer:
                await answer.read()
                return answer.status

        started = time.monotonic()
        first = await ask()  # the key and its limit are read, which a busy machine may take too long for
        statuses = [first, *await asyncio.gather(*(ask() for _ in range(callers - 1)))]
        seconds = time.monotonic() - started
    assert sorted(set(statuses)) == [200, 429]
    assert 10 <= statuses.count(200) <= 10 + seconds / 6  # in which another one may pass


def test_a_lone_call_passes_a_limit_smaller_than_its_estimate(gateway: System) -> None:
    key = make_key(gateway, tokens_per_minute=20, estimate="max")
    assert gateway.post("/v1/chat/completions", chat_body(max_tokens=3000), key=key).status == 200
    refused = gateway.post("/v1/chat/completions", chat_body(max_tokens=3000), key=key)
    assert refused.status == 429
    assert "20 tokens per minute" in refused.json()["error"]["message"]


@pytest.mark.parametrize("fields", [{}, {"stream": True}], ids=["whole", "streamed"])
def test_a_call_settles_with_what_it_took(gateway: System, fields: dict[str, Any]) -> None:
    key = make_key(gateway, tokens_per_minute=100_000, estimate="max")
    answer = gateway.post("/v1/chat/completions", chat_body(max_tokens=90_000, **fields), key=key)
    assert answer.status == 200
    row = gateway.usage_rows(key)[-1]
    taken = row["e_input"] + row["e_output"]
    limits = limit_headers(gateway.post("/v1/chat/completions", chat_body(max_tokens=0, model="nonesuch"), key=key))
    assert 100_000 - taken - 20 <= int(limits["x-ratelimit-remaining-tokens"]) <= 100_000


def test_a_call_that_no_backend_served_takes_nothing(gateway: System) -> None:
    key = make_key(gateway, requests_per_minute=3)
    for _ in range(5):
        assert gateway.post("/v1/chat/completions", chat_body(model="nonesuch"), key=key).status == 404
    assert gateway.post("/v1/chat/completions", chat_body(), key=key).status == 200


def test_a_used_up_quota_is_403_with_the_time_of_its_renewal(gateway: System) -> None:
    key = make_key(gateway, token_quota=60, token_quota_period="month", time_zone="Europe/Berlin")
    assert gateway.post("/v1/chat/completions", chat_body(max_tokens=20), key=key).status == 200

    def used_up() -> bool:
        return gateway.post("/v1/chat/completions", chat_body(max_tokens=20), key=key).status == 403

    eventually(used_up)
    with gateway.openai(key) as client, pytest.raises(openai.PermissionDeniedError) as refused:
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hello"}])
    assert refused.value.code == "quota_exceeded"
    assert "60 tokens per month" in refused.value.message
    assert "T00:00:00+0" in refused.value.response.headers["x-gateway-quota-renews"]


def test_a_used_up_budget_is_403(gateway: System) -> None:
    key = make_key(gateway, budget_usd=0.0001)
    codes: list[str] = []

    def refused() -> bool:
        answer = gateway.post("/v1/chat/completions", chat_body(), key=key)
        codes.append("" if answer.status == 200 else answer.json()["error"]["code"])
        return answer.status == 403

    eventually(refused)
    assert codes[-1] == "budget_exceeded"
    assert codes[0] == ""


async def test_no_more_calls_at_a_time_than_allowed(gateway: System) -> None:
    key = await asyncio.to_thread(make_key, gateway, max_concurrent=2)
    slow = chat_body(gateway.slow(), "simulate_output_tokens=400", stream=True)
    async with aiohttp.ClientSession(headers={"api-key": key}) as session:

        async def ask(body: dict[str, Any]) -> tuple[int, str]:
            async with session.post(f"{gateway.url}/v1/chat/completions", json=body) as answer:
                return answer.status, await answer.text()

        answers = await asyncio.gather(*(ask(slow) for _ in range(6)))
        assert [status for status, _ in answers].count(200) >= 2
        refused = [text for status, text in answers if status == 429]
        assert all("2 calls at a time" in text for text in refused)
        assert refused
        again = await ask(chat_body())
        assert again[0] == 200


def test_the_command_line_makes_changes_and_shows_limits(gateway: System) -> None:
    environment = {**gateway.gateway.environment}
    made = cli(
        environment, "keys", "create", f"by hand on {gateway.edge}", "--requests-per-minute", "1",
        "--token-quota", "5000", "--token-quota-period", "week", "--time-zone", "Europe/Berlin",
        "--estimate", "max", "--json",
    )  # fmt: skip
    assert gateway.post("/v1/chat/completions", chat_body(max_tokens=9), key=made["key"]).status == 200
    assert gateway.post("/v1/chat/completions", chat_body(max_tokens=9), key=made["key"]).status == 429
    changed = cli(environment, "keys", "set", made["id"], "--requests-per-minute", "50", "--json")
    assert changed["limits"] == {
        "requests_per_minute": 50,
        "token_quota": 5000,
        "token_quota_period": "week",
        "time_zone": "Europe/Berlin",
        "estimate": "max",
    }
    on_model = cli(environment, "keys", "set", made["id"], "--model", "gpt-4o", "--max-concurrent", "3", "--json")
    assert on_model["model_limits"] == {"gpt-4o": {"max_concurrent": 3}}
    lines = {(line["unit"], line["per"]): line for line in cli(environment, "limits", made["id"], "--json")}
    assert lines["requests", "per minute"]["limit"] == 50
    assert lines["calls under way", "at a time"]["available"] == 3
    quota = lines["tokens", "week"]
    assert quota["limit"] == 5000
    assert 0 < quota["used"] < 100
    assert quota["forecast"] >= quota["used"]


def test_the_operator_sees_what_is_left(azurite: Azurite, simulator: SimulatorProcess) -> None:
    limits = {"contact": "platform@contoso.com", "headers": {"consumed_tokens": "consumed-tokens"}}
    environ = {
        "GATEWAY_CONFIG": json.dumps(configuration(simulator, limits=limits)),
        "GATEWAY_STORAGE": azurite.connection_string,
        "GATEWAY_MANAGEMENT_KEY": "open sesame 0123456789abcdefghijkl",
        "JAPAN_KEY": simulator.api_key,
        **simulator.identity_environment,
    }
    with GatewayProcess("uvicorn", environ) as process:
        running = System(process, simulator, azurite.connection_string)
        key = make_key(running, requests_per_minute=1)
        answer = running.post("/v1/chat/completions", chat_body(), key=key)
        usage = answer.json()["usage"]
        assert answer.headers["consumed-tokens"] == str(usage["total_tokens"])
        refused = running.post("/v1/chat/completions", chat_body(), key=key)
        assert "ask platform@contoso.com" in refused.error()["message"]
        opened = {"authorization": "Bearer open sesame 0123456789abcdefghijkl"}
        consumer_id = key.split("_")[1]
        one = running.gateway.request("GET", f"/gateway/limits/{consumer_id}", None, opened)
        assert one.json()["limits"][0]["limit"] == 1
        everything = running.gateway.request("GET", "/gateway/limits", None, opened).json()
        assert everything["mode"] == "normal"
        assert everything["hits"] == [{"scope": "key", "limit": "requests", "calls": 1}]
        assert f"key:{consumer_id}" in {line["scope"] for line in everything["limits"]}
        assert running.gateway.request("GET", "/gateway/limits/nobody", None, opened).status == 404
        wrong: list[dict[str, str]] = [{}, {"authorization": f"Bearer {key}"}, {"api-key": "öpen"}]
        for headers in wrong:
            for path in ("/gateway/limits", "/gateway/limits/a/b"):
                assert running.gateway.request("GET", path, None, headers).status == 401
        assert running.gateway.request("GET", "/gateway/limits/a/b", None, opened).status == 404
        assert running.gateway.request("DELETE", "/gateway/limits", None, opened).status == 405
        odd = running.gateway.request("GET", "/gateway/limits?colour=red", None, opened)
        assert (odd.status, odd.error()["param"]) == (400, "colour")


def document(models: dict[str, Any] | None = None, **limits: Any) -> str:
    backend = {"name": "a", "endpoint": "http://127.0.0.1:1", "region": "r", "models": {"m": "m"}}
    return json.dumps({"backends": [backend], "models": models or {}, "limits": limits})


def test_invalid_limits_stop_the_start() -> None:
    for text, message in (
        (document({"m": {"limits": {"tokens_per_minute": -1}}}), "models.m.limits.tokens_per_minute: Expected"),
        (document(teams={"red": {"budget_usd": -0.5}}), "limits.teams.red.budget_usd: Expected"),
    ):
        with pytest.raises(ConfigurationError, match=f"gateway.yaml: {message}"):
            parse(text, "gateway.yaml")
    text = document(
        defaults={"time_zone": "Europe/Nowhere"},
        headers={"consumed_tokens": "a b"},
        webhook={"url": "ftp://x", "secret_env": "S"},
    )
    with pytest.raises(ConfigurationError) as refused:
        parse(text, "gateway.yaml")
    for path in ("limits.defaults.time_zone", "limits.headers.consumed_tokens", "limits.webhook.url"):
        assert f"gateway.yaml: {path}: expected" in str(refused.value)


def test_the_limits_count_the_same_as_the_ledger_on_every_path(impatient: System) -> None:
    """Whole and streamed, after failover, by a fallback model, refused, cut by the backend, left by the caller."""
    key = make_key(impatient, token_quota=10**9)
    spare, dead, cut, slow = impatient.spare(), impatient.spare(), impatient.slow(), impatient.slow()

    def ask(model: str, **fields: Any) -> int:
        return impatient.post("/v1/chat/completions", chat_body(model, **fields), key=key).status

    statuses = [ask("gpt-4o"), ask("gpt-4o", stream=True), ask("gpt-4o", n=3)]
    impatient.simulator.fault("status", deployment=spare, status=500, times=1)
    impatient.simulator.fault("status", deployment=WITH_FALLBACK, status=503)
    impatient.simulator.fault("status", deployment=dead, status=500)
    impatient.simulator.fault("cut_stream", deployment=cut, after_chunks=10, times=1)
    statuses += [ask(spare), ask(WITH_FALLBACK), ask(dead), ask(cut, stream=True)]
    assert statuses == [200] * 5 + [500, 200]
    with Caller(impatient, key, chat_body(slow, "simulate_output_tokens=4000", stream=True)) as caller:
        caller.send().read_until(5).leave()
    consumer_id = key.split("_")[1]
    counted: list[tuple[float, float]] = []

    async def report() -> list[dict[str, Any]]:
        async with bootstrap.open_store(Storage(connection_string=impatient.storage)) as store:
            return await limits_report.report(store, [scopes.scope("key", consumer_id, Limits(token_quota=10**9))])

    def agree() -> bool:
        rows = [row for row in impatient.usage_rows(key) if "e_status" in row]
        taken = sum(row.get("e_input", 0) + row.get("e_output", 0) for row in rows)
        (line,) = asyncio.run(report())
        counted.append((taken, line["used"]))
        return len(rows) >= 8 and line["on_lease"] == 0 and line["used"] == taken

    try:
        eventually(agree, 40)
    except AssertionError:
        pytest.fail(f"(ledger, limits): {counted[-3:]}")
    assert counted[-1][0] > 100
