"""Calls take of their limits and leave on record what they used, however they end: in the process, turn by turn."""

import asyncio
import contextlib
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from shared.config.limits import Limits
from shared.errors import StoreUnavailable
from shared.process.application import Application
from shared.routing._health import HEALTHY
from tests.harness.in_process import Exchange, Reply, Tables, backend, call, chat, gateway, key
from tests.harness.patience import eventually

CHAT = "/v1/chat/completions"
ASKED = {"model": "gpt-4o", "messages": [{"role": "user", "content": "word " * 2000}]}
STREAMED = {**ASKED, "stream": True}
MODELS = {"gpt-4o": "g"}
QUOTA = Limits(token_quota=1_000_000)


def used(tables: Tables, scope: str, dimension: str) -> float:
    """The used amounts in the row of a limit."""
    rows = next(rows for partition, rows in tables.rows("limits").items() if partition.startswith(scope))
    return float(rows["0"][0].get(f"{dimension}_used", 0.0))


def words(count: int) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": "hello world and more of it " * count}}]}


class Silent:
    """A backend that does not answer. `asked`: it has received a request."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        self.asked.set()
        await asyncio.sleep(100)


async def endless(exchange: Exchange) -> None:
    """A stream that never ends, or a short whole answer."""
    if not exchange.fields.get("stream"):
        exchange.answer(200, chat())
        return
    exchange.stream()
    await exchange.event(words(400))
    await asyncio.sleep(100)


async def cancelled(task: asyncio.Task[Reply]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", ["the caller hangs up", "the server cancels"])
async def test_a_call_that_ends_before_its_answer_is_booked_alike_whoever_ended_it(how: str, stream: bool) -> None:
    tables, silent = Tables(), Silent()
    async with (
        backend("a", MODELS, silent) as a,
        gateway(tables, [a]) as application,
    ):
        holder = await key(tables, Limits(token_quota=1_000_000))
        gone = asyncio.Event()
        task = asyncio.ensure_future(call(application, holder, CHAT, STREAMED if stream else ASKED, gone=gone))
        await silent.asked.wait()
        if how == "the caller hangs up":
            gone.set()
            await asyncio.gather(task)
        else:
            await cancelled(task)
    (row,) = tables.usage().values()
    assert (row["e_status"], row["e_ended"], row["e_backend"]) == (499, "hung_up", "a")
    assert 1500 < int(row["e_input"]) < 3000
    assert used(tables, "key:", "tokens") == pytest.approx(int(row["e_input"]))


async def test_tokens_counted_at_shutdown_reach_the_quota() -> None:
    tables = Tables()
    async with backend("a", MODELS, endless) as a, gateway(tables, [a]) as application:
        holder = await key(tables, Limits(token_quota=1_000_000))
        replies = [Reply() for _ in range(5)]
        calls = [asyncio.ensure_future(call(application, holder, CHAT, STREAMED, reply=reply)) for reply in replies]
        await eventually(lambda: all(b"more of it" in reply.body for reply in replies))
        for task in calls:  # as a server does at the end of its grace
            await cancelled(task)
    rows = tables.usage().values()
    assert all(row["e_counted"] and row["e_output"] for row in rows)
    recorded = sum(int(row["e_input"]) + int(row["e_output"]) for row in rows)
    assert recorded > 5 * 3000
    assert used(tables, "key:", "tokens") == pytest.approx(recorded)


@pytest.mark.parametrize("stays", [True, False])
async def test_what_the_slower_half_of_a_hedge_tells_later_is_on_record_and_counts_against_the_quota(
    stays: bool,
) -> None:
    """Also if the process ends before it tells: the prompt is estimated then."""
    tables, asked, answered = Tables(), 0, asyncio.Event()

    async def script(exchange: Exchange) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            await answered.wait()
            exchange.answer(200, chat(2000, 500))
        else:
            exchange.answer(200, chat(2000, 3))

    hedged = {"models": {"gpt-4o": {"hedge": True}}, "timeouts": {"total": 4.0}}
    async with (
        backend("a", MODELS, script) as a,
        backend("b", MODELS, script) as b,
        gateway(tables, [a, b], **hedged) as application,
    ):
        reply = await call(application, await key(tables, QUOTA), CHAT, ASKED)
        assert (reply.status, reply.headers["x-gateway-attempts"]) == (200, "2")
        if stays:
            answered.set()
            await eventually(lambda: any(row.get("e_output") == 500 for row in tables.usage().values()))
    charge, served = sorted(tables.usage().values(), key=lambda row: "e_role" not in row)
    assert (served["e_input"], served["e_output"]) == (2000, 3)
    assert (charge["e_role"], charge["e_backend"] != served["e_backend"]) == ("try", True)
    assert (charge["e_output"], "e_est" in charge) == ((500, False) if stays else (0, True))
    total = sum(int(row["e_input"]) + int(row["e_output"]) for row in (charge, served))
    assert used(tables, "key:", "tokens") == pytest.approx(total)


async def test_a_slot_is_free_as_soon_as_its_caller_hangs_up() -> None:
    tables = Tables()
    async with backend("a", MODELS, endless) as a, gateway(tables, [a]) as application:
        holder = await key(tables, Limits(max_concurrent=1, requests_per_minute=1000))
        gone, reply = asyncio.Event(), Reply()
        task = asyncio.ensure_future(call(application, holder, CHAT, STREAMED, gone=gone, reply=reply))
        await eventually(lambda: reply.body)
        assert (await call(application, holder, CHAT, ASKED)).status == 429
        gone.set()
        await task
        assert (await call(application, holder, CHAT, ASKED)).status == 200


async def test_the_end_of_a_stream_without_usage_does_not_wait_for_the_tokenizer() -> None:
    async def without_usage(exchange: Exchange) -> None:
        exchange.stream()
        await exchange.event(words(1))
        await exchange.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        await exchange.event("[DONE]")
        exchange.end()

    tables = Tables()
    async with backend("a", MODELS, without_usage) as a, gateway(tables, [a]) as application:
        reply = await call(application, await key(tables), CHAT, STREAMED)
        (estimate,) = tables.usage().values()
        assert reply.complete
        assert "e_counted" not in estimate  # a tokenizer takes a second to start
        assert estimate["e_output"]
    (row,) = tables.usage().values()
    assert row["e_counted"]
    assert (row["e_status"], row["e_est"]) == (200, True)
    assert row["e_input"] == pytest.approx(2008, abs=20)


@pytest.mark.parametrize("in_status_line", [True, False])
@pytest.mark.parametrize(("code", "status"), [("rate_limit_exceeded", 429), ("context_length_exceeded", 400)])
async def test_an_error_in_a_stream_takes_as_little_as_one_in_a_status_line(
    code: str, status: int, in_status_line: bool
) -> None:
    error = {"code": code, "message": "Try again in 17 seconds."}

    async def tell(exchange: Exchange) -> None:
        if in_status_line:
            exchange.answer(status, {"error": error})
            return
        exchange.stream()
        begun = {"id": "resp_1", "status": "in_progress", "usage": None}
        await exchange.event({"type": "response.created", "response": begun})
        await exchange.event({"type": "response.failed", "response": {**begun, "status": "failed", "error": error}})
        exchange.end()

    tables = Tables()
    async with (
        backend("a", MODELS, tell) as a,
        backend("b", MODELS, tell) as b,
        gateway(tables, [a, b]) as application,
    ):
        holder = await key(tables, QUOTA)
        asked = {"model": "gpt-4o", "input": "word " * 2000, "stream": True, "store": False}
        replies = [await call(application, holder, "/v1/responses", asked) for _ in range(4)]
        states = application._running.backends.breakers.all().values()
        assert {state.health.faults for state in states} == {0}
    relayed = status if in_status_line or status == 429 else 200
    assert [reply.status for reply in replies] == [relayed] * 4
    assert all(code.encode() in reply.body for reply in replies)
    assert {(row["e_input"], row["e_output"]) for row in tables.usage().values()} == {(0, 0)}
    assert used(tables, "key:", "tokens") == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
@pytest.mark.parametrize("form", ["whole", "stream", "error"])
async def test_an_answer_that_a_backend_compresses_is_relayed_decoded_and_recorded_as_any_other(
    form: str, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    said = {"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}
    events = [f"data: {text}\n\n" for text in (json.dumps(said), json.dumps(usage), "[DONE]")]
    refusal = json.dumps({"error": {"code": "content_filter", "message": "No."}})
    body = {"whole": json.dumps(chat()), "stream": "".join(events), "error": refusal}[form].encode()

    async def script(exchange: Exchange) -> None:
        if form == "stream":
            exchange.stream(encoding=encoding)
            await exchange.piece(compress(body))
            exchange.end()
        else:
            exchange.answer(400 if form == "error" else 200, compress(body), encoding=encoding)

    tables = Tables()
    async with backend("a", MODELS, script) as a, gateway(tables, [a]) as application:
        asked = {**ASKED, "stream": form == "stream", "stream_options": {"include_usage": True}}
        reply = await call(application, await key(tables), CHAT, asked if form == "stream" else ASKED)
    assert (reply.status, reply.body) == (400 if form == "error" else 200, body)
    assert "content-encoding" not in reply.headers
    (row,) = tables.usage().values()
    recorded = (row["e_input"], row["e_output"], "e_est" in row)
    assert recorded == ((2008, 0, True) if form == "error" else (7, 3, False))  # reading a filtered prompt is charged


@pytest.mark.parametrize("said", [b"<html>gateway</html>", b'{"error":{"message":"boom","type":"server_error"}}'])
async def test_a_failure_of_every_backend_takes_nothing_of_a_request_quota(said: bytes) -> None:
    async def fail(exchange: Exchange) -> None:
        exchange.answer(500, said)

    tables = Tables()
    async with backend("a", MODELS, fail) as a, gateway(tables, [a]) as application:
        holder = await key(tables, Limits(request_quota=3))
        statuses = [(await call(application, holder, CHAT, ASKED)).status for _ in range(6)]
    assert 403 not in statuses
    assert min(statuses) >= 500
    assert used(tables, "key:", "requests") == pytest.approx(0, abs=1e-6)


async def test_a_model_that_does_not_exist_leaves_no_row() -> None:
    tables = Tables()
    async with backend("a", MODELS, endless) as a, gateway(tables, [a]) as application:
        holder = await key(tables)
        assert (await call(application, holder, "/v1/models/unknown", method="GET")).status == 404
        assert (await call(application, holder, "/v1/models/gpt-4o", method="GET")).status == 200
    (row,) = tables.usage().values()
    assert (row["s_model"], row["e_status"]) == ("gpt-4o", 200)


async def too_long_for_the_small(exchange: Exchange) -> None:
    if exchange.fields["model"] == "small":
        error = {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}
        exchange.answer(400, {"error": error})
    else:
        exchange.answer(200, chat(10_000, 2_000))


@pytest.mark.parametrize("configured", [True, False])
async def test_a_fallback_counts_against_the_limits_of_the_model_that_serves(configured: bool) -> None:
    tables, models = Tables(), {"gpt-4o": "g", "gpt-4o-mini": "small"}
    limited = {
        "gpt-4o": {"limits": {"requests_per_minute": 2}},
        "gpt-4o-mini": {"limits": {"token_quota": 10**6}, **({"fallbacks": ["gpt-4o"]} if configured else {})},
    }
    named = {} if configured else {"x-gateway-fallback": "gpt-4o"}
    async with (
        backend("a", models, too_long_for_the_small) as a,
        gateway(tables, [a], models=limited) as application,
    ):
        holder = await key(tables, Limits(token_quota=10**6))
        asked = {**ASKED, "model": "gpt-4o-mini"}
        by_fallback = [await call(application, holder, CHAT, asked, headers=named) for _ in range(4)]
        itself = await call(application, holder, CHAT, ASKED)
    assert [reply.status for reply in by_fallback] == [200, 200, 400, 400]  # the refusal of the model that was asked
    assert [reply.headers.get("x-gateway-fallback") for reply in by_fallback] == ["gpt-4o", "gpt-4o", None, None]
    assert itself.status == 429
    assert used(tables, "key:", "tokens") == pytest.approx(24_000)
    assert used(tables, "model:gpt-4o-mini", "tokens") == pytest.approx(0, abs=1e-6)


class SlowTeam(Tables):
    """The rows of teams' limits are read slowly."""

    def table(self, name: str) -> Any:
        table = super().table(name)
        if name != "limits":
            return table
        get = table.get

        async def slowly(partition: str, key: str) -> Any:
            if partition.startswith("team"):
                await asyncio.sleep(0.2)
            return await get(partition, key)

        table.get = slowly  # type: ignore[method-assign]
        return table


