"""A deployment that hangs is noticed by one doubled call, and a deployment that is only slow is not taken for one."""

import asyncio
import time

import pytest

from shared.forwarding.response import OpenAnswer
from shared.routing.silence import Look, look, patience
from shared.types import Call
from tests.harness.scripted_backends import Exchange, Forwarding, ScriptedBackend, chat, completion, forwarding


async def answering(exchange: Exchange) -> None:
    exchange.answer(completion())


async def ask(running: Forwarding, call: Call) -> float:
    """The seconds until the answer."""
    started = time.monotonic()
    answer = await running.sending(call).run()
    answer.close()
    assert answer.status == 200
    return time.monotonic() - started


def requests(backends: list[ScriptedBackend]) -> int:
    return sum(len(backend.received) for backend in backends)


async def test_long_answers_after_short_ones_are_not_doubled() -> None:
    async def script(exchange: Exchange) -> None:
        if b"long" in exchange.body:
            await asyncio.sleep(4.5)
        exchange.answer(completion())

    async with forwarding(script, script) as (running, backends):
        for _ in range(30):
            await ask(running, chat("short"))
        before = requests(backends)
        await asyncio.gather(*(ask(running, chat("long " * 2000)) for _ in range(40)))
        assert requests(backends) - before <= 42  # at most one test for each deployment
        assert {running.state(name).health.faults for name in "ab"} == {0}


async def test_while_a_region_hangs_nobody_waits_long_and_hardly_a_call_is_doubled() -> None:
    hangs = asyncio.Event()

    async def hanging(exchange: Exchange) -> None:
        if hangs.is_set():
            await asyncio.sleep(60)
        exchange.answer(completion())

    async with forwarding(hanging, answering, answering) as (running, backends):
        for _ in range(9):
            await ask(running, chat())
        before = requests(backends)
        hangs.set()
        calls = []
        for _ in range(140):
            calls.append(asyncio.ensure_future(ask(running, chat())))
            await asyncio.sleep(0.1)
        seconds = await asyncio.gather(*calls)
        assert max(seconds) < 8
        hung = len(backends[0].received) - 3
        # Each call that the silent region has received was moved once. One was doubled, and each probe only moved.
        assert requests(backends) - before == len(calls) + hung
        assert running.state("a").health.half_open


async def test_a_single_call_that_hangs_is_no_sign_while_bytes_come_on_others() -> None:
    """One stream of the deployment goes on, so the silence of another call is that call's alone."""

    async def script(exchange: Exchange) -> None:
        if b"silent" in exchange.body:
            await asyncio.sleep(60)
        exchange.stream()
        for _ in range(50):
            await exchange.event({"choices": [{"index": 0, "delta": {"content": "word "}}]})
            await asyncio.sleep(0.1)

    async with forwarding(script, answering) as (running, backends):
        streaming = await running.sending(chat(stream=True)).run()
        assert isinstance(streaming, OpenAnswer)
        waiting = asyncio.ensure_future(ask(running, chat("silent")))
        while len(backends[0].received) < 2:
            await asyncio.sleep(0.05)
            if waiting.done():
                waiting = asyncio.ensure_future(ask(running, chat("silent")))
        doubled = len(backends[1].received)
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            await streaming.content.readany()
            streaming.on_chunk()
        assert len(backends[1].received) == doubled
        waiting.cancel()
        streaming.close()


@pytest.mark.parametrize(
    ("silent", "since_test", "probing", "result"),
    [
        (2.0, 99.0, False, Look("wait", 1.0)),
        (3.0, 99.0, False, Look("test")),
        (3.0, 29.0, False, Look("wait", 1.0)),
        (3.0, 1.0, True, Look("hangs")),
        (2.0, 99.0, True, Look("wait", 1.0)),
    ],
)
def test_a_silent_deployment_is_tested_at_most_every_thirty_seconds(
    silent: float, since_test: float, probing: bool, result: Look
) -> None:
    assert look(silent, 3.0, since_test, probing=probing) == result


@pytest.mark.parametrize(("usual", "seconds"), [(None, 20.0), (200.0, 3.0), (5000.0, 15.0)])
def test_the_patience_is_three_times_the_usual_and_at_least_three_seconds(usual: float | None, seconds: float) -> None:
    assert patience(usual) == seconds
