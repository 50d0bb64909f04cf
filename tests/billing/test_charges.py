"""Costs, shares of capacity and forecasts, against figures worked out by hand; sums that must add up."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.billing.charges import UNUSED, Charge, Tariff
from shared.billing.cost import USD, cost
from shared.billing.prices import Prices
from shared.billing.report import DIMENSIONS, UsageQuery, as_csv, parse_query, report
from shared.config.document import Backend, ProvisionedCapacity
from shared.config.prices import PriceLine
from shared.errors import InvalidRequest
from shared.storage import Properties
from shared.types import Target, Usage
from shared.usage import hours
from shared.usage.folds import Counts, Dimensions, Lines
from shared.usage.query import HourRange, spans
from shared.usage.rollup import roll_up
from tests.harness.memory_store import MemoryStore

HOUR = hours.from_label("2026110312")
NOW = (HOUR + 1000) * 3600.0
SWEDEN = Backend(name="sweden", endpoint="https://a", region="swedencentral", models={"gpt-4o": "chat", "ours": "x"})
RESERVED = Backend(
    name="reserved",
    endpoint="https://b",
    region="swedencentral",
    models={"gpt-4o": "ptu", "ours": "own"},
    kind="provisioned",
    capacity=[
        ProvisionedCapacity(model="gpt-4o", units=100, since="2026-11-01"),
        ProvisionedCapacity(model="gpt-4o", units=50, since="2026-11-05", usd_per_unit_hour=0.5),
        ProvisionedCapacity(model="gpt-4o", units=0, since="2026-11-09"),
    ],
)
PRICES = [PriceLine(model="cheap", input=1, output=2), PriceLine(model="cheap", since="2026-11-03", input=3, output=4)]


def tariff(*backends: Backend) -> Tariff:
    return Tariff(Prices(PRICES, backends), backends)


def dimensions(key: str = "a", model: str = "gpt-4o", backend: str = "sweden", **more: Any) -> Dimensions:
    return Dimensions(key, model, backend, "swedencentral", **more)


def charged(
    lines: Lines, span: HourRange | None = None, *backends: Backend, now: float = NOW
) -> dict[Dimensions, int | None]:
    charges = tariff(*(backends or (SWEDEN, RESERVED))).charges(span or HourRange(HOUR, HOUR + 1), lines, now)
    return {charge.line: charge.picodollars for charge in charges}


def test_a_line_costs_its_tokens_at_the_price_of_the_served_model() -> None:
    million = Counts(requests=1, input_tokens=1_000_000)
    lines = {
        dimensions(served="gpt-4o-2024-05-13"): million,
        dimensions(served="gpt-4o-2024-08-06"): million,
        dimensions(tier="batch"): million,
        dimensions(model="ours", served="gpt-4.1-2025-04-14"): million,
        dimensions(model="ours"): million,
        dimensions(model="whisper"): Counts(requests=1, sound_ms=90_000),
        dimensions(model="gpt-5.4", context="long"): million,
        dimensions(key="b", model="ours"): Counts(requests=7, errors=7),
    }
    costs = charged(lines, None, SWEDEN)
    dollars = [None if money is None else money / USD for money in costs.values()]
    assert dollars == [5.0, 2.5, 1.25, 2.0, None, 0.009, 5.0, 0.0]


def test_a_call_that_azure_spilled_over_is_pay_as_you_go_and_takes_no_capacity() -> None:
    zone = msgspec.structs.replace(
        SWEDEN, name="zone", endpoint="https://b", deployment="data_zone", models={"gpt-4o": "payg"}
    )
    kept, spilled = (dimensions(backend="reserved", deployment=name) for name in ("ptu", "payg"))
    unknown = dimensions(backend="reserved", deployment="?")
    million = Counts(requests=1, input_tokens=1_000_000)
    costs = charged(dict.fromkeys((kept, spilled, unknown), million), None, RESERVED, zone)
    assert costs == {kept: 100 * USD, spilled: 2_750_000_000_000, unknown: 2_500_000_000_000}
    call, target = Usage(1_000_000), Target(RESERVED, "gpt-4o", "payg")
    price = tariff(RESERVED, zone).prices.of_call(call, target, NOW)
    assert cost(price, call) == costs[spilled]


def test_capacity_is_divided_by_the_cost_of_the_same_tokens_without_it() -> None:
    ann, bob = dimensions("ann", backend="reserved"), dimensions("bob", backend="reserved")
    # At 2.50 and 10 a million, ann's tokens are worth 3.50, bob's 3.00; 100 units are 100 USD an hour.
    costs = charged({ann: Counts(input_tokens=1_000_000, output_tokens=100_000), bob: Counts(output_tokens=300_000)})
    share = 100 * USD * 300 // 650
    assert costs == {ann: 100 * USD - share, bob: share}


def test_unused_capacity_is_a_separate_line() -> None:
    span = HourRange(HOUR, HOUR + 1)
    assert charged({}, span) == {
        Dimensions("-", "gpt-4o", "reserved", "swedencentral", deployment="ptu", role=UNUSED): 100 * USD
    }
    failed = dimensions("ann", backend="reserved")
    costs = charged({failed: Counts(requests=3, errors=3)}, span)
    assert costs.pop(failed) == 0
    assert list(costs.values()) == [100 * USD]


@pytest.mark.parametrize(
    ("label", "usd"),
    [
        ("2026103123", 0),
        ("2026110100", 100),
        ("2026110423", 100),
        ("2026110500", 25),
        ("2026110823", 25),
        ("2026110900", 0),
    ],
)
def test_capacity_costs_from_its_day_until_the_next_entry(label: str, usd: int) -> None:
    first = hours.from_label(label)
    assert sum(money or 0 for money in charged({}, HourRange(first, first + 1)).values()) == usd * USD


def test_future_hours_cost_nothing_yet() -> None:
    now = HOUR * 3600.0 + 60
    assert sum(money or 0 for money in charged({}, HourRange(HOUR, HOUR + 9), now=now).values()) == 100 * USD
    assert charged({}, HourRange(HOUR + 1, HOUR + 2), now=now) == {}


def test_provisioned_deployments_without_configured_capacity_have_no_known_cost() -> None:
    line = dimensions(model="ours", backend="reserved")
    assert charged({line: Counts(requests=1, input_tokens=1)})[line] is None
    early = dimensions(backend="reserved")
    first = hours.from_label("2026103112")
    assert charged({early: Counts(requests=1, input_tokens=1)}, HourRange(first, first + 1))[early] is None


token = st.integers(0, 10**7)
line = st.builds(
    dimensions,
    st.sampled_from("abc"),
    st.sampled_from(["gpt-4o", "cheap"]),
    st.sampled_from(["sweden", "reserved", "gone"]),
    product=st.sampled_from(["-", "x"]),
    role=st.sampled_from(["served", "hedge"]),
)
counts = st.builds(Counts, requests=st.integers(1, 9), input_tokens=token, output_tokens=token)


@given(st.dictionaries(line, counts, max_size=12))
def test_shares_add_up_to_the_capacity_and_are_not_negative(lines: Lines) -> None:
    charges: list[Charge] = list(tariff(SWEDEN, RESERVED).charges(HourRange(HOUR, HOUR + 1), lines, NOW))
    assert {charge.line for charge in charges if charge.line.role != UNUSED} == lines.keys()
    of_capacity = [c.picodollars or 0 for c in charges if c.line.backend == "reserved" and c.line.model == "gpt-4o"]
    assert sum(of_capacity) == 100 * USD
    assert all((charge.picodollars or 0) >= 0 for charge in charges)


def test_a_period_is_cut_where_a_price_changes_and_by_the_hour_where_capacity_is_shared() -> None:
    first, end = hours.from_label("2026103000"), hours.from_label("2026110600")
    changes = [hours.from_label("2026110100"), hours.from_label("2026110300")]
    assert spans(first, end, tariff(SWEDEN).cuts(first, end)) == [
        HourRange(first, changes[1]),
        HourRange(changes[1], end),
    ]
    cut = spans(first, end, tariff(SWEDEN, RESERVED).cuts(first, end))
    assert cut[0] == HourRange(first, changes[0])
    assert len(cut) == 1 + 5 * 24


class Month:
    """Rows of November 2026 in a store, as the ledger writes them."""

    def __init__(self, now: str = "2026110500") -> None:
        self.now = hours.from_label(now) * 3600.0
        self.store = MemoryStore(lambda: self.now)
        self._number = 0

    async def call(self, hour: str, key: str = "a", model: str = "gpt-4o", **more: Any) -> None:
        self._number += 1
        row: Properties = {
            "s_key": key,
            "s_model": model,
            "s_ts": hours.from_label(hour) * 3600.0,
            "e_input": 1_000_000,
            "e_status": 200,
            "e_backend": "sweden",
            "e_region": "swedencentral",
            "e_deployment": "chat",
            **more,
        }
        table = self.store.table(f"usage{hour[:6]}")
        await table.merge(f"{hour}-00", {f"{self._number:026d}": row})

    async def ask(self, *backends: Backend, **given: str) -> list[dict[str, Any]]:
        month_report = await report(self.store, tariff(*(backends or (SWEDEN,))), parse_query(given, self.now))
        return month_report.rows({"a": "Ann"})


async def test_lines_have_names_tokens_and_cost() -> None:
    month = Month()
    await month.call("2026110310", e_output=100_000)
    await month.call("2026110311", key="b", model="nonesuch")
    await month.call("2026110311", e_role="hedge")
    ann, bob = await month.ask()
    assert (ann["key"], ann["name"], ann["requests"], ann["input_tokens"], ann["total_tokens"]) == (
        "a",
        "Ann",
        1,
        10**6,
        1_100_000,
    )
    assert (ann["cost_usd"], ann["beside_usd"], ann["charges"], ann["beside_tokens"]) == (3.5, 2.5, 1, 10**6)
    assert (bob["key"], bob["name"], bob["requests"], bob["cost_usd"], bob["unpriced"]) == ("b", "", 1, None, 1)


async def test_a_price_that_changes_within_a_month_applies_from_its_day() -> None:
    month = Month()
    await month.call("2026110200", model="cheap")
    await month.call("2026110223", model="cheap")
    await month.call("2026110300", model="cheap")
    (line,) = await month.ask()
    assert line["cost_usd"] == 1 + 1 + 3
    assert [(row["period"], row["cost_usd"]) for row in await month.ask(every="day")] == [
        ("2026-11-02", 2.0),
        ("2026-11-03", 3.0),
    ]


async def test_every_dimension_and_every_series_adds_up_to_the_same() -> None:
    month = Month("2026110612")
    for number in range(60):
        await month.call(
            f"202611{1 + number % 6:02}{number % 11:02}",
            "abc"[number % 3],
            ["gpt-4o", "cheap"][number % 2],
            e_input=number * 1000 + 1,
            e_output=number,
            e_backend=["sweden", "reserved"][number % 5 == 0],
            e_tier=["default", "priority"][number % 7 == 0],
            s_product=["-", "x"][number % 4 == 0],
        )
    backend = msgspec.structs.replace(RESERVED, models={"gpt-4o": "ptu", "cheap": "own"})
    whole = await report(month.store, tariff(SWEDEN, backend), parse_query({}, month.now))
    assert whole.total.requests == 60
    for by in DIMENSIONS:
        for every in ("", "hour", "day", "month"):
            asked = {"by": by} | ({"every": every} if every else {})
            grouped = await report(month.store, tariff(SWEDEN, backend), parse_query(asked, month.now))
            for name in ("requests", "input_tokens", "output_tokens", "cost", "beside", "unpriced"):
                assert sum(getattr(line, name) for line in grouped.lines.values()) == getattr(whole.total, name), (
                    by,
                    every,
                )
    parts = [await month.ask(SWEDEN, backend, key=key) for key in "abc-"]
    assert sum(rows[0]["cost_usd"] for rows in parts) == pytest.approx(whole.total.cost / USD, rel=1e-12)


async def test_filters_select_what_is_counted() -> None:
    month = Month()
    await month.call("2026110310", s_product="x", s_system="crm")
    await month.call("2026110310", s_product="y")
    assert [row["product"] for row in await month.ask(by="product", product="x")] == ["x"]
    assert await month.ask(system="erp") == []
    rows = await month.ask(by="product,system", backend="sweden")
    assert [(row["product"], row["system"]) for row in rows] == [("x", "crm"), ("y", "-")]


async def test_a_month_is_forecast_from_its_last_seven_days() -> None:
    month = Month("2026111100")  # 240 of 720 hours have passed
    await month.call("2026110200")  # 2.50, older than the seven days before now
    for day in (5, 6, 7, 8):
        await month.call(f"202611{day:02}00", e_output=100_000)  # 3.50 each
    (line,) = await month.ask()
    assert line["cost_usd"] == 16.5
    assert line["forecast_usd"] == pytest.approx(16.5 + 3.5 * 12)  # each of these weekdays comes three times more
    for asked in ({"every": "day"}, {"until": "2026-11-06"}, {"since": "2026-11-02"}):
        assert all("forecast_usd" not in row for row in await month.ask(**asked))


async def test_the_first_hour_of_a_month_is_forecast_with_care() -> None:
    month = Month("2026110100")
    await month.call("2026110100")
    month.now += 60
    (line,) = await month.ask()
    assert line["forecast_usd"] == pytest.approx(2.5 + 2.5 * (720 - 1 / 60))


@pytest.mark.parametrize("passed", [0.1, 1.1, 300.5, 719.9])
async def test_capacity_is_forecast_to_be_paid_for_in_every_hour_of_the_month(passed: float) -> None:
    month = Month("2026110100")
    month.now += passed * 3600
    backend = msgspec.structs.replace(
        RESERVED, capacity=[ProvisionedCapacity(model="gpt-4o", units=10, since="2026-11-01", usd_per_unit_hour=1.0)]
    )
    (line,) = await month.ask(SWEDEN, backend)
    assert line["forecast_usd"] == pytest.approx(7200)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"by": "colour"}, "by: expected some of key, team"),
        ({"since": "yesterday"}, "since: expected a month"),
        ({"until": "2026-13-01"}, "until: expected a month"),
        ({"since": "2026-11-03", "until": "2026-11-02"}, "since: expected a time before until"),
        ({"since": "2030-01-01"}, "since: expected a time before until"),
        ({"since": "1066-10-14"}, "since: expected a time after 2024"),
        ({"every": "minute"}, "every: expected one of hour"),
        ({"every": "hour", "since": "2026-01-01"}, "every: expected a period of at most 744 pieces"),
    ],
)
def test_errors_about_parameters_say_what_was_expected(given: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_query(given, NOW)
    assert refused.value.message.startswith(said)
    assert refused.value.param == said.partition(":")[0]


def test_periods_may_be_months_days_and_times_with_zones() -> None:
    now = datetime(2026, 11, 21, 12, 30, tzinfo=UTC).timestamp()
    assert parse_query({}, now).since == datetime(2026, 11, 1, tzinfo=UTC)
    assert parse_query({"until": "2027-01"}, now).until == datetime(2027, 1, 1, tzinfo=UTC)  # as it was asked
    asked = parse_query({"since": "2026-10", "until": "2026-11-02T01:00+02:00"}, now)
    assert (asked.since, asked.until) == (datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, 23, tzinfo=UTC))
    assert asked == UsageQuery(asked.since, asked.until)


def test_csv_has_no_formulas_and_all_digits_of_small_amounts() -> None:
    text = as_csv(["name", "usd"], [{"name": '=HYPERLINK("x")', "usd": 1e-06}, {"name": "-", "usd": None}])
    assert text == 'name,usd\n"\'=HYPERLINK(""x"")",0.000001\n-,\n'


async def test_times_are_quantiles_by_model_region_and_hour_of_the_calls_that_succeeded() -> None:
    month = Month()
    for number in range(100):
        await month.call("2026110310", e_ms=1000 + number, e_ttft=100 + number)
    await month.call("2026110310", e_ms=90_000, e_status=504)
    await month.call("2026110310", e_role="hedge", e_ms=70_000)
    await month.call("2026110311", e_ms=40, e_region="eastus2")
    first, second = await month.ask(by="model,region", every="hour")
    assert (first["period"], first["region"]) == ("2026-11-03T10:00Z", "swedencentral")
    assert first["p50_ms"] == pytest.approx(1049, rel=0.016)
    assert first["p95_ms"] == pytest.approx(1094, rel=0.016)
    assert first["first_byte_p50_ms"] == pytest.approx(149, rel=0.016)
    assert first["first_byte_p95_ms"] == pytest.approx(194, rel=0.016)
    assert (second["p50_ms"], second["p95_ms"], second["first_byte_p50_ms"]) == (40, 40, None)
    (both,) = await month.ask(by="model")
    await roll_up(month.store)
    assert await month.ask(by="model") == [both]
    assert both["p50_ms"] == pytest.approx(1048, rel=0.016)
