"""The contract of all stores, and the network faults of Table Storage."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shared.credentials import TokenCache
from shared.errors import ConfigurationError, StoreUnavailable
from shared.storage import MAX_BATCH, Properties, Row, Store, Table, _entity
from shared.storage._clock import DRIFT, StoreClock
from shared.storage.tables import TablesStore
from tests.harness.azurite import Azurite
from tests.harness.memory_store import MemoryStore

KEY = "c2VjcmV0IHNlY3JldCBzZWNyZXQ="
VALUES: Properties = {
    "text": 'it\'s "quoted" & <tagged>\r\n\t{€} 😀 \x00\u2028',
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
ODD_KEYS = (
    "it's",
    "''",
    "a b",
    "ü€😀",
    "100%",
    "a%20b",
    "a+b&c=d;e:f@g",
    "(x,y)",
    "key|gpt-4.1|-",
    '~!*$^`{}[]<>"',
    "x" * 512,
)
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
        assert await table.put("p", "k", {"a": 1}, "W/\"datetime'2026-01-01T00%3A00%3A00.0000000Z'\"") is None
        await table.delete("p", "k")
        assert await table.get("p", "k") is None


async def test_what_is_put_is_read_back(new_store: Callable[[], Store]) -> None:
    async with new_table(new_store) as table:
        etag = await table.put("p", "k", VALUES, None)
        row = await table.get("p", "k")
        assert row == Row("p", "k", dict(VALUES), etag or "")
        assert {name: type(value) for name, value in row.properties.items()} == {n: type(v) for n, v in VALUES.items()}
        assert [row async for row in table.scan("p")] == [row]


def test_a_row_goes_out_in_ascii() -> None:
    """Azurite decodes a body piece by piece: a character between two pieces becomes two others."""
    sent = _entity.encode("p", "ä", VALUES)
    assert sent.isascii()
    row = json.loads(sent)
    assert (row["RowKey"], row["text"], row["long"]) == ("ä", VALUES["text"], VALUES["long"])
    assert (row["big"], row["big@odata.type"], row["whole@odata.type"]) == (
        str(VALUES["big"]),
        "Edm.Int64",
        "Edm.Double",
    )


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


async def test_a_put_replaces_the_whole_row_if_the_version_is_current(new_store: Callable[[], Store]) -> None:
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


async def test_one_of_many_concurrent_puts_wins(new_store: Callable[[], Store]) -> None:
    async with new_table(new_store) as table:
        inserted = await asyncio.gather(*(table.put("p", "k", {"who": who}, None) for who in range(5)))
        (etag,) = filter(None, inserted)
        replaced = await asyncio.gather(*(table.put("p", "k", {"who": who}, etag) for who in range(5)))
        assert len([etag for etag in replaced if etag]) == 1


async def test_concurrent_merges_into_a_new_table_lose_nothing(new_store: Callable[[], Store]) -> None:
    async with new_table(new_store) as table:
        await asyncio.gather(*(table.merge("p", {f"k{n}": {f"from{who}": n} for n in range(100)}) for who in range(4)))
        merged = [row async for row in table.scan("p")]
        assert len(merged) == MAX_BATCH
        assert all(len(row.properties) == 4 for row in merged)


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
        within = [(p, key) for p, key in expected[-600:] if "00300" <= key < "00777"]
        assert await rows(table.scan("p50", "00300", "00777")) == within
        assert await rows(table.scan("p50", "00300")) == [row for row in expected[-600:] if row[1] >= "00300"]
        assert await rows(table.scan("p50", end="00150")) == [row for row in expected[-600:] if row[1] < "00150"]
        assert await rows(table.scan("p50", "x", "y")) == []


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
        assert await rows(table.scan(key)) == sorted(
            [(key, key), (key, "other")], key=lambda row: row[1].encode("utf-16-be")
        )
        assert etag
        await table.delete(key, key)
        assert await table.put(key, key, {"c": 3}, None)
        assert await table.get(key, key) == Row(key, key, {"c": 3}, (await table.get(key, key) or row).etag)
        assert len(await rows(table.scan_all(key[:-1]))) == 2


@pytest.mark.parametrize("key", BAD_KEYS)
async def test_keys_that_azure_rejects_are_rejected_before_any_io(new_store: Callable[[], Store], key: str) -> None:
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
async def test_values_that_no_table_holds_are_rejected(new_store: Callable[[], Store], value: Any) -> None:
    async with new_table(new_store) as table:
        with pytest.raises(ValueError):
            await table.put("p", "k", {"a": value}, None)
        with pytest.raises(ValueError):
            await table.merge("p", {"good": {"a": 1}, "k": {"a": value}})
        assert await rows(table.scan_all()) == []


async def test_rows_and_transactions_beyond_azures_size_are_rejected(new_store: Callable[[], Store]) -> None:
    async with new_table(new_store) as table:
        for properties in ({f"p{n}": 1 for n in range(253)}, {f"p{n}": "x" * 32768 for n in range(16)}, {"a-b": 1}):
            with pytest.raises(ValueError):
                await table.put("p", "k", properties, None)
        with pytest.raises(ValueError):
            await table.put("p", "k", {"RowKey": "x"}, None)
        with pytest.raises(ValueError):
            await table.merge("p", {f"k{n}": {} for n in range(101)})
        assert await rows(table.scan_all()) == []


async def test_changes_to_a_callers_values_do_not_reach_the_row(new_store: Callable[[], Store]) -> None:
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
async def test_invalid_table_names_are_rejected(new_store: Callable[[], Store], name: str) -> None:
    store = new_store()
    with pytest.raises(ValueError):
        store.table(name)
    await store.close()


async def test_the_store_knows_the_time(new_store: Callable[[], Store]) -> None:
    store = new_store()
    await store.table("clocks").get("p", "k")
    assert abs(store.now() - time.time()) < 10
    await store.close()


# Network faults.


class FaultyServer:
    """A server that sends scripted answers. `requests` counts the requests."""

    def __init__(self, server: asyncio.Server, answers: list[bytes | str]) -> None:
        self.server = server
        self.answers = answers
        self.requests = 0
        port = server.sockets[0].getsockname()[1]
        self.connection_string = f"AccountName=faulty;AccountKey={KEY};TableEndpoint=http://127.0.0.1:{port}/faulty"


def answer(status: int, body: str = "", headers: str = "") -> bytes:
    head = f"HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return (head + body).encode()


def refused(status: int, code: str) -> bytes:
    return answer(status, f'{{"odata.error":{{"code":"{code}","message":{{"lang":"en-US","value":"x"}}}}}}')


@asynccontextmanager
async def faulty_server(*answers: bytes | str) -> AsyncIterator[FaultyServer]:
    """Sends the answers in turn, then repeats the last: bytes, or `stall`, `reset` or `close`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = [
                    line.split(b":")[1] for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"
                ]
                await reader.readexactly(int(length[0]) if length else 0)
                said = running.answers[min(running.requests, len(running.answers) - 1)]
                running.requests += 1
                if said == "stall":
                    await asyncio.sleep(30)
                elif said == "reset":
                    writer.transport.abort()
                    return
                elif said == "close":
                    break
                else:
                    assert isinstance(said, bytes)
                    writer.write(said)
                    await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    running = FaultyServer(server, list(answers))
    try:
        yield running
    finally:
        server.close()
        server.close_clients()
        await server.wait_closed()


