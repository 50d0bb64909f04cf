"""Two tries of one call, and a caller who leaves: no answer stays open, and nobody is charged twice."""

import asyncio
from typing import cast

import pytest

from shared.azure_openai import operations, requests
from shared.config.document import Backend
from shared.forwarding._attempt import AttemptTimeout
from shared.forwarding._hedging import HedgedTry, Tries
from shared.forwarding.response import UpstreamResponse
from shared.responses.dispatcher import hung_up
from shared.types import BEATEN, LEFT, Attempt, Role, Target, Usage

CALL = requests.parse_call(operations.match("POST", "/v1/chat/completions"), "", {}, b'{"model": "m", "messages": []}')
A, B = (Target(Backend(name=name, endpoint="https://e", region="r", models={}), "m", "m") for name in "ab")
PROMPT = Usage(input_tokens=7, estimated=True)
HEDGE = Attempt(B, 0, BEATEN, 1.0, "hedge", PROMPT)


class Answer:
    """As much of an answer as hedging sees."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


class TwoTries:
    """The first try answers once the second one is under way; the second one takes its time to end."""

    def __init__(self) -> None:
        self.answer = Answer()
        self.second_began, self.second_ends, self.ending = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def attempt(self, target: Target, patience: AttemptTimeout, role: Role = "try") -> UpstreamResponse | None:
        if role == "try":
            await self.second_began.wait()
            return cast("UpstreamResponse", self.answer)
        self.second_began.set()
        try:
            await asyncio.sleep(60)
        finally:
            self.ending.set()
            await self.second_ends.wait()
        return None

    def look_again(self, target: Target, started: float, limit: float) -> float:
        return 0.0

    def another(self, target: Target) -> tuple[Target, AttemptTimeout] | None:
        return B, AttemptTimeout(10.0)

    def silent(self, target: Target, started: float) -> bool:
        return False

    def lost(self, target: Target, since: float, role: Role) -> None:
        pass

    def unseen(self, answer: UpstreamResponse) -> None:
        answer.close()

    def now(self) -> float:
        return 0.0


async def test_an_answer_is_closed_when_its_caller_leaves_while_the_other_try_ends() -> None:
    tries = TwoTries()
    running = asyncio.ensure_future(HedgedTry(cast("Tries", tries), A, 10.0).run(0.0))
    await tries.ending.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert tries.answer.closed == 1
    tries.second_ends.set()
    await asyncio.sleep(0)


async def test_an_answer_stays_open_for_a_caller_who_waits() -> None:
    tries = TwoTries()
    tries.second_ends.set()
    assert await HedgedTry(cast("Tries", tries), A, 10.0).run(0.0) is cast("UpstreamResponse", tries.answer)
    assert tries.answer.closed == 0


@pytest.mark.parametrize(
    ("tried", "at_it"),
    [
        ((), None),
        ((Attempt(A, 0, LEFT, 1.0),), A),
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
def test_who_leaves_is_charged_the_prompt_once_for_each_backend_that_read_it(
    tried: tuple[Attempt, ...], at_it: Target | None
) -> None:
    outcome = hung_up(CALL, tried, 5)
    assert (outcome.status, outcome.ended, outcome.attempts, outcome.served_by) == (499, "hung_up", tried, at_it)
    assert (outcome.usage.input_tokens > 0) == (at_it is not None)
