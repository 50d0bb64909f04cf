"""Event streams pass event by event, byte for byte, and their end waits."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.azure_openai.event_reader import EventReader
from shared.azure_openai.event_relay import EventRelay
from shared.types import Call
from tests.azure_openai.streams import COUNTED, OF_RESPONSE, RESPONSE, USAGE, call, delta, event, typed

CALL = call()
STRIPPING = call(stream=True)  # the usage chunk is the gateway's wish

FILTER = event(choices=[], id="", prompt_filter_results=[{"prompt_index": 0}])
ROLE = delta(role="assistant", content="")
STOP = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], usage=None)
LATE = event(
    choices=[{"index": 0, "content_filter_results": {}, "finish_reason": None}]
)  # asynchronous filter: no delta
USAGE_CHUNK = event(choices=[], usage=USAGE)
DONE = b"data: [DONE]\n\n"
WORDS = [delta(content=word) for word in ("Grüße ", "\u2028", "aus 😀", ' "choices":[{ ', "\\n")]


def relay(of: Call) -> EventRelay:
    return EventRelay(EventReader(of))


@st.composite
def chunkings(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A line end, and a whole stream of such lines, cut anywhere, also inside of a character."""
    data = b"".join([FILTER, ROLE, *WORDS, STOP, LATE, USAGE_CHUNK, b": a comment\n\n", DONE])
    line_end = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    data = data.replace(b"\n", line_end)
    cuts = sorted(draw(st.sets(st.integers(1, len(data) - 1), max_size=40)))
    return line_end, [data[start:end] for start, end in itertools.pairwise([0, *cuts, len(data)])]


@given(chunkings())
def test_a_stream_passes_byte_for_byte_and_no_whole_event_waits(chunking: tuple[bytes, list[bytes]]) -> None:
    line_end, chunks = chunking
    events = relay(CALL)
    received = passed = b""
    for chunk in chunks:
        received += chunk
        passed += events.feed(chunk)
        begun = received.rfind(2 * line_end)
        whole = received[: begun + 2 * len(line_end)] if begun >= 0 else b""
        assert passed.startswith(whole.removesuffix(DONE.replace(b"\n", line_end)))
    assert passed + events.finish() == received
    assert events.reader.usage() == COUNTED
    assert events.done


@given(chunkings())
def test_a_usage_chunk_that_only_the_gateway_asked_for_does_not_pass(chunking: tuple[bytes, list[bytes]]) -> None:
    line_end, chunks = chunking
    events = relay(STRIPPING)
    before_the_end = b"".join(map(events.feed, chunks))
    assert b"[DONE]" not in before_the_end
    assert before_the_end + events.finish() == b"".join(chunks).replace(USAGE_CHUNK.replace(b"\n", line_end), b"")
    assert events.reader.usage() == COUNTED


def test_an_event_waits_until_it_is_whole() -> None:
    events = relay(CALL)
    assert events.feed(WORDS[0] + WORDS[1][:20]) == WORDS[0]
    assert events.feed(WORDS[1][20:30]) == b""
    assert events.between_events
    assert events.feed(WORDS[1][30:] + WORDS[2] + b"data: ") == WORDS[1] + WORDS[2]


def test_a_chunk_of_one_event_is_not_copied() -> None:
    assert relay(STRIPPING).feed(WORDS[0]) is WORDS[0]


@pytest.mark.parametrize("marker", [b"data: [DONE]", b"data: [DONE]\n", b"data:[DONE]\r\n"])
def test_an_end_marker_counts_without_its_empty_line(marker: bytes) -> None:
    events = relay(STRIPPING)
    assert events.feed(WORDS[0] + marker) == WORDS[0]
    events.end()
    assert (events.done, events.reader.marked) == (True, True)
    assert events.finish() == marker


