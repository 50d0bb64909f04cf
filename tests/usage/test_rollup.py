"""The roll-up converges to the fold of all raw rows, though halves come late, twice or never, and processes die.

Mutants that these tests were seen to kill. In `aggregates.py`: no guard at all; the rank compared before writing only;
a manifest written without compare-and-swap; one generation for all writers; generations without a nonce; a manifest
written before its lines; a sweep that takes generations which may still commit; a reader who does not count the lines.
In `rollup.py`: folds added to what is there instead of replacing it; a rank of requests instead of halves; a rank
without orphans; young intents closed at once; no pass when an hour is sealed; days not folded again after their hours.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shared.storage import Properties, Row, Table, Value
from shared.storage.names import USAGE_AGGREGATES
from shared.usage import aggregates, folds, hours
from shared.usage._hour_fold import GRACE
from shared.usage.durations import Durations, bucket, of_buckets
from shared.usage.folds import Counts, Dimensions, Fold
from shared.usage.rollup import (
    LEASE,
    OVERDUE,
    Summary,
    TimerLock,
    Watermarks,
    note_late,
    overdue,
    roll_up,
    watermarks,
)
from tests.harness.folding import fold_rows
from tests.harness.memory_store import MemoryStore

START = hours.from_label("2026013122")  # two hours before a new day, which begins a month
SPAN = 4  # hours in which requests begin


class Stepped:
    """Runs work on a store up to its next table operation, and no further, so that a test decides who goes first.

    `leased=False` shows it a lease that is always free: being right must not depend on the lease."""

    def __init__(self, loop: asyncio.AbstractEventLoop, store: MemoryStore, leased: bool = True) -> None:
        self._loop = loop
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._killed = False
        self._task: asyncio.Task[Any] | None = None
        self.inner = store
        self.leased = leased

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        self._task = self._loop.create_task(work)
        self._spin()

    @property
    def done(self) -> bool:
        assert self._task is not None
        return self._task.done()

    def step(self) -> None:
        if self._waiting:
            self._waiting.popleft().set_result(None)
        self._spin()

    def finish(self) -> Any:
        assert self._task is not None
        while not self.done:
            self.step()
        return self._task.result()

    def kill(self) -> None:
        """As `kill -9` would: not even a `finally` writes any more."""
        assert self._task is not None
        self._killed = True
        self._task.cancel()
        self._spin()
        self._waiting.clear()

    async def turn(self) -> None:
        if self._killed:
            raise asyncio.CancelledError
        turn = self._loop.create_future()
        self._waiting.append(turn)
        await turn

    def _spin(self) -> None:
        for _ in range(6):  # enough for whatever an answer sets off to arrive at its next operation
            self._loop.run_until_complete(asyncio.sleep(0))

    # The Store protocol.

    def table(self, name: str) -> Table:
        return _SteppedTable(self, self.inner.table(name))

    async def names(self, prefix: str) -> list[str]:
        await self.turn()
        return await self.inner.names(prefix)

    async def drop(self, name: str) -> None:
        await self.turn()
        await self.inner.drop(name)

    def now(self) -> float:
        return self.inner.now()

    async def close(self) -> None:
        pass


class _SteppedTable:
    def __init__(self, steps: Stepped, table: Table) -> None:
        self._steps = steps
        self._table = table

    async def get(self, partition: str, key: str) -> Row | None:
        await self._steps.turn()
        return None if key == "lease" and not self._steps.leased else await self._table.get(partition, key)

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        await self._steps.turn()
        if key == "lease" and not self._steps.leased:
            return "mine"
        return await self._table.put(partition, key, properties, etag)

    async def merge(self, partition: str, rows: Mapping[str, Properties]) -> None:
        await self._steps.turn()
        await self._table.merge(partition, rows)

    async def delete(self, partition: str, key: str) -> None:
        await self._steps.turn()
        await self._table.delete(partition, key)

    async def scan(self, partition: str, first: str = "", end: str = "") -> AsyncIterator[Row]:
        await self._steps.turn()
        async for row in self._table.scan(partition, first, end):
            yield row
            await self._steps.turn()  # pages of one row

    async def scan_all(self, after: str = "") -> AsyncIterator[Row]:
        await self._steps.turn()
        async for row in self._table.scan_all(after):
            yield row
            await self._steps.turn()


class Request:
    """A request and its truth; `said` are the halves that have reached the table."""

    def __init__(self, number: int, key: str, prompt: int, began: float) -> None:
        self.id, self.key, self.prompt, self.began = f"{number:026d}", key, prompt, began
        self.hour = hours.hour_of(began)
        self.end: tuple[int, str] | None = None
        self.dead = False
        self.said: set[str] = set()

    def start_half(self) -> dict[str, Value]:
        return {"s_key": self.key, "s_model": "gpt", "s_prompt": self.prompt, "s_ts": self.began}

    def end_half(self) -> dict[str, Value]:
        assert self.end is not None
        output, backend = self.end
        usage: dict[str, Value] = {"e_input": self.prompt + 1, "e_output": output, "e_status": 200}
        return usage | {"e_backend": backend, "e_region": "eu", "e_attempts": 1, "e_ms": 5}

    def expected(self) -> tuple[tuple[str, str], Counter[str]] | None:
        """Its line and its counts once all is over: written apart from the code under test."""
        if "end" in self.said:
            assert self.end is not None
            key = self.key if "start" in self.said else "-"
            counts = {"requests": 1, "ends": 1, "input_tokens": self.prompt + 1, "output_tokens": self.end[0]}
            return (key, self.end[1]), Counter(counts)
        if "start" in self.said:
            return (self.key, "-"), Counter(requests=1, estimated=1, input_tokens=self.prompt)
        return None


def summed(fold: Fold | None) -> dict[tuple[str, str], Counter[str]]:
    names = ("requests", "ends", "estimated", "input_tokens", "output_tokens")
    return {
        (line.key, line.backend): +Counter({name: getattr(counts, name) for name in names})
        for line, counts in (fold.lines.items() if fold else ())
    }


class RollUp(RuleBasedStateMachine):
    """Requests begin and end; their halves arrive in any order, twice, or never; drivers run, stall and die."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START * 3600.0
        self.store = MemoryStore(lambda: self.now)
        self.loop = asyncio.new_event_loop()
        self.requests: list[Request] = []
        self.sending: list[tuple[Request, str]] = []
        self.drivers: list[Stepped] = []
        self.ranks: dict[str, tuple[int, int]] = {}

    def wait_for(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @precondition(lambda self: self.now < (START + SPAN) * 3600)
    @rule(key=st.sampled_from(["alice", "bob"]), prompt=st.integers(1, 50))
    def begin(self, key: str, prompt: int) -> None:
        request = Request(len(self.requests), key, prompt, self.now)
        self.requests.append(request)
        self.sending.append((request, "start"))

    @precondition(lambda self: any(request.end is None and not request.dead for request in self.requests))
    @rule(output=st.integers(0, 50), backend=st.sampled_from(["sweden", "france"]), pick=st.integers(0, 99))
    def end(self, output: int, backend: str, pick: int) -> None:
        live = [request for request in self.requests if request.end is None and not request.dead]
        request = live[pick % len(live)]
        request.end = (output, backend)
        self.sending.append((request, "end"))

    @precondition(lambda self: self.sending)
    @rule(pick=st.integers(0, 99), answer_lost=st.booleans())
    def arrive(self, pick: int, answer_lost: bool) -> None:
        request, half = self.sending[pick % len(self.sending)]
        self._write(request, half)
        if not answer_lost:
            self.sending.remove((request, half))

    @precondition(lambda self: self.sending)
    @rule(pick=st.integers(0, 99))
    def instance_dies(self, pick: int) -> None:
        request, half = self.sending.pop(pick % len(self.sending))
        request.dead = True
        del half

    @rule(seconds=st.sampled_from([1, GRACE + 100, 3600]))
    def time_passes(self, seconds: int) -> None:
        self.now = min(self.now + seconds, (START + 20) * 3600)

    @precondition(lambda self: len(self.drivers) < 3)
    @rule()
    def timer_fires(self) -> None:
        driver = Stepped(self.loop, self.store, leased=False)
        driver.start(roll_up(driver))
        self.drivers.append(driver)

    @precondition(lambda self: self.drivers)
    @rule(pick=st.integers(0, 2), steps=st.sampled_from([1, 2, 5, 15, 60]))
    def driver_runs(self, pick: int, steps: int) -> None:
        driver = self.drivers[pick % len(self.drivers)]
        for _ in range(steps):
            driver.step()
            if driver.done:
                driver.finish()
                self.drivers.remove(driver)
                return

    @precondition(lambda self: self.drivers)
    @rule(pick=st.integers(0, 2))
    def driver_dies(self, pick: int) -> None:
        self.drivers.pop(pick % len(self.drivers)).kill()

    @invariant()
    def every_fold_is_whole_and_only_gets_better(self) -> None:
        for hour in range(START, START + SPAN):
            partition = hours.hour_partition(hour)
            fold = self.wait_for(aggregates.read(self.store.table(USAGE_AGGREGATES), partition))
            rank = fold.rank if fold else (0, 0)
            assert rank >= self.ranks.get(partition, (0, 0))
            self.ranks[partition] = rank
            arrived = sum(1 for request in self.requests if request.hour == hour and request.said)
            assert sum(counts["requests"] for counts in summed(fold).values()) <= arrived

    def teardown(self) -> None:
        for request, half in self.sending:
            self._write(request, half)
        for driver in self.drivers[:1]:
            for _ in range(10):
                driver.step()
        self.now = (START + 60) * 3600.0
        self.wait_for(roll_up(self.store))
        for driver in self.drivers:
            driver.finish()  # who was overtaken must not undo what the last pass did
        table = self.store.table(USAGE_AGGREGATES)
        days: dict[str, list[Request]] = {}
        for hour in range(START, START + SPAN):
            requests = [request for request in self.requests if request.hour == hour]
            self._check(table, hours.hour_partition(hour), requests)
            days.setdefault(hours.day_partition(hour), []).extend(requests)
        for day, requests in days.items():
            self._check(table, day, requests)
            self._check(table, f"m-{day[2:8]}", requests)  # the two days lie in two months
        self.loop.close()

    def _check(self, table: Table, partition: str, requests: list[Request]) -> None:
        expected: dict[tuple[str, str], Counter[str]] = {}
        for line, counts in filter(None, (request.expected() for request in requests)):
            expected.setdefault(line, Counter()).update(counts)
        fold = summed(self.wait_for(aggregates.read(table, partition)))
        assert fold == {line: +counts for line, counts in expected.items()}, partition

    def _write(self, request: Request, half: str) -> None:
        request.said.add(half)
        properties = request.start_half() if half == "start" else request.end_half()
        table = self.store.table(hours.raw_table(request.hour))
        self.wait_for(table.merge(f"{hours.label(request.hour)}-{request.prompt % 3:02d}", {request.id: properties}))


RollUp.TestCase.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
TestTheRollUpConverges = RollUp.TestCase


def a_fold(rank: int, writer: int, size: int) -> Fold:
    return Fold((rank, 0), {Dimensions(f"{writer}", f"{n}", "-", "-"): Counts(requests=writer) for n in range(size)})


@given(
    writers=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3)), min_size=2, max_size=3),
    schedule=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), min_size=8, max_size=25),
)
@settings(max_examples=300, deadline=None)
def test_readers_see_one_writers_fold_whole_and_the_best_one_last(
    writers: list[tuple[int, int]], schedule: list[tuple[int, int]]
) -> None:
    loop, store = asyncio.new_event_loop(), MemoryStore(lambda: 0.0)
    folds = [a_fold(rank, number, size) for number, (rank, size) in enumerate(writers)]
    workers = []
    for number, fold in enumerate(folds):
        worker = Stepped(loop, store)
        worker.start(aggregates.commit(worker.table("usageagg"), "h-1", fold, f"{number}"))
        workers.append(worker)
    reader = Stepped(loop, store)
    reader.start(aggregates.read(reader.table("usageagg"), "h-1"))
    workers.append(reader)
    for turn, steps in schedule:
        worker = workers[turn % len(workers)]
        for _ in range(steps):
            worker.step()
        if worker is reader and reader.done:
            assert reader.finish() in (None, *folds)
            reader.start(aggregates.read(reader.table("usageagg"), "h-1"))
    for worker in workers:
        worker.finish()
    last = loop.run_until_complete(aggregates.read(store.table("usageagg"), "h-1"))
    assert last in [fold for fold in folds if fold.rank == max(fold.rank for fold in folds)]
    assert loop.run_until_complete(aggregates.commit(store.table("usageagg"), "h-1", last, "again")) == 0
    left = loop.run_until_complete(rows_of(store, "usageagg"))
    assert len(left) == len(last.lines) + 1  # the next one to look has swept up
    loop.close()


