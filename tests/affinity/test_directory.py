"""Homes of new objects, locations of recorded ones, conflicts, adoption and rows, on tables in memory."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from shared.affinity import _memory, _rows
from shared.affinity._rows import Location, partition_of
from shared.affinity.directory import ObjectDirectory, drop_old
from shared.anthropic import operations as messages
from shared.anthropic.batch_requests import BatchReader
from shared.azure_openai import operations, requests
from shared.config import document
from shared.config.document import Backend
from shared.errors import StateConflict, StateNotFound, StateUnavailable, StoreUnavailable
from shared.storage import Properties, Row
from shared.types import Call, Consumer, Reference
from tests.harness.memory_store import MemoryStore, MemoryTable

ALICE, BOB = Consumer("alice00000", "Alice"), Consumer("bob0000000", "Bob")
ONE, TWO = Reference("file", "file-11111"), Reference("vector_store", "vs_22222")


class CountedStore(MemoryStore):
    """Reads slowly, and counts the rows that are read."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds, self.reads, self.reading, self.most = seconds, 0, 0, 0

    def table(self, name: str) -> MemoryTable:
        return CountedTable(self, name)


class CountedTable(MemoryTable):
    def __init__(self, store: CountedStore, name: str) -> None:
        super().__init__(store, name)
        self.counts = store

    async def get(self, partition: str, key: str) -> Row | None:
        counts = self.counts
        counts.reads += 1
        counts.reading += 1
        counts.most = max(counts.most, counts.reading)
        await asyncio.sleep(counts.seconds)
        counts.reading -= 1
        return await super().get(partition, key)

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        await asyncio.sleep(self.counts.seconds)
        return await super().put(partition, key, properties, etag)

    async def merge(self, partition: str, rows: Mapping[str, Properties]) -> None:
        await asyncio.sleep(self.counts.seconds)
        await super().merge(partition, rows)


def configuration(*names: str, adopts: bool = False, **models: list[str]) -> document.Configuration:
    backends = [
        Backend(
            name=name,
            endpoint=f"https://{name}.openai.azure.com",
            region=name,
            models={model: model for model in models.get(name, ["gpt-4o", "gpt-4o-mini"])},
        )
        for name in names
    ]
    return document.Configuration(backends=backends, adopt_unknown_ids=adopts)


def affinity(
    store: MemoryStore, settings: document.Configuration, down: frozenset[str] = frozenset(), **having: str
) -> ObjectDirectory:
    """`having`: which backends have which id."""
    asked: list[str] = []

    async def ask(backend: Backend, reference: Reference) -> bool:
        asked.append(backend.name)
        if backend.name in down:
            raise StateUnavailable("down")
        return having.get(backend.name) == reference.id

    made = ObjectDirectory(store, settings, lambda backend: backend.name not in down, ask)
    made.__dict__["asked"] = asked
    return made


def call(path: str, body: bytes = b"", method: str = "POST") -> Call:
    return requests.parse_call(operations.match(method, path), "", {}, body)


async def place(affinity: ObjectDirectory, consumer: Consumer, reference: Reference) -> Location:
    return (await affinity.locate(consumer, (reference,)))[reference]


async def known(affinity: ObjectDirectory, consumer: Consumer, **where: Reference) -> None:
    for backend, reference in where.items():
        await asyncio.gather(*affinity.claims.record(consumer.id, backend, (reference,)))


async def test_a_consumer_has_one_home_for_all_models_and_instances() -> None:
    store, settings = MemoryStore(), configuration("a", "b", "c")
    homes = await asyncio.gather(
        *(affinity(store, settings).homes.of(ALICE, model) for model in ("", "gpt-4o", "gpt-4o-mini", "") * 5)
    )
    assert len(set(homes)) == 1
    others = {await affinity(MemoryStore(), settings).homes.of(Consumer(f"c{number}", "x"), "") for number in range(40)}
    assert others == {"a", "b", "c"}


async def test_consumers_get_homes_by_the_weights_of_the_backends() -> None:
    settings = configuration("a", "b")
    heavy = msgspec.structs.replace(settings.backends[1], weight=4)
    settings = msgspec.structs.replace(settings, backends=[settings.backends[0], heavy])
    homes = affinity(MemoryStore(), settings)
    chosen = [await homes.homes.of(Consumer(f"c{number}", "x"), "") for number in range(1000)]
    assert 740 < chosen.count("b") < 860  # 800 ± 12.6 expected


