"""Usage rows: one write for a quick call, groups under load, and no loss while the table is unavailable."""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared import ulid
from shared.azure_openai.operations import match
from shared.azure_openai.requests import parse_call
from shared.config.document import Backend, Durability
from shared.errors import RowsRefused, StoreUnavailable
from shared.storage import MAX_BATCH, Properties
from shared.token_classes import TOKEN_CLASSES, UNITS
from shared.types import Attempt, Call, Consumer, Outcome, Target, Usage
from shared.usage import _group_commit, _read_back, ledger
from shared.usage.ledger import Entry, Ledger
from shared.usage.overflow import Overflow
from tests.harness.folding import fold_rows
from tests.harness.memory_store import MemoryStore, MemoryTable
from tests.harness.patience import PATIENCE, eventually

NOW = 1_790_000_000.0
CONSUMER = Consumer("c1", "team", product="gold")
BACKEND = Backend(name="sweden", endpoint="https://swc", region="swedencentral", models={"m": "d"})


class Store(MemoryStore):
    """Counts batches; fails while `dead`, rejects rows with `poison`, and takes `seconds` for each batch."""

    def __init__(self) -> None:
        super().__init__(lambda: NOW)
        self.batches: list[int] = []
        self.dead = False
        self.refusal: Exception = ValueError("no row")
        self.seconds = 0.0

    def table(self, name: str) -> MemoryTable:
        table = super().table(name)
        merge = table.merge

        async def watched(partition: str, rows: Mapping[str, Properties]) -> None:
            self.batches.append(len(rows))
            if self.seconds:
                await asyncio.sleep(self.seconds)
            if self.dead:
                raise StoreUnavailable("dead")
            if any("poison" in row for row in rows):
                raise self.refusal
            await merge(partition, rows)

        table.merge = watched  # type: ignore[method-assign]
        return table


class House:
    def __init__(self, durability: Durability = "committed", overflow: Overflow | None = None) -> None:
        self.store = Store()
        self.time = 0.0
        self.ledger = Ledger(self.store, durability, overflow, lambda: self.time)

    def open(self, request_id: str = "") -> Entry:
        return self.ledger.begin(request_id or ulid.new(NOW), CONSUMER, chat(), "m")

    def close(self, entry: Entry, **more: Any) -> asyncio.Future[None]:
        usage = Usage(input_tokens=5, output_tokens=7)
        given = {"status": 200, "usage": usage, "served_by": Target(BACKEND, "m", "d"), **more}
        return self.ledger.end(entry, Outcome(**given))

    async def rows(self) -> dict[str, dict[str, Any]]:
        return {row.key: row.properties async for row in self.store.table("usage202609").scan_all()}


def written(house: House) -> dict[str, Properties]:
    """The rows in the table, by the id of their request."""
    return {key: row for part in house.store.rows("usage202609").values() for key, (row, _) in part.items()}


def chat() -> Call:
    return parse_call(match("POST", "/v1/chat/completions"), "systemId=erp", {}, b'{"model": "m", "max_tokens": 9}')


async def test_a_quick_call_costs_one_write_that_holds_both_halves() -> None:
    house = House()
    entry = house.open()
    await house.close(entry)
    assert house.store.batches == [1]
    row = (await house.rows())[entry.request_id]
    assert row.items() >= {
        "s_key": "c1", "s_model": "m", "s_op": "chat.completions", "s_max": 9, "s_ts": NOW, "s_product": "gold",
        "s_system": "erp", "e_input": 5, "e_output": 7, "e_status": 200, "e_backend": "sweden",
        "e_region": "swedencentral", "e_ended": "complete",
    }.items()  # fmt: skip
    assert "e_est" not in row


async def test_a_row_has_every_class_of_tokens_and_no_zeros() -> None:
    house = House()
    numbers: dict[str, Any] = {field: number for number, field in enumerate((*TOKEN_CLASSES, *UNITS), 1)} | {
        "seconds": 12.5
    }
    named: dict[str, Any] = {"model": "gpt-4o-2024-11-20", "service_tier": "priority", "estimated": True}
    whole = Usage(**numbers, **named)
    plain = Usage(5, 0, service_tier="default")
    entries = [house.open(), house.open()]
    await asyncio.gather(*(house.close(e, usage=u) for e, u in zip(entries, (whole, plain), strict=True)))
    rows = await house.rows()
    fold = fold_rows(rows.values(), NOW)
    by_tier = {line.tier: counts for line, counts in fold.lines.items()}
    expected = msgspec.structs.asdict(whole) | {"sound_ms": 12_500, "estimated": 1}
    for name in ("seconds", "model", "service_tier", "unknown", "summed", "long"):
        del expected[name]
    assert msgspec.structs.asdict(by_tier["priority"]).items() >= expected.items()
    assert [line.served for line in fold.lines if line.tier == "priority"] == ["gpt-4o-2024-11-20"]
    assert {name for name in rows[entries[1].request_id] if name.startswith("e_")} == {
        "e_input", "e_output", "e_status", "e_ended", "e_attempts", "e_ttft", "e_ms",
        "e_backend", "e_region", "e_model", "e_deployment",
    }  # fmt: skip