async def rows_of(store: MemoryStore, table: str) -> list[Row]:
    return [row async for row in store.table(table).scan_all()]


START_HALF: Properties = {
    "s_key": "alice",
    "s_model": "gpt-4.1",
    "s_op": "chat.completions",
    "s_prompt": 70,
    "s_max": 0,
    "s_ts": 1000.5,
    "s_inst": "i",
}
END_HALF: Properties = {
    "e_input": 100,
    "e_output": 20,
    "e_cached": 64,
    "e_reasoning": 8,
    "e_backend": "sweden",
    "e_region": "swedencentral",
    "e_status": 200,
    "e_attempts": 2,
    "e_ttft": 300,
    "e_ms": 900,
    "e_ts": 1002.0,
    "e_new": "?",
}
EVERY_CLASS: Properties = {
    "s_team": "blue",
    "s_product": "shop",
    "s_system": "erp",
    "e_deployment": "prod",
    "e_served": "gpt-4.1-2025-04-14",
    "e_tier": "priority",
    "e_audio_in": 1,
    "e_image_in": 2,
    "e_audio_out": 3,
    "e_image_out": 4,
    "e_accepted": 5,
    "e_rejected": 6,
    "e_images": 7,
    "e_seconds": 8.25,
    "e_chars": 9,
}
ALICE = Dimensions("alice", "gpt-4.1", "sweden", "swedencentral")
ENDED = Counts(
    requests=1, ends=1, input_tokens=100, output_tokens=20, cached_input_tokens=64, reasoning_tokens=8,
    attempts=2, ms=900, timed=1, ttft=300, first_tokens=1,
    durations=of_buckets([bucket(900)]), first_bytes=of_buckets([bucket(300)]),
)  # fmt: skip
UNTIMED = msgspec.structs.replace(ENDED, durations=Durations(), first_bytes=Durations())


