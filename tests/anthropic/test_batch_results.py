"""The results of a batch tell its usage: by model, and apart that of long context; only what succeeded is charged."""

import json
from typing import Any

import pytest

from shared.anthropic.batch_results import BatchResults, state_of
from shared.types import Reference, Usage

SONNET, HAIKU = "claude-sonnet-5-5", "claude-haiku-5-5"


def line(model: str, read: int, written: int, **more: Any) -> dict[str, Any]:
    usage = {"input_tokens": read, "output_tokens": written, "service_tier": "batch", **more}
    message = {"id": "msg_1", "model": model, "content": [], "usage": usage}
    return {"custom_id": "x", "result": {"type": "succeeded", "message": message}}


def results(*lines: Any, size: int = 7) -> BatchResults:
    """Results that arrive in pieces of this size."""
    reader, body = BatchResults(), "\n".join(map(json.dumps, lines)).encode()
    for start in range(0, len(body), size):
        reader.feed(body[start : start + size])
    reader.finish()
    return reader


@pytest.mark.parametrize("size", [1, 50, 10_000])
def test_each_model_is_summed_and_long_context_apart(size: int) -> None:
    failed = [{"result": {"type": kind}} for kind in ("errored", "canceled", "expired")]
    written = {"cache_creation_input_tokens": 7, "cache_creation": {"ephemeral_1h_input_tokens": 5}}
    read = results(
        line(SONNET, 10, 1, cache_read_input_tokens=90),
        line(HAIKU, 100_000, 2),
        *failed,
        line(HAIKU, 100_001, 3),
        line(HAIKU, 200_000, 4, server_tool_use={"web_search_requests": 2}),
        line(SONNET, 20, 5, output_tokens_details={"thinking_tokens": 4}, **written),
        size=size,
    )
    assert read.lines == 8
    summed = {"service_tier": "batch", "summed": True}
    assert read.usages() == (
        Usage(100_000, 2, model=HAIKU, **summed),  # type: ignore[arg-type]
        Usage(300_001, 7, web_searches=2, long=True, model=HAIKU, **summed),  # type: ignore[arg-type]
        Usage(127, 6, 90, 2, 5, reasoning_tokens=4, model=SONNET, **summed),  # type: ignore[arg-type]
    )


def test_what_ran_in_the_us_is_apart() -> None:
    read = results(line(SONNET, 1, 1, inference_geo="us"), line(SONNET, 2, 2, inference_geo="global"))
    assert [(one.service_tier, one.input_tokens) for one in read.usages()] == [("batch", 2), ("batch-us", 1)]


def test_a_batch_without_an_answer_costs_nothing() -> None:
    assert results({"result": {"type": "expired"}}).usages() == (Usage(service_tier="batch", summed=True),)


def test_what_the_answers_have_made_is_known() -> None:
    made = line(SONNET, 1, 1)
    block = {"type": "code_execution_tool_result", "content": {"content": [{"type": "x", "file_id": "file_made"}]}}
    made["result"]["message"] |= {"container": {"id": "container_made"}, "content": [block]}
    expected = [Reference("claude_file", "file_made"), Reference("claude_container", "container_made")]
    assert set(results(made).objects) == set(expected)


@pytest.mark.parametrize("written", [b"{", b"<html>", b'{"result": 1}', b"[]"])
def test_a_line_that_cannot_be_read_ends_the_reading(written: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        BatchResults().feed(written + b"\n")


def test_the_state_of_a_batch_is_read() -> None:
    counts = {"processing": 0, "succeeded": 3, "errored": 1, "canceled": 0, "expired": 2}
    state = state_of(json.dumps({"processing_status": "ended", "request_counts": counts}).encode())
    assert (state.ended, state.succeeded, state.requests) == (True, 3, 6)
    for body in (b"", b"[]", b'{"processing_status": "canceling"}'):
        assert not state_of(body).ended