async def test_a_home_serves_the_model_and_files_go_where_most_models_are() -> None:
    settings = configuration("a", "b", a=["embed"], b=["embed", "gpt-4o"])
    homes = affinity(MemoryStore(), settings)
    assert await homes.homes.of(ALICE, "gpt-4o") == "b"
    assert await homes.homes.of(ALICE, "") == "b"
    assert await homes.homes.of(ALICE, "embed") == "b"
    assert await affinity(MemoryStore(), settings).homes.of(BOB, "") == "b"


async def test_claudes_objects_have_homes_of_their_own() -> None:
    """Batches at Anthropic alone, and files where Claude is, whatever OpenAI's objects have."""

    def backend(name: str, kind: document.BackendKind, *models: str) -> Backend:
        auth: Any = document.ApiKey("K") if kind == "anthropic" else "managed_identity"
        served = {model: model for model in models}
        return Backend(name=name, endpoint=f"https://{name}", region=name, kind=kind, auth=auth, models=served)

    gpts = ("gpt-4o", "gpt-5", "gpt-6")
    foundry, own = backend("foundry", "standard", "claude"), backend("own", "anthropic", "claude", "claude-2")
    lesser = msgspec.structs.replace(backend("lesser", "anthropic", "claude"), priority=0)
    settings = document.Configuration(backends=[backend("azure", "standard", *gpts), foundry, own, lesser])
    homes = affinity(MemoryStore(), settings).homes
    body = json.dumps({"requests": [{"params": {"model": name}} for name in ("claude", "claude-2")]}).encode()
    reader = BatchReader(body)
    assert reader.read()
    batch = reader.call(messages.match("POST", "/v1/messages/batches"), "", {})
    assert batch.batch is not None
    named = msgspec.structs.replace(batch.batch, models={"claude": "claude", "claude-2": "claude-2"})
    batch = msgspec.structs.replace(batch, batch=named)
    files = requests.parse_call(messages.match("GET", "/anthropic/v1/files"), "", {}, b"")
    for _ in range(2):
        assert await homes.of(ALICE, "") == "azure"
        assert await homes.of(ALICE, "claude", batch) == "own"  # which has all models of the batch
        assert await homes.of(ALICE, "", files) == "own"  # with the most of Claude's models
    alone = affinity(MemoryStore(), msgspec.structs.replace(settings, backends=[settings.backends[0], foundry])).homes
    assert await alone.of(ALICE, "", files) == "foundry"


async def test_a_home_stays_until_it_leaves_the_configuration() -> None:
    store = MemoryStore()
    first = await affinity(store, configuration("a", "b")).homes.of(ALICE, "gpt-4o")
    assert await affinity(store, configuration("a", "b"), down=frozenset((first,))).homes.of(ALICE, "gpt-4o") == first
    [other] = {"a", "b"} - {first}
    moved = affinity(store, configuration(other, "c"))
    assert await moved.homes.of(ALICE, "gpt-4o") in (other, "c")
    await known(moved, ALICE, **{first: ONE})
    with pytest.raises(StateUnavailable, match="no longer in the gateway's configuration"):
        await moved.bind(ALICE, call("/v1/files/file-11111", method="GET"), "")


async def test_a_dead_backend_becomes_no_home() -> None:
    for number in range(10):
        homes = affinity(MemoryStore(), configuration("a", "b"), down=frozenset(("a",)))
        assert await homes.homes.of(Consumer(f"c{number}", "x"), "") == "b"


async def test_objects_of_two_backends_are_a_conflict_that_says_which_is_where() -> None:
    directory = affinity(MemoryStore(), configuration("a", "b"))
    await known(directory, ALICE, a=ONE, b=TWO)
    with pytest.raises(StateConflict) as conflict:
        await directory.bind(ALICE, call("/v1/vector_stores/vs_22222/files", b'{"file_id": "file-11111"}'), "")
    assert "file-11111 is in a" in conflict.value.message
    assert "vs_22222 is in b" in conflict.value.message


async def test_another_instance_knows_an_object_and_keeps_it_from_others() -> None:
    store, settings = MemoryStore(), configuration("a", "b")
    await known(affinity(store, settings), ALICE, b=ONE)
    other = affinity(store, settings)
    binding = await other.bind(ALICE, call("/v1/files/file-11111", method="GET"), "")
    assert binding.only == frozenset(("b",))
    with pytest.raises(StateNotFound):
        await other.bind(BOB, call("/v1/files/file-11111", method="GET"), "")
    assert await other.own(ALICE, "file") == {"file-11111": "b"}
    assert await other.own(BOB, "file") == {}
    await known(other, BOB, a=ONE)  # an object keeps its owner
    assert (await place(affinity(store, settings), ALICE, ONE)).backend == "b"
    await other.forget(ALICE, ONE)
    with pytest.raises(StateNotFound):
        await place(affinity(store, settings), ALICE, ONE)


