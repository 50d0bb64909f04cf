"""Prices: the table, the configuration's overrides and the arithmetic, against figures worked out by hand."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.billing import prices as price_list
from shared.billing.cost import USD, cost, exactly
from shared.billing.prices import Prices
from shared.config.document import Backend
from shared.config.parsing import parse
from shared.config.prices import PriceLine
from shared.errors import ConfigurationError
from shared.token_classes import AMOUNTS
from shared.types import Target, Usage

NOW = datetime(2026, 11, 21, tzinfo=UTC).timestamp()
SWEDEN = Backend(name="sweden", endpoint="https://a", region="swedencentral", models={"gpt-4o": "a", "gpt-5.4": "b"})
ZONE = Backend(
    name="zone", endpoint="https://b", region="Sweden Central", models={"gpt-4o": "a"}, deployment="data_zone"
)
JAPAN = Backend(name="japan", endpoint="https://b", region="japaneast", models={"gpt-5.4": "a"}, deployment="data_zone")
REGIONAL = Backend(name="regional", endpoint="https://c", region="swedencentral", models={}, deployment="regional")
PRICES = Prices((), (SWEDEN, ZONE, JAPAN, REGIONAL))


def usd(model: str, usage: Usage, prices: Prices = PRICES, **more: Any) -> float | None:
    picodollars = cost(prices.of(model, NOW, tier=usage.service_tier, **more), usage)
    return None if picodollars is None else picodollars / USD


@pytest.mark.parametrize(
    ("model", "usage", "more", "expected"),
    [
        # 600,000 at 2.50, 400,000 cached at 1.25, 100,000 at 10.00 a million
        ("gpt-4o", Usage(1_000_000, 100_000, 400_000), {"backend": "sweden"}, 1.5 + 0.5 + 1.0),
        ("gpt-4o", Usage(1_000_000, 100_000, 400_000), {"backend": "zone"}, 1.65 + 0.55 + 1.1),
        ("gpt-4o", Usage(1_000_000, 100_000), {"backend": "zone", "region": "uksouth"}, 2.75 + 1.1),
        ("gpt-4o-2024-08-06", Usage(1_000_000, 0), {}, 2.5),  # a dated name
        # 300,000 at 2.50, 400,000 cached at 1.25, 300,000 written to the cache at 1.25 x 2.50
        ("gpt-4o", Usage(1_000_000, 0, 400_000, cache_write_tokens=300_000), {}, 0.75 + 0.5 + 0.9375),
        ("gpt-4o-2024-05-13", Usage(1_000_000, 0), {}, 5.0),  # one with a price of its own
        ("o3", Usage(0, 1_000_000, reasoning_tokens=900_000), {"backend": "regional"}, 9.68),  # Sweden's own
        ("gpt-5.4", Usage(1_000_000, 1_000_000), {"backend": "sweden"}, 2.5 + 15),
        ("gpt-5.4", Usage(1_000_000, 1_000_000), {"backend": "sweden", "long": True}, 5 + 22.5),
        ("gpt-5.4", Usage(1_000_000, 1_000_000), {"backend": "japan"}, 3 + 18),
        ("gpt-5.4", Usage(1_000_000, 1_000_000, service_tier="priority"), {}, 5 + 30),
        ("gpt-5.4", Usage(1_000_000, 1_000_000, service_tier="batch"), {}, 1.25 + 7.5),
        ("gpt-5.4", Usage(1_000_000, 1_000_000, service_tier="default"), {}, 2.5 + 15),
        ("gpt-4o", Usage(300_000, 0), {"long": True}, 0.75),  # it has one price for any context
        # of 1,000 tokens of input 800 are sound at 40, of 500 of output 400 at 80 a million
        (
            "gpt-audio",
            Usage(1000, 500, audio_input_tokens=800, audio_output_tokens=400),
            {},
            (200 * 2.5 + 800 * 40 + 100 * 10 + 400 * 80) / 1e6,
        ),
        ("gpt-image-1", Usage(100, 4000, image_output_tokens=4000, images=1), {}, (100 * 5 + 4000 * 40) / 1e6),
        ("whisper", Usage(seconds=90.0), {}, 90 * 0.36 / 3600),
        ("tts-hd", Usage(characters=2_000), {}, 0.06),
        ("text-embedding-3-small", Usage(1_000_000), {}, 0.02),
        ("gpt-3.5-turbo-instruct", Usage(1_000_000), {}, 1.5),  # OpenAI's name of gpt-35-turbo-instruct
        ("nonesuch", Usage(), {}, 0.0),  # nothing was used
        ("gpt-4-turbo-2024-04-09", Usage(1_000_000, 0), {}, 10.0),
        ("gpt-4-vision-preview", Usage(1_000_000, 0), {}, 10.0),
        ("whisper-1", Usage(seconds=90.0), {}, 90 * 0.36 / 3600),
        ("gpt-6-sol-2026-09-01", Usage(1_000_000, 100_000), {}, 2 + 1),
        ("gpt-6-sol", Usage(1_000_000, 0, cache_write_tokens=1_000_000, service_tier="flex"), {}, 1.25),
        ("gpt-5.4", Usage(1_000_000, 0, service_tier="flex"), {}, 1.25),  # a tier that Azure's list lacks
        ("gpt-5.6-luna", Usage(1_000_000, 1_000_000, cache_write_tokens=500_000), {}, 0.1 + 0.125 + 1.2),
        ("gpt-5.6-luna", Usage(1_000_000, 0), {"backend": "zone"}, 0.22),
        ("gpt-5.6-luna", Usage(1_000_000, 0, service_tier="priority"), {}, 0.4),
        # of 1,000 tokens of input 400 were read from the cache and 500 written to it
        ("gpt-4o", Usage(1000, 0, 400, cache_write_tokens=500), {}, (100 * 2.5 + 400 * 1.25 + 500 * 1.25 * 2.5) / 1e6),
        ("gpt-4o", Usage(1_000_000, 0, web_searches=3), {}, 2.5 + 0.03),
    ],
)
def test_costs_are_those_worked_out_by_hand(model: str, usage: Usage, more: dict[str, Any], expected: float) -> None:
    assert usd(model, usage, **more) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("model", "usage"),
    [
        ("nonesuch", Usage(1, 0)),
        ("nonesuch", Usage(0, 1)),
        ("gpt-4o", Usage(images=1)),
        ("gpt-4o", Usage(seconds=0.5)),
        ("gpt-4o", Usage(1, 1, service_tier="flex")),
        ("gpt-6-sol", Usage(1, 1, service_tier="scale")),
        ("gpt-4o-mini-tts", Usage(characters=100)),  # it is charged by tokens, which the backend did not tell
        ("text-embedding-3-small", Usage(0, 1)),
    ],
)
def test_usage_without_a_price_does_not_cost_zero(model: str, usage: Usage) -> None:
    assert usd(model, usage) is None


def test_the_sum_of_a_batch_or_a_run_is_not_priced_as_one_long_call() -> None:
    batch = Usage(10_000_000, 1_000_000, model="gpt-5.4", service_tier="batch", summed=True)
    assert cost(PRICES.of_call(batch, Target(SWEDEN, "gpt-5.4", "d"), NOW), batch) == 20 * USD
    run = msgspec.structs.replace(batch, service_tier="")
    assert cost(PRICES.of_call(run, Target(SWEDEN, "gpt-5.4", "d"), NOW), run) == 40 * USD
    alone = msgspec.structs.replace(run, summed=False)
    assert cost(PRICES.of_call(alone, Target(SWEDEN, "gpt-5.4", "d"), NOW), alone) == (10 * 5 + 22.5) * USD


def test_a_price_applies_from_its_day() -> None:
    lines = [
        PriceLine(model="mine", since="2026-03-01", input=1.0),
        PriceLine(model="mine", since="2026-11-21", input=2),
    ]
    prices = Prices(lines)
    assert prices.of("mine", datetime(2026, 2, 28, 23, tzinfo=UTC).timestamp()) is None
    before, after = prices.of("mine", NOW - 1), prices.of("mine", NOW)
    assert (before and before.input, after and after.input) == (1_000_000, 2_000_000)
    assert int(NOW) in prices.changes


def test_prices_of_the_configuration_override_the_table() -> None:
    lines = [
        PriceLine(model="GPT-4o", input=1.0, output=1.0),
        PriceLine(model="gpt-4o", deployment="data_zone", input=3.0, output=3.0),
        PriceLine(model="gpt-4o", regions=["Sweden Central"], since="2026-11-22", input=9.0, output=9.0),
    ]
    prices = Prices(lines, (SWEDEN, ZONE))
    assert usd("gpt-4o", Usage(1_000_000), prices, backend="sweden") == 1.0
    assert usd("gpt-4o", Usage(1_000_000), prices, backend="zone") == 3.0
    assert usd("gpt-4o", Usage(1_000_000, service_tier="batch"), prices, backend="sweden") == 1.25
    assert usd("gpt-4o-mini", Usage(1_000_000), prices) == 0.15
    later = cost(prices.of("gpt-4o", NOW + 86_400, backend="zone"), Usage(1_000_000))
    assert later == 9 * USD


def test_calls_of_tools_are_priced_beside_the_tokens_for_any_model_or_one() -> None:
    lines = [
        PriceLine(web_search=0.01, code_session=0.03),
        PriceLine(model="mine", input=1.0, web_search=0.02),
        PriceLine(model="other", input=1.0),
    ]
    prices, used = Prices(lines), Usage(1_000_000, 0, web_searches=10, file_searches=4, code_sessions=2)
    assert usd("mine", used, prices) == pytest.approx(1 + 0.2 + 0.06 + 0.01)
    assert usd("other", used, prices) == pytest.approx(1 + 0.1 + 0.06 + 0.01)


def test_a_price_cut_applies_from_its_day_only() -> None:
    before = datetime(2026, 8, 1, tzinfo=UTC).timestamp()
    price = PRICES.of("gpt-5.6-luna", before)
    assert price is not None
    assert price.input == 1_000_000
    line = PRICES.line("gpt-5.6-luna", NOW, backend="sweden")
    assert line is not None
    assert (line.line.input, line.line.since) == (0.2, "2026-08-12")
    assert "genai-prices" in line.source


def test_the_reserved_price_is_the_highest_of_the_serving_backends() -> None:
    dearest = PRICES.dearest("gpt-4o", NOW)
    assert dearest is not None
    assert dearest.output == 11_000_000
    assert PRICES.dearest("nonesuch", NOW) is None


def test_the_price_of_a_unit_depends_on_its_region() -> None:
    backends = (SWEDEN, ZONE, JAPAN, REGIONAL)
    each = [PRICES.of_any_model("unit_hour", one.priced_as("gpt-4o"), one.region, NOW) for one in backends]
    assert each == [1 * USD, 1.1 * USD, 1.2 * USD, 2.2 * USD]


def test_the_table_names_its_sources_and_every_line_is_valid() -> None:
    azure, openai, anthropic = price_list._table()
    assert "prices.azure.com" in azure.source
    assert "genai-prices" in openai.source
    assert anthropic.source.startswith("Anthropic's list prices (anthropic.com), as carried by genai-prices")
    lines = [*azure.prices, *openai.prices, *anthropic.prices]
    assert len(lines) > 400
    assert [line for line in lines if line.problem()] == []
    assert all(line.since for line in azure.prices)
    for line in lines:  # a price with more decimals than a picodollar has would be rounded
        for name in AMOUNTS:
            if (amount := getattr(line, name)) is not None and name not in ("second", "unit_hour"):
                assert round(amount * 1e6) == pytest.approx(amount * 1e6, abs=1e-6), line


@pytest.mark.parametrize(
    ("model", "served", "price"),
    [
        ("model-router", "gpt-4o-2024-11-20", "gpt-4o-2024-11-20"),  # by the model that it has chosen
        ("mine", "DeepSeek-V3.1", "deepseek-v3.1"),
        ("mine", "Llama-3.3-70B-Instruct", "llama-3.3-70b"),
        ("mine", "grok-4-fast-reasoning", "grok-4-fast"),
        ("mine", "claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("mine", "claude-opus-4-20250514", "claude-opus-4-0"),
    ],
)
def test_a_call_has_the_price_of_the_model_that_served_it(model: str, served: str, price: str) -> None:
    served_price = PRICES.of(model, NOW, served=served)
    assert served_price is not None
    assert served_price == PRICES.of(price, NOW)


@pytest.mark.parametrize(
    ("served", "tokens", "usd"),
    [
        ("claude-haiku-5-5", 100_000, 0.01),
        ("claude-haiku-5-5", 100_001, 0.05),  # five times above 100,000 tokens
        ("claude-sonnet-4-5", 200_000, 0.6),
        ("claude-sonnet-4-5", 200_001, 1.2),
        ("claude-sonnet-4-6", 900_000, 2.7),  # its long context has been charged as the rest since March
    ],
)
def test_claude_has_its_own_bounds_of_long_context(served: str, tokens: int, usd: float) -> None:
    backend = Backend(name="b", endpoint="https://b", region="r", models={"claude": "c"})
    prices = price_list.Prices(backends=[backend])
    usage = Usage(tokens, model=served)
    charged = cost(prices.of_call(usage, Target(backend, "claude", "c"), NOW), usage)
    assert charged == pytest.approx(usd * USD, rel=1e-4)


def test_every_class_of_claude_has_its_price() -> None:
    price = PRICES.of("claude-sonnet-5-5", NOW)
    usage = Usage(1_000_000, 1_000_000, 100_000, 200_000, 300_000, web_searches=100)
    assert cost(price, usage) == (0.4 * 2 + 0.1 * 0.1 + 0.2 * 2.5 + 0.3 * 4 + 10 + 100 * 0.01) * USD


@pytest.mark.parametrize(
    ("served", "tier", "tenths"),
    [
        ("claude-sonnet-5-5", "us", 11),
        ("claude-opus-4-6", "us", 11),
        ("claude-sonnet-5-5", "batch-us", 11),
        ("claude-opus-5-5", "fast-us", 11),
        ("claude-haiku-4-5-20251001", "us", 10),
        ("claude-opus-4-1", "us", 10),
    ],
)
def test_a_model_that_ran_in_the_us_costs_a_tenth_more_since_opus_4_6(served: str, tier: str, tenths: int) -> None:
    usage = Usage(1_000_000, 1_000_000, 100_000, 200_000, 300_000)
    plain = cost(PRICES.of("mine", NOW, served=served, tier=tier.removesuffix("us").removesuffix("-")), usage)
    assert plain
    assert cost(PRICES.of("mine", NOW, served=served, tier=tier), usage) == plain * tenths // 10
    searches = Usage(web_searches=10, model=served)  # are no tokens
    assert cost(PRICES.of("mine", NOW, served=served, tier="us"), searches) == 0.1 * USD


def test_a_configured_price_holds_wherever_the_model_ran() -> None:
    prices = price_list.Prices([PriceLine(model="claude-sonnet-5-5", input=1.0, output=1.0)])
    assert prices.of("claude-sonnet-5-5", NOW, tier="us") == prices.of("claude-sonnet-5-5", NOW)


counts = st.integers(0, 10**9)


@given(st.lists(st.tuples(counts, counts, counts), min_size=1, max_size=20), st.randoms())
def test_sums_of_costs_are_exact_in_any_order(calls: list[tuple[int, int, int]], random: Any) -> None:
    price = PRICES.of("gpt-4o", NOW)
    usages = [Usage(a + c, b, c) for a, b, c in calls]
    costs = [cost(price, usage) or 0 for usage in usages]
    whole = Usage(
        *(
            sum(values)
            for values in zip(*((u.input_tokens, u.output_tokens, u.cached_input_tokens) for u in usages), strict=True)
        )
    )
    random.shuffle(costs)
    assert sum(costs) == cost(price, whole)
    assert float(exactly(sum(costs))) == pytest.approx(sum(costs) / USD)


def test_amounts_have_all_their_digits() -> None:
    assert [exactly(n) for n in (0, 1, -1, USD, 1_500_000_000_000)] == [
        "0",
        "0.000000000001",
        "-0.000000000001",
        "1",
        "1.5",
    ]


def test_invalid_prices_prevent_the_start() -> None:
    backend = {"name": "a", "endpoint": "https://a", "region": "r", "models": {"m": "m"}}
    capacity = {"model": "n", "units": 1, "from": "soon"}
    prices: list[dict[str, Any]] = [
        {"model": "m"},
        {"model": "m", "input": 1, "from": "tomorrow"},
        {"model": "m", "unit_hour": 1},
        {"input": 1},
    ]
    document = {"backends": [backend | {"capacity": [capacity]}], "prices": prices}
    with pytest.raises(ConfigurationError) as refused:
        parse(json.dumps(document), "g")
    for path in (
        "g: prices[0]: expected at least one of input,",
        "prices[1]: from:",
        "prices[2]: expected either",
        "prices[3]: expected either",
        "backends[0].capacity: expected kind: provisioned",
        "backends[0].capacity[0].model: expected",
        "capacity[0].from: expected",
    ):
        assert path in str(refused.value)
    for line in ({"model": "m", "inptu": 1}, {"model": "m", "input": -1}):
        with pytest.raises(ConfigurationError, match=r"prices\[0\]"):
            parse(json.dumps({"backends": [backend], "prices": [line]}), "g")
    with pytest.raises(ConfigurationError, match=r"capacity\[0\]\.units: Expected `int` >= 0, got -1"):
        parse(json.dumps({"backends": [backend | {"capacity": [capacity | {"units": -1}]}]}), "g")
