"""What is read out of answers while they pass, and that they pass unchanged."""

import itertools
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from shared.azure_openai import event_stream
from shared.azure_openai.metering import BodyMeter, StreamMeter, is_json_object, usage_in_answer
from shared.azure_openai.operations import match
from shared.azure_openai.requests import parse_call
from shared.types import Call, Usage

USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 9,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": None},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
COUNTED = Usage(input_tokens=20, output_tokens=9, cached_input_tokens=4, reasoning_tokens=3)


def call(path: str = "/v1/chat/completions", **fields: Any) -> Call:
    body = json.dumps({"model": "m", **fields}).encode()
    return parse_call(match("POST", path), "", {}, body)


CALL = call()
INJECTED = call(stream=True)
ESTIMATE = CALL.input_estimate


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields, ensure_ascii=False).encode() + b"\n\n"


def delta(**fields: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": fields}], usage=None)


FILTER = event(choices=[], id="", prompt_filter_results=[{"prompt_index": 0}])
ROLE = delta(role="assistant", content="")
STOP = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], usage=None)
LATE = event(
    choices=[{"index": 0, "content_filter_results": {}, "finish_reason": None}]
)  # asynchronous filter: no delta
TOLD = event(choices=[], usage=USAGE)
DONE = b"data: [DONE]\n\n"
WORDS = [delta(content=word) for word in ("Grüße ", "\u2028", "aus 😀", ' "choices":[{ ', "\\n")]


