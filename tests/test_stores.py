"""One contract for every store, and what only the one on a network can suffer."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shared.errors import ConfigurationError, StoreUnavailable
from shared.stores import MAX_BATCH, Properties, Row, Store, Table
from shared.stores.clock import DRIFT, StoreClock
from shared.stores.memory import MemoryStore
from shared.stores.signing import BearerToken
from shared.stores.tables import TablesStore
from tests.azurite import Azurite

KEY = "c2VjcmV0IHNlY3JldCBzZWNyZXQ="
VALUES: Properties = {
    "text": "it's \"quoted\" & <tagged>\r\n\t{€} 😀 \x00\u2028",
    "empty": "",
    "long": "ä" * 32768,
    "small": 5,
    "negative": -1,
    "big": 2**62 + 1,
    "lowest": -(2**63),
    "whole": 5.0,
    "fraction": 0.1,
    "huge": 1e300,
    "tiny": 5e-324,
    "yes": True,
    "no": False,
}
ODD_KEYS = ("it's", "''", "a b", "ü€😀", "100%", "a%20b", "a+b&c=d;e:f@g", "(x,y)", "key|gpt-4.1|-", "~!*$^`{}[]<>\"", "x" * 512)
BAD_KEYS = ("", "a/b", "a\\b", "a#b", "a?b", "a\nb", "a\x7fb", "a\x9fb", "x" * 513, "😀" * 257, "\ud800")
BAD_VALUES: tuple[Any, ...] = (float("nan"), float("inf"), "x" * 32769, "😀" * 16385, 2**63, None, b"x", [], "\ud800")

_numbers = itertools.count()


@pytest.fixture(params=["memory", "azurite"])
def new_store(request: pytest.FixtureRequest) -> Callable[[], Store]:
    if request.param == "memory":
        return MemoryStore
    azurite: Azurite = request.getfixturevalue("azurite")
    return lambda: TablesStore.from_connection_string(azurite.connection_string)


@asynccontextmanager
async def new_table(new_store: Callable[[], Store]) -> AsyncIterator[Table]:
    store = new_store()
    try:
        yield store.table(f"contract{next(_numbers)}")
    finally:
        await store.close()


async def rows(scan: AsyncIterator[Row]) -> list[tuple[str, str]]:
    return [(row.partition, row.key) async for row in scan]


async def test_a_table_that_is_not_there_reads_as_empty(new_store: Callable[[], Store]) -> None:
    async with new_table(new_store) as table:
        assert await table.get("p", "k") is None
        assert await rows(table.scan("p")) == []
        assert await rows(table.scan_all()) == []
        assert await table.put("p", "k", {"a": 1}, 'W/"datetime\'2026-01-01T00%3A00%3A00.0000000Z\'"') is None
        await table.delete("p", "k")
        assert await table.get("p", "k") is None


async def test_what_is_put_is_read_back(new_store: Callable[[], Store]) -> None:
    async with new_table(new_store) as table:
        etag = await table.put("p", "k", VALUES, None)
        row = await table.get("p", "k")
        assert row == Row("p", "k", dict(VALUES), etag or "")
        assert {name: type(value) for name, value in row.properties.items()} == {n: type(v) for n, v in VALUES.items()}
        assert [row async for row in table.scan("p")] == [row]


async def test_what_is_merged_is_read_back(new_store: Callable[[], Store]) -> None:
    async with new_table(new_store) as table:
        await table.merge("p", {"k": VALUES, "l": {}})
        row = await table.get("p", "k")
        assert row is not None
        assert row.properties == VALUES
        assert {name: type(value) for name, value in row.properties.items()} == {n: type(v) for n, v in VALUES.items()}
        assert await rows(table.scan("p")) == [("p", "k"), ("p", "l")]


async def test_a_merge_keeps_what_it_does_not_name(new_store: Callable[[], Store]) -> None:
    async with new_table(new_store) as table:
        await table.merge("p", {"k": {"a": 1, "b": "x"}})
        first = await table.get("p", "k")
        await table.merge("p", {"k": {"b": "y", "c": 2.5}, "new": {"d": True}})
        row = await table.get("p", "k")
        assert row
        assert first
        assert row.properties == {"a": 1, "b": "y", "c": 2.5}
        assert row.etag != first.etag
        await table.merge("p", {})


async def test_a_put_replaces_the_whole_row_for_who_knows_its_version(new_store: Callable[[], Store]) -> None:
    async with new_table(new_store) as table:
        first = await table.put("p", "k", {"a": 1, "b": 2}, None)
        assert await table.put("p", "k", {"a": 9}, None) is None
        second = await table.put("p", "k", {"a": 2}, first)
        assert second not in (None, first)
        assert await table.put("p", "k", {"a": 3}, first) is None
        row = await table.get("p", "k")
        assert row
        assert (row.properties, row.etag) == ({"a": 2}, second)
        await table.merge("p", {"k": {"c": 1}})
        assert await table.put("p", "k", {"a": 4}, second) is None
        await table.delete("p", "k")
        assert await table.put("p", "k", {"a": 5}, second) is None
        assert await table.put("p", "k", {"a": 6}, None)


async def test_of_many_who_compare_and_swap_at_once_one_wins(new_store: Callable[[], Store]) -> None:
    async with new_table(new_store) as table:
        inserted = await asyncio.gather(*(table.put("p", "k", {"who": who}, None) for who in range(5)))
        (etag,) = filter(None, inserted)
        replaced = await asyncio.gather(*(table.put("p", "k", {"who": who}, etag) for who in range(5)))
        assert len([etag for etag in replaced if etag]) == 1


async def test_two_who_merge_into_a_new_table_at_once_lose_nothing(new_store: Callable[[], Store]) -> None:
    async with new_table(new_store) as table:
        await asyncio.gather(*(table.merge("p", {f"k{n}": {f"from{who}": n} for n in range(100)}) for who in range(4)))
        found = [row async for row in table.scan("p")]
        assert len(found) == MAX_BATCH
        assert all(len(row.properties) == 4 for row in found)


async def test_a_scan_gives_rows_in_order_over_many_pages(new_store: Callable[[], Store]) -> None:
    async with new_table(new_store) as table:
        keys = [f"{number:05d}" for number in range(1250)]
        for start in range(0, len(keys), 50):
            await table.merge(f"p{start % 100}", {key: {"n": 1} for key in reversed(keys[start : start + 50])})
        expected = [(f"p{start}", key) for start in (0, 50) for key in keys if int(key) // 50 * 50 % 100 == start]
        assert await rows(table.scan_all()) == expected
        assert await rows(table.scan_all("p0")) == await rows(table.scan("p50")) == expected[-600:]
        assert await rows(table.scan_all("p50")) == []
        assert await rows(table.scan("p")) == []


async def test_keys_compare_by_their_utf16_units(new_store: Callable[[], Store]) -> None:
    async with new_table(new_store) as table:
        keys = ["-", "A", "_", "a", "é", "😀", "\uffe5"]
        await table.merge("p", {key: {} for key in reversed(keys)})
        assert [key for _, key in await rows(table.scan("p"))] == keys


async def test_a_scan_survives_changes_while_it_runs(new_store: Callable[[], Store]) -> None:
    async with new_table(new_store) as table:
        for start in range(0, 1200, 100):
            await table.merge("p", {f"{number:05d}": {} for number in range(start, start + 100)})
        seen = []
        async for row in table.scan("p"):
            seen.append(row.key)
            if len(seen) == 1:
                await table.delete("p", "01100")
                await table.merge("p", {"99999": {}, "00000x": {}})
        assert len(seen) in range(1199, 1203)
        assert seen == sorted(seen)


@pytest.mark.parametrize("key", ODD_KEYS)
async def test_odd_keys_are_kept_on_every_path(new_store: Callable[[], Store], key: str) -> None:
    async with new_table(new_store) as table:
        await table.merge(key, {key: {"a": 1}, "other": {"a": 0}})
        row = await table.get(key, key)
        assert row
        etag = await table.put(key, key, {"b": 2}, row.etag)
        assert await rows(table.scan(key)) == sorted([(key, key), (key, "other")], key=lambda row: row[1].encode("utf-16-be"))
        assert etag
        await table.delete(key, key)
        assert await table.put(key, key, {"c": 3}, None)
        assert await table.get(key, key) == Row(key, key, {"c": 3}, (await table.get(key, key) or row).etag)
        assert len(await rows(table.scan_all(key[:-1]))) == 2


@pytest.mark.parametrize("key", BAD_KEYS)
async def test_keys_that_azure_refuses_are_refused_before_any_io(new_store: Callable[[], Store], key: str) -> None:
    async with new_table(new_store) as table:
        for use in (
            lambda: table.get(key, "k"),
            lambda: table.get("p", key),
            lambda: table.put("p", key, {}, None),
            lambda: table.put(key, "k", {}, "etag"),
            lambda: table.merge(key, {"k": {}}),
            lambda: table.merge("p", {"k": {}, key: {}}),
            lambda: table.delete("p", key),
            lambda: rows(table.scan(key)),
        ):
            with pytest.raises(ValueError):
                await use()
        assert await rows(table.scan_all()) == []


@pytest.mark.parametrize("value", BAD_VALUES, ids=lambda value: repr(value)[:20])
async def test_values_that_no_table_holds_are_refused(new_store: Callable[[], Store], value: Any) -> None:
    async with new_table(new_store) as table:
        with pytest.raises(ValueError):
            await table.put("p", "k", {"a": value}, None)
        with pytest.raises(ValueError):
            await table.merge("p", {"good": {"a": 1}, "k": {"a": value}})
        assert await rows(table.scan_all()) == []


async def test_rows_and_transactions_beyond_azures_size_are_refused(new_store: Callable[[], Store]) -> None:
    async with new_table(new_store) as table:
        for properties in ({f"p{n}": 1 for n in range(253)}, {f"p{n}": "x" * 32768 for n in range(16)}, {"a-b": 1}):
            with pytest.raises(ValueError):
                await table.put("p", "k", properties, None)
        with pytest.raises(ValueError):
            await table.put("p", "k", {"RowKey": "x"}, None)
        with pytest.raises(ValueError):
            await table.merge("p", {f"k{n}": {} for n in range(101)})
        assert await rows(table.scan_all()) == []


async def test_what_a_caller_does_with_its_values_does_not_reach_the_row(new_store: Callable[[], Store]) -> None:
    async with new_table(new_store) as table:
        mine: dict[str, Any] = {"a": 1}
        await table.put("p", "k", mine, None)
        await table.merge("p", {"l": mine})
        mine["a"] = 2
        row = await table.get("p", "k")
        assert row
        row.properties["a"] = 3
        assert [row.properties async for row in table.scan("p")] == [{"a": 1}, {"a": 1}]


async def test_tables_are_listed_by_prefix_and_dropped(new_store: Callable[[], Store]) -> None:
    store = new_store()
    names = [f"listed{suffix}{next(_numbers)}" for suffix in ("b", "a", "z9")]
    for name in names:
        await store.table(name).merge("p", {"k": {}})
    assert await store.names("listed") == sorted(names)
    assert await store.names("listedb") == names[:1]
    await store.drop(names[0])
    await store.drop(names[0])
    assert await store.names("listedb") == []
    assert await store.table(names[0]).get("p", "k") is None
    for name in names[1:]:
        await store.drop(name)
    await store.close()


@pytest.mark.parametrize("name", ["ab", "1abc", "a-b", "Usage", "x" * 64, ""])
async def test_names_that_are_no_tables_are_refused(new_store: Callable[[], Store], name: str) -> None:
    store = new_store()
    with pytest.raises(ValueError):
        store.table(name)
    await store.close()


async def test_the_store_knows_the_time(new_store: Callable[[], Store]) -> None:
    store = new_store()
    await store.table("clocks").get("p", "k")
    assert abs(store.now() - time.time()) < 1.5
    await store.close()