@pytest.mark.parametrize("reference", [ONE, Reference("container", "cntr_12345"), Reference("response", "resp_12345")])
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_an_object_that_another_consumer_owns_is_not_claimed_and_is_an_alert(
    reference: Reference, elsewhere: bool, caplog: pytest.LogCaptureFixture
) -> None:
    store, settings = MemoryStore(), configuration("a", "b")
    first = affinity(store, settings)
    await known(first, ALICE, b=reference)
    claiming = affinity(store, settings) if elsewhere else first
    await known(claiming, BOB, a=reference)
    assert f"ALERT backend a returned {reference.kind} {reference.id} to consumer bob0000000" in caplog.text
    for instance in (first, claiming, affinity(store, settings)):
        assert (await place(instance, ALICE, reference)).backend == "b"
        with pytest.raises(StateNotFound):
            await place(instance, BOB, reference)
        assert await instance.own(BOB, reference.kind) == {}


async def test_an_object_of_an_earlier_month_keeps_its_owner() -> None:
    seconds = 1_795_000_000.0
    store, settings, response = (
        MemoryStore(lambda: seconds),
        configuration("a", "b"),
        Reference("response", "resp_12345"),
    )
    await known(affinity(store, settings), ALICE, b=response)
    seconds += 20 * 86_400  # the next month
    await known(affinity(store, settings), BOB, a=response)
    assert len(await store.names("affinity2")) == 2
    with pytest.raises(StateNotFound):
        await place(affinity(store, settings), BOB, response)
    assert (await place(affinity(store, settings), ALICE, response)).backend == "b"


async def test_an_object_is_nobodys_until_its_row_is_inserted() -> None:
    store, settings = CountedStore(0.05), configuration("a")
    directory = affinity(store, settings)
    item = Reference("item", "msg_12345")
    writing = directory.claims.record(ALICE.id, "a", (ONE,))
    assert directory.claims.record(ALICE.id, "a", (ONE,)) == writing  # one row is enough
    writing += directory.claims.record_items(ALICE.id, "a", [item.id])
    for reference in (ONE, item):
        assert directory._memory.get(reference, ALICE.id) is None
    await asyncio.gather(*writing)
    store.reads = 0
    for reference in (ONE, item):
        assert (await place(directory, ALICE, reference)).backend == "a"
    assert store.reads == 0


async def test_responses_may_be_made_elsewhere_in_need_and_files_not() -> None:
    directory = affinity(MemoryStore(), configuration("a", "b"))
    response = await directory.bind(ALICE, call("/v1/responses", b'{"model": "gpt-4o"}'), "gpt-4o")
    file = await directory.bind(ALICE, call("/v1/vector_stores", b"{}"), "")
    assert (response.only, response.first) == (None, file.first)
    assert file.only == frozenset((file.first,))


async def record_as_before_the_index(store: MemoryStore, consumer: Consumer, reference: Reference) -> None:
    """Write the row of an object whose usage is still to come, as versions without the index of pending work did."""
    row: dict[str, str | bool] = {"backend": "a", "consumer": consumer.id, "kind": reference.kind, "pending": True}
    month = datetime.fromtimestamp(store.now(), UTC)
    await store.table(f"affinity{month:%Y%m}").merge(partition_of(reference.id), {reference.id: row})


async def test_the_usage_of_an_object_of_an_older_version_is_charged_once_however_many_calls_receive_it() -> None:
    store, settings = MemoryStore(), configuration("a")
    run = Reference("run", "run_12345")
    await record_as_before_the_index(store, ALICE, run)
    instances = [affinity(store, settings) for _ in range(5)]
    claims = await asyncio.gather(*(instance.claim_charge(run) for instance in instances for _ in range(2)))
    assert sum(claims) == 1


@pytest.mark.parametrize("object_id", ["file-1/../x", "file-\x00", "f" * 2000, "file#1", "\ud800"])
async def test_an_impossible_id_is_not_found(object_id: str) -> None:
    with pytest.raises(StateNotFound):
        await place(affinity(MemoryStore(), configuration("a")), ALICE, Reference("file", object_id))