@st.composite
def chunkings(draw: st.DrawFn) -> list[bytes]:
    """A whole stream cut anywhere, also inside of a character."""
    data = b"".join([FILTER, ROLE, *WORDS, STOP, LATE, TOLD, b": a comment\n\n", DONE])
    data = data.replace(b"\n", draw(st.sampled_from([b"\n", b"\r\n"])))
    cuts = sorted(draw(st.sets(st.integers(0, len(data)), max_size=40)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@given(chunkings())
def test_a_stream_passes_byte_for_byte_however_it_is_cut(chunks: list[bytes]) -> None:
    meter = StreamMeter(CALL)
    passed = b"".join([*map(meter.feed, chunks), meter.finish()])
    assert passed == b"".join(chunks)
    assert meter.result() == COUNTED
    assert meter.done


@given(chunkings())
def test_the_usage_chunk_that_only_the_gateway_wanted_is_taken_out(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    newline = b"\r\n" if b"\r\n" in whole else b"\n"
    meter = StreamMeter(INJECTED)
    before_the_end = b"".join(map(meter.feed, chunks))
    assert b"[DONE]" not in before_the_end
    assert before_the_end + meter.finish() == whole.replace(TOLD.replace(b"\n", newline), b"")
    assert meter.result() == COUNTED


def test_pieces_pass_at_once_but_for_what_may_be_the_usage_chunk_or_the_end() -> None:
    meter = StreamMeter(CALL)
    whole = delta(content="a very long word")
    pieces = [WORDS[0] + whole[:20], whole[20:30], whole[30:] + b"data: ", b"[DON"]
    assert [meter.feed(piece) for piece in pieces] == [*pieces[:3], b""]
    meter.end()
    assert not meter.done
    stripping = StreamMeter(INJECTED)
    start = whole.index(b"[{") + 2
    assert stripping.feed(whole[: start - 2]) == b""
    assert stripping.feed(whole[start - 2 : start]) == whole[:start]  # a chunk with choices: surely content
    assert stripping.feed(whole[start:]) == whole[start:]
    assert stripping.feed(TOLD[:30]) == b""
    assert stripping.feed(TOLD[30:]) == b""
    assert stripping.result() == COUNTED


def test_a_chunk_of_whole_events_is_not_even_copied() -> None:
    chunk = b"".join(WORDS)
    assert StreamMeter(INJECTED).feed(chunk) is chunk


def test_an_end_marker_without_its_empty_line_counts() -> None:
    for marker in (b"data: [DONE]", b"data: [DONE]\n", b"data:[DONE]\r\n"):
        meter = StreamMeter(INJECTED)
        assert meter.feed(WORDS[0] + marker) == WORDS[0]
        meter.end()
        assert meter.done
        assert meter.finish() == marker


def test_a_stream_is_committed_by_its_first_token_and_not_before() -> None:
    kinds = ({"content": "x"}, {"tool_calls": [{"index": 0}]}, {"refusal": "no"}, {"audio": {"data": "AA=="}})
    for last in (*(delta(**kind) for kind in kinds), STOP):
        meter = StreamMeter(INJECTED)
        assert meter.feed(FILTER + ROLE)
        assert not meter.committed
        meter.feed(last)
        assert meter.committed


def test_an_error_inside_a_stream_is_noticed() -> None:
    meter = StreamMeter(CALL)
    meter.feed(event(error={"message": "The server had an error"}))
    assert meter.failed
    assert not meter.committed


def test_a_stream_that_told_no_usage_is_estimated_from_what_passed() -> None:
    meter = StreamMeter(INJECTED)
    for _ in range(10):
        meter.feed(delta(content="four" * 3))
    assert meter.result() == Usage(input_tokens=INJECTED.input_estimate, output_tokens=30, estimated=True)


def test_an_unreadable_event_passes_as_it_is() -> None:
    meter = StreamMeter(INJECTED)
    strange = b"event: x\ndata: {not json\ndata: at all}\n\n"
    assert meter.feed(strange) == strange


def test_an_event_of_any_length_passes_and_its_usage_is_read() -> None:
    meter = StreamMeter(call("/v1/images/generations", prompt="a road", stream=True))
    usage = {"input_tokens": 7, "output_tokens": 90, "input_tokens_details": {"image_tokens": 2, "text_tokens": 5}}
    image = {"type": "image_generation.completed", "b64_json": "x" * 12_000_000, "usage": usage}
    long = b"event: image_generation.completed\ndata: " + json.dumps(image).encode() + b"\n\n"
    chunks = [long[start : start + 65_536] for start in range(0, len(long), 65_536)]
    assert [meter.feed(chunk) for chunk in chunks] == chunks
    assert meter._length == 0
    result = meter.result()
    assert (result.input_tokens, result.output_tokens, result.images) == (7, 90, 1)


RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "model": "gpt-4o-2024-11-20",
    "service_tier": "priority",
    "usage": {
        "input_tokens": 20,
        "output_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens_details": {"reasoning_tokens": 3},
    },
}
OF_RESPONSE = Usage(20, 9, 4, reasoning_tokens=3, model="gpt-4o-2024-11-20", service_tier="priority")


def typed(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


CREATED = typed("response.created", response={**RESPONSE, "usage": None, "status": "in_progress"})
COMPLETED = typed("response.completed", response=RESPONSE)


@given(st.sets(st.integers(1, len(CREATED + COMPLETED) + 60), max_size=30))
def test_a_typed_stream_passes_byte_for_byte_and_tells_usage_and_objects(cuts: set[int]) -> None:
    data = CREATED + typed("response.output_text.delta", delta="Grüße") + COMPLETED + b": bye\n\n"
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    meter = StreamMeter(call("/v1/responses", stream=True))
    before = b"".join(meter.feed(data[start:end]) for start, end in itertools.pairwise(places))
    assert before + meter.finish() == data
    assert not before.endswith(b": bye\n\n")  # the last piece waits for the usage to be on record
    assert meter.done
    assert not meter.marked
    assert meter.result() == OF_RESPONSE
    assert [json.loads(told)["response"]["id"] for told in meter.objects] == ["resp_1", "resp_1"]


def test_a_typed_stream_is_committed_by_its_first_content() -> None:
    for events, committed in ((b"", False), (typed("response.output_item.added", item={}), True)):
        meter = StreamMeter(call("/v1/responses", stream=True))
        meter.feed(CREATED + typed("response.in_progress", response=RESPONSE) + events)
        assert meter.committed == committed
    failing = StreamMeter(call("/v1/responses", stream=True))
    failing.feed(CREATED + typed("response.failed", response={"error": {"message": "x"}}))
    assert failing.failed
    background = StreamMeter(call("/v1/responses", stream=True, background=True), eager=True)
    background.feed(CREATED)
    assert background.committed


def test_the_events_of_a_run_are_known_by_their_names() -> None:
    run = {"id": "run_1", "object": "thread.run", "status": "completed", "model": "m"}
    usage = {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}
    events = [
        ("thread.run.created", {**run, "status": "queued", "usage": None}),
        ("thread.message.delta", {"object": "thread.message.delta", "delta": {"content": [{"text": {"value": "x"}}]}}),
        ("thread.run.completed", {**run, "usage": usage}),
    ]
    made = parse_call(match("POST", "/v1/threads/thread_1/runs"), "", {}, b'{"assistant_id": "asst_1", "stream": true}')
    meter = StreamMeter(made)
    data = b"".join(f"event: {name}\ndata: {json.dumps(about)}\n\n".encode() for name, about in events)
    assert meter.feed(data) == data
    assert meter.feed(b"event: done\ndata: [DONE]\n\n") == b""
    assert (meter.done, meter.marked) == (True, True)
    assert meter.result() == Usage(5, 6, model="m")
    assert len(meter.objects) == 2


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
            Usage(3, 4, model="m", service_tier="batch"),
        ),
        ("/v1/moderations", {"input": "x"}, {"results": []}, Usage()),
    ],
)
def test_every_api_tells_its_usage_in_its_own_way(
    path: str, fields: dict[str, Any], answer: dict[str, Any], counted: Usage
) -> None:
    assert usage_in_answer(call(path, **fields), 200, json.dumps(answer).encode()) == counted