async def test_a_call_cancelled_while_two_limits_are_asked_returns_what_one_has_admitted() -> None:
    tables, teams = SlowTeam(), {"teams": {"red": {"requests_per_minute": 1000}}}
    async with backend("a", MODELS, endless) as a, gateway(tables, [a], limits=teams) as application:
        holder = await key(tables, Limits(max_concurrent=1), team="red")
        task = asyncio.ensure_future(call(application, holder, CHAT, ASKED))
        await asyncio.sleep(0.1)
        await cancelled(task)
        assert [(await call(application, holder, CHAT, ASKED)).status for _ in range(3)] == [200] * 3


class Unreadable(Tables):
    """Rows about objects cannot be read while `away`."""

    away = False

    def table(self, name: str) -> Any:
        table = super().table(name)
        if name.startswith("affinity"):
            get = table.get

            async def unreachable(partition: str, key: str) -> Any:
                if self.away:
                    raise StoreUnavailable("away")
                return await get(partition, key)

            table.get = unreachable  # type: ignore[method-assign]
        return table


async def test_a_run_is_answered_while_the_table_is_out_of_reach() -> None:
    async def script(exchange: Exchange) -> None:
        run = {"id": "run_12345", "object": "thread.run", "status": "completed", "model": "gpt-4o"}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        thread = {"id": "thread_12345", "object": "thread"}
        exchange.answer(200, {**run, "usage": usage} if "/runs/" in exchange.path else thread)

    tables = Unreadable()
    async with backend("a", MODELS, script) as a, gateway(tables, [a]) as application:
        holder = await key(tables)
        assert (await call(application, holder, "/v1/threads", {})).status == 200
        tables.away = True
        reply = await call(application, holder, "/v1/threads/thread_12345/runs/run_12345", method="GET")
    assert reply.status == 200, reply.body
    assert b'"completion_tokens": 5' in reply.body