async def test_unknown_ids_are_adopted_only_if_configured_and_asked_for_once() -> None:
    with pytest.raises(StateNotFound):
        await place(affinity(MemoryStore(), configuration("a", "b"), b="file-11111"), ALICE, ONE)
    adopting: Any = affinity(MemoryStore(), configuration("a", "b", adopts=True), b="file-11111")
    for consumer in (ALICE, BOB, ALICE):  # it has no owner
        assert (await place(adopting, consumer, ONE)).backend == "b"
    assert adopting.asked == ["a", "b"]
    for _ in range(2):
        with pytest.raises(StateNotFound):
            await place(adopting, ALICE, TWO)
    assert adopting.asked == ["a", "b"] * 2
    silent = affinity(MemoryStore(), configuration("a", "b", adopts=True), down=frozenset(("a",)))
    with pytest.raises(StateUnavailable):  # the silent backend may have it
        await place(silent, ALICE, ONE)


async def test_an_item_passes_for_no_object_and_for_no_other_consumers_item() -> None:
    store, settings = MemoryStore(), configuration("a", "b")
    item = Reference("item", "msg_12345")
    await known(affinity(store, settings), ALICE, a=ONE)
    listing = affinity(store, settings)
    await asyncio.gather(*listing.claims.record_items(BOB.id, "b", [ONE.id, item.id, "msg_of_both"]))
    await asyncio.gather(*listing.claims.record_items(ALICE.id, "a", ["msg_67890", "msg_of_both"]))
    for instance in (listing, affinity(store, settings)):
        for consumer, other in ((BOB, ONE), (ALICE, item), (BOB, Reference("item", "msg_67890"))):
            with pytest.raises(StateNotFound):
                await place(instance, consumer, other)
        assert (await place(instance, ALICE, ONE)).backend == "a"
        assert (await place(instance, BOB, item)).backend == "b"
        for consumer, backend in ((ALICE, "a"), (BOB, "b")):
            assert (await place(instance, consumer, Reference("item", "msg_of_both"))).backend == backend
        for kind in ("item", "batch", "response"):  # nor does an object for an item, or for one of another kind
            with pytest.raises(StateNotFound):
                await place(instance, ALICE, Reference(kind, ONE.id))


async def test_items_push_no_object_out_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_memory, "_CACHED", 5)
    store = CountedStore()
    directory = affinity(store, configuration("a"))
    await known(directory, ALICE, a=ONE)
    ids = [f"msg_{number:05}" for number in range(20)]
    await asyncio.gather(*directory.claims.record_items(ALICE.id, "a", ids))
    await place(directory, ALICE, ONE)
    await place(directory, ALICE, Reference("item", ids[-1]))
    assert store.reads == 0
    await place(directory, ALICE, Reference("item", ids[0]))  # items have their bound, too
    assert store.reads > 0


async def test_a_call_reads_few_objects_at_a_time_and_stops_at_a_missing_one() -> None:
    store, settings = CountedStore(), configuration("a")
    items = tuple(Reference("item", f"msg_{number:05}") for number in range(300))
    await asyncio.gather(*affinity(store, settings).claims.record_items(ALICE.id, "a", [item.id for item in items]))
    assert len(await affinity(store, settings).locate(ALICE, items)) == 300
    assert store.reads >= 300
    assert store.most <= 24
    store.reads = 0
    with pytest.raises(StateNotFound):
        await affinity(store, settings).locate(ALICE, (ONE, *items))
    assert store.reads <= 24


async def test_all_reads_of_a_call_share_one_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rows, "_WAIT", 0.2)
    store = CountedStore(0.05)
    items = tuple(Reference("item", f"msg_{number:05}") for number in range(300))
    directory = affinity(store, configuration("a"))
    await asyncio.gather(
        *affinity(store, configuration("a")).claims.record_items(ALICE.id, "a", [item.id for item in items])
    )
    with pytest.raises(StoreUnavailable):
        await directory.locate(ALICE, items)


async def test_a_call_by_sip_is_answered_at_the_home_where_unknown_ids_are_adopted() -> None:
    call_by_sip = Reference("realtime_call", "rtc_12345")
    with pytest.raises(StateNotFound):
        await place(affinity(MemoryStore(), configuration("a", "b")), ALICE, call_by_sip)
    adopting = affinity(MemoryStore(), configuration("a", "b", adopts=True))
    assert (await place(adopting, ALICE, call_by_sip)).backend == await adopting.homes.of(ALICE, "")


async def test_old_months_are_dropped_whole_and_nothing_else() -> None:
    store = MemoryStore(lambda: 1_795_000_000.0)  # November 2026
    for name in ("affinity", "affinity202607", "affinity202608", "affinity202609", "affinity202610", "affinity202611"):
        await store.table(name).put("p", "r", {"x": 1}, None)
    await drop_old(store)
    assert await store.names("affinity") == ["affinity", "affinity202609", "affinity202610", "affinity202611"]
