"""A pool of GPT and Claude: Foundry resources in two regions, and Anthropic itself behind them."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shared.billing.cost import USD, cost
from shared.billing.prices import Prices
from shared.cli._backend_check import check
from shared.config import environment
from shared.config.limits import Limits
from shared.process.application import Application
from shared.types import Usage
from simulator.process import SimulatorProcess
from tests.harness.calls import CLAUDES_CLASSES as CLASSES
from tests.harness.in_process import Exchange, Reply, Tables, backend, call, gateway, key

CLAUDE, GPT = "claude-sonnet-5-5", "gpt-5.4"
DEPLOYMENTS = [{"name": f"{model}-prod", "model": model} for model in (CLAUDE, GPT)]
REGIONS = [
    {"name": "swedencentral", "deployments": DEPLOYMENTS, "first_token_seconds": 0.02, "seconds_per_chunk": 0.005},
    {"name": "eastus2", "deployments": DEPLOYMENTS, "first_token_seconds": 0.02, "seconds_per_chunk": 0.005},
    {"name": "anthropic", "api": "anthropic", "deployments": [{"name": CLAUDE, "model": CLAUDE}]},
]
FIELDS = {"e_input": "input_tokens", "e_output": "output_tokens", "e_cached": "cached_input_tokens"} | {
    "e_cache_write": "cache_write_tokens",
    "e_cache_write_1h": "cache_write_1h_tokens",
    "e_reasoning": "reasoning_tokens",
    "e_web_search": "web_searches",
}


@pytest.fixture(scope="module")
def simulated() -> Iterator[SimulatorProcess]:
    with SimulatorProcess({"api_key": "secret", "regions": REGIONS}) as running:
        yield running


@asynccontextmanager
async def pool(simulated: SimulatorProcess, tables: Tables, **more: Any) -> AsyncIterator[Application]:
    simulated.clear()
    common: dict[str, Any] = {"auth": {"api_key_env": "K"}}
    models = {CLAUDE: f"{CLAUDE}-prod", GPT: f"{GPT}-prod"}
    backends = [
        {"name": name, "endpoint": simulated.regions[name], "region": name, "models": models, **common, **more}
        for name in ("swedencentral", "eastus2")
    ]
    own = {"endpoint": simulated.regions["anthropic"], "kind": "anthropic", "models": {CLAUDE: CLAUDE}, "priority": 2}
    async with gateway(tables, [*backends, {"name": "own", **own, **common}]) as application:
        yield application


def message(number: int, **more: Any) -> dict[str, Any]:
    """A message with tools and rules that caches keep, as agents send it."""
    rules = [
        {"type": "text", "text": f"rules {number % 3} " * 900, "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "text", "text": f"more rules {number % 3} " * 400, "cache_control": {"type": "ephemeral"}},
    ]
    words = "simulate_web_searches=2" if number % 5 == 0 else "Where to?"
    fields = {"model": CLAUDE, "max_tokens": 200, "system": rules, "stream": number % 2 == 0}
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    return fields | {"tools": tools, "messages": [{"role": "user", "content": words}]} | more


def chat(number: int) -> dict[str, Any]:
    content = f"rules {number % 3} " * 900
    return {"model": GPT, "messages": [{"role": "user", "content": content}], "stream": number % 2 == 0}


async def test_a_mixed_pool_books_every_class_to_the_token(simulated: SimulatorProcess) -> None:
    tables = Tables()
    async with pool(simulated, tables) as application:
        text = await key(tables, Limits(budget_usd=1000.0))
        for status in (500, 529, 429):
            simulated.fault("status", status=status, headers={"retry-after": "0.1"}, share=0.2, times=2)
        simulated.fault("reset", share=0.2, times=2)
        replies: list[Reply] = []
        for start in range(0, 60, 12):
            some = (call(application, text, "/v1/messages", message(n))
                    if n % 3 else call(application, text, "/v1/chat/completions", chat(n))
                    for n in range(start, start + 12))  # fmt: skip
            replies += await asyncio.gather(*some)
    served = [reply for reply in replies if reply.status == 200]
    assert len(served) >= 50, Counter(reply.body[:300] for reply in replies if reply.status != 200)
    totals = list(simulated.log(summary=True)["totals"].values())
    charged = {row: sum(total[name] for total in totals) for name, row in CLASSES.items()}
    booked: Counter[str] = Counter()
    prices, usd = Prices(), 0
    for row in tables.usage().values():
        booked.update({name: row.get(name, 0) for name in CLASSES.values()})
        if "e_input" in row:
            counts: dict[str, Any] = {field: row.get(name, 0) for name, field in FIELDS.items()}
            usage = Usage(**counts)
            usd += cost(prices.of(str(row["s_model"]), float(row["s_ts"])), usage) or 0
    assert dict(booked) == charged
    assert all(charged[name] for name in ("e_cached", "e_cache_write", "e_cache_write_1h", "e_web_search"))
    assert usd / USD > 0.01


async def test_a_region_that_dies_under_load_loses_no_call_before_its_content(simulated: SimulatorProcess) -> None:
    tables = Tables()
    async with pool(simulated, tables) as application:
        text = await key(tables)
        calls = [asyncio.create_task(_later(0.02 * n, application, text, message(n, stream=True))) for n in range(50)]
        await asyncio.sleep(0.5)
        await asyncio.to_thread(simulated.down, "eastus2")
        replies = await asyncio.gather(*calls)
    await asyncio.to_thread(simulated.up, "eastus2")
    assert {reply.status for reply in replies} == {200}
    unfinished = [reply.body for reply in replies if b"event: message_stop" not in reply.body]
    assert len(unfinished) < 10
    for body in unfinished:  # it had begun, and says that it is broken
        assert b"event: content_block_delta" in body
        [error] = [line for line in body.splitlines() if b'"type":"error"' in line]
        assert json.loads(error.removeprefix(b"data: "))["error"]["type"] == "api_error"


async def test_a_429_of_a_shared_quota_keeps_calls_away_from_all_of_it(simulated: SimulatorProcess) -> None:
    tables = Tables()
    async with pool(simulated, tables, quota_group="claude-global") as application:
        text = await key(tables)
        simulated.fault("status", status=429, headers={"retry-after": "30"}, deployment=f"{CLAUDE}-prod", times=1)
        for n in range(6):
            assert (await call(application, text, "/v1/messages", message(n))).status == 200
            assert (await call(application, text, "/v1/chat/completions", chat(n))).status == 200
    asked = Counter((one["region"], one["deployment"]) for one in simulated.log()["requests"])
    claude = {place: count for place, count in asked.items() if place[1] != f"{GPT}-prod"}
    assert sum(claude.values()) == 7  # the one that was refused, and all others at Anthropic itself
    assert claude[("anthropic", CLAUDE)] == 6
    assert {region for region, deployment in asked if deployment == f"{GPT}-prod"} == {"swedencentral", "eastus2"}


async def test_anthropic_itself_gets_its_paths_and_its_key(simulated: SimulatorProcess) -> None:
    tables = Tables()
    async with pool(simulated, tables) as application:
        text = await key(tables)
        for region in ("swedencentral", "eastus2"):
            simulated.fault("status", status=503, region=region)
        whole = await call(application, text, "/anthropic/v1/messages", message(1), headers={"anthropic-beta": "b"})
        streamed = await call(application, text, "/v1/messages", message(2))
        counted = await call(application, text, "/v1/messages/count_tokens", message(1))
        lost = await call(application, text, "/v1/chat/completions", chat(1))
    assert (whole.status, streamed.status, counted.status) == (200, 200, 200)
    assert json.loads(counted.body)["input_tokens"] > 2000
    assert lost.status == 503  # GPT has no other place
    own = [one for one in simulated.log()["requests"] if one["region"] == "anthropic"]
    assert [one["path"] for one in own] == ["/v1/messages", "/v1/messages", "/v1/messages/count_tokens"]
    assert {"x-api-key", "anthropic-version", "anthropic-beta"} <= set(own[0]["headers"])
    assert not {"authorization", "api-key"} & set(own[0]["headers"])


async def test_a_container_belongs_to_the_key_whose_code_runs_in_it(simulated: SimulatorProcess) -> None:
    tables = Tables()
    code = {"type": "code_execution_20250825", "name": "code_execution"}
    async with pool(simulated, tables) as application:
        ours, theirs = await key(tables), await key(tables)
        for stream in (False, True):
            first = await call(application, ours, "/v1/messages", message(1, tools=[code], stream=stream))
            [container] = set(re.findall(rb'"id":"(container_[0-9a-f]+)"', first.body))
            again = message(1, tools=[code], container=container.decode())
            replies = [await call(application, ours, "/v1/messages", again) for _ in range(4)]
            assert {reply.status for reply in replies} == {200}, replies[0].body
            for named in (container.decode(), {"id": container.decode()}):
                stolen = await call(application, theirs, "/v1/messages", {**again, "container": named})
                assert (stolen.status, json.loads(stolen.body)["error"]["type"]) == (404, "not_found_error")
        foreign = {"type": "document", "source": {"type": "file", "file_id": "file_of_others"}}
        for content in ([foreign], [{"type": "tool_result", "tool_use_id": "t", "content": [foreign]}]):
            body = message(1, messages=[{"role": "user", "content": content}])
            assert (await call(application, ours, "/v1/messages", body)).status == 404
    assert len(simulated.log()["requests"]) == 10  # nothing of what was refused has reached a backend


async def test_a_conversation_that_the_backend_keeps_belongs_to_the_key_that_began_it(
    simulated: SimulatorProcess,
) -> None:
    tables = Tables()
    async with pool(simulated, tables) as application:
        ours, theirs = await key(tables), await key(tables)
        for stream in (False, True):
            first = await call(application, ours, "/v1/messages", message(1, thread={"type": "create"}, stream=stream))
            [begun] = set(re.findall(rb'"id":"(msg_[0-9A-Za-z]+)"', first.body))
            thread = {"type": "continue", "previous_message_id": begun.decode()}
            replies = [await call(application, ours, "/v1/messages", message(1, thread=thread)) for _ in range(4)]
            assert {reply.status for reply in replies} == {200}, replies[0].body
            for stolen in ({"thread": thread}, {"diagnostics": {"previous_message_id": begun.decode()}}):
                refused = await call(application, theirs, "/v1/messages", message(1, **stolen))
                assert (refused.status, json.loads(refused.body)["error"]["type"]) == (404, "not_found_error")
        unkept = await call(application, ours, "/v1/messages", message(1))
        lost = {"type": "continue", "previous_message_id": json.loads(unkept.body)["id"]}
        assert (await call(application, ours, "/v1/messages", message(1, thread=lost))).status == 404


async def test_a_budget_does_not_pay_for_models_with_other_prices(simulated: SimulatorProcess) -> None:
    tables = Tables()
    advisor = {"type": "advisor_20260301", "name": "advisor", "model": "claude-other"}
    async with pool(simulated, tables) as application:
        budgeted = await key(tables, Limits(budget_usd=5.0))
        refused = await call(application, budgeted, "/v1/messages", message(1, tools=[advisor]))
        assert (refused.status, json.loads(refused.body)["error"]["type"]) == (403, "permission_error")
        assert b"claude-other" in refused.body
        own = await call(application, budgeted, "/v1/messages", message(1, tools=[{**advisor, "model": CLAUDE}]))
        assert own.status != 403


async def test_advisors_are_held_to_the_models_and_the_budget_of_a_key(simulated: SimulatorProcess) -> None:
    """Wherever a request names them: that of a call, or one of a batch."""
    tables = Tables()
    advisor = {"type": "advisor_20260301", "name": "advisor", "model": GPT}
    brought = [{"role": "user", "content": [{"type": "tool_addition", "tool": {"definition": advisor}}]}]
    async with pool(simulated, tables) as application:
        limited = await key(tables, models=frozenset((CLAUDE,)))
        budgeted = await key(tables, Limits(budget_usd=5.0))
        for fields in ({"tools": [advisor]}, {"fallbacks": [{"model": GPT}]}, {"messages": brought}):
            one = message(1, **fields, stream=False)
            batch = {"requests": [{"custom_id": "x", "params": one}]}
            for path, body in (("/v1/messages", one), ("/v1/messages/batches", batch)):
                for text, words in ((limited, f"model '{GPT}'"), (budgeted, "has a budget")):
                    refused = await call(application, text, path, body)
                    assert refused.status == 403, (path, fields, refused.body)
                    assert words in json.loads(refused.body)["error"]["message"]


async def test_a_model_beside_the_deployment_that_a_backend_lacks_ejects_nothing() -> None:
    async def script(exchange: Exchange) -> None:
        if "fallbacks" in exchange.fields:
            error = {"type": "not_found_error", "message": "model: nope"}
            exchange.answer(404, {"type": "error", "error": error})
        else:
            exchange.answer(200, {"id": "msg_1", "type": "message", "content": [], "usage": {"output_tokens": 1}})

    tables, kind = Tables(), {"kind": "anthropic"}
    async with backend("a", {CLAUDE: CLAUDE}, script) as own, gateway(tables, [own | kind]) as application:
        text = await key(tables)
        refused = await call(application, text, "/v1/messages", message(1, fallbacks=[{"model": "nope"}], stream=False))
        assert (refused.status, json.loads(refused.body)["error"]["message"][:11]) == (404, "model: nope")
        honest = await call(application, text, "/v1/messages", message(1, stream=False))
        assert honest.status == 200


async def test_check_asks_claude_where_it_is(simulated: SimulatorProcess) -> None:
    simulated.clear()
    foundry = {"name": "f", "endpoint": simulated.regions["eastus2"], "region": "eastus2", "auth": {"api_key_env": "K"}}
    own = {"name": "own", "endpoint": simulated.regions["anthropic"], "kind": "anthropic", "auth": {"api_key_env": "K"}}
    backends = [
        {**foundry, "models": {CLAUDE: f"{CLAUDE}-prod", GPT: f"{GPT}-prod", "claude-lost": "claude-lost"}},
        {**own, "models": {CLAUDE: CLAUDE, "lost": "lost"}},
    ]
    document = json.dumps({"backends": backends})
    settings = environment.load(
        {"GATEWAY_CONFIG": document, "GATEWAY_STORAGE": "UseDevelopmentStorage=true", "K": "secret"}
    )
    results = {(one.backend, one.model): (one.usable, one.result[:3]) for one in await check(settings)}
    assert results == {
        ("f", CLAUDE): (True, "ok"),
        ("f", GPT): (True, "ok"),
        ("f", "claude-lost"): (False, "404"),
        ("own", CLAUDE): (True, "ok"),
        ("own", "lost"): (False, "404"),
    }
    assert sum(one["output_tokens"] > 0 for one in simulated.log()["requests"]) == 1  # only GPT has answered


async def _later(seconds: float, application: Application, text: str, body: dict[str, Any]) -> Reply:
    await asyncio.sleep(seconds)
    return await call(application, text, "/v1/messages", body)
