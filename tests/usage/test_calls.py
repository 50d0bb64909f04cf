"""Single calls among the raw rows: by id, and the newest ones, page by page."""

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import ulid
from shared.storage import Row
from shared.usage import calls, hours
from tests.harness.memory_store import MemoryStore

NOW = 3600.0 * 500_000 + 1234.5


async def put(store: MemoryStore, arrived: float, admitted: float | None = None, *, key: str = "c") -> str:
    """A call, and a charge beside it."""
    call_id = ulid.new(arrived)
    hour = hours.hour_of(arrived if admitted is None else admitted)
    table, partition = store.table(hours.raw_table(hour)), f"{hours.label(hour)}-{random.randrange(16):02d}"
    await table.merge(partition, {call_id: {"s_key": key, "s_ts": arrived, "e_status": 200, "e_ended": "complete"}})
    await table.merge(partition, {f"{call_id}-1": {"s_key": key, "e_role": "hedge"}})
    await table.merge(partition, {f"refused-{ulid.new(arrived)}": {"r_sums": "[]"}})
    return call_id


def every(row: Row) -> bool:
    return True


@pytest.mark.parametrize("late", [0, 1, 1300, 2399, -59])
async def test_a_call_is_found_by_its_id_wherever_its_row_is(late: float) -> None:
    for arrived in (NOW, 3600.0 * 500_000 + 1, 3600.0 * 500_001 - 1):
        store = MemoryStore(lambda: NOW)
        call_id = await put(store, arrived, arrived + late)
        await put(store, arrived, arrived + late)
        call = await calls.find(store, call_id)
        assert call is not None
        assert (call.id, [charge.key for charge in call.charges]) == (call_id, [f"{call_id}-1"])
        assert await calls.find(store, ulid.new(arrived)) is None


@settings(max_examples=40, deadline=None)
@given(
    ages=st.lists(st.floats(0, 3 * 86_400), max_size=40),
    limit=st.integers(1, 7),
    since=st.floats(0, 3 * 86_400),
    until=st.floats(0, 86_400),
)
def test_pages_give_every_call_of_the_period_once_newest_first(
    ages: list[float], limit: int, since: float, until: float
) -> None:
    async def check() -> None:
        store = MemoryStore(lambda: NOW)
        first, end = NOW - since, NOW - until
        ids = [(await put(store, NOW - age), NOW - age) for age in ages]
        lowest, highest = ulid.lowest(first), ulid.lowest(end)
        expected = sorted((call_id for call_id, _ in ids if lowest <= call_id < highest), reverse=True)
        seen: list[str] = []
        after = ""
        for _ in range(100):
            page = await calls.newest(store, first, end, limit, every, after)
            assert len(page.calls) <= limit
            seen += [call.id for call in page.calls]
            if page.after is None:
                break
            after = page.after
        assert seen == expected

    asyncio.run(check())


async def test_a_page_reads_a_bounded_number_of_rows_and_the_next_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore(lambda: NOW)
    rare_id = await put(store, NOW - 3000, key="rare")
    for second in range(2900):
        await put(store, NOW - second)
    monkeypatch.setattr(calls, "_MOST_ROWS", 500)
    pages, after = 0, ""
    ids: list[str] = []
    while True:
        page = await calls.newest(store, NOW - 4000, NOW, 10, lambda row: row.properties["s_key"] == "rare", after)
        ids += [call.id for call in page.calls]
        pages += 1
        if page.after is None:
            break
        after = page.after
    assert ids == [rare_id]
    assert pages > 3


def test_ids_are_told_from_other_texts() -> None:
    assert calls.is_id(ulid.new(NOW))
    for text in ("", "x", ulid.new(NOW)[:-1], ulid.new(NOW) + "0", ulid.new(NOW).lower(), "U" * 26, "8" + "0" * 25):
        assert not calls.is_id(text)
    assert ulid.seconds(ulid.new(NOW)) == pytest.approx(NOW, abs=0.001)
    assert ulid.lowest(NOW) <= ulid.new(NOW) < ulid.lowest(NOW + 0.001)