@pytest.mark.parametrize(
    ("indexes", "finished", "whole"),
    [([0], [0], True), ([0], [], False), ([0, 1], [0], False), ([0, 1], [1, 0], True), ([], [], False)],
)
def test_a_stream_that_ends_cleanly_is_whole_without_a_marker_if_all_its_choices_are_finished(
    indexes: list[int], finished: list[int], whole: bool
) -> None:
    events = relay(CALL)
    for index in indexes:
        events.feed(event(choices=[{"index": index, "delta": {"content": "word"}, "finish_reason": None}]))
    for index in finished:
        events.feed(event(choices=[{"index": index, "delta": {}, "finish_reason": "stop"}]))
    events.feed(LATE)
    events.end()
    assert events.done == whole


def test_more_may_follow_an_end_that_is_no_marker_or_half_a_line_end() -> None:
    for end, more in ((DONE, False), (b"data: [DONE]\r\n\r", True), (b"data: [DONE]\r\n\r\n", False)):
        events = relay(CALL)
        assert events.feed(end) == b""
        assert (events.done, events.may_go_on) == (True, more)
    typed_stream = relay(call("/v1/responses", stream=True))
    typed_stream.feed(COMPLETED)
    assert typed_stream.may_go_on


def test_a_stream_that_ends_inside_an_event_is_not_done() -> None:
    events = relay(CALL)
    events.feed(WORDS[0] + b"data: [DON")
    events.end()
    assert not events.done
    assert events.between_events


def test_an_unreadable_event_passes_as_it_is() -> None:
    strange = b"event: x\ndata: {not json\ndata: at all}\n\n"
    assert relay(STRIPPING).feed(strange) == strange


IMAGE = {"type": "image_generation.completed", "usage": {"input_tokens": 7, "output_tokens": 90}}


@pytest.mark.parametrize("length", [100_000, 12_000_000])
def test_a_long_event_passes_raw_and_its_usage_is_read(length: int) -> None:
    events = relay(call("/v1/images/generations", prompt="a road", stream=True))
    data = json.dumps({"b64_json": "x" * length, **IMAGE}).encode()
    long = b"event: image_generation.completed\ndata: " + data + b"\n\n"
    chunks = [long[start : start + 40_000] for start in range(0, len(long), 40_000)]
    passed = [events.feed(chunk) for chunk in chunks]
    assert passed == [b"", chunks[0] + chunks[1], *chunks[2:]]
    assert events.between_events
    usage = events.reader.usage()
    assert (usage.input_tokens, usage.output_tokens, usage.images) == (7, 90, 1)
    assert events.feed(WORDS[0]) == WORDS[0]


def test_within_a_long_event_no_other_may_be_put() -> None:
    events = relay(CALL)
    begun = delta(content="x" * 70_000)[:-10]
    assert events.feed(begun) == begun
    assert not events.between_events


def test_of_a_long_event_that_ends_the_answer_the_last_piece_waits() -> None:
    events = relay(call("/v1/responses", stream=True))
    whole = typed("response.completed", response={**RESPONSE, "output": ["x" * 300_000]})
    assert events.feed(whole[:200_000]) == whole[:200_000]
    assert events.feed(whole[200_000:-3]) == whole[200_000:-3]
    assert events.feed(whole[-3:] + b": bye\n\n") == b""
    assert events.done
    assert events.finish() == whole[-3:] + b": bye\n\n"
    assert events.reader.usage() == OF_RESPONSE


CREATED = typed("response.created", response={**RESPONSE, "usage": None, "status": "in_progress"})
COMPLETED = typed("response.completed", response=RESPONSE)


@given(st.sets(st.integers(1, len(CREATED + COMPLETED) + 60), max_size=30))
def test_a_typed_stream_passes_up_to_the_event_that_ends_it(cuts: set[int]) -> None:
    before = CREATED + typed("response.output_text.delta", delta="Grüße")
    data = before + COMPLETED + b": bye\n\n"
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    events = relay(call("/v1/responses", stream=True))
    assert b"".join(events.feed(data[start:end]) for start, end in itertools.pairwise(places)) == before
    assert events.finish() == COMPLETED + b": bye\n\n"
    assert (events.done, events.reader.marked) == (True, False)
    assert events.reader.usage() == OF_RESPONSE
    assert [json.loads(payload)["response"]["id"] for payload in events.reader.objects] == ["resp_1", "resp_1"]
