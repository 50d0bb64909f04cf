"""The tokens of answers that their callers left, beside the text that shows."""

import msgspec
import pytest

from shared.config.document import Backend
from shared.types import Call, Outcome, Target, Usage
from shared.usage.unsaid import TOKENS_PER_SECOND, Pauses, with_unsaid
from tests.harness.calls import call

BODY = {"model": "m", "messages": [], "stream": True}
SAID = Usage(input_tokens=10, output_tokens=20, estimated=True)


def target(model: str = "m", deployment: str = "prod") -> Target:
    return Target(Backend(name="a", endpoint="https://a.invalid", region="a", models={}), model, deployment)


def left(seconds: float, *, usage: Usage = SAID, status: int = 200, by: Target | None = None) -> Outcome:
    return Outcome(status=status, usage=usage, served_by=by or target(), ended="hung_up", quiet_seconds=seconds)


def chat(**more: object) -> Call:
    return call("POST", "/v1/chat/completions", {**BODY, **more})


def output(outcome: Outcome, of: Call, reasoning: frozenset[str] = frozenset()) -> int:
    return with_unsaid(outcome, of, reasoning).usage.output_tokens


@pytest.mark.parametrize(
    "of", [chat(reasoning_effort="high"), chat(reasoning={"effort": "low"}), chat(thinking={"type": "enabled"})]
)
def test_the_pauses_of_a_call_that_asks_for_reasoning_count(of: Call) -> None:
    usage = with_unsaid(left(30), of, ()).usage
    assert (usage.output_tokens, usage.reasoning_tokens) == (20 + 30 * TOKENS_PER_SECOND, 30 * TOKENS_PER_SECOND)
    assert usage.estimated


@pytest.mark.parametrize(
    "name", ["o3", "o4-mini", "gpt-5.4-mini", "my-o3-prod", "DeepSeek-R1", "grok-4-fast", "gpt-oss-120b"]
)
def test_models_that_reason_are_known_by_their_names_and_by_their_deployments(name: str) -> None:
    assert output(left(10, by=target(name)), chat()) == 1020
    assert output(left(10, by=target("own", name)), chat()) == 1020


@pytest.mark.parametrize("name", ["gpt-4o", "gpt-4o-mini", "gpt-4.1", "claude-sonnet-5", "foo1", "grok-3"])
def test_the_pauses_of_other_models_do_not(name: str) -> None:
    for of in (chat(), chat(reasoning_effort="none"), chat(reasoning={"effort": None}), chat(thinking=None)):
        assert output(left(10, by=target(name)), of) == 20


def test_a_model_that_has_reported_reasoning_is_known_by_that() -> None:
    assert output(left(10), chat()) == 20
    assert output(left(10), chat(), frozenset({"m"})) == 1020


def test_no_more_counts_than_the_call_allows() -> None:
    of = chat(reasoning_effort="high", max_completion_tokens=500)
    assert output(left(1000), of) == 500
    assert output(left(1000, usage=msgspec.structs.replace(SAID, output_tokens=700)), of) == 700
    assert output(left(1e6), chat(reasoning_effort="high")) == 131_072 + 20


def test_a_whole_answer_that_its_caller_does_not_wait_for_counts_by_its_time() -> None:
    whole = call("POST", "/v1/chat/completions", {"model": "gpt-4o", "messages": []})
    usage = with_unsaid(left(12, status=499), whole, ()).usage
    assert (usage.output_tokens, usage.reasoning_tokens) == (1220, 0)
    assert output(left(12, status=499), chat()) == 20  # a stream that has not begun is waited for
    assert output(left(12, status=499), call("POST", "/v1/embeddings", {"model": "m", "input": "x"})) == 20


@pytest.mark.parametrize(
    "outcome",
    [
        msgspec.structs.replace(left(30), ended="complete"),
        msgspec.structs.replace(left(30), ended="cut"),
        msgspec.structs.replace(left(30), usage=Usage(5, 6)),
        msgspec.structs.replace(left(30), served_by=None),
        left(0.9),
    ],
)
def test_what_was_reported_or_broke_off_stays_as_it_is(outcome: Outcome) -> None:
    assert with_unsaid(outcome, chat(reasoning_effort="high"), ()) is outcome


def test_pauses_are_those_of_the_backend_before_and_within_the_text() -> None:
    pauses = Pauses(4.0)
    pauses.waiting(0)
    pauses.chunk_arrived(2, 0)  # a comment
    pauses.waiting(9)  # meanwhile the caller did not read
    pauses.chunk_arrived(10, 5)
    assert pauses.seconds == 7
    for now in range(20, 30):
        pauses.waiting(now)
        pauses.chunk_arrived(now + 0.5, now)
    assert pauses.seconds == 7
    pauses.waiting(40)
    pauses.end(43)
    pauses.end(60)
    assert pauses.seconds == 10
