"""Answers that reasoning has left without content, whole and streamed."""

import json
from typing import Any

import pytest

from shared.azure_openai.event_reader import EventReader
from shared.azure_openai.metering import usage_in_answer
from tests.azure_openai.streams import call, delta, event, typed


def chat_usage(output: int, reasoning: int) -> dict[str, Any]:
    details = {"reasoning_tokens": reasoning}
    return {"prompt_tokens": 5, "completion_tokens": output, "completion_tokens_details": details}


def choice(finish: str, **message: Any) -> dict[str, Any]:
    return {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": "", **message}}


def response(reason: str | None, *items: str, reasoning: int = 100) -> dict[str, Any]:
    return {
        "object": "response",
        "incomplete_details": reason and {"reason": reason},
        "output": [{"type": item} for item in items],
        "usage": {"input_tokens": 5, "output_tokens": 100, "output_tokens_details": {"reasoning_tokens": reasoning}},
    }


@pytest.mark.parametrize(
    ("empty", "output", "reasoning", "choices"),
    [
        (True, 100, 100, [choice("length")]),
        (True, 100, 100, [choice("length", content=None, annotations=[], refusal=None)]),
        (True, 100, 64, [choice("length")]),  # reported in steps
        (False, 100, 0, [choice("length")]),  # it has not reasoned
        (False, 200, 100, [choice("length")]),  # something else was generated
        (False, 100, 100, [choice("stop")]),
        (False, 101, 100, [choice("length", content="I")]),
        (False, 110, 100, [choice("length", content=None, tool_calls=[{"id": "call_1"}])]),
        (False, 110, 100, [choice("length"), choice("length", content="I")]),
        (False, 100, 100, []),
    ],
)
def test_a_chat_is_empty_if_all_its_choices_ran_out_before_a_word(
    empty: bool, output: int, reasoning: int, choices: list[Any]
) -> None:
    body = json.dumps({"choices": choices, "usage": chat_usage(output, reasoning)}).encode()
    assert usage_in_answer(call(), 200, body).empty is empty


@pytest.mark.parametrize(
    ("empty", "answer"),
    [
        (True, response("max_output_tokens", "reasoning")),
        (True, response("max_output_tokens")),
        (False, response("content_filter", "reasoning")),
        (False, response("max_output_tokens", "reasoning", "message")),
        (False, response("max_output_tokens", "reasoning", "function_call")),
        (False, response(None, "reasoning")),
        (False, response("max_output_tokens", "reasoning", reasoning=0)),
    ],
)
def test_a_response_is_empty_if_it_has_reasoning_alone(empty: bool, answer: dict[str, Any]) -> None:
    made = call("/v1/responses", input="a")
    assert usage_in_answer(made, 200, json.dumps(answer).encode()).empty is empty
    reader = EventReader(made)
    reader.read(typed("response.output_item.added", item={"type": "reasoning"}))
    reader.read(typed("response.incomplete", response=answer))
    assert reader.usage().empty is empty


@pytest.mark.parametrize("said", ["", "Hello"])
def test_a_stream_of_chat_is_known_to_be_empty_when_it_is_committed(said: str) -> None:
    reader = EventReader(call(stream=True))
    reader.read(delta(role="assistant", content=""))
    if said:
        reader.read(delta(content=said))
    reader.read(event(choices=[{"index": 0, "delta": {}, "finish_reason": "length"}]))
    assert reader.committed
    assert reader.is_empty is not bool(said)
    reader.read(event(choices=[], usage=chat_usage(100, 100)))
    assert reader.usage().empty is not bool(said)


def test_a_stream_without_reasoning_is_not_counted_as_empty() -> None:
    reader = EventReader(call(stream=True))
    reader.read(event(choices=[{"index": 0, "delta": {}, "finish_reason": "length"}], usage=chat_usage(5, 0)))
    assert not reader.usage().empty
