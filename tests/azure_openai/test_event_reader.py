"""The usage, the text and the objects of a stream, and the moment at which it is committed."""

import json
from typing import Any

import pytest

from shared.azure_openai.event_reader import EventReader
from shared.azure_openai.metering import IMAGE
from shared.azure_openai.operations import match
from shared.azure_openai.outline import sealed_name
from shared.azure_openai.references import in_answer
from shared.azure_openai.requests import parse_call
from shared.types import Reference, Usage
from tests.azure_openai.streams import RESPONSE, call, delta, event, typed

STREAM = call(stream=True)
CREATED = typed("response.created", response={**RESPONSE, "usage": None, "status": "in_progress"})


@pytest.mark.parametrize(
    "first",
    [
        *(
            delta(**piece)
            for piece in (
                {"content": "x"},
                {"tool_calls": [{"index": 0}]},
                {"refusal": "no"},
                {"audio": {"data": "AA=="}},
            )
        ),
        event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]),
    ],
)
def test_a_stream_is_committed_by_its_first_token(first: bytes) -> None:
    reader = EventReader(STREAM)
    assert reader.read(event(choices=[], id="", prompt_filter_results=[{"prompt_index": 0}])) == "pass"
    assert reader.read(delta(role="assistant", content="")) == "pass"
    assert not reader.committed
    reader.read(first)
    assert reader.committed


def test_an_error_before_the_first_token_is_a_failure() -> None:
    reader = EventReader(STREAM)
    reader.read(event(error={"message": "The server had an error"}))
    assert (reader.failed, reader.committed) == (True, False)


def test_a_stream_without_usage_is_estimated_from_its_text() -> None:
    reader = EventReader(STREAM)
    for _ in range(10):
        reader.read(delta(content="four" * 3))
    assert reader.usage() == Usage(input_tokens=STREAM.input_estimate, output_tokens=30, estimated=True)


def test_a_typed_stream_is_committed_by_its_first_content() -> None:
    reader = EventReader(call("/v1/responses", stream=True))
    reader.read(CREATED)
    reader.read(typed("response.in_progress", response=RESPONSE))
    assert not reader.committed
    reader.read(typed("response.output_item.added", item={}))
    assert reader.committed


def test_a_typed_stream_that_fails_at_once_has_failed() -> None:
    reader = EventReader(call("/v1/responses", stream=True))
    reader.read(CREATED)
    reader.read(typed("response.failed", response={"error": {"message": "x"}}))
    assert (reader.failed, reader.committed) == (True, False)


def test_the_stream_of_a_background_response_is_committed_by_any_event() -> None:
    reader = EventReader(call("/v1/responses", stream=True, background=True), eager=True)
    reader.read(CREATED)
    assert reader.committed


@pytest.mark.parametrize(
    ("name", "committed"), [("image_generation.completed", True), ("response.created", False), ("error", False)]
)
def test_the_beginning_of_a_long_event_commits_if_its_name_is_that_of_content(name: str, committed: bool) -> None:
    reader = EventReader(STREAM)
    reader.read_beginning(typed(name, filler="x" * 70_000)[:-100])
    assert reader.committed == committed


def test_the_beginning_of_a_long_event_without_a_name_does_not_commit() -> None:
    reader = EventReader(STREAM)
    reader.read_beginning(b"data: {" + b" " * 70_000)
    assert not reader.committed


def test_the_events_of_a_run_are_known_by_their_names() -> None:
    run = {"id": "run_1", "object": "thread.run", "status": "completed", "model": "m"}
    usage = {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}
    events = [
        ("thread.run.created", {**run, "status": "queued", "usage": None}),
        ("thread.message.delta", {"object": "thread.message.delta", "delta": {"content": [{"text": {"value": "x"}}]}}),
        ("thread.run.completed", {**run, "usage": usage}),
    ]
    made = parse_call(match("POST", "/v1/threads/thread_1/runs"), "", {}, b'{"assistant_id": "asst_1", "stream": true}')
    reader = EventReader(made)
    for name, about in events:
        assert reader.read(f"event: {name}\ndata: {json.dumps(about)}\n\n".encode()) == "pass"
    assert reader.read(b"event: done\ndata: [DONE]\n\n") == "end"
    assert reader.marked
    assert reader.usage() == Usage(5, 6, model="m")
    assert len(reader.objects) == 2