# --- every turn of the event loop ---------------------------------------------------------------------------------


async def by_request(exchange: Exchange) -> None:
    """Answer a stored response, a stream or a chat; every third of those fails first."""
    if "responses" in exchange.path:
        usage = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
        made = {"id": f"resp_{exchange.number:05d}", "object": "response", "status": "completed", "output": []}
        exchange.answer(200, {**made, "usage": usage})
    elif exchange.fields.get("stream"):
        exchange.stream()
        await exchange.event({"choices": [{"index": 0, "delta": {"content": "a"}}]})
        await exchange.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        await exchange.event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}})
        await exchange.event("[DONE]")
        exchange.end()
    elif exchange.number % 3 == 0:
        exchange.answer(503, b"x")
    else:
        exchange.answer(200, chat())


RESPONSE = {"model": "gpt-4o", "input": "x"}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "whole": (CHAT, {"model": "gpt-4o", "messages": []}, {}),
    "stream": (CHAT, {"model": "gpt-4o", "messages": [], "stream": True}, {}),
    "hedged": (CHAT, {"model": "gpt-4o", "messages": []}, {"x-gateway-hedge": "true", "x-request-timeout-ms": "20"}),
    "stored response": ("/v1/responses", RESPONSE, {}),
    "background response": ("/v1/responses", {**RESPONSE, "background": True}, {}),
}


