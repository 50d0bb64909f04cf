"""Models of a Foundry resource that are not OpenAI's, by OpenAI's API: booked, priced and timed like the others."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from shared.billing.cost import USD, cost
from shared.billing.prices import Prices
from shared.process.application import Application
from shared.types import Usage
from simulator.process import SimulatorProcess
from tests.harness.in_process import Reply, Tables, call, gateway, key
from tests.harness.patience import eventually
from tests.harness.sockets import served

ROUTER, DEEPSEEK, GPT, TIMED = "model-router", "DeepSeek-V3.1", "gpt-4o", "timed"
MODELS = {
    "deepseek": DEEPSEEK,
    "grok": "grok-4-fast-reasoning",
    "llama": "Llama-3.3-70B-Instruct",
    "mistral": "mistral-large-3",
    "open": "gpt-oss-120b",
    "router": ROUTER,
    "gpt": GPT,
    TIMED: "DeepSeek-R1",
}
DEPLOYMENTS = [{"name": f"{name}-prod", "model": model} for name, model in MODELS.items()]
REGIONS = [{"name": name, "deployments": DEPLOYMENTS} for name in ("swedencentral", "eastus2")]
OPERATOR = "an-operator-of-the-tests-0123456789abcdef"


@pytest.fixture(scope="module")
def simulated() -> Iterator[SimulatorProcess]:
    with SimulatorProcess({"api_key": "secret", "regions": REGIONS}) as running:
        yield running


@asynccontextmanager
async def pool(simulated: SimulatorProcess, tables: Tables) -> AsyncIterator[Application]:
    simulated.clear()
    backends = [
        {"name": name, "endpoint": simulated.regions[name], "region": name, "auth": {"api_key_env": "K"}}
        | {"models": {name: f"{name}-prod" for name in MODELS}, "priority": priority}
        for priority, name in enumerate(("swedencentral", "eastus2"), 1)
    ]
    async with gateway(tables, backends, OPERATOR, models={TIMED: {"first_byte": 0.3}}) as application:
        yield application


def chat(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Where does the road lead?"}], **fields}


async def ask(application: Application, text: str, model: str, **fields: Any) -> Reply:
    reply = await call(application, text, "/v1/chat/completions", chat(model, **fields))
    assert reply.status == 200, reply.body
    return reply


async def test_each_is_booked_as_charged_and_has_azures_price(simulated: SimulatorProcess) -> None:
    tables, prices = Tables(), Prices()
    async with pool(simulated, tables) as application:
        text = await key(tables)
        for model, deployed in MODELS.items():
            for stream in (False, True):
                reply = await ask(application, text, model, stream=stream)
                request = reply.headers["x-gateway-request-id"]
                row, [*_, charged] = tables.usage()[request], simulated.log()["requests"]
                assert charged["deployment"] == f"{model}-prod"
                assert (row["e_input"], row["e_output"]) == (charged["input_tokens"], charged["output_tokens"])
                path = f"/gateway/requests/{request}"
                report = json.loads((await call(application, OPERATOR, path, method="GET")).body)
                usage = Usage(input_tokens=charged["input_tokens"], output_tokens=charged["output_tokens"])
                price = prices.of("gpt-5.4-mini" if deployed == ROUTER else deployed, float(row["s_ts"]))
                expected = cost(price, usage)
                assert expected, deployed
                assert report["cost_usd"] == pytest.approx(expected / USD), deployed


async def test_a_router_is_booked_by_the_model_that_it_chose(simulated: SimulatorProcess) -> None:
    tables = Tables()
    async with pool(simulated, tables) as application:
        text = await key(tables)
        await ask(application, text, "router")
        await ask(application, text, "router", stream=True)
    rows = list(tables.usage().values())
    assert {(row["s_model"], row["e_deployment"], row["e_served"]) for row in rows} == {
        ("router", "router-prod", "gpt-5.4-mini-2026-03-17")
    }


async def test_tokens_without_a_table_are_estimated_by_their_characters() -> None:
    """OpenAI's tables count those of a GPT model, whose caller has left as well."""
    async with served(0.02, {"deepseek-v4": "gpt-4o", "gpt-4o": "gpt-4o"}) as app, aiohttp.ClientSession() as session:
        url, headers = app.url.replace("ws", "http", 1), {"api-key": await app.key()}
        for model in ("deepseek-v4", "gpt-4o"):
            body = chat(model, stream=True)
            async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as answer:
                while b'"content":"' not in await answer.content.readany():
                    pass
                answer.close()
        await eventually(lambda: any("e_counted" in row for row in app.rows()), 60.0)
        rows = {row["s_model"]: row for row in app.rows()}
    for model, counted in (("deepseek-v4", False), ("gpt-4o", True)):
        row = rows[model]
        assert (row["e_ended"], row["e_est"], "e_counted" in row) == ("hung_up", True, counted)
        assert row["e_input"] > 5
        assert row["e_output"] > 0


async def test_a_model_may_think_for_long_unless_the_configuration_says_that_it_is_quick(
    simulated: SimulatorProcess,
) -> None:
    tables = Tables()
    async with pool(simulated, tables) as application:
        text = await key(tables)
        for model, backend, attempts in (("deepseek", "swedencentral", "1"), (TIMED, "eastus2", "2")):
            simulated.fault("delay", seconds=0.8, region="swedencentral", deployment=f"{model}-prod", times=1)
            reply = await ask(application, text, model, max_tokens=10)
            assert (reply.headers["x-gateway-backend"], reply.headers["x-gateway-attempts"]) == (backend, attempts)
