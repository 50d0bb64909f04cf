"""Usage of what goes on after its call: left to its settlement, or paid once for objects of an older version."""

import asyncio

import pytest

from shared.affinity.deferred_charge import DeferredCharge
from shared.affinity.directory import ObjectDirectory
from shared.affinity.pending import PendingIndex, PendingWork
from shared.affinity.recorder import ObjectRecorder
from shared.azure_openai import operations, requests
from shared.azure_openai.batch_lines import BatchSize
from shared.config.document import Backend, Configuration
from shared.errors import StateUnavailable, StoreUnavailable
from shared.storage import Properties, Row
from shared.types import Consumer, Reference, Usage
from shared.usage.ledger import Place
from tests.affinity.test_directory import record_as_before_the_index
from tests.harness.memory_store import MemoryStore, MemoryTable

ALICE = Consumer("alice00000", "Alice")
USED = Usage(input_tokens=10, output_tokens=5)
RUN = Reference("run", "run_12345")
CREATED = b'{"id": "run_12345", "object": "thread.run", "status": "queued", "thread_id": "thread_12345"}'
COMPLETED = b'{"id": "run_12345", "object": "thread.run", "status": "completed"}'

Settled = list[tuple[str, Reference, Usage]]


def directory(store: MemoryStore | None = None) -> ObjectDirectory:
    async def ask(backend: Backend, reference: Reference) -> bool:
        raise StateUnavailable("nobody is asked")

    backends = [Backend(name="a", endpoint="https://a", region="a", models={"gpt-4o": "gpt-4o"})]
    return ObjectDirectory(store or MemoryStore(), Configuration(backends=backends), lambda _: True, ask)


def begin(reference: Reference, parent: str, named: str, batch: BatchSize | None = None) -> PendingWork:
    place = Place("usage202611", "2026112112-00", "request", {})
    return PendingWork(reference.kind, reference.id, ALICE.id, "a", 1.0, place, parent, named)


def recorder(objects: ObjectDirectory, method: str, path: str, body: bytes = b"") -> ObjectRecorder:
    call = requests.parse_call(operations.match(method, path), "", {}, body)
    return ObjectRecorder(objects, ALICE, call, "a", begin)


def streamed_run(objects: ObjectDirectory) -> ObjectRecorder:
    making = recorder(objects, "POST", "/v1/threads/runs", b'{"assistant_id": "asst_12345", "stream": true}')
    making.events([CREATED])
    return making


def retrieved_run(objects: ObjectDirectory) -> ObjectRecorder:
    reading = recorder(objects, "GET", "/v1/threads/thread_12345/runs/run_12345")
    reading.answer(200, COMPLETED)
    return reading


class Noting:
    """A settlement that notes what it is asked to settle."""

    def __init__(self, settled: Settled) -> None:
        self._settled = settled

    def begin(self, partition: str, reference: Reference, usage: Usage | None) -> None:
        assert usage is not None
        self._settled.append((partition, reference, usage))

    def relayed(self, reference: Reference, tokens: int, recorder: ObjectRecorder) -> None:
        raise AssertionError("no stream is relayed here")


def charge(recorder: ObjectRecorder, settled: Settled | None = None) -> DeferredCharge:
    return DeferredCharge(recorder, Noting(settled if settled is not None else []))


async def test_every_call_that_learns_a_usage_leaves_it_to_the_settlement_and_pays_nothing() -> None:
    store, settled = MemoryStore(), Settled()
    objects = directory(store)
    calls = [streamed_run(objects), retrieved_run(objects)]
    await calls[0].kept()
    calls += [retrieved_run(directory(store))]  # another instance
    assert [await charge(call, settled).share(USED) for call in calls] == [Usage()] * 3
    assert settled == [("of-thread_12345", RUN, USED)] * 3
    row = await PendingIndex(store).find("of-thread_12345", RUN)
    assert row is not None
    assert row.work == begin(RUN, "thread_12345", "")
    assert not await directory(store).claim_charge(RUN)  # as an instance without the index does


async def test_a_response_that_is_complete_at_once_is_paid_by_its_call() -> None:
    objects = directory()
    making = recorder(objects, "POST", "/v1/responses", b'{"model": "gpt-4o", "input": "x", "background": true}')
    making.answer(200, b'{"id": "resp_12345", "object": "response", "status": "completed"}')
    assert await charge(making).share(USED) == USED
    reading = recorder(objects, "GET", "/v1/responses/resp_12345")
    reading.answer(200, b'{"id": "resp_12345", "object": "response", "status": "completed"}')
    settled = Settled()
    assert await charge(reading, settled).share(USED) == Usage()
    assert settled == []


