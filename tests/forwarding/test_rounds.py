"""Calls that wait and are tried again when every backend has failed or throttled them."""

import asyncio
import contextlib
import time

import pytest

from shared.config.document import RetrySettings, Timeouts
from shared.errors import RateLimitExceeded
from shared.forwarding._rounds import Rounds
from shared.forwarding.forwarded_call import ForwardingFailed
from shared.forwarding.response import WholeAnswer
from shared.types import Attempt
from tests.harness.patience import eventually
from tests.harness.scripted_backends import Exchange, Script, chat, completion, forwarding

PUBLISHED = RetrySettings(count=5, interval=1, delta=1, max_interval=8)
QUICK = RetrySettings(count=3, interval=0.1, delta=0.05, max_interval=0.4)
DOWN = {"error": {"message": "down", "code": "down"}}


class Recorded:
    """A call on record, at no limits."""

    async def admit(self, model: str) -> bool:
        return True

    def tried(self, number: int, attempt: Attempt) -> None: ...

    def charge(self, number: int, attempt: Attempt) -> None: ...


def failing(times: int, status: int = 503, received: list[float] | None = None, **headers: str) -> Script:
    """A backend that fails so many times, and then answers."""
    left = [times]

    async def answer(exchange: Exchange) -> None:
        if received is not None:
            received.append(time.monotonic())
        left[0] -= 1
        exchange.answer(DOWN, status, **headers) if left[0] >= 0 else exchange.answer(completion())

    return answer


@pytest.mark.parametrize(
    ("settings", "waits"),
    [
        (PUBLISHED, [1, 2, 4, 8, 8]),
        (RetrySettings(count=4, interval=2), [2, 2, 2, 2]),
        (RetrySettings(count=3, interval=1, delta=2), [1, 3, 5]),
        (RetrySettings(), []),
    ],
)
def test_waits_grow_as_configured(settings: RetrySettings, waits: list[float]) -> None:
    rounds = Rounds(settings)
    seen = iter(lambda: rounds.wait(0.0, 200.0, 0.5), None)
    assert [round(wait, 6) for wait in seen] == waits


def test_waits_are_spread_by_a_fifth_and_no_longer_than_the_longest() -> None:
    waits = [Rounds(PUBLISHED).wait(0.0, 200.0, chance) for chance in (0.0, 1.0)]
    assert waits == pytest.approx([0.8, 1.2])
    rounds = Rounds(PUBLISHED)
    assert max(filter(None, (rounds.wait(0.0, 200.0, 1.0) for _ in range(5)))) == 8


def test_no_wait_is_begun_that_the_call_has_no_time_for_or_that_is_longer_than_the_longest() -> None:
    assert Rounds(PUBLISHED).wait(0.0, 0.9, 0.5) is None
    assert Rounds(PUBLISHED).wait(5.0, 200.0, 0.5) == 5.0
    assert Rounds(PUBLISHED).wait(8.1, 200.0, 0.5) is None


async def test_two_backends_that_are_both_down_once_answer_in_about_a_second() -> None:
    async with forwarding(failing(1), failing(1), retry=PUBLISHED) as (running, (first, second)):
        began = time.monotonic()
        call = running.sending(chat(), Recorded())
        answer = await call.run()
        took = time.monotonic() - began
        answer.close()
    assert answer.status == 200
    assert 0.75 < took < 10
    assert sorted((len(first.received), len(second.received))) == [1, 2]
    assert [attempt.status for attempt in call.attempts] == [503, 503, 200]


async def test_failover_stays_immediate() -> None:
    received: list[float] = []
    async with forwarding(failing(0), failing(9), failing(9), retry=PUBLISHED) as (running, _):
        seconds = []
        for _ in range(3):
            began = time.monotonic()
            (await running.sending(chat(), Recorded()).run()).close()
            seconds.append(time.monotonic() - began)
        assert sorted(seconds)[1] < 0.5  # two begin at backends that fail; a pause of the machine lengthens one call
    assert received == []


async def test_what_goes_on_failing_is_answered_with_the_error_after_the_last_round() -> None:
    async with forwarding(failing(9), retry=QUICK) as (running, (backend,)):
        answer = await running.sending(chat(), Recorded()).run()
        assert isinstance(answer, WholeAnswer)
    assert (answer.status, len(backend.received)) == (503, 1 + QUICK.count)


async def test_throttled_backends_are_not_asked_before_their_time() -> None:
    received: list[float] = []
    retry = RetrySettings(count=1, interval=0.1, max_interval=2)
    async with forwarding(failing(1, 429, received, retry_after_ms="600"), retry=retry) as (running, _):
        answer = await running.sending(chat(), Recorded()).run()
        answer.close()
    assert answer.status == 200
    assert 0.6 <= received[1] - received[0] < 10


async def test_a_wait_longer_than_the_longest_is_left_to_the_caller() -> None:
    async with forwarding(failing(9, 429, retry_after="7"), retry=QUICK) as (running, (backend,)):
        began = time.monotonic()
        with pytest.raises(ForwardingFailed) as failed:
            await running.sending(chat(), Recorded()).run()
    assert isinstance(failed.value.error, RateLimitExceeded)
    assert 6 < failed.value.error.retry_after <= 8
    assert time.monotonic() - began < 5
    assert len(backend.received) == 1


@pytest.mark.parametrize("status", [400, 401, 404])
async def test_what_cannot_pass_is_not_waited_for(status: int) -> None:
    async with forwarding(failing(9, status), retry=QUICK) as (running, (backend,)):
        with contextlib.suppress(ForwardingFailed):
            (await running.sending(chat(), Recorded()).run()).close()
    assert len(backend.received) == 1


async def test_a_wait_keeps_the_time_of_the_call() -> None:
    retry = RetrySettings(count=50, interval=0.8)
    async with forwarding(failing(99), retry=retry, timeouts=Timeouts(total=3.0)) as (running, (backend,)):
        began = time.monotonic()
        answer = await running.sending(chat(), Recorded()).run()
        assert isinstance(answer, WholeAnswer)
    assert time.monotonic() - began < 3.0
    assert 2 <= len(backend.received) <= 5


async def test_a_caller_that_hangs_up_ends_the_wait() -> None:
    async with forwarding(failing(9), retry=PUBLISHED) as (running, (backend,)):
        call = asyncio.create_task(running.sending(chat(), Recorded()).run())
        await eventually(lambda: backend.received)
        await asyncio.sleep(0.1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.sleep(1.5)
    assert len(backend.received) == 1