def test_the_id_of_a_spoken_answer_is_collected_wherever_it_comes() -> None:
    body = b'{"model": "gpt-4o", "stream": true, "audio": {"voice": "alloy", "format": "pcm16"}}'
    made = parse_call(match("POST", "/v1/chat/completions"), "", {}, body)
    reader = EventReader(made)
    for piece in ({"content": "x"}, {"audio": {"id": "audio_12345", "transcript": "x"}}, {"audio": {"data": "AA=="}}):
        reader.read(delta(**piece))
    named = [one for payload in reader.objects for one in in_answer(payload, made.operation.name)]
    assert named == [Reference("audio", "audio_12345")]


def test_sealed_content_is_collected_once_it_is_whole_and_nothing_else_of_a_call_that_stores_nothing() -> None:
    made = parse_call(match("POST", "/v1/responses"), "", {}, b'{"model": "o4-mini", "stream": true, "store": false}')
    reader = EventReader(made)
    reader.read(CREATED)
    for kind, content in (("added", "half"), ("done", "whole")):
        item = {"type": "reasoning", "id": "rs_12345", "encrypted_content": content}
        reader.read(typed(f"response.output_item.{kind}", item=item))
    reader.read(typed("response.output_item.done", item={"type": "message", "id": "msg_12345"}))
    reader.read(typed("response.completed", response=RESPONSE))
    named = [one for payload in reader.objects for one in in_answer(payload, made.operation.name)]
    assert named == [Reference("sealed", sealed_name("whole"))]


TEXTS = (
    ("response.output_text.delta", "Zwölf "),
    ("response.refusal.delta", "I must not"),
    ("response.reasoning_summary_text.delta", "First think"),
    ("response.function_call_arguments.delta", '{"place": '),
    ("response.custom_tool_call_input.delta", "SELECT 1"),
    ("response.audio.transcript.delta", "spoken"),
)


def test_all_text_of_a_typed_stream_is_kept_to_be_counted_and_once_only() -> None:
    reader = EventReader(call("/v1/responses", stream=True))
    for one in (
        CREATED,
        *(typed(kind, delta=text, item_id="x") for kind, text in TEXTS),
        typed("response.output_text.done", text="Zwölf "),
        typed("response.audio.delta", delta="UklGRg=="),
    ):
        reader.read(one)
    assert reader.text() == "".join(text for _, text in TEXTS)
    assert reader.usage().estimated


@pytest.mark.parametrize(
    ("path", "fields", "begun", "text", "made"),
    [
        (
            "/v1/images/generations",
            {"prompt": "a gate"},
            {"type": "image_generation.partial_image"},
            "",
            {"output_tokens": IMAGE, "images": 1},
        ),
        (
            "/v1/audio/transcriptions",
            {},
            {"type": "transcript.text.delta", "delta": "a gate"},
            "a gate",
            {"output_tokens": 1},
        ),
        (
            "/v1/audio/speech",
            {"input": "a gate"},
            {"type": "speech.audio.delta", "audio": "UklGRg=="},
            "",
            {"characters": 6},
        ),
    ],
)
def test_a_stream_that_breaks_off_is_charged_by_estimate_whatever_it_makes(
    path: str, fields: dict[str, Any], begun: dict[str, Any], text: str, made: dict[str, Any]
) -> None:
    asked = call(path, stream=True, **fields)
    reader = EventReader(asked)
    reader.read(event(**begun))
    usage = Usage(asked.input_estimate, estimated=True, **made)
    assert (reader.usage(), reader.text()) == (usage, text)
    assert asked.input_estimate > 0
