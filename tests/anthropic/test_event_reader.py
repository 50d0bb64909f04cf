"""Streams of messages: what commits them, what fails before that, and what they tell of their usage."""

import json
from typing import Any

import pytest

from shared.anthropic import operations
from shared.anthropic.event_reader import MessageEventReader
from shared.azure_openai.event_relay import EventRelay
from shared.types import Call, Usage

_OPERATION = operations.match("POST", "/v1/messages").operation
CALL = Call(operation=_OPERATION, surface="anthropic", model="claude", stream=True, input_estimate=70)

START_USAGE = {
    "input_tokens": 20,
    "cache_creation_input_tokens": 300,
    "cache_read_input_tokens": 1000,
    "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
    "output_tokens": 1,
}


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


START = event("message_start", message={"id": "msg_1", "model": "claude-1", "content": [], "usage": START_USAGE})
BLOCK = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
PING = event("ping")
SAID = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello there, who are you?"})
STOPPED = event("content_block_stop", index=0)
DELTA = event(
    "message_delta",
    delta={"stop_reason": "end_turn"},
    usage={"output_tokens": 42, "server_tool_use": {"web_search_requests": 3}},
)
END = event("message_stop")


def read(*events: bytes) -> MessageEventReader:
    reader = MessageEventReader(CALL)
    for one in events:
        reader.read(one)
    return reader


@pytest.mark.parametrize("opening", [START, PING, BLOCK, STOPPED])
def test_nothing_is_committed_before_the_first_delta(opening: bytes) -> None:
    assert not read(START, PING, opening).committed
    assert read(START, PING, opening, SAID).committed


@pytest.mark.parametrize("kind", ["text", "thinking", "tool_use", "server_tool_use"])
def test_a_block_that_deltas_fill_is_no_content(kind: str) -> None:
    assert not read(START, event("content_block_start", index=0, content_block={"type": kind})).committed


@pytest.mark.parametrize("kind", ["redacted_thinking", "web_search_tool_result", "unheard_of"])
def test_a_block_that_comes_whole_is_content(kind: str) -> None:
    assert read(START, event("content_block_start", index=0, content_block={"type": kind})).committed


def test_an_error_before_the_first_content_fails_the_stream() -> None:
    failed = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    reader = read(START, PING, failed)
    assert reader.failed
    assert reader.error is not None
    assert reader.error.type == "overloaded_error"
    assert not read(START, SAID, failed).failed


def test_the_usage_is_that_of_the_beginning_and_the_last_sums() -> None:
    assert read(START, BLOCK, SAID, DELTA, END).usage() == Usage(
        input_tokens=1320,
        cached_input_tokens=1000,
        cache_write_tokens=100,
        cache_write_1h_tokens=200,
        output_tokens=42,
        web_searches=3,
        model="claude-1",
    )


def test_iterations_count_also_those_that_the_sums_leave_out() -> None:
    iterations = [
        {"type": "compaction", "input_tokens": 1000, "output_tokens": 50, "cache_read_input_tokens": 7},
        {"type": "message", "input_tokens": 9, "output_tokens": 20},
        {"type": "message", "input_tokens": 9, "output_tokens": 30},
        {"type": "advisor_message", "model": "claude-2", "input_tokens": 500, "output_tokens": 80},
    ]
    usage = read(START, event("message_delta", delta={}, usage={"output_tokens": 42, "iterations": iterations})).usage()
    assert (usage.input_tokens, usage.output_tokens) == (1320 + 1007 + 500, 50 + 50 + 80)
    assert (usage.cached_input_tokens, usage.cache_write_tokens, usage.cache_write_1h_tokens) == (1007, 100, 200)


