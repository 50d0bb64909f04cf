"""Reports say the same whichever folds they come from, and are up to date before the timer is."""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone

import pytest

from shared import aggregates, hours, usage
from shared.rollup import roll_up
from shared.stores import Properties
from shared.stores.memory import MemoryStore
from shared.usage import UsageLine, partitions, report

FIRST = hours.from_label("2026013000")


class Year:
    """Calls scattered over ten weeks, and what they add up to, counted apart from the code under test."""

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


def summed(lines: list[UsageLine]) -> dict[str, Counter[str]]:
    return {line.name: +Counter(requests=line.requests, tokens=line.total_tokens, errors=line.errors) for line in lines}


@pytest.mark.parametrize("rolled_up", ["never", "once, three weeks ago", "now"])
async def test_every_period_adds_up_however_far_the_timer_has_come(rolled_up: str) -> None:
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
        lines = await report(year.store, moment(first), moment(end), "key")
        assert summed(lines) == year.expected(first, end), (first, end)


async def test_a_call_shows_at_once_and_is_not_counted_twice_after_the_timer() -> None:
    year = Year()
    year.now = FIRST * 3600 + 60.0
    since, until = moment(FIRST - 48), moment(FIRST + 1)
    for _ in range(3):
        await year.call(FIRST, "a", 10, 5)
        await year.call(FIRST - 1, "b", 20, 5)
        assert summed(await report(year.store, since, until, "key")) == year.expected(FIRST - 48, FIRST + 1)
        await roll_up(year.store)
        assert summed(await report(year.store, since, until, "key")) == year.expected(FIRST - 48, FIRST + 1)


@pytest.mark.parametrize(("by", "names"), [("key", "ab"), ("model", "012"), ("region", "01"), ("backend", "0123")])
async def test_every_dimension_adds_up_to_the_same_and_the_largest_comes_first(by: str, names: str) -> None:
    year = Year()
    year.now = (FIRST + 1) * 3600.0
    for number in range(24):
        await year.call(FIRST, "ab"[number % 2], number, 1)
    lines = await report(year.store, moment(FIRST), moment(FIRST + 2), by)
    assert sorted(line.name[-1] for line in lines) == list(names)
    assert sum(line.total_tokens for line in lines) == sum(range(24)) + 24
    assert [line.total_tokens for line in lines] == sorted((line.total_tokens for line in lines), reverse=True)
    assert all(line.total_tokens == line.input_tokens + line.output_tokens for line in lines)


async def test_hours_that_the_period_touches_count_whole() -> None:
    year = Year()
    year.now = (FIRST + 9) * 3600.0
    for hour in range(FIRST, FIRST + 4):
        await year.call(hour, "a", 1, 0)
    east = timezone(timedelta(hours=5, minutes=30))
    since, until = moment(FIRST + 1, 30).astimezone(east), moment(FIRST + 2, 1).astimezone(east)
    assert summed(await report(year.store, since, until, "key")) == year.expected(FIRST + 1, FIRST + 3)
    assert await report(year.store, until, since, "key") == []


async def test_a_report_writes_nothing() -> None:
    year = Year()
    year.now = (FIRST + 9) * 3600.0
    await year.call(FIRST, "a", 1, 0)
    await report(year.store, moment(FIRST), moment(FIRST + 1), "key")
    assert await year.store.names("") == [hours.raw_table(FIRST)]


async def test_a_period_needs_a_time_zone_and_a_known_dimension() -> None:
    store = MemoryStore()
    with pytest.raises(ValueError, match="time zone"):
        await report(store, datetime(2026, 1, 1), moment(0), "key")
    with pytest.raises(ValueError, match="by key, model"):
        await report(store, moment(0), moment(1), "colour")


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


async def test_pricing_finds_consumer_model_backend_and_region() -> None:
    year = Year()
    year.now = FIRST * 3600.0
    await year.call(FIRST, "a", 10, 4)
    found = await usage.lines(year.store, moment(FIRST), moment(FIRST + 1))
    assert list(found) == [aggregates.Dimensions("a", "model-0", "backend-0", "region-0")]