@pytest.mark.parametrize(
    ("row", "now", "rank", "line"),
    [
        pytest.param({**START_HALF, **END_HALF}, 1600, (2, 0), (ALICE, ENDED), id="both halves"),
        pytest.param(
            END_HALF,
            1600,
            (1, 0),
            (Dimensions("-", "-", "sweden", "swedencentral"), ENDED),
            id="an end without a start",
        ),
        pytest.param(
            {**START_HALF, **END_HALF, "e_model": "gpt-4o"},
            1600,
            (2, 0),
            (Dimensions("alice", "gpt-4o", "sweden", "swedencentral"), ENDED),
            id="the model as served",
        ),
        pytest.param(
            {**START_HALF, "e_status": 429, "e_attempts": 0, "e_ts": 1000.6},
            1600,
            (2, 0),
            (Dimensions("alice", "gpt-4.1", "-", "-"), Counts(requests=1, ends=1, errors=1)),
            id="refused before any backend",
        ),
        pytest.param(
            {**START_HALF, **END_HALF, "e_est": True, "e_status": 499, "e_ended": "hung_up"},
            1600,
            (2, 0),
            (ALICE, msgspec.structs.replace(UNTIMED, estimated=1, hung_up=1)),
            id="a caller who hung up is no error",
        ),
        pytest.param(
            {**START_HALF, **END_HALF, "e_empty": True},
            1600,
            (2, 0),
            (ALICE, msgspec.structs.replace(ENDED, empty=1)),
            id="an answer without content",
        ),
        pytest.param(
            {**START_HALF, **END_HALF, **EVERY_CLASS},
            1600,
            (2, 0),
            (
                Dimensions(
                    "alice",
                    "gpt-4.1",
                    "sweden",
                    "swedencentral",
                    "prod",
                    "gpt-4.1-2025-04-14",
                    "priority",
                    team="blue",
                    product="shop",
                    system="erp",
                ),
                msgspec.structs.replace(
                    ENDED,
                    audio_input_tokens=1,
                    image_input_tokens=2,
                    audio_output_tokens=3,
                    image_output_tokens=4,
                    accepted_prediction_tokens=5,
                    rejected_prediction_tokens=6,
                    images=7,
                    sound_ms=8250,
                    characters=9,
                ),
            ),
            id="every class and dimension",
        ),
        pytest.param(
            {
                "s_key": "alice",
                "s_model": "gpt-4.1",
                "e_role": "hedge",
                "e_status": 0,
                "e_input": 9,
                "e_output": 0,
                "e_ms": 90,
                "e_backend": "sweden",
                "e_region": "swedencentral",
                "e_est": True,
            },
            1600,
            (2, 0),
            (msgspec.structs.replace(ALICE, role="hedge"), Counts(estimated=1, input_tokens=9, charges=1)),
            id="a charge is no request",
        ),
        pytest.param(
            {"s_key": "alice", "s_model": "", "e_status": 200, "e_input": 0, "e_output": 0},
            1600,
            (2, 0),
            (Dimensions("alice", "-", "-", "-"), Counts(requests=1, ends=1)),
            id="a call that names no model",
        ),
        pytest.param(
            {**START_HALF, **END_HALF, "e_input": 10_000_000, "e_tier": "batch"},
            1600,
            (2, 0),
            (msgspec.structs.replace(ALICE, tier="batch"), msgspec.structs.replace(ENDED, input_tokens=10_000_000)),
            id="the sum of a batch is no long context",
        ),
        pytest.param(
            {**START_HALF, **END_HALF, "e_counted": True},
            1600,
            (3, 0),
            (ALICE, ENDED),
            id="counted estimates",
        ),
        *(
            pytest.param(
                {**START_HALF, **END_HALF, **unlucky},
                1600,
                (2, 0),
                (ALICE, msgspec.structs.replace(UNTIMED, **counted)),
                id=f"the time of a call that did not succeed is in no distribution: {unlucky}",
            )
            for unlucky, counted in (
                ({"e_status": 504}, {"errors": 1}),
                ({"e_ended": "cut"}, {}),
            )
        ),
        pytest.param(START_HALF, 1600, (1, 0), None, id="open"),
        pytest.param(
            START_HALF,
            1601,
            (1, 1),
            (Dimensions("alice", "gpt-4.1", "-", "-"), Counts(requests=1, estimated=1, input_tokens=70)),
            id="an orphan",
        ),
        pytest.param({"x": 1}, 1601, (0, 0), None, id="neither half"),
    ],
)
def test_one_raw_row(
    row: Properties, now: float, rank: tuple[int, int], line: tuple[Dimensions, Counts] | None
) -> None:
    assert fold_rows([row], now) == Fold(rank, dict([line] if line else []))


