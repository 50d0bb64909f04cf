"""Work that goes on after its call is settled exactly once, whoever comes first, and its reservation stays until then.

In the process, with a scripted backend and tables in memory whose clock a test moves."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shared.affinity.pending import PendingIndex
from shared.config.limits import Limits
from shared.errors import StoreUnavailable
from shared.process.application import Application
from shared.storage import Properties
from shared.types import Reference
from simulator.process import SimulatorProcess
from tests.harness.in_process import Exchange, Reply, Tables, backend, call, gateway, key
from tests.harness.memory_store import MemoryTable
from tests.harness.patience import eventually

RESPONSES = "/v1/responses"
ASKED = {"model": "gpt-4o", "input": "word " * 100, "background": True}
MODELS = {"gpt-4o": "g"}
NOON = 1_795_262_400.0  # 2026-11-21 12:00 UTC
DAY = 86_400.0


class Clocked(Tables):
    """Tables whose clock a test moves, and whose writes it fails: `broken` are the tables that refuse them."""

    def __init__(self) -> None:
        self.time = NOON
        self.broken: set[str] = set()
        super().__init__(lambda: self.time)

    def table(self, name: str) -> MemoryTable:
        return _ClockedTable(self, name)

    def used(self, dimension: str, scope: str = "key:") -> float:
        """The used amount in the row of a limit."""
        rows = next(rows for partition, rows in self.rows("limits").items() if partition.startswith(scope))
        return float(rows["0"][0].get(f"{dimension}_used", 0.0))

    def made(self) -> dict[str, Any]:
        """The row of the call that began the work."""
        return dict(next(row for row in self.usage().values() if "create" in str(row["s_op"])))

    def tokens(self) -> tuple[int, int]:
        """The tokens of all rows."""
        rows = self.usage().values()
        return sum(int(row.get("e_input", 0)) for row in rows), sum(int(row.get("e_output", 0)) for row in rows)


class _ClockedTable(MemoryTable):
    def __init__(self, store: Clocked, name: str) -> None:
        super().__init__(store, name)
        self._clocked = store

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        if self._name in self._clocked.broken and etag is not None:
            raise StoreUnavailable("broken")
        return await super().put(partition, key, properties, etag)

    async def merge(self, partition: str, rows: Any) -> None:
        if self._name in self._clocked.broken:
            raise StoreUnavailable("broken")
        await super().merge(partition, rows)


class Works:
    """A backend with objects whose work goes on. `status` and `usage` are those of every GET; `asked` are its paths."""

    def __init__(self) -> None:
        self.status = "in_progress"
        self.usage: dict[str, Any] | None = None
        self.more: dict[str, Any] = {}
        self.steps: list[dict[str, Any]] = []
        self.missing = False
        self.asked: list[str] = []

    def done(self, read: int, written: int, status: str = "completed") -> None:
        self.status = status
        self.usage = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}

    async def __call__(self, exchange: Exchange) -> None:
        path = exchange.path.partition("?")[0]
        if exchange.body and "status" not in path:
            self._make(exchange, path)
            return
        self.asked.append(path.partition("/v1/")[2] or path.partition("/openai/")[2])
        if self.missing:
            exchange.answer(404, {"error": {"message": "not found", "code": "not_found", "type": "x", "param": None}})
        elif path.endswith("/steps"):
            exchange.answer(200, {"object": "list", "data": self.steps, "has_more": False})
        elif "/items" in path or "/messages" in path:
            exchange.answer(200, {"object": "list", "data": [], "has_more": False})
        else:
            made = {"id": path.rpartition("/")[2], "status": self.status, "usage": self.usage, "model": "g"}
            exchange.answer(200, made | self.more)

    def _make(self, exchange: Exchange, path: str) -> None:
        number = f"{exchange.number:05d}"
        if path.endswith("/runs"):
            thread = "thread_made" if path.endswith("threads/runs") else path.split("/")[-2]
            run = {"id": f"run_{number}", "object": "thread.run", "status": "queued", "thread_id": thread, "model": "g"}
            exchange.answer(200, {**run, "usage": None})
        elif path.endswith("/responses"):
            queued: dict[str, Any] = {
                "id": f"resp_{number}",
                "object": "response",
                "status": "queued",
                "output": [],
                "usage": None,
            }
            exchange.answer(200, {**queued, "model": "g"})
        else:
            kind = path.rpartition("/")[2].removesuffix("s").removesuffix("e")
            status = {"status": "validating", "usage": None} if kind == "batch" else {}
            exchange.answer(200, {"id": f"{kind}_{number}", "object": kind, **status})


@asynccontextmanager
async def running(tables: Clocked, works: Works, **document: Any) -> AsyncIterator[Application]:
    async with backend("a", MODELS, works) as a, gateway(tables, [a], **document) as application:
        yield application


async def begun(application: Application, holder: str, path: str = RESPONSES, **fields: Any) -> str:
    """The id of an object whose work has begun."""
    reply = await call(application, holder, path, (ASKED if path == RESPONSES else {}) | fields)
    assert reply.status == 200, reply.body
    return str(json.loads(reply.body)["id"])


async def idle(application: Application) -> None:
    """Wait for the settlements that calls have begun."""
    await application.settler._settlements.tasks.finish(5)


async def test_what_nobody_reads_is_settled_by_the_timer_in_the_row_of_its_call() -> None:
    tables, works = Clocked(), Works()
    async with running(tables, works) as application:
        await begun(application, await key(tables))
        await application.roll_up()
        assert "e_input" not in tables.made()  # it is under way
        works.done(70, 30)
        tables.time += 61
        await application.roll_up()
        for _ in range(3):
            tables.time += 4000
            await application.roll_up()
    assert len(works.asked) == 2
    made = tables.made()
    assert (made["e_input"], made["e_output"], made["e_served"], made["e_model"]) == (70, 30, "g", "gpt-4o")
    assert (made["s_op"], made["e_status"], made["e_ended"]) == ("responses.create", 200, "complete")
    assert tables.tokens() == (70, 30)
    assert tables.rows("pending") == {}  # marks are deleted in the end


async def test_a_reservation_stays_until_the_work_is_settled_and_then_its_usage() -> None:
    tables, works = Clocked(), Works()
    async with running(tables, works) as application:
        holder = await key(tables, Limits(token_quota=5_000, token_quota_period="day", max_concurrent=3))
        statuses = [(await call(application, holder, RESPONSES, ASKED)).status for _ in range(60)]
        admitted = statuses.count(200)
        assert set(statuses) == {200, 403}
        assert 3 < admitted <= 10
        tables.time += 3600  # no lease lives so long
        assert (await call(application, holder, RESPONSES, ASKED)).status == 403
        works.done(40, 10)
        await application.roll_up()
        assert (await call(application, holder, RESPONSES, ASKED)).status == 200
        await application.roll_up()
    assert tables.used("tokens") == pytest.approx(50 * (admitted + 1))
    assert tables.tokens() == (40 * (admitted + 1), 10 * (admitted + 1))


async def test_a_reservation_survives_the_instance_that_admitted_the_call() -> None:
    tables, works = Clocked(), Works()
    limits = Limits(token_quota=5_000, token_quota_period="day")
    async with backend("a", MODELS, works) as a:
        async with gateway(tables, [a]) as first:
            holder = await key(tables, limits)
            while (await call(first, holder, RESPONSES, ASKED)).status == 200:
                pass
        tables.time += 60
        assert tables.used("tokens") > 3_500
        async with gateway(tables, [a]) as second:
            statuses = [(await call(second, holder, RESPONSES, ASKED)).status for _ in range(4)]
            assert statuses[-1] == 403
            works.done(1, 1)
            await second.roll_up()
            assert (await call(second, holder, RESPONSES, ASKED)).status == 200


async def test_a_refund_comes_back_to_the_period_that_it_was_taken_from_and_a_debt_always_counts() -> None:
    for read, expected in ((1, 700.0), (4_000, 4_000.0)):
        tables, works = Clocked(), Works()
        async with running(tables, works) as application:
            holder = await key(tables, Limits(token_quota=100_000, token_quota_period="day"))
            await begun(application, holder)
            (row,) = [row async for row in PendingIndex(tables).all()]
            tables.time += DAY
            await begun(application, holder)  # whose reservation is all of the new day's, but for the debt
            works.done(read, 0)
            assert row.work is not None
            await application.settler.settle(row, row.work)
        assert tables.used("tokens") == pytest.approx(expected, abs=5)


async def test_a_budget_counts_the_work_at_its_reservation_and_then_at_its_price() -> None:
    tables, works = Clocked(), Works()
    async with running(tables, works) as application:
        holder = await key(tables, Limits(budget_usd=100.0))
        await begun(application, holder)
        works.done(1_000_000, 100_000)
        await application.roll_up()
    assert tables.used("usd") == pytest.approx(2.5 + 1.0)  # gpt-4o


async def test_the_work_of_an_identity_is_corrected_in_the_limits_that_its_rule_gives(
    simulator: SimulatorProcess,
) -> None:
    """Its row names neither its team nor its limits. Another instance settles it, which knows the row alone."""
    tables, works, tenant = Clocked(), Works(), simulator.tenant
    tables.time = time.time()  # by which the tokens are valid
    quota = {"token_quota": 10**6, "token_quota_period": "month"}
    rule = {"app_role": "Gateway.Call", "team": "red", "limits": quota, "product": "chat"}
    document: dict[str, Any] = {
        "entra": {
            "authority": tenant["authority"],
            "tenants": [tenant["id"]],
            "audiences": tenant["audiences"],
            "callers": [rule],
        },
        "limits": {"teams": {"red": quota}},
        "products": {"chat": {"limits": quota}},
    }
    token = simulator.token("works in the background", roles=["Gateway.Call"])
    async with backend("a", MODELS, works) as a:
        async with gateway(tables, [a], **document) as first:
            await begun(first, token)
        works.done(70, 30)
        async with gateway(tables, [a], **document) as second:
            await second.roll_up()
    assert tables.tokens() == (70, 30)
    for scope in ("team:red", "key:entra-", "product:chat"):
        assert tables.used("tokens", scope) == pytest.approx(100), scope


async def test_a_call_that_reads_the_end_begins_the_settlement_and_pays_nothing_itself() -> None:
    tables, works = Clocked(), Works()
    async with running(tables, works) as application:
        holder = await key(tables, Limits(token_quota=10**6))
        response = await begun(application, holder)
        works.done(70, 30)
        replies = await asyncio.gather(
            *(call(application, holder, f"{RESPONSES}/{response}", method="GET") for _ in range(5))
        )
        assert {reply.status for reply in replies} == {200}
        await idle(application)
        assert tables.tokens() == (70, 30)
        assert tables.made()["e_input"] == 70
        await application.roll_up()
    assert tables.used("tokens") == pytest.approx(100)


async def test_an_answer_that_names_another_consumers_work_settles_nothing_of_it() -> None:
    tables, works = Clocked(), Works()
    async with running(tables, works) as application:
        hostile, victim = await key(tables), await key(tables, Limits(token_quota=10**6))
        theirs, own = await begun(application, victim), await begun(application, hostile)
        works.done(900_000, 1)
        works.more = {"id": theirs}
        await call(application, hostile, f"{RESPONSES}/{own}", method="GET")
        await idle(application)
        assert tables.tokens() == (0, 0)
        works.done(70, 30)
        works.more = {}
        await application.roll_up()
    assert tables.tokens() == (140, 60)
    assert tables.used("tokens") == pytest.approx(100)


@pytest.mark.parametrize("read", ["items", "messages", "steps"])
async def test_a_read_beside_the_object_settles_it_as_well(read: str) -> None:
    tables, works = Clocked(), Works()
    async with running(tables, works) as application:
        holder = await key(tables, Limits(token_quota=10**6))
        if read == "items":
            parent = await begun(application, holder, "/v1/conversations", metadata={})
            await begun(application, holder, conversation=parent)
            path = f"/v1/conversations/{parent}/items"
        else:
            assistant = await begun(application, holder, "/v1/assistants", model="gpt-4o")
            parent = await begun(application, holder, "/v1/threads", metadata={})
            run = await begun(application, holder, f"/v1/threads/{parent}/runs", assistant_id=assistant)
            path = f"/v1/threads/{parent}/messages" if read == "messages" else f"/v1/threads/{parent}/runs/{run}/steps"
        works.done(70, 30)
        assert (await call(application, holder, path, method="GET")).status == 200
        await idle(application)
        assert tables.tokens() == (70, 30)
    assert tables.used("tokens") == pytest.approx(100)


@pytest.mark.parametrize("first", ["responses", "threads"])
async def test_what_is_deleted_is_settled_before(first: str) -> None:
    tables, works = Clocked(), Works()
    async with running(tables, works) as application:
        holder = await key(tables)
        if first == "responses":
            path = f"{RESPONSES}/{await begun(application, holder)}"
        else:
            assistant = await begun(application, holder, "/v1/assistants", model="gpt-4o")
            parent = await begun(application, holder, "/v1/threads", metadata={})
            await begun(application, holder, f"/v1/threads/{parent}/runs", assistant_id=assistant)
            path = f"/v1/threads/{parent}"
        works.done(70, 30)
        works.asked.clear()
        assert (await call(application, holder, path, method="DELETE")).status == 200
        assert len(works.asked) == 2  # a question, then the deletion
        assert tables.tokens() == (70, 30)


async def test_two_instances_that_settle_at_once_charge_once() -> None:
    tables, works = Clocked(), Works()
    async with backend("a", MODELS, works) as a, gateway(tables, [a]) as one, gateway(tables, [a]) as two:
        holder = await key(tables, Limits(token_quota=10**6))
        reference = Reference("response", await begun(one, holder))
        works.done(70, 30)
        for _ in range(3):
            (row,) = [row async for row in PendingIndex(tables).all()]
            if row.work is None:
                break
            await asyncio.gather(*(at.settler.settle(row, row.work) for at in (one, two, one, two)))
            await asyncio.gather(*(call(at, holder, f"{RESPONSES}/{reference.id}", method="GET") for at in (one, two)))
        await asyncio.gather(idle(one), idle(two))
    assert tables.used("tokens") == pytest.approx(100)
    assert tables.tokens() == (70, 30)


@pytest.mark.parametrize("broken", ["usage202611", "pending"])
async def test_an_instance_that_dies_between_the_charge_and_its_mark_leaves_both_to_the_next(broken: str) -> None:
    tables, works = Clocked(), Works()
    async with backend("a", MODELS, works) as a:
        async with gateway(tables, [a]) as dying:
            holder = await key(tables, Limits(token_quota=10**6))
            await begun(dying, holder)
            await eventually(lambda: any("e_status" in row for row in tables.usage().values()))
            works.done(70, 30)
            tables.broken = {broken}
            await dying.roll_up()
            assert tables.tokens() == ((0, 0) if broken != "pending" else (70, 30))
        tables.broken = set()
        tables.time += 61
        for _ in range(2):
            async with gateway(tables, [a]) as next_one:
                await next_one.roll_up()
                tables.time += 61
    assert tables.tokens() == (70, 30)
    assert tables.used("tokens") == pytest.approx(100)


async def test_the_row_is_whole_if_the_instance_died_before_it_wrote_its_own() -> None:
    tables, works = Clocked(), Works()
    async with running(tables, works) as application:
        await begun(application, await key(tables, team="red"))
        await eventually(lambda: any("e_status" in row for row in tables.usage().values()))
        written = tables.made()
        for part in tables.rows("usage202611").values():
            part.clear()
        works.done(70, 30)
        await application.roll_up()
        left = tables.made()
    for name in ("s_key", "s_team", "s_model", "s_op", "s_ts", "e_status", "e_backend", "e_model", "e_deployment"):
        assert left[name] == written[name]
    assert (left["e_input"], left["e_output"]) == (70, 30)


@pytest.mark.parametrize(
    ("status", "used", "expected"),
    [
        ("failed", None, (0, 0)),
        ("failed", (5, 1), (5, 1)),
        ("incomplete", (70, 30), (70, 30)),
        ("cancelled", (60, 3), (60, 3)),
    ],
)
async def test_work_that_fails_is_charged_what_it_tells(
    status: str, used: tuple[int, int] | None, expected: tuple[int, int]
) -> None:
    tables, works = Clocked(), Works()
    async with running(tables, works) as application:
        await begun(application, await key(tables, Limits(token_quota=10**6)))
        works.status = status
        if used:
            works.done(*used, status)
        await application.roll_up()
    assert tables.tokens() == expected
    assert tables.used("tokens") == pytest.approx(sum(expected), abs=1e-6)


@pytest.mark.parametrize("shown", [0, 1000])
async def test_a_cancelled_response_without_a_usage_costs_its_prompt_and_the_text_that_it_shows(shown: int) -> None:
    tables, works = Clocked(), Works()
    async with running(tables, works) as application:
        await begun(application, await key(tables, Limits(token_quota=10**6)))
        works.status = "cancelled"
        works.more = {"output": [{"type": "message", "content": [{"type": "output_text", "text": "word" * shown}]}]}
        await application.roll_up()
    made = tables.made()
    assert made["e_input"] == made["s_prompt"] > 100
    assert made["e_output"] == shown
    assert made["e_est"]
    assert tables.used("tokens") == pytest.approx(made["e_input"] + shown)


@pytest.mark.parametrize("end", ["cancel", "delete"])
@pytest.mark.parametrize("leaves", [True, False])
async def test_what_a_stream_has_relayed_is_charged_though_its_caller_cancels_the_work(end: str, leaves: bool) -> None:
    tables, works, text, over = Clocked(), Works(), asyncio.Event(), asyncio.Event()

    async def streaming(exchange: Exchange) -> None:
        if not exchange.fields.get("stream"):
            await works(exchange)
            return
        exchange.stream()
        response = {"id": "resp_s", "object": "response", "status": "in_progress", "model": "g", "usage": None}
        await exchange.event({"type": "response.created", "response": response})
        for _ in range(200):
            await exchange.event({"type": "response.output_text.delta", "delta": "word word word "})
        text.set()
        await over.wait()
        exchange.end()

    async with backend("a", MODELS, streaming) as a, gateway(tables, [a]) as application:
        holder, gone = await key(tables, Limits(token_quota=10**6)), asyncio.Event()
        reply = Reply()
        asked = call(application, holder, RESPONSES, ASKED | {"stream": True}, gone=gone, reply=reply)
        reading = asyncio.ensure_future(asked)
        await text.wait()
        await eventually(lambda: reply.body.count(b"word word word ") == 200)  # the text has passed
        if leaves:
            gone.set()
            await asyncio.wait((reading,))
        if end == "cancel":
            works.status = "cancelled"
            await call(application, holder, f"{RESPONSES}/resp_s/cancel", b"{}")
        else:
            await call(application, holder, f"{RESPONSES}/resp_s", method="DELETE")
            works.missing = True
        over.set()
        await asyncio.wait((reading,))
        await idle(application)
        tables.time += 61
        await application.roll_up()
        tables.time += 61
        await application.roll_up()
    made = tables.made()
    assert made["e_est"]
    assert 600 <= made["e_output"] <= 1500  # 3,000 characters
    assert tables.used("tokens") >= made["e_input"] + made["e_output"] - 1


@pytest.mark.parametrize(("completed", "share"), [(999, 0.999), (0, 0.0), (None, 0.0)])
async def test_a_cancelled_batch_costs_what_it_has_completed(completed: int | None, share: float) -> None:
    tables, works = Clocked(), Works()
    prices = [{"model": "gpt-4o", "tier": "batch", "input": 1.0, "output": 4.0}]
    async with running(tables, works, prices=prices) as application:
        holder = await key(tables, Limits(budget_usd=100.0))
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "word " * 100}]}
        line = json.dumps({"custom_id": "1", "method": "POST", "url": "/chat/completions", "body": body})
        file = await uploaded(application, holder, "\n".join([line] * 1000))
        batch = {"input_file_id": file, "endpoint": "/chat/completions", "completion_window": "24h"}
        await begun(application, holder, "/v1/batches", **batch)
        works.status = "cancelled"
        works.more = {"request_counts": {"total": 1000, "completed": completed, "failed": 0}}
        for _ in range(2):
            await application.roll_up()
            tables.time += 61
    made: dict[str, Any] = next(dict(row) for row in tables.usage().values() if row["s_op"] == "batches.create")
    assert made["e_input"] == pytest.approx(share * 150_000, rel=0.2)
    assert made["e_output"] == pytest.approx(share * 450_000, rel=0.2)
    assert tables.used("usd") == pytest.approx((made["e_input"] + 4 * made["e_output"]) / 10**6, rel=0.01, abs=0.001)


@pytest.mark.parametrize("why", ["the backend has lost it", "it is under way for ever", "it ended without a usage"])
async def test_the_estimate_stands_for_what_no_backend_tells(why: str, caplog: pytest.LogCaptureFixture) -> None:
    tables, works = Clocked(), Works()
    async with running(tables, works) as application:
        holder = await key(tables, Limits(token_quota=10**6, token_quota_period="month"))
        await begun(application, holder)
        await eventually(lambda: any("e_status" in row for row in tables.usage().values()))
        works.missing = why == "the backend has lost it"
        await application.roll_up()
        assert "e_input" not in tables.made()  # an object that was just made may not be known everywhere
        tables.time += 31 * DAY if why == "it is under way for ever" else 120
        works.status = "completed" if why == "it ended without a usage" else works.status
        await application.roll_up()
        asked = len(works.asked)
        tables.time += 300
        await application.roll_up()
        assert len(works.asked) == asked
    assert "keeping the estimate" in caplog.text
    assert tables.made()["e_est"]
    assert tables.made()["e_input"] == tables.made()["s_prompt"]
    if why != "it is under way for ever":  # for longer than the quota's period
        assert tables.used("tokens") > 500  # with the answer


async def test_a_run_is_charged_with_its_tools_and_as_a_sum_of_calls() -> None:
    tables, works = Clocked(), Works()
    prices = [{"model": "gpt-4o", "input": 1.0, "output": 1.0}, {"code_session": 0.03}, {"file_search": 0.0025}]
    async with running(tables, works, prices=prices) as application:
        holder = await key(tables, Limits(token_quota=10**7, budget_usd=100.0))
        assistant = await begun(application, holder, "/v1/assistants", model="gpt-4o")
        run = await begun(application, holder, "/v1/threads/runs", assistant_id=assistant)
        works.done(900_000, 100_000)
        works.more = {"tools": [{"type": "code_interpreter"}, {"type": "file_search"}]}
        called = [{"type": "code_interpreter"}, {"type": "file_search"}, {"type": "code_interpreter"}]
        works.steps = [
            {"step_details": {"type": "tool_calls", "tool_calls": [*called, {"type": "file_search"}]}},
            {"step_details": {"type": "message_creation", "message_creation": {"message_id": "msg_1"}}},
        ]
        await call(application, holder, f"/v1/threads/thread_made/runs/{run}", method="GET")
        await idle(application)
    made = next(row for row in tables.usage().values() if row["s_op"] == "threads.create_and_run")
    assert (made["e_input"], made["e_output"], made["e_sum"]) == (900_000, 100_000, True)
    assert (made["e_code_session"], made["e_file_search"], made["e_model"]) == (1, 2, "gpt-4o")
    assert tables.used("usd") == pytest.approx(1.0 + 0.03 + 2 * 0.0025)
    assert tables.used("tokens") == pytest.approx(1_000_000)


async def test_runs_are_admitted_only_as_far_as_a_quota_or_a_budget_reaches() -> None:
    for limits in (Limits(token_quota=10_000), Limits(budget_usd=0.05)):
        tables, works = Clocked(), Works()
        async with running(tables, works) as application:
            holder = await key(tables, limits)
            assistant = await begun(application, holder, "/v1/assistants", model="gpt-4o")
            asked = {"assistant_id": assistant}
            statuses = [(await call(application, holder, "/v1/threads/runs", asked)).status for _ in range(30)]
        assert statuses[0] == 200
        assert statuses[-1] == 403
        assert 1 < statuses.count(200) < 20


async def test_batches_are_admitted_only_as_far_as_a_budget_reaches() -> None:
    tables, works = Clocked(), Works()
    body = {"model": "g", "messages": [{"role": "user", "content": "word " * 100}]}
    line = json.dumps({"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body})
    asked: dict[str, Any] = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    async with running(tables, works) as application:
        holder = await key(tables, Limits(budget_usd=10.0, token_quota=1000))
        file = await uploaded(application, holder, "\n".join([line] * 1000))
        one = {**asked, "input_file_id": file}
        statuses = [(await call(application, holder, "/v1/batches", one)).status for _ in range(10)]
        admitted = statuses.count(200)
        assert statuses == [200] * admitted + [403] * (10 - admitted)
        assert admitted == 3  # of 2.99 $ each: 1,000 lines of 145 and 562 tokens at 1.25 and 5 $ a million
        works.done(1_000_000, 100_000)
        await application.roll_up()
        tables.time += 10  # longer than a denial is remembered
        again = [(await call(application, holder, "/v1/batches", one)).status for _ in range(2)]
        assert again == [200, 403]  # 5.25 $ are used
        works.done(1_000_000, 0)
        await application.roll_up()
    made = [row for row in tables.usage().values() if row["s_op"] == "batches.create" and row["e_status"] == 200]
    assert {(row["e_tier"], row["e_model"], row["e_sum"]) for row in made} == {("batch", "gpt-4o", True)}
    assert tables.used("usd") == pytest.approx(admitted * (1.25 + 0.5) + again.count(200) * 1.25)
    assert tables.used("tokens") == pytest.approx(0, abs=1e-6)


async def uploaded(application: Application, holder: str, lines: str) -> str:
    """The id of a file for batches."""
    parts = ('name="purpose"\r\n\r\nbatch', f'name="file"; filename="b.jsonl"\r\n\r\n{lines}')
    form = "".join(f"--b\r\nContent-Disposition: form-data; {part}\r\n" for part in parts) + "--b--\r\n"
    kind = {"content-type": "multipart/form-data; boundary=b", "content-length": str(len(form))}
    reply = await call(application, holder, "/v1/files", form.encode(), headers=kind)
    assert reply.status == 200, reply.body
    return str(json.loads(reply.body)["id"])


async def test_settled_responses_teach_what_later_ones_take_and_runs_do_not() -> None:
    tables, works = Clocked(), Works()
    async with running(tables, works) as application:
        holder = await key(tables, Limits(token_quota=10**9))
        await begun(application, holder)
        assistant = await begun(application, holder, "/v1/assistants", model="gpt-4o")
        before = expected_output(application)
        await begun(application, holder, "/v1/threads/runs", assistant_id=assistant)
        works.done(1_000_000, 9_000_000)
        (response,) = [row async for row in PendingIndex(tables).all() if row.key.startswith("response")]
        assert response.work is not None
        tables.time += 61
        await application.settler.settle(response, response.work)
        learnt = expected_output(application)
        await application.roll_up()
        assert expected_output(application) == learnt
    assert learnt > 100 * before


def expected_output(application: Application) -> float:
    """The longest answer that the limits of any operation expect."""
    limits = application.gateway._limiter._at_hand.calls.values()
    return max((one.experience.expected_output for one in limits if one.experience), default=240.0)


async def test_an_answer_without_a_status_settles_nothing() -> None:
    tables, works = Clocked(), Works()
    async with running(tables, works) as application:
        await begun(application, await key(tables))
        works.status = ""
        await application.roll_up()
        assert "e_input" not in tables.made()
        works.done(70, 30)
        tables.time += 300
        await application.roll_up()
    assert tables.tokens() == (70, 30)


async def test_a_settlement_that_a_call_has_begun_is_finished_before_the_process_ends() -> None:
    tables, works = Clocked(), Works()
    async with running(tables, works) as application:
        holder = await key(tables, Limits(token_quota=10**6))
        response = await begun(application, holder)
        works.done(70, 30)
        assert (await call(application, holder, f"{RESPONSES}/{response}", method="GET")).status == 200
    assert tables.tokens() == (70, 30)
    assert tables.used("tokens") == pytest.approx(100)


async def test_a_pass_asks_older_work_less_often() -> None:
    tables, works = Clocked(), Works()
    async with running(tables, works) as application:
        await begun(application, await key(tables))
        asked = []
        for _ in range(288):  # a day of the timer
            await application.roll_up()
            asked.append(len(works.asked))
            tables.time += 300
    assert asked[2] == 3
    assert 30 < asked[-1] < 60
