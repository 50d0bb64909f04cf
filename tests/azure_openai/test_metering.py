"""The usage of answers that are bodies."""

import json
import random
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.azure_openai.event_reader import EventReader
from shared.azure_openai.event_relay import EventRelay
from shared.azure_openai.metering import BodyMeter, is_json_object, usage_in_answer
from shared.types import Usage
from tests.azure_openai.streams import COUNTED, OF_RESPONSE, RESPONSE, USAGE, call, typed

CALL = call()
ESTIMATE = CALL.input_estimate


@pytest.mark.parametrize(
    ("path", "fields", "answer", "counted"),
    [
        ("/v1/responses", {}, RESPONSE, OF_RESPONSE),
        ("/v1/responses", {"background": True}, {"id": "resp_1", "status": "queued", "usage": None}, Usage()),
        (
            "/v1/chat/completions",
            {},
            {
                "model": "gpt-4o-audio",
                "service_tier": "default",
                "usage": {
                    "prompt_tokens": 20,
                    "completion_tokens": 9,
                    "prompt_tokens_details": {"audio_tokens": 3},
                    "completion_tokens_details": {
                        "audio_tokens": 2,
                        "accepted_prediction_tokens": 4,
                        "rejected_prediction_tokens": 1,
                    },
                },
            },
            Usage(
                20,
                9,
                audio_input_tokens=3,
                audio_output_tokens=2,
                accepted_prediction_tokens=4,
                rejected_prediction_tokens=1,
                model="gpt-4o-audio",
                service_tier="default",
            ),
        ),
        (
            "/v1/images/generations",
            {"prompt": "x"},
            {"created": 1, "data": [{"url": "a"}, {"url": "b"}]},
            Usage(images=2),
        ),
        (
            "/v1/images/generations",
            {"prompt": "x"},
            {
                "data": [{}],
                "usage": {"input_tokens": 1, "output_tokens": 2, "output_tokens_details": {"image_tokens": 2}},
            },
            Usage(1, 2, image_output_tokens=2, images=1),
        ),
        (
            "/v1/audio/transcriptions",
            {},
            {"text": "hi", "usage": {"type": "duration", "seconds": 9}},
            Usage(seconds=9.0),
        ),
        ("/v1/audio/transcriptions", {}, {"text": "hi", "duration": "8.47"}, Usage(seconds=8.47)),
        (
            "/v1/audio/transcriptions",
            {},
            {
                "usage": {
                    "type": "tokens",
                    "input_tokens": 3,
                    "output_tokens": 4,
                    "input_token_details": {"audio_tokens": 2},
                }
            },
            Usage(3, 4, audio_input_tokens=2),
        ),
        ("/v1/audio/speech", {"input": "Grüße"}, {}, Usage(characters=5)),
        (
            "/v1/batches",
            {"input_file_id": "file-1"},
            {"id": "batch_1", "status": "in_progress", "usage": {"input_tokens": 3, "output_tokens": 4}},
            Usage(),
        ),
        (
            "/v1/batches",
            {"input_file_id": "file-1"},
            {"id": "batch_1", "status": "completed", "model": "m", "usage": {"input_tokens": 3, "output_tokens": 4}},
            Usage(3, 4, model="m", service_tier="batch", summed=True),
        ),
        ("/v1/moderations", {"input": "x"}, {"results": []}, Usage()),
    ],
)
def test_the_usage_of_every_api_is_read(
    path: str, fields: dict[str, Any], answer: dict[str, Any], counted: Usage
) -> None:
    assert usage_in_answer(call(path, **fields), 200, json.dumps(answer).encode()) == counted


OF_TOOLS = msgspec.structs.replace(OF_RESPONSE, web_searches=2, file_searches=1, code_sessions=2)
CALLS_OF_TOOLS = [
    {"type": "web_search_call", "action": {"type": "search"}},
    {"type": "web_search_call", "action": {"type": "open_page", "url": "https://a"}},
    {"type": "web_search_call"},
    {"type": "file_search_call", "queries": ["a"]},
    {"type": "code_interpreter_call", "container_id": "cntr_1"},
    {"type": "code_interpreter_call", "container_id": "cntr_1"},
    {"type": "code_interpreter_call", "container_id": "cntr_2"},
    {"type": "function_call", "name": "mine"},
    {"type": "message", "content": [{"type": "output_text", "text": "a web_search_call"}]},
]


def test_charged_calls_of_tools_are_counted_in_whole_answers_and_in_streams() -> None:
    response = {**RESPONSE, "output": CALLS_OF_TOOLS}
    assert usage_in_answer(call("/v1/responses"), 200, json.dumps(response).encode()) == OF_TOOLS
    reader = EventReader(call("/v1/responses", stream=True))
    reader.read(b"data: " + json.dumps({"type": "response.completed", "response": response}).encode() + b"\n\n")
    assert reader.usage() == OF_TOOLS


def test_every_class_of_tokens_is_read_and_the_unknown_ones_are_kept() -> None:
    usage = {
        "input_tokens": 1000,
        "output_tokens": 100,
        "input_tokens_details": {"cached_tokens": 300, "cache_write_tokens": 500, "smelt_tokens": 7, "text_tokens": 1},
        "output_tokens_details": {"reasoning_tokens": 60, "dreamt_tokens": 3, "by_day": {"a": 1}, "none_tokens": None},
    }
    body = json.dumps({**RESPONSE, "usage": usage, "output": []}).encode()
    counted = usage_in_answer(call("/v1/responses"), 200, body)
    assert (counted.cached_input_tokens, counted.cache_write_tokens, counted.reasoning_tokens) == (300, 500, 60)
    assert json.loads(counted.unknown) == {"input.smelt_tokens": 7, "output.dreamt_tokens": 3}