@pytest.mark.parametrize(("place", "name"), [("s_system", "system"), ("e_model", "model"), ("e_served", "served")])
@given(order=st.permutations(range(40)))
@settings(max_examples=20, deadline=None)
def test_names_from_callers_and_backends_are_bounded_and_lose_no_token(place: str, name: str, order: list[int]) -> None:
    def row(number: int) -> Properties:
        tokens: Properties = {"e_input": 1000 + number // 2, "e_output": 1}
        return {**START_HALF, **END_HALF, **tokens, "s_key": f"k{number % 2}", place: f"s{number}"}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folds, "MOST_NAMES", 3)
        fold = fold_rows([row(number) for number in order], 1600)
        assert folds.combine([fold, fold], folds.bounded).lines.keys() == fold.lines.keys()
    lines = {(line.key, getattr(line, name)): counts for line, counts in fold.lines.items()}
    kept = {("k0", f"s{number}") for number in (38, 36, 34)} | {("k1", f"s{number}") for number in (39, 37, 35)}
    assert lines.keys() == kept | {("k0", "*"), ("k1", "*")}
    assert sum(counts.input_tokens for counts in lines.values()) == 40 * 1000 + 2 * sum(range(20))
    assert sum(counts.requests for counts in lines.values()) == 40


async def test_lines_written_before_a_dimension_existed_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(lambda: 0.0)
    old: Properties = {"key": "a", "model": "m", "backend": "b", "region": "r", "requests": 2, "input_tokens": 7}
    manifest: Properties = {"generation": "g", "halves": 4, "orphans": 0, "lines": 1}
    await store.table(USAGE_AGGREGATES).merge("h-1", {"!": manifest, "g-000000": old})
    fold = await aggregates.read(store.table(USAGE_AGGREGATES), "h-1")
    assert fold == Fold((4, 0), {Dimensions("a", "m", "b", "r"): Counts(requests=2, input_tokens=7)})


