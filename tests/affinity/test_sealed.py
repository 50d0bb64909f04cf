"""Sealed content: on record for whoever received it, with the backend that sealed it, and for nobody else."""

import asyncio
import json

import pytest

from shared.affinity.directory import ObjectDirectory
from shared.affinity.pending import PendingWork
from shared.affinity.recorder import ObjectRecorder
from shared.azure_openai import operations, requests
from shared.azure_openai.batch_lines import BatchSize
from shared.azure_openai.outline import sealed_name
from shared.config.document import Configuration
from shared.errors import StateConflict
from shared.types import UNBOUND, Call, Consumer, Reference
from tests.affinity.test_directory import ALICE, BOB, CountedStore, affinity, configuration
from tests.harness.memory_store import MemoryStore, MemoryTable

SETTINGS = configuration("a", "b", "c")


def nothing_goes_on(reference: Reference, parent: str, named: str, batch: BatchSize | None) -> PendingWork:
    raise AssertionError(f"{reference} was taken for work that goes on")


def bringing(*contents: str, path: str = "/v1/responses", **fields: object) -> Call:
    items = [{"type": "reasoning", "encrypted_content": content} for content in contents]
    body = {"model": "gpt-4o", "store": False, "input": [*items, {"role": "user", "content": "So?"}], **fields}
    return requests.parse_call(operations.match("POST", path), "", {}, json.dumps(body).encode())


def answer(*contents: str) -> bytes:
    output = [{"type": "reasoning", "id": f"rs_{content}", "encrypted_content": content} for content in contents]
    return json.dumps({"id": "resp_12345", "object": "response", "output": output}).encode()


async def received(directory: ObjectDirectory, consumer: Consumer, backend: str, call: Call, *contents: str) -> None:
    recorder = ObjectRecorder(directory, consumer, call, backend, nothing_goes_on)
    recorder.answer(200, answer(*contents))
    await recorder.kept()


async def test_a_call_goes_to_the_backend_that_sealed_what_it_brings_on_every_instance() -> None:
    store = MemoryStore()
    first = affinity(store, SETTINGS)
    await received(first, ALICE, "b", bringing(), "one")
    for directory in (first, affinity(store, SETTINGS)):
        for call in (bringing("unknown", "one"), bringing("one", path="/v1/responses/compact")):
            binding = await directory.bind(ALICE, call, "gpt-4o")
            assert binding.only == frozenset(("b",))
        assert await directory.bind(BOB, bringing("one"), "gpt-4o") == UNBOUND  # it is led nowhere
        assert await directory.bind(ALICE, bringing("unknown"), "gpt-4o") == UNBOUND


@pytest.mark.parametrize("left", [configuration("a", "c"), configuration("a", "b", b=["o4-mini"])])
async def test_content_of_a_backend_that_is_gone_or_lacks_the_model_is_tried_anywhere(left: Configuration) -> None:
    store = MemoryStore()
    await received(affinity(store, SETTINGS), ALICE, "b", bringing(), "one")
    assert await affinity(store, left).bind(ALICE, bringing("one"), "gpt-4o") == UNBOUND


async def test_contents_of_two_backends_are_a_conflict_that_names_them_by_their_digests() -> None:
    directory = affinity(MemoryStore(), SETTINGS)
    await received(directory, ALICE, "a", bringing(), "one")
    await received(directory, ALICE, "b", bringing(), "two")
    with pytest.raises(StateConflict) as conflict:
        await directory.bind(ALICE, bringing("one", "two"), "gpt-4o")
    assert f"(SHA-256 {sealed_name('one')[7:19]}…) is in a" in conflict.value.message


async def test_what_a_request_brings_makes_nobody_its_receiver() -> None:
    store = MemoryStore()
    directory = affinity(store, SETTINGS)
    contents = [f"content {number}" for number in range(40)]  # more than are looked up
    await received(directory, BOB, "a", bringing(*contents, path="/v1/responses/compact"), *contents)
    assert await store.names("affinity") == []


async def test_the_content_of_several_events_is_recorded_once() -> None:
    store = WrittenStore()
    directory = affinity(store, SETTINGS)
    recorder = ObjectRecorder(directory, ALICE, bringing(stream=True), "a", nothing_goes_on)
    item = json.loads(answer("one"))["output"][0]
    recorder.events([json.dumps({"type": "response.output_item.done", "item": item}).encode()])
    recorder.events([json.dumps({"type": "response.completed", "response": json.loads(answer("one"))}).encode()])
    await recorder.kept()
    assert store.written == [sealed_name("one")]


async def test_calls_without_sealed_content_cost_no_access_to_the_table() -> None:
    store = CountedStore()
    directory = affinity(store, SETTINGS)
    call = bringing()
    assert await directory.bind(ALICE, call, "gpt-4o") == UNBOUND
    recorder = ObjectRecorder(directory, ALICE, call, "a", nothing_goes_on)
    message = {"type": "message", "id": "msg_12345", "content": []}
    recorder.answer(200, json.dumps({"id": "resp_12345", "object": "response", "output": [message]}).encode())
    recorder.events([json.dumps({"type": "response.output_item.done", "item": message}).encode()])
    await recorder.kept()
    assert store.reads == 0
    assert await store.names("affinity") == []


async def test_a_long_history_costs_few_reads() -> None:
    store = CountedStore()
    await asyncio.gather(*affinity(store, SETTINGS).claims.record_items(ALICE.id, "c", [sealed_name("1000")]))
    directory = affinity(store, SETTINGS)
    binding = await directory.bind(ALICE, bringing(*map(str, range(1001))), "gpt-4o")
    assert binding.only == frozenset(("c",))
    assert store.reads <= 16 * 3
    assert directory._memory.get(Reference("sealed", sealed_name("1000")), ALICE.id) is not None


class WrittenStore(MemoryStore):
    """Lists the rows that are merged."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    def table(self, name: str) -> MemoryTable:
        return WrittenTable(self, name)


class WrittenTable(MemoryTable):
    def __init__(self, store: WrittenStore, name: str) -> None:
        super().__init__(store, name)
        self._written = store.written

    async def merge(self, partition: str, rows: object) -> None:
        assert isinstance(rows, dict)
        self._written += rows
        await super().merge(partition, rows)
