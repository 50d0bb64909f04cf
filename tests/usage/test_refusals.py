"""Refused calls: every one is in the sums, a bounded number has a row, and a flood of them is no flood of rows."""

import asyncio
from collections import Counter

from shared import ulid
from shared.errors import InvalidApiKey, ModelNotFound, RateLimitExceeded
from shared.storage import Value
from shared.types import Consumer
from shared.usage import refusals
from shared.usage.folds import NOBODY, REFUSED
from shared.usage.ledger import Ledger
from shared.usage.refusals import SUMS, Refusals, Refused, sums_of
from shared.usage.rollup import roll_up
from tests.harness.clock import Clock
from tests.harness.folding import fold_rows
from tests.harness.memory_store import MemoryStore

NOW = 1_790_000_000.0
LIMITED = RateLimitExceeded("too fast", 1.0)
ANNA = Consumer("anna", "anna", team="lab", product="chat")


class Counting:
    """The refusals of a process, and the rows that they became."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.wall = NOW
        self.rows: list[tuple[int, str, dict[str, Value]]] = []
        self.refusals = Refusals(lambda *row: self.rows.append(row), lambda: self.wall, self.clock)

    def note(self, consumer: Consumer | None = ANNA, model: str = "m", times: int = 1) -> None:
        for _ in range(times):
            self.refusals.note(ulid.new(self.wall), consumer, model, LIMITED, "POST /v1/chat/completions")

    def sums(self) -> Counter[Refused]:
        total: Counter[Refused] = Counter()
        for _, _, row in self.rows:
            if SUMS in row:
                total.update(dict(sums_of(row)))
        return total

    def described(self) -> list[str]:
        return [key for _, key, row in self.rows if SUMS not in row]


async def test_a_flood_is_counted_exactly_and_becomes_few_rows() -> None:
    counting = Counting()
    for second in range(20):
        counting.wall = NOW + second
        counting.note(times=500)
        if second % 10 == 9:
            counting.refusals.write()
    assert counting.sums() == {Refused("anna", "lab", "chat", "m", "rate_limit_exceeded"): 10_000}
    assert len([key for _, key, row in counting.rows if SUMS in row]) == 2
    assert len(counting.described()) == 20 * 3  # a second, of one consumer


async def test_what_a_caller_wrote_is_printable_in_its_row() -> None:
    counting = Counting()
    path = "GET /v1/\x00\x01\x7f\uffff\ud800caf\xe9 \U0001f600"
    counting.refusals.note(ulid.new(NOW), ANNA, "m", ModelNotFound("no \x02 model"), path)
    counting.refusals.write()
    [row] = [row for _, _, row in counting.rows if SUMS not in row]
    assert row["r_call"] == "GET /v1/" + "\ufffd" * 5 + "caf\xe9 \U0001f600"
    assert row["r_message"] == "no \ufffd model"


async def test_ten_rows_a_second_describe_calls_of_several_consumers() -> None:
    counting = Counting()
    for number in range(20):
        counting.note(Consumer(f"c{number}", "c"))
    assert len(counting.described()) == 10


async def test_strangers_are_counted_by_code_alone() -> None:
    counting = Counting()
    counting.note(None, "", times=50)
    counting.refusals.write()
    assert counting.sums() == {Refused("", "", "", "", "rate_limit_exceeded"): 50}
    assert counting.described() == []


async def test_names_beyond_the_bound_are_one_sum_and_fit_a_property() -> None:
    counting = Counting()
    for number in range(1000):
        counting.note(Consumer(f"{number:010}", "c", team="t" * 64, product="p" * 64), "m" * 128)
    counting.refusals.write()
    sums = counting.sums()
    assert sum(sums.values()) == 1000
    assert sums[Refused("*", "*", "*", "*", "rate_limit_exceeded")] == 1000 - 80
    assert max(len(str(row[SUMS])) for _, _, row in counting.rows if SUMS in row) < 32_000


async def test_sums_belong_to_the_hour_of_their_calls() -> None:
    counting = Counting()
    counting.wall = 3600.0 * 500_000 - 1
    counting.note(times=2)
    counting.wall += 2
    counting.note(times=3)
    counting.refusals.write()
    assert [(hour, sum(count for _, count in sums_of(row))) for hour, _, row in counting.rows if SUMS in row] == [
        (499_999, 2),
        (500_000, 3),
    ]


async def test_the_first_sums_are_written_soon_and_the_next_ones_later() -> None:
    counting = Counting()
    counting.note()
    assert counting.refusals._timer is not None
    loop = asyncio.get_running_loop()
    assert counting.refusals._timer.when() - loop.time() <= refusals._FIRST
    counting.refusals.write()
    counting.note()
    assert counting.refusals._timer.when() - loop.time() > refusals._FIRST
    counting.refusals.write()


async def test_refusals_reach_the_sums_of_hours_days_and_months_by_code() -> None:
    store = MemoryStore(lambda: NOW)
    ledger = Ledger(store)
    for error, times in ((LIMITED, 3), (ModelNotFound("no"), 2)):
        for _ in range(times):
            ledger.refuse(ulid.new(NOW), ANNA, "m", error, "POST /x")
    ledger.refuse(ulid.new(NOW), None, "", InvalidApiKey("no"), "POST /x")
    await ledger.close()
    await roll_up(store)
    for partition in ("h-2026092114", "d-20260921", "m-202609"):
        lines = [row.properties async for row in store.table("usageagg").scan(partition) if "role" in row.properties]
        assert {(line["role"], line["key"], line["code"]): line["refused"] for line in lines} == {
            (REFUSED, "anna", "rate_limit_exceeded"): 3,
            (REFUSED, "anna", "model_not_found"): 2,
            (REFUSED, NOBODY, "invalid_api_key"): 1,
        }
        assert all(line.get("requests", 0) == 0 for line in lines)


def test_later_sums_outrank_the_fold_without_them() -> None:
    row = {SUMS: '[["anna","","","m","x",4]]'}
    one, two = fold_rows([row], NOW), fold_rows([row, row], NOW)
    assert two.rank > one.rank
    assert [counts.refused for counts in two.lines.values()] == [8]