ERROR = b'{"message":"broke off"}'
BROKEN = [
    b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"Gr\xc3\xbc\xc3\x9fe \xf0\x9f\x98\x80'
    b' \\u00e9 \\"q\\" \\\\"}}],"n":-1.5e+3,"t":true,"z":null,"e":[],"o":{},"l":[1,2,{"a":[false]}]}\n\n',
    b'event: response.output_text.delta\r\ndata: {"type":"response.output_text.delta","delta":"hi"}\r\n\r\n',
    b": a comment\n\n",
    b'data: {\ndata:  "a": 1,\ndata: "b": [1,\ndata: 2]}\n\n',
    b'id: 5\nretry: 10\ndata:{"x":"\xe2\x82\xac"}\n\n',
    b'event: thread.message.delta\ndata: {"delta": {"content": "abc"}}\n\n',
]


@pytest.mark.parametrize("event", BROKEN, ids=range(len(BROKEN)))
def test_wherever_an_event_breaks_off_clients_read_it_and_the_error_behind_it(event: bytes) -> None:
    told = {"message": "broke off"}
    for cut in range(len(event)):
        stream = event[:cut] + event_stream.finish(event[:cut], ERROR) + b'data: {"error":' + ERROR + b"}\n\n"
        read = [json.loads(one.data) for one in SSEDecoder().iter_bytes(iter([stream]))]
        assert 1 <= len(read) <= 2
        assert all(one["error"] == told for one in read if one is read[-1] or cut < len(event.rstrip()))


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_events_end_at_an_empty_line_of_any_kind(ending: bytes) -> None:
    one, two = b"data: 1" + ending + ending, b"event: x" + ending + b"data: 2" + ending + ending
    assert event_stream.split(one + two + b"data: 3") == ([one, two], b"data: 3")
    assert [event_stream.payload(one), event_stream.payload(two)] == [b"1", b"2"]


# As the standard says it, one character after the other: slow where a line is megabytes long.
EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r(?!\Z))")


@given(pieces=st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"data: ", b"event: a", b"{}"]), max_size=14))
def test_events_and_what_they_say_are_found_wherever_lines_end(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    ends = [found.end() for found in EVENT_END.finditer(data)]
    events, rest = event_stream.split(data)
    assert [*events, rest] == [data[start:end] for start, end in itertools.pairwise([0, *ends, len(data)])]
    assert event_stream.ends_event(data) == bool(ends)
    for one in events:
        lines = [line for line in re.split(rb"\r\n|\n|\r", one) if line.startswith(b"data:")]
        assert event_stream.payload(one) == b"\n".join(line[5:].removeprefix(b" ") for line in lines)


def test_a_line_end_of_two_characters_is_no_empty_line() -> None:
    assert event_stream.split(b"data: 1\r\ndata: 2\r\n") == ([], b"data: 1\r\ndata: 2\r\n")
    assert event_stream.payload(b"data: 1\r\ndata: 2\r\n\r\n") == b"1\n2"


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
    assert meter.result() == COUNTED


def test_an_error_page_is_no_answer() -> None:
    assert is_json_object(b' {"usage": 3}')
    assert not is_json_object(b"<html></html>")
    assert not is_json_object(b"[]")
    assert not is_json_object(b'{"cut": ')


SAID = (
    ("response.output_text.delta", "Zwölf "),
    ("response.refusal.delta", "I must not"),
    ("response.reasoning_summary_text.delta", "First think"),
    ("response.function_call_arguments.delta", '{"place": '),
    ("response.custom_tool_call_input.delta", "SELECT 1"),
    ("response.audio.transcript.delta", "spoken"),
)


def test_all_that_a_typed_stream_writes_is_kept_to_be_counted_and_once_only() -> None:
    meter = StreamMeter(call("/v1/responses", stream=True))
    meter.feed(CREATED + b"".join(typed(kind, delta=text, item_id="x") for kind, text in SAID))
    meter.feed(typed("response.output_text.done", text="Zwölf ") + typed("response.audio.delta", delta="UklGRg=="))
    assert meter.said() == "".join(text for _, text in SAID)
    assert meter.result().estimated


@pytest.mark.parametrize(
    ("path", "fields", "begun", "said", "characters"),
    [
        ("/v1/images/generations", {"prompt": "a gate"}, {"type": "image_generation.partial_image"}, "", 0),
        ("/v1/audio/transcriptions", {}, {"type": "transcript.text.delta", "delta": "a gate"}, "a gate", 0),
        ("/v1/audio/speech", {"input": "a gate"}, {"type": "speech.audio.delta", "audio": "UklGRg=="}, "", 6),
    ],
)
def test_a_stream_that_breaks_off_is_charged_by_estimate_whatever_it_makes(
    path: str, fields: dict[str, Any], begun: dict[str, Any], said: str, characters: int
) -> None:
    made = call(path, stream=True, **fields)
    meter = StreamMeter(made)
    meter.feed(event(**begun))
    usage = Usage(made.input_estimate, len(said) // 4, characters=characters, estimated=True)
    assert (meter.result(), meter.said()) == (usage, said)
    assert made.input_estimate > 0
