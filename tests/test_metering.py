"""What is read out of answers while they pass, and that they pass unchanged."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import sse
from shared.metering import BodyMeter, EventTooLarge, StreamMeter, is_json_object, usage_in_answer
from shared.types import Usage

USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 9,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": None},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
COUNTED = Usage(input_tokens=20, output_tokens=9, cached_input_tokens=4, reasoning_tokens=3)


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
    meter = StreamMeter(strip_usage=False)
    passed = b"".join([*map(meter.feed, chunks), meter.finish()])
    assert passed == b"".join(chunks)
    assert meter.result(0) == COUNTED
    assert meter.done


@given(chunkings())
def test_the_usage_chunk_that_only_the_gateway_wanted_is_taken_out(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    newline = b"\r\n" if b"\r\n" in whole else b"\n"
    meter = StreamMeter(strip_usage=True)
    before_the_end = b"".join(map(meter.feed, chunks))
    assert b"[DONE]" not in before_the_end
    assert before_the_end + meter.finish() == whole.replace(TOLD.replace(b"\n", newline), b"")
    assert meter.result(0) == COUNTED


def test_half_an_event_waits_for_its_other_half() -> None:
    meter = StreamMeter(strip_usage=True)
    whole = delta(content="a very long word")
    assert meter.feed(WORDS[0] + whole[:20]) == WORDS[0]
    assert meter.feed(whole[20:30]) == b""
    assert meter.feed(whole[30:] + DONE[:5]) == whole
    meter.end()
    assert not meter.done


def test_an_end_marker_without_its_empty_line_counts() -> None:
    for marker in (b"data: [DONE]", b"data: [DONE]\n", b"data:[DONE]\r\n"):
        meter = StreamMeter(strip_usage=True)
        assert meter.feed(WORDS[0] + marker) == WORDS[0]
        meter.end()
        assert meter.done
        assert meter.finish() == marker


def test_a_stream_is_committed_by_its_first_token_and_not_before() -> None:
    kinds = ({"content": "x"}, {"tool_calls": [{"index": 0}]}, {"refusal": "no"}, {"audio": {"data": "AA=="}})
    for last in (*(delta(**kind) for kind in kinds), STOP):
        meter = StreamMeter(strip_usage=True)
        assert meter.feed(FILTER + ROLE)
        assert not meter.committed
        meter.feed(last)
        assert meter.committed


def test_an_error_inside_a_stream_is_noticed() -> None:
    meter = StreamMeter(strip_usage=False)
    meter.feed(event(error={"message": "The server had an error"}))
    assert meter.failed
    assert not meter.committed


def test_a_stream_that_told_no_usage_is_estimated_from_what_passed() -> None:
    meter = StreamMeter(strip_usage=True)
    for _ in range(10):
        meter.feed(delta(content="four" * 3))
    assert meter.result(7) == Usage(input_tokens=7, output_tokens=30, estimated=True)


def test_an_unreadable_event_passes_as_it_is() -> None:
    meter = StreamMeter(strip_usage=True)
    strange = b"event: x\ndata: {not json\ndata: at all}\n\n"
    assert meter.feed(strange) == strange


def test_an_event_of_megabytes_passes_and_one_without_end_is_refused() -> None:
    meter = StreamMeter(strip_usage=True)
    long = delta(content="x" * 3_000_000)
    passed = b"".join(meter.feed(long[start : start + 16_384]) for start in range(0, len(long), 16_384))
    assert passed == long
    with pytest.raises(EventTooLarge):
        for _ in range(400):
            meter.feed(b"x" * 65_536)


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_events_end_at_an_empty_line_of_any_kind(ending: bytes) -> None:
    one, two = b"data: 1" + ending + ending, b"event: x" + ending + b"data: 2" + ending + ending
    assert sse.split(one + two + b"data: 3") == ([one, two], b"data: 3")
    assert [sse.payload(one), sse.payload(two)] == [b"1", b"2"]


def test_a_line_end_of_two_characters_is_no_empty_line() -> None:
    assert sse.split(b"data: 1\r\ndata: 2\r\n") == ([], b"data: 1\r\ndata: 2\r\n")
    assert sse.payload(b"data: 1\r\ndata: 2\r\n\r\n") == b"1\n2"


@pytest.mark.parametrize(
    ("body", "counted"),
    [
        (json.dumps({"usage": USAGE}).encode(), COUNTED),
        (b'{"usage": null}', Usage(input_tokens=99, estimated=True)),
        (b'{"usage": {"prompt_tokens": 3, "total_tokens": 3}}', Usage(input_tokens=3)),
        (b'{"usage": "none"}', Usage(input_tokens=99, estimated=True)),
        (b'{"usage": {"prompt_tokens": -3}}', Usage(input_tokens=99, estimated=True)),
        (b'{"usage": {"prompt_tokens": 100000000000000000000}}', Usage(input_tokens=99, estimated=True)),
        (
            b'{"choices": [{"message": {"role": "assistant", "content": "forty characters, which is ten tokens.."}}]}',
            Usage(input_tokens=99, output_tokens=9, estimated=True),
        ),
        (b"not json", Usage(input_tokens=99, estimated=True)),
    ],
)
def test_the_usage_of_a_whole_answer(body: bytes, counted: Usage) -> None:
    assert usage_in_answer(200, body, 99) == counted


def test_a_refused_prompt_is_charged_and_so_estimated() -> None:
    body = b'{"error": {"code": "content_filter"}}'
    assert usage_in_answer(400, body, 12) == Usage(input_tokens=12, estimated=True)


@given(st.integers(1, 400))
def test_the_usage_of_a_body_that_is_too_large_to_keep_stands_at_its_end(size: int) -> None:
    body = json.dumps({"data": ["x" * 9_000], "about": {"usage": 1}, "usage": USAGE, "model": "m"}).encode()
    meter = BodyMeter(body[:100])
    for start in range(100, len(body), size):
        chunk = body[start : start + size]
        assert meter.feed(chunk) == chunk
    assert meter.result(5) == COUNTED


def test_an_error_page_is_no_answer() -> None:
    assert is_json_object(b' {"usage": 3}')
    assert not is_json_object(b"<html></html>")
    assert not is_json_object(b"[]")
    assert not is_json_object(b'{"cut": ')