def in_use(application: Application) -> list[str]:
    """The reservations and the calls under way at deployments."""
    states = application.gateway._dispatcher._forwarder.breakers.all().values()
    limits = application.gateway._limiter._at_hand.scopes.values()
    return [
        *("in flight" for state in states if state.in_flight or state.movable),
        *(limit.scope.key for limit in limits if limit._exchange.holding.under_way),
    ]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("end", ["gone", "cancelled"])
async def test_a_call_that_ends_after_any_turn_is_recorded_once_and_holds_nothing(case: str, end: str) -> None:
    path, body, headers = CASES[case]
    tables, teams = Tables(), {"teams": {"red": {"requests_per_minute": 100_000}}}
    models = {"gpt-4o": "g"}
    leaks: Counter[str] = Counter()
    async with (
        backend("a", models, by_request) as a,
        backend("b", models, by_request) as b,
        gateway(tables, [a, b], limits=teams, heartbeat_seconds=0.05) as application,
    ):
        limits = Limits(max_concurrent=100, token_quota=10**8, requests_per_minute=100_000)
        holder = await key(tables, limits, team="red")
        breakers = application.gateway._dispatcher._forwarder.breakers
        assert (await call(application, holder, CHAT, CASES["whole"][1])).status == 200
        for turns in range(60):
            gone = asyncio.Event()
            task = asyncio.ensure_future(call(application, holder, path, body, headers=headers, gone=gone))
            for _ in range(turns):
                await asyncio.sleep(0)
            if end == "gone":
                gone.set()
            else:
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for state in breakers.all().values():
                state.health = HEALTHY  # the scripted failures shall not eject a backend
            await settled(lambda: not in_use(application))
            leaks.update(in_use(application))
        await settled(lambda: all("e_status" in row for row in tables.usage().values()))
        assert not leaks
    assert [key for key, row in tables.usage().items() if "e_status" not in row] == []
    (holding,) = (rows["0"][0] for scope, rows in tables.rows("limits").items() if scope.startswith("key:"))
    recorded = sum(int(row["e_input"]) + int(row["e_output"]) for row in tables.usage().values())
    assert holding["tokens_used"] == pytest.approx(recorded)


async def settled(condition: Callable[[], bool]) -> None:
    """Wait for a condition, for five seconds."""
    with contextlib.suppress(TimeoutError):
        await eventually(condition, 5.0)