@pytest.mark.parametrize(
    ("fields", "tier"),
    [
        ({"inference_geo": "us"}, "us"),
        ({"inference_geo": "us", "speed": "fast"}, "fast-us"),
        ({"inference_geo": "us", "service_tier": "batch"}, "batch-us"),
        ({"inference_geo": "global", "service_tier": "standard"}, ""),
        ({"inference_geo": "not_available"}, ""),
    ],
)
def test_the_tier_tells_where_the_model_ran(fields: dict[str, str], tier: str) -> None:
    begun = event("message_start", message={"model": "claude-1", "usage": {"input_tokens": 9, **fields}})
    assert read(begun, SAID, DELTA, END).usage().service_tier == tier


def test_sums_replace_earlier_sums() -> None:
    more = event("message_delta", delta={}, usage={"output_tokens": 50, "input_tokens": 25})
    usage = read(START, SAID, DELTA, more).usage()
    assert (usage.input_tokens, usage.output_tokens) == (1325, 50)


def test_an_unfinished_stream_has_the_prompt_as_it_was_told_and_an_estimated_answer() -> None:
    usage = read(START, BLOCK, SAID).usage()
    assert usage.estimated
    assert (usage.input_tokens, usage.cached_input_tokens) == (1320, 1000)
    assert usage.output_tokens == 6
    assert read().usage() == Usage(input_tokens=70, estimated=True)


def opened(**block: Any) -> bytes:
    return event("content_block_start", index=0, content_block=block)


COMPACTION = opened(type="compaction", content=None)
COMPACTED = event("content_block_delta", index=0, delta={"type": "compaction_delta", "content": "so far " * 40})
ASKED = opened(type="server_tool_use", name="advisor", input={})
ADVICE = opened(type="advisor_tool_result", content={"type": "advisor_result", "text": "advice " * 40})
REFUSED = opened(type="advisor_tool_result", content={"type": "advisor_tool_result_error", "error_code": "busy"})


@pytest.mark.parametrize(
    ("events", "again", "said"),
    [
        ((COMPACTION,), 1, 1),
        ((COMPACTION, COMPACTED), 1, 70),
        ((COMPACTION, COMPACTED, STOPPED, BLOCK, SAID), 1, 76),
        ((opened(type="compaction", content="so far " * 40),), 1, 70),
        ((ASKED,), 1, 1),
        ((ASKED, STOPPED, ADVICE), 1, 70),
        ((ADVICE, STOPPED, BLOCK, SAID), 1, 76),
        ((ASKED, STOPPED, REFUSED), 1, 1),
        ((COMPACTION, COMPACTED, STOPPED, ASKED, STOPPED, ADVICE, ASKED), 3, 140),
    ],
)
def test_a_compaction_or_an_advisor_owes_its_usage_until_the_end(
    events: tuple[bytes, ...], again: int, said: int
) -> None:
    reader = read(START, *events)
    assert reader.owes_usage
    usage = reader.usage()
    assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (1320 + again * 70, said, True)
    assert read(*events).usage().input_tokens == 70 + again * 70
    assert not read(START, *events, DELTA).owes_usage
    assert read(START, *events, DELTA).usage().output_tokens == 42


@pytest.mark.parametrize("block", [BLOCK, opened(type="server_tool_use", name="web_search", input={})])
def test_other_blocks_owe_no_usage_before_they_end(block: bytes) -> None:
    reader = read(START, block, SAID)
    assert not reader.owes_usage
    assert reader.usage().input_tokens == 1320


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_a_stream_passes_byte_for_byte_but_for_its_end_which_waits(size: int) -> None:
    data = b"".join([START, BLOCK, PING, SAID, STOPPED, DELTA, END])
    relay = EventRelay(MessageEventReader(CALL))
    passed = b"".join(relay.feed(data[start : start + size]) for start in range(0, len(data), size))
    assert passed == data.removesuffix(END)
    assert relay.done
    assert passed + relay.finish() == data


def test_what_cannot_be_read_passes() -> None:
    reader = MessageEventReader(CALL)
    assert reader.read(b"data: not json\n\n") == "pass"
    assert reader.committed