@pytest.mark.parametrize(
    ("body", "counted"),
    [
        (json.dumps({"usage": USAGE}).encode(), COUNTED),
        (b'{"usage": null}', Usage(input_tokens=ESTIMATE, estimated=True)),
        (b'{"usage": {"prompt_tokens": 3, "total_tokens": 3}}', Usage(input_tokens=3)),
        (b'{"usage": "none"}', Usage(input_tokens=ESTIMATE, estimated=True)),
        (b'{"usage": {"prompt_tokens": -3}}', Usage(input_tokens=ESTIMATE, estimated=True)),
        (b'{"usage": {"prompt_tokens": 100000000000000000000}}', Usage(input_tokens=ESTIMATE, estimated=True)),
        (
            b'{"choices": [{"message": {"role": "assistant", "content": "forty characters, which is ten tokens.."}}]}',
            Usage(input_tokens=ESTIMATE, output_tokens=9, estimated=True),
        ),
        (b"not json", Usage(input_tokens=ESTIMATE, estimated=True)),
    ],
)
def test_the_usage_of_a_whole_answer(body: bytes, counted: Usage) -> None:
    assert usage_in_answer(CALL, 200, body) == counted


def test_a_refused_prompt_is_charged_and_so_estimated() -> None:
    body = b'{"error": {"code": "content_filter"}}'
    assert usage_in_answer(CALL, 400, body) == Usage(input_tokens=ESTIMATE, estimated=True)


@given(st.integers(1, 400))
def test_the_usage_of_a_body_that_is_too_large_to_keep_stands_at_its_end(size: int) -> None:
    body = json.dumps({"data": ["x" * 9_000], "about": {"usage": 1}, "usage": USAGE, "model": "m"}).encode()
    meter = BodyMeter(CALL, 200, body[:100])
    for start in range(100, len(body), size):
        chunk = body[start : start + size]
        assert meter.feed(chunk) == chunk
    assert meter.usage() == msgspec.structs.replace(COUNTED, model="m")


PICTURE = {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "iVBORw0KGgo" * 500_000}
QUOTING = {"type": "message", "content": [{"type": "output_text", "text": '{"type": "web_search_call"} ' * 1000}]}


@given(st.integers(1, 3), st.integers(50_000, 900_000), st.randoms())
@settings(max_examples=10, deadline=None)
def test_calls_of_tools_in_an_answer_too_large_to_keep_are_counted_wherever_they_stand(
    pictures: int, size: int, chance: random.Random
) -> None:
    items = [*CALLS_OF_TOOLS, QUOTING, *[PICTURE] * pictures]
    chance.shuffle(items)
    body = json.dumps({**RESPONSE, "output": items}).encode()
    meter = BodyMeter(call("/v1/responses"), 200, body[: 4 * 1024 * 1024])
    for start in range(4 * 1024 * 1024, len(body), size):
        meter.usage()  # the gateway asks while the body passes, too
        meter.feed(body[start : start + size])
    assert meter.usage() == OF_TOOLS


@pytest.mark.parametrize("filler", [b'"' + b"x" * 200 + b'",', b"[],", b'{"a": 1},', b'"' + b"y" * 70_000 + b'",'])
def test_the_meter_of_a_huge_body_keeps_little_of_it(filler: bytes) -> None:
    chunk = filler * (1_000_000 // len(filler))
    end = b'"end"], "usage": ' + json.dumps(RESPONSE["usage"]).encode() + b"}"
    tracemalloc.start()
    try:
        meter = BodyMeter(call("/v1/responses"), 200, b'{"output": [')
        for _ in range(20):
            meter.feed(chunk)
        meter.feed(end)
        assert tracemalloc.get_traced_memory()[0] < 3_000_000
    finally:
        tracemalloc.stop()
    assert (meter.usage().input_tokens, meter.usage().output_tokens) == (20, 9)


def test_calls_of_tools_are_counted_in_a_stream_whose_last_event_is_too_long_or_never_comes() -> None:
    done = [typed("response.output_item.done", output_index=i, item=item) for i, item in enumerate(CALLS_OF_TOOLS)]
    last = typed("response.completed", response={"output": [*CALLS_OF_TOOLS, PICTURE, PICTURE], **RESPONSE})
    for ends in (True, False):
        reader = EventReader(call("/v1/responses", stream=True))
        relay = EventRelay(reader)
        sent = b"".join([*done, last] if ends else done)
        for start in range(0, len(sent), 100_000):
            relay.feed(sent[start : start + 100_000])
        usage = reader.usage()
        assert (usage.web_searches, usage.file_searches, usage.code_sessions) == (2, 1, 2)
        assert (usage.input_tokens, usage.estimated) == ((20, False) if ends else (usage.input_tokens, True))


def test_an_error_page_is_no_answer() -> None:
    assert is_json_object(b' {"usage": 3}')
    assert not is_json_object(b"<html></html>")
    assert not is_json_object(b"[]")
    assert not is_json_object(b'{"cut": ')