async def test_classes_of_tokens_that_nobody_knows_are_kept_raw_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    house = House()
    entries = [house.open(), house.open()]
    for entry in entries:
        await house.close(entry, usage=Usage(5, 7, unknown='{"output.dreamt_tokens":3}'))
    rows = await house.rows()
    assert [rows[entry.request_id]["e_unknown"] for entry in entries] == ['{"output.dreamt_tokens":3}'] * 2
    assert caplog.text.count("output.dreamt_tokens") == 1


async def test_a_charged_attempt_that_did_not_answer_has_a_separate_row() -> None:
    house = House()
    entry = house.open("01ABC")
    charged = Attempt(Target(BACKEND, "m", "d"), 200, "cut", 12.4, "try", Usage(input_tokens=5, estimated=True))
    house.ledger.charge(entry, 1, charged)
    house.ledger.charge(entry, 2, msgspec.structs.replace(charged, usage=None))  # charged nothing: no row
    await house.close(entry)
    house.ledger.charge(entry, 3, msgspec.structs.replace(charged, role="shadow"))  # it ends after the call has
    await house.ledger.close()
    rows = await house.rows()
    assert rows.keys() == {"01ABC", "01ABC-1", "01ABC-3"}
    assert rows["01ABC-1"] == {
        "s_key": "c1", "s_model": "m", "s_product": "gold", "s_system": "erp", "s_ts": NOW, "e_input": 5, "e_output": 0,
        "e_est": True, "e_role": "try", "e_status": 200, "e_ms": 12, "e_backend": "sweden", "e_region": "swedencentral",
        "e_model": "m", "e_deployment": "d",
    }  # fmt: skip
    counts = {
        line.role: (c.requests, c.charges, c.input_tokens) for line, c in fold_rows(rows.values(), NOW).lines.items()
    }
    assert counts == {"served": (1, 0, 5), "try": (0, 1, 5), "shadow": (0, 1, 5)}


async def test_the_prompt_of_a_call_is_estimated_by_earlier_prompts_of_the_key_and_model() -> None:
    house = House()
    rough = chat().input_estimate
    for tokens in (2 * rough, 3 * rough, 4 * rough):
        await house.close(house.open(), usage=Usage(input_tokens=tokens))
    await house.close(house.open(), usage=Usage(input_tokens=99 * rough, estimated=True))
    assert house.open().intent["s_prompt"] == 3 * rough
    other = msgspec.structs.replace(CONSUMER, id="c2")
    assert house.ledger.begin(ulid.new(NOW), other, chat(), "m").intent["s_prompt"] == rough
    await house.ledger.close()


async def test_the_intent_of_a_slow_call_is_written_while_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ledger._LINGER, "committed", 0.01)
    house = House()
    entry = house.open()
    await eventually(lambda: bool(house.store.batches))
    assert (await house.rows())[entry.request_id].keys() & {"s_key", "e_status"} == {"s_key"}
    await house.close(entry)
    assert (await house.rows())[entry.request_id].keys() >= {"s_key", "e_status"}


async def test_recorded_answers_wait_for_the_row_of_their_beginning_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ledger._LINGER, "recorded", 2.0)
    house = House("recorded")
    house.store.seconds = 0.05
    entry = house.open("01QUICK")
    await eventually(lambda: "01QUICK" in written(house))  # a call that takes longer than the write of its intent
    assert "s_key" in (await house.rows())["01QUICK"]
    assert house.close(entry).done()
    quick = house.open("01FIRST")
    answered = house.close(quick)
    assert not answered.done()
    await asyncio.wait_for(answered, 1.8)
    assert "s_key" in (await house.rows())["01FIRST"]
    await eventually(lambda: all("e_status" in row for row in written(house).values()))


async def test_a_recorded_answer_does_not_wait_for_a_table_that_fails() -> None:
    house = House("recorded")
    house.store.dead = True
    entry = house.open()
    await asyncio.sleep(0)
    house.time += 5.0
    assert house.close(entry).done()
    house.store.dead = False
    await house.ledger.close()
    assert all("e_status" in row for row in (await house.rows()).values())


