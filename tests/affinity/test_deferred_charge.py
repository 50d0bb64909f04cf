"""Usage of what goes on after its call: paid once, by the call that receives it first."""

import asyncio

import pytest

from shared.affinity.deferred_charge import DeferredCharge
from shared.affinity.directory import ObjectDirectory
from shared.affinity.recorder import ObjectRecorder
from shared.azure_openai import operations, requests
from shared.config.document import Backend, Configuration
from shared.errors import StateUnavailable, StoreUnavailable
from shared.storage import Properties, Row
from shared.types import Consumer, Reference, Usage
from tests.harness.memory_store import MemoryStore, MemoryTable

ALICE = Consumer("alice00000", "Alice")
USED = Usage(input_tokens=10, output_tokens=5)
RUN = Reference("run", "run_12345")
CREATED = b'{"id": "run_12345", "object": "thread.run", "status": "queued"}'
COMPLETED = b'{"id": "run_12345", "object": "thread.run", "status": "completed"}'


def directory(store: MemoryStore | None = None) -> ObjectDirectory:
    async def ask(backend: Backend, reference: Reference) -> bool:
        raise StateUnavailable("nobody is asked")

    backends = [Backend(name="a", endpoint="https://a", region="a", models={"gpt-4o": "gpt-4o"})]
    return ObjectDirectory(store or MemoryStore(), Configuration(backends=backends), lambda _: True, ask)


def recorder(objects: ObjectDirectory, method: str, path: str, body: bytes = b"") -> ObjectRecorder:
    call = requests.parse_call(operations.match(method, path), "", {}, body)
    return ObjectRecorder(objects, ALICE, call, "a")


def streamed_run(objects: ObjectDirectory) -> ObjectRecorder:
    making = recorder(objects, "POST", "/v1/threads/runs", b'{"assistant_id": "asst_12345", "stream": true}')
    making.events([CREATED])
    return making


def retrieved_run(objects: ObjectDirectory) -> ObjectRecorder:
    reading = recorder(objects, "GET", "/v1/threads/thread_12345/runs/run_12345")
    reading.answer(200, COMPLETED)
    return reading


@pytest.mark.parametrize("maker_first", [True, False])
async def test_a_run_is_paid_by_the_call_that_receives_its_usage_first(maker_first: bool) -> None:
    objects = directory()
    calls = [streamed_run(objects), retrieved_run(objects)]
    calls[0].events([COMPLETED])
    ordered = calls if maker_first else calls[::-1]
    assert [await DeferredCharge(call).share(USED) for call in ordered] == [USED, Usage()]


async def test_a_response_that_is_complete_at_once_is_paid_by_its_call() -> None:
    objects = directory()
    making = recorder(objects, "POST", "/v1/responses", b'{"model": "gpt-4o", "input": "x", "background": true}')
    making.answer(200, b'{"id": "resp_12345", "object": "response", "status": "completed"}')
    assert await DeferredCharge(making).share(USED) == USED
    reading = recorder(objects, "GET", "/v1/responses/resp_12345")
    reading.answer(200, b'{"id": "resp_12345", "object": "response", "status": "completed"}')
    assert await DeferredCharge(reading).share(USED) == Usage()


async def test_a_call_whose_caller_leaves_pays_what_it_has_claimed_and_else_nothing() -> None:
    objects = directory()
    paid: list[Usage] = []
    DeferredCharge(streamed_run(objects)).after_disconnect(paid.append)
    assert paid == [Usage()]
    charge = DeferredCharge(retrieved_run(objects))
    sharing = asyncio.ensure_future(charge.share(USED))
    await asyncio.sleep(0)
    sharing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sharing
    claimed = asyncio.get_running_loop().create_future()
    charge.after_disconnect(claimed.set_result)
    assert await asyncio.wait_for(claimed, 5) == USED


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
    making = streamed_run(directory(store))
    await making.kept()
    store.lost = 1
    reading = retrieved_run(directory(store))  # on another instance, without this one's memory
    assert await DeferredCharge(reading).share(USED) == USED
    assert await DeferredCharge(retrieved_run(directory(store))).share(USED) == Usage()
    making.events([COMPLETED])
    assert await DeferredCharge(making).share(USED) == Usage()


async def test_a_call_is_answered_and_pays_once_while_the_table_is_away() -> None:
    class Away(MemoryStore):
        def table(self, name: str) -> MemoryTable:
            return _AwayTable(self, name)

    class _AwayTable(MemoryTable):
        async def get(self, partition: str, key: str) -> Row | None:
            raise StoreUnavailable("away")

    objects = directory(Away())
    assert await DeferredCharge(retrieved_run(objects)).share(USED) == USED
    assert await DeferredCharge(retrieved_run(objects)).share(USED) == Usage()