OPERATIONS: dict[str, Callable[[TablesStore], Awaitable[Any]]] = {
    "get": lambda store: store.table("things").get("p", "k"),
    "insert": lambda store: store.table("things").put("p", "k", {"a": 1}, None),
    "replace": lambda store: store.table("things").put("p", "k", {"a": 1}, 'W/"x"'),
    "merge": lambda store: store.table("things").merge("p", {"k": {"a": 1}}),
    "delete": lambda store: store.table("things").delete("p", "k"),
    "scan": lambda store: rows(store.table("things").scan("p")),
    "scan_all": lambda store: rows(store.table("things").scan_all()),
    "names": lambda store: store.names("things"),
    "drop": lambda store: store.drop("things"),
}
FAULTS: dict[str, tuple[bytes | str, str]] = {
    "error": (refused(500, "InternalError"), "500"),
    "throttled": (refused(503, "ServerBusy"), "503 ServerBusy"),
    "forbidden": (refused(403, "AuthorizationPermissionMismatch"), "Storage Table Data Contributor"),
    "unauthorized": (refused(401, "InvalidAuthenticationInfo"), "Storage Table Data Contributor"),
    "being_deleted": (refused(409, "TableBeingDeleted"), "409 TableBeingDeleted"),
    "a_404_that_is_not_the_services": (answer(404, "<html>not here</html>"), "404"),
    "stall": ("stall", "did not answer within 0.3 s"),
    "half_an_answer": (b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{", "did not answer within 0.3 s"),
    "reset": ("reset", "no answer"),
    "close": ("close", "no answer"),
    "no_http": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "no answer"),
    "no_json": (answer(200, "<html>welcome</html>"), ""),
    "other_json": (answer(200, "[1, 2]"), ""),
    "empty": (answer(200), ""),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("fault", FAULTS)
async def test_every_fault_is_store_unavailable_within_the_budget(operation: str, fault: str) -> None:
    said, expected = FAULTS[fault]
    async with faulty_server(said) as server:
        store = TablesStore.from_connection_string(server.connection_string, budget=0.3)
        began = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            await OPERATIONS[operation](store)
        assert time.monotonic() - began < 10
        await store.close()
    assert expected in caught.value.message
    assert "things" in caught.value.message
    assert KEY not in caught.value.message


async def test_nobody_listening_is_store_unavailable() -> None:
    async with faulty_server("close") as server:
        connection_string = server.connection_string
    store = TablesStore.from_connection_string(connection_string)
    for use in OPERATIONS.values():
        with pytest.raises(StoreUnavailable, match="no answer"):
            await use(store)
    await store.close()


async def test_a_partly_rejected_transaction_is_an_error() -> None:
    part = "HTTP/1.1 400 Bad Request\r\n\r\n" + '{"odata.error":{"code":"PropertyNameInvalid"}}'
    too_few = "HTTP/1.1 204 No Content\r\n\r\n"
    async with faulty_server(answer(202, part), answer(202, too_few)) as server:
        store = TablesStore.from_connection_string(server.connection_string)
        with pytest.raises(StoreUnavailable, match="400 PropertyNameInvalid"):
            await store.table("things").merge("p", {"k": {}, "l": {}})
        with pytest.raises(StoreUnavailable, match="unreadable answer"):
            await store.table("things").merge("p", {"k": {}, "l": {}})
        await store.close()


async def test_a_request_on_a_closed_connection_is_retried() -> None:
    async with faulty_server("close", answer(202, "HTTP/1.1 204 No Content\r\n\r\n")) as server:
        store = TablesStore.from_connection_string(server.connection_string)
        await store.table("things").merge("p", {"k": {}})
        await store.close()
        assert server.requests == 2


async def test_a_temporary_error_is_retried_once() -> None:
    row = answer(200, '{"odata.etag":"W/1","PartitionKey":"p","RowKey":"k","a":1}')
    busy, written = refused(503, "ServerBusy"), answer(204, headers="ETag: W/2\r\n")
    async with faulty_server(busy, row, "close", written, busy, busy, row) as server:
        store = TablesStore.from_connection_string(server.connection_string)
        assert await store.table("things").get("p", "k") == Row("p", "k", {"a": 1}, "W/1")
        assert await store.table("things").put("p", "k", {"a": 2}, "W/1") == "W/2"
        with pytest.raises(StoreUnavailable, match="503 ServerBusy"):
            await store.table("things").get("p", "k")
        await store.close()
        assert server.requests == 6


async def test_rows_of_other_writers_are_read() -> None:
    """Types that the gateway never writes stay text; the service's own properties are left out."""
    given = (
        '{"odata.metadata":"x","odata.etag":"W/1","PartitionKey":"p","RowKey":"k","Timestamp":"2026-01-01T00:00:00Z",'
        '"born@odata.type":"Edm.DateTime","born":"2026-01-01T00:00:00Z","big@odata.type":"Edm.Int64","big":"7",'
        '"whole@odata.type":"Edm.Double","whole":5,"id@odata.type":"Edm.Guid","id":"c0ffee"}'
    )
    async with faulty_server(answer(200, given), answer(200, f'{{"value":[{given},{given}]}}')) as server:
        store = TablesStore.from_connection_string(server.connection_string)
        expected = Row("p", "k", {"born": "2026-01-01T00:00:00Z", "big": 7, "whole": 5.0, "id": "c0ffee"}, "W/1")
        assert await store.table("things").get("p", "k") == expected
        assert [row async for row in store.table("things").scan("p")] == [expected, expected]
        await store.close()


async def test_many_writers_of_a_new_table_create_it_once() -> None:
    missing = answer(202, 'HTTP/1.1 404 Not Found\r\n\r\n{"odata.error":{"code":"TableNotFound"}}')
    made = answer(204, headers="Preference-Applied: return-no-content\r\n")
    written = answer(202, "HTTP/1.1 204 No Content\r\n\r\n")
    async with faulty_server(missing, missing, missing, made, written) as server:
        store = TablesStore.from_connection_string(server.connection_string)
        await asyncio.gather(*(store.table("things").merge("p", {f"k{n}": {}}) for n in range(3)))
        await store.close()
        assert server.requests == 7


async def test_a_table_that_is_being_deleted_is_store_unavailable() -> None:
    missing = answer(202, 'HTTP/1.1 404 Not Found\r\n\r\n{"odata.error":{"code":"TableNotFound"}}')
    async with faulty_server(missing, refused(409, "TableBeingDeleted")) as server:
        store = TablesStore.from_connection_string(server.connection_string)
        with pytest.raises(StoreUnavailable, match=r"create table things: .*409 TableBeingDeleted"):
            await store.table("things").merge("p", {"k": {}})
        await store.close()


async def test_a_caller_that_gives_up_early_leaves_the_store_usable(azurite: Azurite) -> None:
    store = TablesStore.from_connection_string(azurite.connection_string)
    table = store.table(f"impatient{next(_numbers)}")
    await table.merge("p", {"k": {"a": 1}})
    for delay in (0.0, 0.0005, 0.001, 0.002, 0.004):
        for use in (
            table.merge("p", {f"k{n}": {"b": 2} for n in range(100)}),
            table.get("p", "k"),
            rows(table.scan("p")),
        ):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await use
    await table.merge("p", {"k": {"b": 3}})
    row = await table.get("p", "k")
    assert row
    assert row.properties == {"a": 1, "b": 3}
    await store.close()


async def test_the_offset_of_the_clock_is_learned_from_answers() -> None:
    """The service's `Date` is an hour ahead; the next answers have none."""
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 3600))
    async with faulty_server(answer(202, "HTTP/1.1 204 No Content\r\n\r\n", f"Date: {date}\r\n")) as server:
        store = TablesStore.from_connection_string(server.connection_string)
        await store.table("things").merge("p", {"k": {}})
        assert abs(store.now() - time.time() - 3600) < 10
        await store.close()