async def test_deferred_answers_wait_for_nothing_and_share_a_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ledger._LINGER, "deferred", 1.5)
    house = House("deferred")
    entries = [house.open() for _ in range(30)]
    for entry in entries:
        assert house.close(entry).done()
        await asyncio.sleep(0)
    assert house.store.batches == []
    await eventually(lambda: house.store.batches == [30])
    assert {row["e_status"] for row in (await house.rows()).values()} == {200}
    house.close(house.open())
    await house.ledger.close()
    assert len(await house.rows()) == 31


async def test_rows_that_arrive_during_a_write_are_in_the_next_batch() -> None:
    house = House()
    house.store.seconds = 0.02
    entries = [house.open() for _ in range(250)]
    await asyncio.gather(*(house.close(entry) for entry in entries))
    assert sum(house.store.batches) == 250
    assert len(house.store.batches) == 3
    assert max(house.store.batches) == MAX_BATCH
    assert len(await house.rows()) == 250


async def test_a_row_is_in_the_table_before_its_future_is_done() -> None:
    house = House()
    house.store.seconds = 0.02
    entry = house.open()
    row = house.close(entry)
    await asyncio.sleep(0.005)
    assert not row.done()
    await row
    assert entry.request_id in await house.rows()


async def test_a_caller_that_gives_up_does_not_lose_the_rows_of_others() -> None:
    house = House()
    house.store.seconds = 0.02
    first, second = house.open(), house.open()
    waiting = asyncio.ensure_future(asyncio.wait_for(house.close(first), 0.001))
    other = house.close(second)
    with pytest.raises(TimeoutError):
        await waiting
    await other
    assert len(await house.rows()) == 2


async def test_an_outage_of_the_table_delays_answers_by_two_seconds_and_loses_no_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_group_commit, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(_read_back, "_FIRST_PAUSE", 0.001)
    house = House()
    house.store.dead = True
    entries = [house.open() for _ in range(3)]
    held = house.close(entries[0])
    await asyncio.sleep(0.02)
    assert not held.done()
    house.time += 2.0
    async with asyncio.timeout(PATIENCE):
        await held
    for entry in entries[1:]:
        assert house.close(entry).done()  # from now on nobody waits
    assert house.ledger.rows.backlog >= 3
    house.store.dead = False
    async with asyncio.timeout(PATIENCE):
        while house.ledger.rows.backlog:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)
    rows = await house.rows()
    assert all(rows[entry.request_id]["e_status"] == 200 for entry in entries)
    house.store.seconds = 0.01
    assert not house.close(house.open()).done()  # and now they wait again
    await house.ledger.close()


async def test_a_row_that_cannot_be_written_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    house = House()
    house.store.seconds = 0.01
    await house.close(house.open("poison"))
    entry = house.open()
    await house.close(entry)
    assert entry.request_id in await house.rows()
    assert house.ledger.rows.dropped == 1
    assert "1 usage rows lost" in caplog.text


REFUSALS = [ValueError("no row"), RowsRefused("Table Storage answered 400 InvalidInput")]


@pytest.mark.parametrize("refusal", REFUSALS, ids=["before it is sent", "by the table"])
async def test_a_row_that_the_table_refuses_is_lost_alone(refusal: Exception) -> None:
    house = House()
    house.store.refusal = refusal
    entries = [house.open("poison" if number == 40 else "") for number in range(90)]
    ends = [house.close(entry) for entry in entries]
    await asyncio.wait_for(asyncio.gather(*ends), PATIENCE)
    rows = await house.rows()
    assert [entry.request_id for entry in entries if entry.request_id not in rows] == ["poison"]
    assert all(row["e_status"] == 200 for row in rows.values())
    assert house.ledger.rows.dropped == 1
    await house.ledger.close()


@pytest.mark.parametrize("refusal", REFUSALS, ids=["before it is sent", "by the table"])
async def test_a_row_that_the_table_refuses_does_not_keep_others_on_disk(tmp_path: Path, refusal: Exception) -> None:
    first = House(overflow=Overflow(tmp_path, "here", 10_000_000))
    first.store.dead = True
    for number in range(30):
        first.close(first.open("poison" if number == 10 else ""))
    await first.ledger.close(0.01)
    second = House(overflow=Overflow(tmp_path, "here", 10_000_000))
    second.store.refusal = refusal
    await second.ledger.rows.recover()
    await eventually(lambda: not files_in(tmp_path))
    assert len(await second.rows()) == 29
    assert second.ledger.rows.dropped == 1
    await second.ledger.close()