async def test_work_that_an_answer_ascribes_to_another_consumers_object_leaves_no_row() -> None:
    store = MemoryStore()
    await asyncio.gather(*directory(store).claims.record("bob0000000", "a", (RUN,)))
    making = streamed_run(directory(store))
    await making.kept()
    assert await PendingIndex(store).below("thread_12345") == []


async def test_work_is_marked_as_settled_by_one_of_many_however_the_answers_get_lost() -> None:
    store = Forgetful()
    await streamed_run(directory(store)).kept()
    row = await PendingIndex(store).find("of-thread_12345", RUN)
    assert row is not None
    for lost in (1, 0):
        store.lost = lost
        marked = await asyncio.gather(*(PendingIndex(store).mark_settled(row) for _ in range(4)))
        assert sum(marked) == lost
    assert not await PendingIndex(store).insert(begin(RUN, "thread_12345", ""))  # an insert that was repeated late
    assert not (await PendingIndex(store).below("thread_12345"))[0].work


# --- objects of a version without the index ---------------------------------------------------------------------------


async def test_a_call_whose_caller_leaves_pays_what_it_has_claimed_and_else_nothing() -> None:
    store = MemoryStore()
    objects = directory(store)
    await record_as_before_the_index(store, ALICE, RUN)
    paid: list[Usage] = []
    charge(retrieved_run(objects)).after_disconnect(paid.append)
    assert paid == [Usage()]
    claiming = charge(retrieved_run(objects))
    sharing = asyncio.ensure_future(claiming.share(USED))
    await asyncio.sleep(0)
    sharing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sharing
    claimed = asyncio.get_running_loop().create_future()
    claiming.after_disconnect(claimed.set_result)
    assert await asyncio.wait_for(claimed, 5) == USED


async def test_a_claim_under_way_at_the_end_of_the_process_is_waited_for() -> None:
    class Slow(MemoryStore):
        def table(self, name: str) -> MemoryTable:
            return _SlowTable(self, name)

    class _SlowTable(MemoryTable):
        async def get(self, partition: str, key: str) -> Row | None:
            await asyncio.sleep(0.1)
            return await super().get(partition, key)

    store, paid = Slow(), list[Usage]()
    objects = directory(store)
    await record_as_before_the_index(store, ALICE, RUN)
    claiming = charge(retrieved_run(objects))
    sharing = asyncio.ensure_future(claiming.share(USED))
    await asyncio.sleep(0)
    sharing.cancel()
    claiming.after_disconnect(paid.append)
    await objects.close()
    await asyncio.sleep(0)
    assert paid == [USED]


class Forgetful(MemoryStore):
    """A store that does what it is asked, and whose answers to conditional writes get `lost` while it is so many."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = 0

    def table(self, name: str) -> MemoryTable:
        return _ForgetfulTable(self, name)


class _ForgetfulTable(MemoryTable):
    def __init__(self, store: Forgetful, name: str) -> None:
        super().__init__(store, name)
        self._forgetful = store

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        written = await super().put(partition, key, properties, etag)
        if self._forgetful.lost and etag is not None:
            self._forgetful.lost -= 1
            return None  # as after the retry of a write that was done
        return written


async def test_a_claim_whose_answer_was_lost_pays_nevertheless_and_once() -> None:
    store = Forgetful()
    await record_as_before_the_index(store, ALICE, RUN)
    store.lost = 1
    assert await charge(retrieved_run(directory(store))).share(USED) == USED
    assert await charge(retrieved_run(directory(store))).share(USED) == Usage()


async def test_a_call_is_answered_while_the_table_is_away_and_a_later_one_pays() -> None:
    class Away(MemoryStore):
        away = True

        def table(self, name: str) -> MemoryTable:
            return _AwayTable(self, name)

    class _AwayTable(MemoryTable):
        async def get(self, partition: str, key: str) -> Row | None:
            if store.away:
                raise StoreUnavailable("away")
            return await super().get(partition, key)

    store = Away()
    objects = directory(store)
    await record_as_before_the_index(store, ALICE, RUN)
    assert await charge(retrieved_run(objects)).share(USED) == Usage()
    store.away = False
    assert [await charge(retrieved_run(objects)).share(USED) for _ in range(2)] == [USED, Usage()]