def test_a_clock_is_corrected_only_as_far_as_it_is_wrong() -> None:
    wall, ticks = 1_000_000.0, 50.0
    clock = StoreClock(lambda: wall, lambda: ticks)
    assert clock.now() == wall

    def date(seconds: float) -> str:
        return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(seconds))

    clock.learn(date(wall), 49.99, 50.0)
    assert clock.now() == wall  # within the second that the answer leaves open
    clock.learn(date(wall + 7), 49.99, 50.0)
    assert clock.now() == wall + 7  # a contradiction: the newest answer counts
    ticks = 50.95
    clock.learn(date(wall + 7), 50.94, 50.95)
    assert wall + 7.95 - DRIFT <= clock.now() <= wall + 8
    clock.learn(None, 50.94, 50.95)
    clock.learn("yesterday", 50.94, 50.95)
    assert wall + 7.95 - DRIFT <= clock.now() <= wall + 8


class FailingCredential:
    async def get_token(self, *scopes: str, **_: Any) -> Any:
        raise RuntimeError("the reason, which may name a tenant")

    async def close(self) -> None:
        pass


async def test_an_identity_without_a_token_is_store_unavailable() -> None:
    store = TablesStore.from_endpoint("https://127.0.0.1:9", TokenCache(FailingCredential))  # type: ignore[arg-type]
    for use in OPERATIONS.values():
        with pytest.raises(StoreUnavailable, match=r"things\*?: the gateway's identity got no token") as caught:
            await use(store)
        assert "tenant" not in caught.value.message
    await store.close()


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("UseDevelopmentStorage=true", "http://127.0.0.1:10002/devstoreaccount1"),
        ("UseDevelopmentStorage=true;", "http://127.0.0.1:10002/devstoreaccount1"),
        (f"AccountName=acc;AccountKey={KEY}", "https://acc.table.core.windows.net"),
        (
            f"DefaultEndpointsProtocol=https;AccountName=acc;AccountKey={KEY};EndpointSuffix=core.usgovcloudapi.net",
            "https://acc.table.core.usgovcloudapi.net",
        ),
        (
            f"AccountName=acc;AccountKey={KEY};TableEndpoint=https://acc.privatelink.example/;",
            "https://acc.privatelink.example",
        ),
    ],
)
async def test_connection_strings(text: str, endpoint: str) -> None:
    store = TablesStore.from_connection_string(text)
    assert store.endpoint == endpoint
    await store.close()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "NAME=VALUE"),
        (KEY, "NAME=VALUE"),
        (f"AccountName=acc;AccountKey={KEY};AccountKey={KEY}", "NAME=VALUE"),
        (f"AccountKey={KEY}", "AccountName"),
        ("AccountName=acc", "AccountKey"),
        (f"AccountName=acc;AccountKey=%{KEY}", "base64"),
        (f"AccountName=acc;SharedAccessSignature=sig={KEY}", "SharedAccessSignature"),
        (f"AccountName=acc;AccountKey={KEY};TableEndpoint=acc.example", "TableEndpoint"),
        (f"AccountName=acc;AccountKey={KEY};TableEndpoint=https://acc.example:port", "TableEndpoint"),
        (f"AccountName=acc;AccountKey={KEY};DefaultEndpointsProtocol=ftp", "DefaultEndpointsProtocol"),
    ],
)
def test_the_error_of_a_bad_connection_string_does_not_show_the_key(text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        TablesStore.from_connection_string(text)
    assert KEY[:8] not in str(caught.value)


@pytest.mark.parametrize("address", ["http://acc.table.core.windows.net", "acc", "https://", "https://a.example?sig=x"])
def test_tokens_go_only_to_https_addresses(address: str) -> None:
    with pytest.raises(ConfigurationError, match="https"):
        TablesStore.from_endpoint(address, TokenCache(FailingCredential))  # type: ignore[arg-type]
