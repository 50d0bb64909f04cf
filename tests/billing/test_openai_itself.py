"""OpenAI's own prices, for its backends alone: against figures worked out by hand, and in budgets."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from shared.billing import prices as price_list
from shared.billing.cost import USD, cost
from shared.billing.prices import Prices
from shared.config.document import Backend
from shared.config.limits import Limits
from shared.types import Usage
from tests.harness.in_process import Exchange, Tables, backend, call, chat, gateway, key

NOW = datetime(2026, 11, 21, tzinfo=UTC).timestamp()
ITSELF = Backend(name="itself", endpoint="https://a", kind="openai", models={})
PRICES = Prices((), (ITSELF,))
MILLION = Usage(1_000_000, 1_000_000)


def at_openai(model: str, usage: Usage, at: float = NOW, **more: Any) -> float | None:
    price = PRICES.of(model, at, backend="itself", tier=usage.service_tier, **more)
    picodollars = cost(price, usage)
    return None if picodollars is None else picodollars / USD


@pytest.mark.parametrize(
    ("model", "usage", "expected"),
    [
        ("gpt-5.4", Usage(1_000_000, 100_000, 400_000), 0.6 * 2.5 + 0.4 * 0.25 + 0.1 * 15),
        ("gpt-5.4", Usage(1_000_000, 1_000_000, service_tier="flex"), 1.25 + 7.5),
        ("gpt-5.4", Usage(1_000_000, 1_000_000, service_tier="priority"), 5 + 30),
        ("gpt-5.4", Usage(1_000_000, 1_000_000, service_tier="batch"), 1.25 + 7.5),
        ("gpt-5.4", Usage(1_000_000, 1_000_000, service_tier="default"), 2.5 + 15),
        ("gpt-5.5", Usage(1_000_000, 1_000_000, service_tier="fast"), 12.5 + 75),
        ("gpt-5-codex", MILLION, 1.25 + 10),
        ("gpt-5-chat-latest", MILLION, 1.25 + 10),  # OpenAI's name of gpt-5-chat
        ("gpt-4.1-mini-2025-04-14", MILLION, 0.4 + 1.6),
        ("gpt-4o-2024-11-20", Usage(1_000_000, 0, 1_000_000), 1.25),
        ("gpt-3.5-turbo", MILLION, 0.5 + 1.5),
        ("gpt-6.1-sol", MILLION, 2 + 10),  # which Azure's list does not have
        ("o3", Usage(0, 1_000_000, reasoning_tokens=900_000), 8.0),
        ("o4-mini", Usage(1_000_000, 0, 1_000_000), 0.275),
        ("text-embedding-3-large", Usage(1_000_000), 0.13),
        (
            "gpt-audio",
            Usage(1000, 500, audio_input_tokens=800, audio_output_tokens=400),
            0.0005 + 0.0256 + 0.001 + 0.0256,
        ),
        ("gpt-image-1", Usage(100, 4000, image_output_tokens=4000, images=1), (100 * 5 + 4000 * 40) / 1e6),
        ("gpt-image-1.5", Usage(100, 1000, image_output_tokens=900), (100 * 5 + 900 * 32 + 100 * 10) / 1e6),
        ("gpt-4o-transcribe", Usage(1000, 100, audio_input_tokens=1000), (1000 * 6 + 100 * 10) / 1e6),
        ("gpt-4o-mini-tts", Usage(1000, 1000, audio_output_tokens=1000), (1000 * 0.6 + 1000 * 12) / 1e6),
        ("whisper-1", Usage(seconds=90.0), 0.009),
        ("tts-1-hd", Usage(characters=2_000), 0.06),
        ("gpt-4o", Usage(1_000_000, 0, web_searches=3, file_searches=4), 2.5 + 0.03 + 0.01),
    ],
)
def test_costs_at_openai_are_those_worked_out_by_hand(model: str, usage: Usage, expected: float) -> None:
    assert at_openai(model, usage) == pytest.approx(expected, rel=1e-12)


def test_long_context_and_the_day_of_a_change_hold_there_too() -> None:
    assert at_openai("gpt-5.4", MILLION, long=True) == 5 + 22.5
    assert at_openai("gpt-4o", MILLION, long=True) == 2.5 + 10
    days = [datetime(2026, 7, day, tzinfo=UTC).timestamp() for day in (29, 30)]
    assert [at_openai("gpt-5.6-luna", MILLION, day) for day in days] == [1 + 6, pytest.approx(0.2 + 1.2)]
    azure = PRICES.of("gpt-5.6-luna", days[1])  # where the cut came two weeks later
    assert cost(azure, MILLION) == 7 * USD


def test_every_model_of_openai_that_azure_prices_has_a_price_at_openai() -> None:
    azure = price_list._table()[0]
    models = {
        line.model for line in azure.prices if line.model.startswith(("gpt-", "o1", "o3", "o4", "text-", "tts", "whi"))
    }
    assert len(models) > 50
    without = {model for model in models if PRICES.line(model, NOW, backend="itself") is None}
    sound = {"gpt-4o-audio-preview", "gpt-4o-mini-audio-preview"}  # the source has no price of their sound
    assert without == {"gpt-oss-120b", *sound}  # and OpenAI does not serve its open models
    for model in models - without:
        line = PRICES.line(model, NOW, backend="itself")
        assert line is not None
        assert line.source.startswith("OpenAI's list prices (openai.com), as carried by genai-prices")
        assert line.line.deployment == "openai"


async def test_a_budget_counts_calls_to_openai_at_its_own_price() -> None:
    async def answering(exchange: Exchange) -> None:
        sound = {"prompt_tokens_details": {"audio_tokens": 2_000}, "completion_tokens_details": {"audio_tokens": 900}}
        exchange.answer(200, chat(usage={"prompt_tokens": 2_000, "completion_tokens": 1_000, **sound}))

    tables = Tables()
    async with backend("itself", {"gpt-audio": "gpt-audio"}, answering) as own:
        dearer = own | {"name": "zone", "region": "swedencentral", "deployment": "data_zone", "priority": 2}
        async with gateway(tables, [own | {"kind": "openai"}, dearer]) as application:
            holder = await key(tables, Limits(budget_usd=0.1))
            asked = {"model": "gpt-audio", "messages": [{"role": "user", "content": "Hi"}]}
            replies = [await call(application, holder, "/v1/chat/completions", asked) for _ in range(3)]
            usage = await call(application, holder, "/gateway/usage/me", method="GET")
    assert [reply.status for reply in replies] == [200, 403, 403]
    assert replies[0].headers["x-gateway-backend"] == "itself"
    assert json.loads(replies[1].body)["error"]["code"] == "budget_exceeded"
    expected = pytest.approx((2_000 * 32 + 900 * 64 + 100 * 10) / 1e6)  # sound at Azure: 40 and 80
    rows = next(rows for scope, rows in tables.rows("limits").items() if scope.startswith("key:"))
    assert rows["0"][0]["usd_used"] == expected
    assert [line["cost_usd"] for line in json.loads(usage.body)["lines"]] == [expected]


@pytest.mark.parametrize(("model", "status"), [("gpt-5.5", 200), ("gpt-9", 403)])
async def test_a_budget_that_must_be_counted_lets_priced_models_of_openai_pass(model: str, status: int) -> None:
    async def answering(exchange: Exchange) -> None:
        exchange.answer(200, chat())

    tables = Tables()
    async with (
        backend("itself", {model: model}, answering) as own,
        gateway(tables, [own | {"kind": "openai"}], limits={"unpriced": "refuse"}) as application,
    ):
        holder = await key(tables, Limits(budget_usd=1.0))
        asked = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
        reply = await call(application, holder, "/v1/chat/completions", asked)
    assert reply.status == status
    assert status == 200 or json.loads(reply.body)["error"]["code"] == "model_without_price"
