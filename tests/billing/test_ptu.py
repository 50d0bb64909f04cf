"""Break-even of provisioned capacity, against figures worked out by hand."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import bootstrap
from shared.billing.cost import USD
from shared.billing.ptu import Hour, Purchase, Terms, plan, throughput
from shared.config.environment import Storage
from shared.storage import Properties
from shared.usage import hours
from tests.harness.azurite import Azurite
from tests.harness.azurite import azurite as start_azurite
from tests.harness.gateway_process import cli

# A unit serves 2,500 tokens a minute, 150,000 an hour, and costs 1 USD an hour.
TERMS = Terms(2_500, USD, 15, 5)
UNIT = 150_000


@pytest.fixture(scope="module")
def azurite() -> Iterator[Azurite]:
    """One of its own: the roll-up of other tests drops the months that these rows are in."""
    with start_azurite() as running:
        yield running


def test_full_capacity_pays_if_its_tokens_cost_more() -> None:
    # 20 units' worth of tokens in each of 10 hours, at 40 USD an hour: 20 units cost 20.
    purchase = plan([Hour(20 * UNIT, 40 * USD)] * 10, TERMS)
    assert purchase == Purchase(10, 400 * USD, 20.0, 20.0, 20, 200 * USD, 0.5)


def test_capacity_that_costs_more_than_its_tokens_is_not_bought() -> None:
    purchase = plan([Hour(20 * UNIT, 19 * USD)] * 10, TERMS)
    assert (purchase.units, purchase.cost) == (0, 190 * USD)
    assert purchase.break_even == pytest.approx(20 / 19)


def test_a_peak_spills_over_to_tokens() -> None:
    # Nine hours need 20 units at 2 USD each; the tenth 100. Each unit beyond 20 costs 10 and saves 2.
    usage = [Hour(20 * UNIT, 40 * USD)] * 9 + [Hour(100 * UNIT, 200 * USD)]
    purchase = plan(usage, TERMS)
    assert (purchase.units, purchase.cost) == (20, 200 * USD + 160 * USD)
    assert (purchase.average, purchase.peak) == (28.0, 100.0)


def test_need_below_the_minimum_is_compared_with_no_units() -> None:
    # 10 units' worth at 16 USD: 15 units must be bought, for 15 an hour. At 14 it does not pay.
    assert plan([Hour(10 * UNIT, 16 * USD)] * 5, TERMS).units == 15
    assert plan([Hour(10 * UNIT, 14 * USD)] * 5, TERMS).units == 0


def test_idle_hours_are_paid_for() -> None:
    busy, idle = Hour(20 * UNIT, 40 * USD), Hour(0.0, 0)
    assert plan([busy] * 6 + [idle] * 5, TERMS).units == 20
    assert plan([busy] * 4 + [idle] * 5, TERMS).units == 0


def test_no_usage_needs_no_units() -> None:
    assert plan([], TERMS) == Purchase(0, 0, 0.0, 0.0, 0, 0, None)
    assert plan([Hour(0.0, 0)] * 3, TERMS).units == 0


hour = st.builds(Hour, st.floats(0, 100 * UNIT), st.integers(0, 300 * USD))


@given(st.lists(hour, max_size=12), st.integers(0, 3 * USD))
def test_no_other_number_of_units_is_cheaper(usage: list[Hour], unit_hour: int) -> None:
    terms = Terms(2_500, unit_hour, 15, 5)
    purchase = plan(usage, terms)
    for units in (0, *range(15, 121, 5)):
        spilled = sum(h.picodollars * max(0.0, 1 - units * UNIT / h.need) for h in usage if h.need > 0)
        idle = sum(h.picodollars for h in usage if h.need == 0) if units == 0 else 0
        assert purchase.cost <= len(usage) * units * unit_hour + spilled + idle + len(usage) + 1


def test_the_throughput_of_dated_names_is_that_of_the_model() -> None:
    dated, plain = throughput("gpt-4o-2024-11-20"), throughput("gpt-4o")
    assert dated == plain
    assert plain is not None
    assert plain.tokens_per_minute == 2_500
    assert throughput("whisper") is None


def test_the_command_compares_the_hours_of_the_ledger(azurite: Azurite) -> None:
    async def use() -> int:
        async with bootstrap.open_store(Storage(connection_string=azurite.connection_string)) as store:
            end = hours.day_start(hours.hour_of(store.now()))
            for first in (end - 24, end - 1):
                row: Properties = {"s_key": "ptu", "s_model": "gpt-5.2", "s_ts": first * 3600.0, "e_status": 200}
                # 204,000 uncached and 25,500 of output at 8 each: 2 of the 204,000 tokens that a unit serves an hour
                row = {**row, "e_input": 304_000, "e_cached": 100_000, "e_output": 25_500}
                row |= {"e_backend": "b", "e_region": "eastus2", "e_deployment": "d"}
                await store.table(hours.raw_table(first)).merge(f"{hours.label(first)}-00", {f"ptu{first}": row})
            return end

    asyncio.run(use())
    backend = {"name": "b", "endpoint": "https://b", "region": "eastus2", "models": {"gpt-5.2": "d"}}
    environ = {"GATEWAY_CONFIG": json.dumps({"backends": [backend]}), "GATEWAY_STORAGE": azurite.connection_string}

    def asked(*words: str) -> dict[str, Any]:
        (line,) = cli(environ, "ptu", "--days", "1", "--model", "gpt-5.2", "--json", *words)
        row: dict[str, Any] = line
        return row

    line = asked()
    by_tokens = 2 * (204_000 * 1.75 + 100_000 * 0.175 + 25_500 * 14) / 1e6
    assert (line["hours"], line["usd_by_tokens"]) == (24, round(by_tokens, 2))
    assert (line["peak_units"], line["average_units"], line["cheapest_units"]) == (2.0, round(4 / 24, 2), 0)
    assert line["break_even_percent"] == pytest.approx(100 * 1.0 / (by_tokens / 4), abs=0.1)
    cheap = asked("--usd-per-unit-hour", "0.001")
    assert (cheap["cheapest_units"], cheap["usd_with_them"]) == (15, 0.36)
    assert asked("--deployment", "regional", "--usd-per-unit-hour", "0.0001")["cheapest_units"] == 50