async def test_memory_is_bounded_and_lost_rows_are_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_group_commit, "_MAX_ROWS", 500)
    house = House()
    house.store.dead = True
    house.time = 10.0
    for _ in range(2000):
        house.close(house.open())
        await asyncio.sleep(0)
    assert house.ledger.rows.backlog <= 700
    assert house.ledger.rows.dropped + house.ledger.rows.backlog == 2000
    assert "usage rows lost" in caplog.text
    left = house.ledger.rows.backlog
    await house.ledger.close(0.01)
    assert house.ledger.rows.dropped == 2000
    assert f"{left % MAX_BATCH or MAX_BATCH} usage rows lost" in caplog.text
    assert "500 input and 700 output tokens" in caplog.text


async def test_stopping_writes_the_remaining_rows() -> None:
    house = House()
    house.open()
    await house.ledger.close()
    assert len(await house.rows()) == 1


async def test_a_call_that_crosses_the_hour_closes_the_row_that_it_opened(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    house = House()
    entry = house.open()
    partition = entry.partition
    house.store.now = lambda: NOW + 3600
    await house.close(entry)
    assert [row.partition async for row in house.store.table("usage202609").scan_all()] == [partition]


async def test_after_an_outage_answers_do_not_wait_for_the_backlog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_group_commit, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(_read_back, "_FIRST_PAUSE", 0.001)
    house = House()
    house.store.dead = True
    for _ in range(500):
        house.close(house.open())
    await asyncio.sleep(0.01)
    house.time += 5.0
    house.store.dead, house.store.seconds = False, 0.05  # back, and slow: the backlog takes a quarter of a second
    async with asyncio.timeout(PATIENCE):
        while house.ledger.rows.backlog == 500:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert house.close(house.open()).done()
    await house.ledger.close()
    assert len(await house.rows()) == 501


def files_in(directory: Path) -> list[Path]:
    return list(directory.glob("*/*"))


async def test_rows_go_to_disk_during_an_outage_and_are_read_back_after_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_group_commit, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(_read_back, "_FIRST_PAUSE", 0.001)
    house = House(overflow=Overflow(tmp_path, "here", 10_000_000))
    house.store.dead = True
    for _ in range(250):
        house.close(house.open())
    held = house.close(house.open())
    await asyncio.sleep(0.02)
    assert not held.done()
    assert house.ledger.rows.spilled == 0
    house.time += 2.0
    await asyncio.wait_for(held, PATIENCE)
    await eventually(lambda: house.ledger.rows.spilled == 251)
    assert house.ledger.rows.backlog == 0
    assert house.close(house.open()).done()
    await eventually(lambda: house.ledger.rows.spilled == 252)
    house.store.dead = False
    await eventually(lambda: "252 usage rows were read back" in caplog.text)
    assert len(await house.rows()) == 252
    assert not house.close(house.open()).done()  # answers wait for their rows again
    await house.ledger.close()
    assert len(await house.rows()) == 253
    assert files_in(tmp_path) == []
    assert house.ledger.rows.dropped == 0


async def test_rows_that_a_dead_process_left_are_written_by_the_next_one(tmp_path: Path) -> None:
    first = House(overflow=Overflow(tmp_path, "here", 10_000_000))
    first.store.dead = True
    for _ in range(3):
        first.close(first.open())
    await first.ledger.close(0.01)
    assert first.ledger.rows.dropped == 0
    second = House(overflow=Overflow(tmp_path, "here", 10_000_000))
    await second.ledger.rows.recover()
    await eventually(lambda: not files_in(tmp_path))
    assert len(await second.rows()) == 3
    await second.ledger.close()


async def test_rows_wait_in_memory_if_the_disk_is_full(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_group_commit, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(_read_back, "_FIRST_PAUSE", 0.001)
    house = House(overflow=Overflow(tmp_path, "here", 100_000))
    house.store.dead = True
    house.time = 10.0
    for _ in range(1000):
        house.close(house.open())
    house.time += 5.0
    await eventually(lambda: house.ledger.rows.spilled > 0)
    await asyncio.sleep(0.05)
    assert 0 < house.ledger.rows.spilled < 1000
    assert house.ledger.rows.spilled + house.ledger.rows.backlog == 1000
    assert caplog.text.count("is full") == 1
    house.store.dead = False
    await eventually(lambda: house.ledger.rows.backlog == 0)
    async with asyncio.timeout(PATIENCE):
        while len(await house.rows()) < 1000:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await house.ledger.close()
    assert house.ledger.rows.dropped == 0