async def test_distributions_of_durations_survive_the_table_and_the_sum_of_a_day() -> None:
    account = Account("2026020112")
    table = account.store.table("usage202602")
    for hour, times in {"2026020110": (100, 100, 4000), "2026020111": (100, 700)}.items():
        rows: dict[str, Properties] = {
            f"{number:026d}": {**START_HALF, **END_HALF, "e_ms": ms, "e_ttft": ms // 10}
            for number, ms in enumerate(times)
        }
        await table.merge(f"{hour}-00", rows)
    await roll_up(account.store)
    for partition in ("d-20260201", "m-202602"):
        fold = await aggregates.read(account.store.table(USAGE_AGGREGATES), partition)
        assert fold is not None
        (counts,) = fold.lines.values()
        assert counts.durations == of_buckets(map(bucket, (100, 100, 100, 700, 4000)))
        assert counts.first_bytes == of_buckets(map(bucket, (10, 10, 10, 70, 400)))


class Account:
    """A store with a clock, and the writes of a ledger."""

    def __init__(self, at: str) -> None:
        self.now = hours.from_label(at) * 3600.0
        self.store = MemoryStore(lambda: self.now)

    async def call(self, at: str, number: int, halves: str = "se", tokens: int = 10) -> None:
        """A call in the first minute of the hour `at`; `halves`: s(tart), e(nd)."""
        start: Properties = {"s_key": "k", "s_model": "m", "s_prompt": tokens, "s_ts": hours.from_label(at) * 3600.0}
        end: Properties = {"e_input": tokens, "e_output": 1, "e_status": 200, "e_backend": "b", "e_region": "r"}
        row = {**(start if "s" in halves else {}), **(end if "e" in halves else {})}
        await self.store.table(f"usage{at[:6]}").merge(f"{at}-00", {f"{number:026d}": row})

    async def tokens(self, partition: str) -> tuple[int, int]:
        """Input tokens and estimates of a partition, whatever the line."""
        fold = await aggregates.read(self.store.table("usageagg"), partition)
        lines = fold.lines.values() if fold else ()
        return sum(line.input_tokens for line in lines), sum(line.estimated for line in lines)


async def test_an_orphan_that_ends_after_all_is_no_longer_an_estimate() -> None:
    account = Account("2026020110")
    await account.call("2026020110", 1, "s", tokens=50)
    account.now += GRACE + 1
    assert (await roll_up(account.store)).orphans == 1
    assert await account.tokens("h-2026020110") == await account.tokens("m-202602") == (50, 1)
    await account.call("2026020110", 1, "e", tokens=60)
    assert (await roll_up(account.store)).orphans == 0
    for partition in ("h-2026020110", "d-20260201", "m-202602"):
        assert await account.tokens(partition) == (60, 0)


async def test_unchanged_folds_are_not_written_again() -> None:
    account = Account("2026020110")
    await account.call("2026020110", 1)
    first, second = await roll_up(account.store), await roll_up(account.store)
    assert (first.hours, first.days, first.months, first.rows_read, first.rows_written) == (1, 1, 1, 1, 6)
    assert (second.rows_read, second.rows_written) == (1, 0)


async def test_the_first_pass_begins_at_the_earliest_row_and_crosses_months() -> None:
    account = Account("2026031512")
    for number, at in enumerate(("2025123123", "2026010100", "2026013123", "2026031511")):
        await account.call(at, number)
    summary = await roll_up(account.store)
    assert (summary.hours, summary.days, summary.months) == (4, 4, 4)
    for partition, tokens in {"m-202512": 10, "m-202601": 20, "d-20260131": 10, "m-202602": 0, "m-202603": 10}.items():
        assert await account.tokens(partition) == (tokens, 0)
    assert await watermarks(account.store) == Watermarks(hours.from_label("2026031511"), hours.from_label("2026031411"))


async def test_a_row_that_is_hours_late_is_counted_when_its_hour_is_sealed() -> None:
    account = Account("2026020110")
    await account.call("2026020110", 1)
    await roll_up(account.store)
    account.now += 3 * 3600
    await roll_up(account.store)
    await account.call("2026020110", 2)
    await roll_up(account.store)
    assert await account.tokens("h-2026020110") == (10, 0)
    account.now += 23 * 3600
    await roll_up(account.store)
    for partition in ("h-2026020110", "d-20260201", "m-202602"):
        assert await account.tokens(partition) == (20, 0)


async def test_rows_that_come_days_late_from_a_disk_are_counted() -> None:
    account = Account("2026020110")
    await account.call("2026020110", 1)
    await roll_up(account.store)
    account.now += 5 * 86400
    await roll_up(account.store)
    await account.call("2026020110", 2)
    await note_late(account.store, "2026020110-07")
    assert (await roll_up(account.store)).rows_read == 2
    for partition in ("h-2026020110", "d-20260201", "m-202602"):
        assert await account.tokens(partition) == (20, 0)
    assert (await roll_up(account.store)).rows_read == 0


async def test_rows_that_come_while_their_late_hour_is_folded_are_counted_by_the_next_pass() -> None:
    account = Account("2026020110")
    await account.call("2026020110", 1)
    account.now += 5 * 86400
    await roll_up(account.store)
    await account.call("2026020110", 2)
    await note_late(account.store, "2026020110-07")
    loop = asyncio.new_event_loop()
    driver = Stepped(loop, account.store)

    def fold_and_more() -> None:
        driver.start(roll_up(driver))
        while loop.run_until_complete(account.tokens("h-2026020110"))[0] < 20:
            driver.step()
        loop.run_until_complete(account.call("2026020110", 3))
        loop.run_until_complete(note_late(account.store, "2026020110-07"))
        driver.finish()
        loop.close()

    await asyncio.to_thread(fold_and_more)
    await roll_up(account.store)
    assert await account.tokens("m-202602") == (30, 0)


async def test_raw_rows_are_dropped_by_whole_months_and_their_sums_stay() -> None:
    account = Account("2026050110")
    for at in ("2026010107", "2026022823", "2026030100", "2026043023", "2026050110"):
        await account.call(at, 1)
    await roll_up(account.store)
    assert len(await account.store.names("usage2")) == 5
    await roll_up(account.store, keep_months=2)
    assert await account.store.names("usage2") == ["usage202603", "usage202604", "usage202605"]
    await roll_up(account.store, keep_months=2)
    assert [await account.tokens(f"m-2026{month:02d}") for month in range(1, 6)] == [(10, 0)] * 5


async def test_after_weeks_without_a_timer_one_pass_catches_up_and_the_next_reads_little() -> None:
    account = Account("2026020100")
    for day in range(1, 29):
        await account.call(f"202602{day:02d}07", day)
        await account.call(f"202602{day:02d}23", day)
    account.now += 40 * 86400
    assert (await roll_up(account.store)).rows_read == 56
    assert await account.tokens("m-202602") == (560, 0)
    assert (await roll_up(account.store)).rows_read == 0


async def test_an_interrupted_pass_is_continued_and_not_repeated() -> None:
    account = Account("2026020400")
    for day in (1, 2, 3):
        await account.call(f"202602{day:02d}07", day)
    loop = asyncio.new_event_loop()
    driver = Stepped(loop, account.store)

    def cut_short() -> None:
        driver.start(roll_up(driver))
        while not loop.run_until_complete(account.tokens("d-20260202"))[0]:
            driver.step()
        driver.kill()
        loop.close()

    await asyncio.to_thread(cut_short)
    assert await watermarks(account.store) == Watermarks(*[hours.from_label("2026020200")] * 2)
    assert (await roll_up(account.store)).skipped
    account.now += LEASE
    assert (await roll_up(account.store)).rows_read == 2
    assert await account.tokens("m-202602") == (30, 0)


async def test_a_pass_is_overdue_ten_minutes_after_the_end_of_the_last_one() -> None:
    account = Account("2026020110")
    assert await overdue(account.store)
    await roll_up(account.store)
    account.now += OVERDUE
    assert not await overdue(account.store)
    account.now += 1
    assert await overdue(account.store)
    assert await TimerLock(account.store, "at work").acquire()
    assert not await overdue(account.store)
    account.now += LEASE + OVERDUE + 1  # it was killed
    assert await overdue(account.store)


async def test_one_of_two_instances_works_and_releases_the_lease() -> None:
    account = Account("2026020110")
    mine, other = TimerLock(account.store, "mine"), TimerLock(account.store, "other")
    assert await mine.acquire()
    assert await mine.acquire()
    assert not await other.acquire()
    assert (await roll_up(account.store)) == Summary(skipped=True)
    await other.release()
    assert not await other.acquire()
    account.now += LEASE
    assert await other.acquire()
    await mine.release()
    assert not await mine.acquire()
    await other.release()
    assert await mine.acquire()
