"""Batches of messages are settled from all of their results, exactly once, or by their estimate when none are left.

In the process, with a scripted backend and tables in memory whose clock a test moves."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shared.affinity.pending import PendingIndex
from shared.config.limits import Limits
from shared.process.application import Application
from tests.harness.in_process import Exchange, backend, call, gateway, key
from tests.settlement.test_settlement import DAY, Clocked

MODEL = "claude-sonnet-5-5"
BATCHES = "/v1/messages/batches"
PARAMS = {"model": MODEL, "max_tokens": 2000, "messages": [{"role": "user", "content": "word " * 8000}]}
ASKED = {"requests": [{"custom_id": str(number), "params": PARAMS} for number in range(3)]}


class Batches:
    """A backend with one batch. `results`: the bytes of its results; `about`: fields of the batch."""

    def __init__(self) -> None:
        self.about: dict[str, Any] = {"processing_status": "in_progress", "request_counts": {"processing": 3}}
        self.results = b""
        self.asked: list[str] = []

    def end(self, *usages: tuple[int, int], expired: int = 0, available: int | None = None) -> None:
        """The batch has ended with these answers. `available`: the results that it has at the moment."""
        results: list[dict[str, Any]] = [{"type": "expired"}] * expired
        for read, written in usages:
            usage = {"input_tokens": read, "output_tokens": written}
            results.append({"type": "succeeded", "message": {"model": MODEL, "usage": usage}})
        lines = [json.dumps({"custom_id": "x", "result": result}).encode() + b"\n" for result in results]
        self.results = b"".join(lines[:available])
        counts = {"processing": 0, "succeeded": len(usages), "expired": expired}
        self.about |= {"processing_status": "ended", "request_counts": counts}

    async def __call__(self, exchange: Exchange) -> None:
        path = exchange.path.partition("?")[0]
        if path.endswith("/results"):
            self.asked.append("results")
            exchange.answer(200 if self.results else 404, self.results or {"error": {"message": "none"}})
        else:
            self.asked.append("batch")
            exchange.answer(200, {"id": "msgbatch_00001", "type": "message_batch"} | self.about)


@asynccontextmanager
async def running(tables: Clocked, batches: Batches) -> AsyncIterator[Application]:
    async with (
        backend("a", {MODEL: MODEL}, batches) as a,
        gateway(tables, [{**a, "kind": "anthropic"}]) as application,
    ):
        yield application


async def begun(tables: Clocked, application: Application, limits: Limits = Limits()) -> str:  # noqa: B008 - frozen
    """The key whose batch has begun."""
    holder = await key(tables, limits)
    assert (await call(application, holder, BATCHES, ASKED)).status == 200
    return holder


async def test_only_whole_results_are_booked() -> None:
    tables, batches = Clocked(), Batches()
    async with running(tables, batches) as application:
        await begun(tables, application)
        batches.end((10, 1), (20, 2), expired=1, available=2)
        tables.time += 61
        await application.roll_up()
        assert "e_input" not in tables.made()
        batches.end((10, 1), (20, 2), expired=1)
        for _ in range(3):
            tables.time += 4000
            await application.roll_up()
    assert tables.tokens() == (30, 3)
    assert batches.asked.count("results") == 2


async def test_results_that_are_gone_leave_the_estimate() -> None:
    tables, batches = Clocked(), Batches()
    async with running(tables, batches) as application:
        await begun(tables, application, Limits(budget_usd=1.0))
        (row,) = [row async for row in PendingIndex(tables).all()]
        assert row.work is not None
        [hold] = row.work.held.values()
        batches.end((10, 1))
        batches.results = b""
        batches.about["archived_at"] = "2026-12-20T00:00:00Z"
        tables.time += 61
        await application.roll_up()
    read, written = tables.tokens()
    assert (tables.made()["e_est"], tables.made()["e_tier"]) == (True, "batch")
    assert read > 24_000
    assert written > 300
    usd = (read * 1.0 + written * 5.0) / 1e6  # half of 2 and 10
    assert tables.used("usd") == pytest.approx(usd)
    assert hold.usd == pytest.approx(usd, rel=0.3)
    assert hold.tokens == 0  # its pace is not the caller's


async def test_a_batch_that_never_ends_is_estimated_after_its_retention() -> None:
    tables, batches = Clocked(), Batches()
    async with running(tables, batches) as application:
        await begun(tables, application)
        tables.time += 28 * DAY
        await application.roll_up()
        assert "e_input" not in tables.made()
        tables.time += 2 * DAY
        await application.roll_up()
    assert tables.made()["e_est"]


async def test_two_instances_that_see_the_end_at_once_book_it_once() -> None:
    tables, batches = Clocked(), Batches()
    async with backend("a", {MODEL: MODEL}, batches) as a:
        entry = {**a, "kind": "anthropic"}
        async with gateway(tables, [entry]) as one, gateway(tables, [entry]) as two:
            holder = await begun(tables, one, Limits(budget_usd=1.0))
            batches.end((100_000, 10_000), (100_000, 10_000))
            reads = (call(some, holder, f"{BATCHES}/msgbatch_00001", method="GET") for some in (one, two) * 4)
            assert {reply.status for reply in await asyncio.gather(*reads)} == {200}
            for some in (one, two):
                await some.settler._settlements.tasks.finish(5)
                await some.roll_up()
    assert tables.tokens() == (200_000, 20_000)
    assert tables.used("usd") == pytest.approx(0.2 + 0.1)  # half of 2 and 10, and no long context


async def test_a_table_that_fails_between_row_and_mark_books_it_once() -> None:
    tables, batches = Clocked(), Batches()
    async with running(tables, batches) as application:
        await begun(tables, application, Limits(budget_usd=1.0))
        batches.end((100_000, 0))
        tables.broken = {"pending"}
        tables.time += 61
        await application.roll_up()
        assert tables.tokens() == (100_000, 0)  # the row is there, the mark is not
        tables.broken = set()
        tables.time += 4000
        await application.roll_up()
    assert tables.tokens() == (100_000, 0)
    assert tables.used("usd") == pytest.approx(0.1)
