"""Break-even of provisioned capacity, against figures worked out by hand."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from shared import bootstrap
from shared.billing.cost import USD
from shared.billing.provisioned import facts, regions, sizes, throughput
from shared.billing.ptu import Hour, Payment, Purchase, Terms, Workload, offer, payments, plan
from shared.cli.app import cli as app
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
        line, *_ = cli(environ, "ptu", "--days", "1", "--model", "gpt-5.2", "--json", *words)
        row: dict[str, Any] = line
        return row

    line = asked()
    assert line["payment"] == "hourly"
    by_tokens = 2 * (204_000 * 1.75 + 100_000 * 0.175 + 25_500 * 14) / 1e6
    assert (line["hours"], line["usd_by_tokens"]) == (24, round(by_tokens, 2))
    assert (line["peak_units"], line["average_units"], line["cheapest_units"]) == (2.0, round(4 / 24, 2), 0)
    assert line["break_even_percent"] == pytest.approx(100 * 1.0 / (by_tokens / 4), abs=0.1)
    lines = cli(environ, "ptu", "--days", "1", "--model", "gpt-5.2", "--json")
    hourly, monthly, yearly = (row["break_even_percent"] for row in lines)
    assert [row["payment"] for row in lines] == ["hourly", "month reservation", "year reservation"]
    assert monthly == pytest.approx(hourly * 260 / 730, abs=0.1)
    assert yearly == pytest.approx(hourly * 2652 / 8760, abs=0.1)
    cheap = asked("--usd-per-unit-hour", "0.001")
    assert (cheap["cheapest_units"], cheap["usd_with_them"]) == (15, 0.36)
    assert asked("--deployment", "regional", "--usd-per-unit-hour", "0.0001")["cheapest_units"] == 50


@pytest.mark.parametrize(
    ("deployment", "cached", "needed", "units"),
    [("data_zone", 0.0, 105.88, 110), ("data_zone", 0.5, 76.47, 80), ("regional", 0.0, 105.88, 150)],
)
def test_a_forecast_needs_what_azures_worked_examples_need(
    deployment: str, cached: float, needed: float, units: int
) -> None:
    words = ["--requests-per-minute", "1000", "--input", "200", "--output", "20", "--cached", str(cached)]
    (model,) = forecast(*words, "--model", "gpt-5.2", "--deployment", deployment)["models"]
    assert (model["units_needed_at_peak"], model["units_needed_on_average"]) == (needed, needed)
    assert {payment["units"] for payment in model["payments"]} == {0, units}


def test_a_forecast_is_priced_by_the_token_by_the_hour_and_reserved_each_with_its_source() -> None:
    words = ["--requests-per-minute", "120", "--input", "1500", "--output", "300", "--peak", "3"]
    report = forecast(*words, "--model", "gpt-5.2")
    (model,) = report["models"]
    assert model["units_needed_at_peak"] == pytest.approx(3 * model["units_needed_on_average"], abs=0.02)
    lines = {line["payment"]: line for line in model["payments"]}
    by_tokens = 120 * 60 * (1500 * 1.75 + 300 * 14) / 1e6
    assert lines["by tokens"]["usd_per_hour"] == pytest.approx(by_tokens)
    units = lines["hourly"]["units"]
    assert units == 415  # 360 requests of 1,500 + 8 * 300 at 3,400 a unit
    assert (lines["hourly"]["usd_per_hour"], lines["hourly"]["usd_per_month"]) == (units, units * 730)
    assert lines["month reservation"]["usd_per_month"] == pytest.approx(260 * units, abs=0.01)
    assert lines["year reservation"]["usd_per_month"] == pytest.approx(2652 * units / 12, abs=0.01)
    for line in lines.values():
        assert line["usd_saved_per_month"] == pytest.approx(by_tokens * 730 - line["usd_per_month"], abs=0.02)
    assert "swedencentral" in model["offered"]
    for source in (model["price_source"], model["throughput_source"], *report["sources"].values()):
        assert re.search(r"20\d\d-\d\d-\d\d", source), source


def test_a_forecast_takes_the_prices_of_the_configuration_and_needs_no_storage() -> None:
    backend = {"name": "b", "endpoint": "https://b", "region": "r", "models": {"gpt-5.2": "d"}}
    document = {"backends": [backend], "prices": [{"model": "gpt-5.2", "input": 1, "output": 10}]}
    words = ["--requests-per-minute", "1", "--input", "1000", "--output", "100", "--model", "gpt-5.2"]
    report = forecast(*words, "--usd-per-unit-hour", "0.5", environ={"GATEWAY_CONFIG": json.dumps(document)})
    (model,) = report["models"]
    by_tokens, own = model["payments"]
    assert (by_tokens["usd_per_hour"], model["price_source"]) == (60 * 0.002, "configuration")
    assert (own["payment"], own["usd_per_hour"]) == ("your price", 0.5 * own["units"])


def test_what_is_not_published_is_not_weighed() -> None:
    words = ["ptu", "--requests-per-minute", "1", "--input", "10", "--output", "1"]
    for more in (["--model", "gpt-5.6-luna"], ["--model", "nonesuch", "--tokens-per-minute", "100"]):
        done = CliRunner().invoke(app, [*words, *more], env={"GATEWAY_CONFIG": None})
        assert (done.exit_code, "are not known" in done.stderr) == (2, True)
    missing = CliRunner().invoke(app, [*words, "--model", "gpt-5"], env={"GATEWAY_CONFIG": "none.yaml"})
    assert (missing.exit_code, "none.yaml" in missing.stderr) == (2, True)  # and not Azure's prices in its place
    incomplete = CliRunner().invoke(app, ["ptu", "--requests-per-minute", "1", "--input", "10"])
    assert (incomplete.exit_code, "--output: expected a number" in incomplete.stderr) == (2, True)


def forecast(*words: str, environ: dict[str, str] | None = None) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["ptu", *words, "--json"], env={"GATEWAY_CONFIG": None, **(environ or {})})
    assert done.exit_code == 0, done.output
    report: dict[str, Any] = json.loads(done.stdout)
    return report


works = st.builds(Workload, st.floats(0.1, 5_000), st.floats(1, 10), st.floats(1, 50_000), st.integers(1, 10**12))


@given(works, st.sampled_from([(15, 5), (25, 50), (50, 50)]), st.integers(1, 3 * USD))
def test_the_units_of_a_forecast_serve_its_peak_and_are_on_sale_and_no_fewer_do(
    work: Workload, sold: tuple[int, int], unit_hour: int
) -> None:
    terms = Terms(2_500, unit_hour, *sold)
    capacity = offer(work, terms)
    peak = work.average * work.peak
    assert (capacity.units - sold[0]) % sold[1] == 0
    assert capacity.units >= sold[0]
    assert capacity.units * 2_500 >= peak * (1 - 1e-6)
    assert capacity.units == sold[0] or (capacity.units - sold[1]) * 2_500 < peak
    if capacity.break_even is not None:  # that many requests cost as much by the token, and the units serve them
        assert capacity.break_even * 60 * work.picodollars == pytest.approx(capacity.cost)
        assert capacity.break_even * work.each * work.peak <= capacity.units * 2_500 * (1 + 1e-9)
    assert capacity.break_even_use is not None
    used = capacity.break_even_use * 2_500 * 60 / work.each * work.picodollars  # the tokens that a unit serves then
    assert used == pytest.approx(unit_hour)


def test_reservations_are_spread_over_the_hours_of_their_term() -> None:
    reserved = facts().reservations.usd["global"]
    assert payments(None, None) == []
    assert payments(USD, reserved) == [
        Payment("hourly", USD),
        Payment("month reservation", round(260 * USD / 730)),
        Payment("year reservation", round(2652 * USD / 8760)),
    ]


def test_published_facts_agree_with_one_another() -> None:
    known = facts()
    for deployment, places in known.offers.places.items():
        named = [model for place in places for model in place.models]
        assert len(named) == len(set(named))
        for model in named:
            assert throughput(model) is not None, model
            assert regions(model, deployment)
    assert regions("gpt-5.2-codex", "regional") == ()
    assert sizes("gpt-5-mini", "regional") == (25, 25)
    assert sizes("o1", "regional") == (25, 50)
    assert sizes("nonesuch", "regional") is None
