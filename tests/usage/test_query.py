"""Reports are the same from any folds, and are up to date before the timer runs."""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone

import pytest

from shared.billing.charges import Tariff
from shared.billing.prices import Prices
from shared.billing.report import ReportLine, UsageQuery, report
from shared.storage import Properties
from shared.usage import hours
from shared.usage.query import partitions
from shared.usage.rollup import roll_up
from tests.harness.memory_store import MemoryStore

FIRST = hours.from_label("2026013000")


class Year:
    """Calls over ten weeks, and their sums, counted without the code under test."""

    def __init__(self) -> None:
        self.now = 0.0
        self.store = MemoryStore(lambda: self.now)
        self.calls: list[tuple[int, str, int, int, int]] = []

    async def call(self, hour: int, key: str, prompt: int, output: int, status: int = 200) -> None:
        number = len(self.calls)
        self.calls.append((hour, key, prompt, output, status))
        row: Properties = {
            "s_key": key,
            "s_model": f"model-{number % 3}",
            "s_ts": hour * 3600.0,
            "s_prompt": prompt,
            "e_input": prompt,
            "e_output": output,
            "e_cached": prompt // 2,
            "e_reasoning": output // 2,
            "e_status": status,
            "e_backend": f"backend-{number % 4}",
            "e_region": f"region-{number % 2}",
        }
        await self.store.table(hours.raw_table(hour)).merge(f"{hours.label(hour)}-07", {f"{number:026d}": row})

    def expected(self, first: int, end: int) -> dict[str, Counter[str]]:
        sums: dict[str, Counter[str]] = {}
        for hour, key, prompt, output, status in self.calls:
            if first <= hour < end:
                counts = Counter(requests=1, tokens=prompt + output, errors=int(status >= 400))
                sums.setdefault(key, Counter()).update(counts)
        return {key: +counts for key, counts in sums.items()}


def moment(hour: int, minutes: int = 0) -> datetime:
    return datetime.fromtimestamp(hour * 3600, UTC) + timedelta(minutes=minutes)


TARIFF = Tariff(Prices(), [])


async def lines_of(store: MemoryStore, since: datetime, until: datetime, by: str = "key") -> dict[str, ReportLine]:
    whole = await report(store, TARIFF, UsageQuery(since, until, (by,)))
    return {names[1]: line for names, line in whole.lines.items()}


def summed(lines: dict[str, ReportLine]) -> dict[str, Counter[str]]:
    return {
        name: +Counter(requests=line.requests, tokens=line.total_tokens, errors=line.errors)
        for name, line in lines.items()
    }


@pytest.mark.parametrize("rolled_up", ["never", "once, three weeks ago", "now"])
async def test_every_period_adds_up_at_any_progress_of_the_timer(rolled_up: str) -> None:
    year, chance = Year(), random.Random(rolled_up)
    last = FIRST + 70 * 24
    year.now = last * 3600 + 1800.0
    if rolled_up == "once, three weeks ago":
        year.now -= 21 * 86400
    for count in range(2):
        for _ in range(150):
            latest = hours.hour_of(year.now)
            hour = chance.randint(FIRST if count == 0 else latest - 21 * 24 + 2, latest)
            await year.call(hour, chance.choice("abc"), chance.randint(1, 90), chance.randint(0, 9), 200 + 229 * count)
        if rolled_up == "once, three weeks ago" and count == 0:
            await roll_up(year.store)
            year.now += 21 * 86400
    if rolled_up == "now":
        await roll_up(year.store)
    periods = [(chance.randint(FIRST - 9, last), chance.randint(FIRST, last + 9)) for _ in range(40)]
    whole = [(FIRST - 24, last + 1), (hours.month_start(FIRST + 99), hours.next_month(FIRST + 99)), (last, last + 1)]
    for first, end in periods + whole:
        lines = await lines_of(year.store, moment(first), moment(end))
        assert summed(lines) == year.expected(first, end), (first, end)


async def test_a_call_is_reported_at_once_and_not_twice_after_the_timer() -> None:
    year = Year()
    year.now = FIRST * 3600 + 60.0
    since, until = moment(FIRST - 48), moment(FIRST + 1)
    for _ in range(3):
        await year.call(FIRST, "a", 10, 5)
        await year.call(FIRST - 1, "b", 20, 5)
        assert summed(await lines_of(year.store, since, until)) == year.expected(FIRST - 48, FIRST + 1)
        await roll_up(year.store)
        assert summed(await lines_of(year.store, since, until)) == year.expected(FIRST - 48, FIRST + 1)


@pytest.mark.parametrize(("by", "names"), [("key", "ab"), ("model", "012"), ("region", "01"), ("backend", "0123")])
async def test_every_dimension_adds_up_to_the_same_and_the_largest_comes_first(by: str, names: str) -> None:
    year = Year()
    year.now = (FIRST + 1) * 3600.0
    for number in range(24):
        await year.call(FIRST, "ab"[number % 2], number, 1)
    whole = await report(year.store, TARIFF, UsageQuery(moment(FIRST), moment(FIRST + 2), (by,)))
    rows = whole.rows({})
    assert sorted(row[by][-1] for row in rows) == list(names)
    assert sum(row["total_tokens"] for row in rows) == sum(range(24)) + 24 == whole.total.total_tokens
    assert [row["total_tokens"] for row in rows] == sorted((row["total_tokens"] for row in rows), reverse=True)
    assert all(row["total_tokens"] == row["input_tokens"] + row["output_tokens"] for row in rows)


async def test_hours_that_the_period_touches_count_whole() -> None:
    year = Year()
    year.now = (FIRST + 9) * 3600.0
    for hour in range(FIRST, FIRST + 4):
        await year.call(hour, "a", 1, 0)
    east = timezone(timedelta(hours=5, minutes=30))
    since, until = moment(FIRST + 1, 30).astimezone(east), moment(FIRST + 2, 1).astimezone(east)
    assert summed(await lines_of(year.store, since, until)) == year.expected(FIRST + 1, FIRST + 3)
    assert await lines_of(year.store, until, since) == {}


async def test_a_report_writes_nothing() -> None:
    year = Year()
    year.now = (FIRST + 9) * 3600.0
    await year.call(FIRST, "a", 1, 0)
    await lines_of(year.store, moment(FIRST), moment(FIRST + 1))
    assert await year.store.names("") == [hours.raw_table(FIRST)]


def test_a_period_is_covered_once_by_the_fewest_partitions() -> None:
    first, end = hours.from_label("2025123022"), hours.from_label("2026020302")
    assert list(partitions(first, end)) == [
        "h-2025123022",
        "h-2025123023",
        "d-20251231",
        "m-202601",
        "d-20260201",
        "d-20260202",
        "h-2026020300",
        "h-2026020301",
    ]
    assert list(partitions(end, first)) == []
