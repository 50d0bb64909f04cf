"""An attempt of a hedged call that another one has beaten: its backend generates on, and says what it charges."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from shared.config.document import Model, Timeouts
from shared.forwarding import late_attempts
from shared.types import BEATEN, Attempt, Call, Usage
from tests.harness.patience import eventually
from tests.harness.scripted_backends import Exchange, Forwarding, ScriptedBackend, chat, completion, forwarding

HEDGED = {"m": Model(hedge=True)}
TIMEOUTS = Timeouts(total=3.2)
REPORTED = Usage(70, 30)  # by the attempt that was beaten
ESTIMATE = Usage(chat().input_estimate, estimated=True)
type Ending = Callable[[Exchange], Awaitable[None]]


class Charges(list[tuple[int, Attempt]]):
    """Charges after the call has its answer."""

    async def admit(self, model: str) -> bool:
        return True

    def tried(self, number: int, attempt: Attempt) -> None: ...

    def charge(self, number: int, attempt: Attempt) -> None:
        self.append((number, attempt))

    @property
    def usages(self) -> list[Usage | None]:
        return [attempt.usage for _, attempt in self]


@asynccontextmanager
async def hedged(slow: Ending, seconds: float = 0.4) -> AsyncIterator[tuple[Forwarding, list[ScriptedBackend]]]:
    """Two backends. The second to be asked answers at once, and these seconds later the first one as `slow`; a call is
    hedged after 0.8 s, and an attempt has 3.2 s."""
    asked, hedge = 0, asyncio.Event()

    async def script(exchange: Exchange) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            await hedge.wait()
            await asyncio.sleep(seconds)
            await slow(exchange)
        else:
            exchange.answer(completion())
            hedge.set()

    async with forwarding(script, script, timeouts=TIMEOUTS, models=HEDGED) as (running, backends):
        yield running, backends


async def answered(running: Forwarding, call: Call, charges: Charges) -> tuple[Attempt, ...]:
    """The attempts of a call that has its answer, whose usage must be that of the second one."""
    sending = running.sending(call, charges)
    answer = await sending.run()
    assert answer.status == 200
    answer.close()
    return sending.attempts


async def nothing_is_left(running: Forwarding) -> None:
    await eventually(lambda: not running.late._tasks)
    assert [running.state(name).in_flight for name in "ab"] == [0, 0]


async def telling(exchange: Exchange) -> None:
    exchange.answer(completion(prompt=70, said=30))


async def test_the_slower_attempt_of_a_hedge_is_charged_what_its_backend_tells_later() -> None:
    charges = Charges()
    async with hedged(telling) as (running, backends):
        beaten, winner = await answered(running, chat(), charges)
        assert (beaten.problem, beaten.role, beaten.usage, winner.role) == (BEATEN, "try", None, "hedge")
        assert charges == []  # the caller did not wait for it
        await nothing_is_left(running)
        ((number, attempt),) = charges
        assert (number, attempt.role, attempt.target) == (1, "try", beaten.target)
        assert attempt.usage == REPORTED
        assert running.state(beaten.target.backend.name).health.faults == 0
        await answered(running, chat(), charges)  # and its connection is used again
        await answered(running, chat(), charges)
        assert all(len({one.connection for one in backend.received}) == 1 for backend in backends)


async def test_a_hedge_that_the_first_attempt_beats_is_charged_what_its_backend_tells_later() -> None:
    asked, charges, doubled = 0, Charges(), asyncio.Event()

    async def script(exchange: Exchange) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            await doubled.wait()
            exchange.answer(completion())
        else:
            doubled.set()
            await asyncio.sleep(0.4)
            exchange.answer(completion(prompt=70, said=30))

    async with forwarding(script, script, timeouts=TIMEOUTS, models=HEDGED) as (running, _):
        hedge, winner = await answered(running, chat(), charges)
        assert (hedge.problem, hedge.role, winner.role, charges) == (BEATEN, "hedge", "try", [])
        await nothing_is_left(running)
        assert [(number, attempt.role, attempt.usage) for number, attempt in charges] == [(1, "hedge", REPORTED)]


async def refusing(exchange: Exchange) -> None:
    exchange.answer({"error": {"code": "429", "message": "Too many."}}, 429, retry_after_ms="50")


async def failing(exchange: Exchange) -> None:
    exchange.answer({"error": {"code": "500", "message": "No."}}, 500)


async def breaking_off(exchange: Exchange) -> None:
    exchange.hang_up()


async def hanging(_: Exchange) -> None:
    await asyncio.sleep(60)


async def huge(exchange: Exchange) -> None:
    exchange.answer(completion("x" * 5 * 1024 * 1024, prompt=70, said=30))


@pytest.mark.parametrize(
    ("ending", "charged"),
    [
        (refusing, []),
        (failing, []),
        (breaking_off, []),
        (hanging, [ESTIMATE]),
        (huge, [ESTIMATE]),  # it is not read beyond the bound of an answer that is kept
    ],
)
async def test_a_beaten_attempt_that_tells_nothing_is_charged_as_any_other(
    ending: Ending, charged: list[Usage]
) -> None:
    charges = Charges()
    async with hedged(ending) as (running, _):
        await answered(running, chat(), charges)
        await nothing_is_left(running)
        assert charges.usages == charged


async def test_a_beaten_attempt_is_charged_its_prompt_at_once_when_the_process_ends() -> None:
    charges = Charges()
    async with hedged(telling, 60) as (running, _):
        await answered(running, chat(), charges)
        await asyncio.wait_for(running.late.close(), 1.5)
        assert charges.usages == [ESTIMATE]
        await nothing_is_left(running)


async def test_no_more_attempts_go_on_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_attempts, "_MOST", 0)
    charges = Charges()
    async with hedged(telling) as (running, _):
        beaten, _ = await answered(running, chat(), charges)
        assert (beaten.problem, beaten.usage, charges) == (BEATEN, ESTIMATE, [])
        await nothing_is_left(running)


async def test_a_beaten_stream_ends_at_once_and_is_charged_its_prompt() -> None:
    left, charges = asyncio.Event(), Charges()

    async def script(exchange: Exchange) -> None:
        exchange.stream()
        if not first:
            first.append(exchange)
            try:
                for _ in range(1000):
                    await exchange.raw(b": comment\n\n")
                    await asyncio.sleep(0.02)
            finally:
                left.set()
        await exchange.event({"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}]})
        await exchange.event("[DONE]")
        exchange.end()

    first: list[Exchange] = []
    async with forwarding(script, script, timeouts=TIMEOUTS, models=HEDGED) as (running, _):
        call = chat(stream=True)
        beaten, _ = await answered(running, call, charges)
        assert (beaten.problem, beaten.usage) == (BEATEN, Usage(call.input_estimate, estimated=True))
        await asyncio.wait_for(left.wait(), 1.5)
        await nothing_is_left(running)
    assert charges == []


@pytest.mark.parametrize("attempts", [1, 2])
async def test_a_caller_that_leaves_a_hedged_call_leaves_no_attempt_behind(attempts: int) -> None:
    charges = Charges()
    async with forwarding(hanging, hanging, timeouts=TIMEOUTS, models=HEDGED) as (running, backends):
        sending = running.sending(chat(), charges)
        task = asyncio.ensure_future(sending.run())
        await eventually(lambda: sum(len(backend.received) for backend in backends) == attempts)
        task.cancel()
        await asyncio.wait((task,))
        await nothing_is_left(running)
        assert len(sending.attempts) == sum(len(backend.received) for backend in backends) == attempts
    assert charges == []
