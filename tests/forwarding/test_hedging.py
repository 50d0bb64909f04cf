"""Two attempts of one call, and a caller that leaves: no answer stays open, and nothing is charged twice."""

import asyncio
from typing import cast

import pytest

from shared.azure_openai import operations, requests
from shared.config.document import Backend
from shared.forwarding._attempt import AttemptTimeout
from shared.forwarding._hedging import HedgedAttempt
from shared.forwarding.forwarded_call import ForwardedCall
from shared.forwarding.response import Answer
from shared.responses.hang_up import hung_up
from shared.types import BEATEN, LEFT, LEFT_EARLY, Attempt, Role, Target, Usage

CALL = requests.parse_call(operations.match("POST", "/v1/chat/completions"), "", {}, b'{"model": "m", "messages": []}')
A, B = (Target(Backend(name=name, endpoint="https://e", region="r", models={}), "m", "m") for name in "ab")
PROMPT = Usage(input_tokens=7, estimated=True)
GENERATED = Usage(input_tokens=7, output_tokens=90)
HEDGE = Attempt(B, 0, BEATEN, 1.0, "hedge", PROMPT)


class CountedAnswer:
    """The part of an answer that hedging uses."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


class TwoAttempts:
    """The first attempt answers once the second one is under way; the second one ends slowly."""

    hedged = may_be_late = False

    def __init__(self) -> None:
        self.answer = CountedAnswer()
        self.second: CountedAnswer | None = None  # the answer of the second attempt, in the moment that it is dropped
        self.charged: list[Usage | None] = []
        self.second_began, self.second_ends, self.ending = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def attempt(self, target: Target, timeout: AttemptTimeout, role: Role = "try") -> Answer | None:
        if role == "try":
            await self.second_began.wait()
            return cast("Answer", self.answer)
        self.second_began.set()
        try:
            await asyncio.sleep(60)
        finally:
            self.ending.set()
            await self.second_ends.wait()
            if self.second is not None:
                return cast("Answer", self.second)  # noqa: B012 - it answered before the cancellation came
        return None

    def look_again(self, target: Target, started: float) -> float:
        return 0.0

    def another(self, target: Target) -> tuple[Target, AttemptTimeout] | None:
        return B, AttemptTimeout(10.0)

    def answered_first(self, target: Target, started: float, timeout: AttemptTimeout, *, in_task: bool) -> bool:
        timeout.supersede(hung=False)
        return False

    def prompt(self, timeout: AttemptTimeout) -> Usage | None:
        return PROMPT

    def superseded(self, target: Target, since: float, role: Role, usage: Usage | None) -> None:
        self.charged.append(usage)

    def discard(self, answer: Answer) -> Usage:
        answer.close()
        return GENERATED

    def now(self) -> float:
        return 0.0


async def hedged(attempts: TwoAttempts) -> Answer | None:
    return await HedgedAttempt(cast("ForwardedCall", attempts), A, AttemptTimeout(10.0, watched=True)).run(0.0)


async def test_an_answer_is_closed_if_its_caller_leaves_while_the_other_attempt_ends() -> None:
    attempts = TwoAttempts()
    running = asyncio.ensure_future(hedged(attempts))
    await attempts.ending.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert attempts.answer.closed == 1
    attempts.second_ends.set()
    await asyncio.sleep(0)


async def test_an_answer_stays_open_for_a_caller_that_waits() -> None:
    attempts = TwoAttempts()
    attempts.second_ends.set()
    assert await hedged(attempts) is cast("Answer", attempts.answer)
    assert attempts.answer.closed == 0


async def test_a_second_attempt_that_is_dropped_is_charged_its_prompt_or_what_it_had_generated() -> None:
    dropped, late = TwoAttempts(), TwoAttempts()
    late.second = CountedAnswer()
    for attempts in (dropped, late):
        attempts.second_ends.set()
        await hedged(attempts)
    assert (dropped.charged, late.charged) == ([PROMPT], [GENERATED])
    assert late.second.closed == 1


@pytest.mark.parametrize(
    ("tried", "at_it"),
    [
        ((), None),
        ((Attempt(A, 0, LEFT, 1.0),), A),
        ((Attempt(A, 0, LEFT_EARLY, 1.0),), None),
        ((Attempt(A, 429, "429: rate", 1.0), Attempt(B, 0, LEFT, 1.0)), B),
        ((Attempt(A, 0, LEFT, 1.0), HEDGE), A),
        ((Attempt(A, 429, "429: rate", 1.0), HEDGE), None),
        (
            (Attempt(A, 0, "no answer within 2.0 s", 1.0, usage=PROMPT), HEDGE),
            None,
        ),
        ((Attempt(A, 200, "", 1.0),), A),
    ],
)
def test_a_caller_that_leaves_is_charged_the_prompt_once_for_each_backend_that_read_it(
    tried: tuple[Attempt, ...], at_it: Target | None
) -> None:
    outcome = hung_up(CALL, tried, 5)
    assert (outcome.status, outcome.ended, outcome.attempts, outcome.served_by) == (499, "hung_up", tried, at_it)
    assert (outcome.usage.input_tokens > 0) == (at_it is not None)
