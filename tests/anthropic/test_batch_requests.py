"""The body of a batch of messages is read request by request, bounded, and rewritten for a backend at its models."""

import json
import time
from typing import Any

import msgspec
import pytest

from shared.anthropic import operations
from shared.anthropic.batch_requests import BatchReader, body_for, with_own_address
from shared.config.document import ApiKey, Backend
from shared.errors import InvalidRequest
from shared.types import Call, Reference

ROUTE = operations.match("POST", "/v1/messages/batches")
BACKEND = Backend(
    name="own", endpoint="https://b.example", kind="anthropic", auth=ApiKey("K"), models={"a": "claude-a", "b": "b"}
)


def read(body: bytes) -> Call:
    reader = BatchReader(body)
    while not reader.read():
        pass
    return reader.call(ROUTE, "", {})


def request(**params: Any) -> dict[str, Any]:
    return {"custom_id": "x", "params": {"model": "a", "max_tokens": 10, "messages": [], **params}}


def body(*requests: Any) -> bytes:
    return json.dumps({"requests": requests}).encode()


def with_models(call: Call, **models: str) -> Call:
    assert call.batch is not None
    return msgspec.structs.replace(call, batch=msgspec.structs.replace(call.batch, models=models))


def test_a_batch_has_its_models_its_size_and_the_objects_of_all_its_requests() -> None:
    source = {"type": "file", "file_id": "file_1"}
    named = [{"role": "user", "content": [{"type": "document", "source": source}]}]
    call = read(body(request(), request(model="b", max_tokens=31, messages=named), request(container="container_1")))
    assert call.batch is not None
    assert (call.model, call.batch.names, call.batch.requests) == ("a", ("a", "b"), 3)
    assert call.max_output_tokens == 17  # of each on average, and rounded up
    assert call.references == (Reference("claude_file", "file_1"), Reference("claude_container", "container_1"))
    assert call.makes == "message_batch"


def test_the_models_that_requests_name_besides_their_own_are_known() -> None:
    advisor = {"type": "advisor_20260301", "name": "advisor", "model": "b"}
    call = read(body(request(tools=[advisor]), request(fallbacks=[{"model": "c"}, {"model": "a"}]), request(model="b")))
    assert call.batch is not None
    assert (call.batch.names, call.other_models) == (("a", "b"), ("b", "c"))
    brought = {"type": "tool_addition", "tool": {"definition": {"type": "advisor_20260301", "model": "d"}}}
    long = {"role": "user", "content": [{"type": "text", "text": "x" * 300_000}, brought]}
    assert read(body(request(messages=[long]))).other_models == ("d",)


@pytest.mark.parametrize("lead", [b"", b"\xef\xbb\xbf", b" \n"])
def test_a_backends_names_replace_the_callers_and_nothing_else(lead: bytes) -> None:
    text = r'"\"model\": \"a\" ]}{[ \\", "model\u0020": "a"'
    written = (
        f'{{"more": [["requests"]], "requests" :\n[{{"params": {{"model": "a", "system": {text}}}, "n": [{{}}]}} , '
    )
    written += '{"custom_id": "y", "params": {"m\\u006fdel":"b"}}]}'
    call = with_models(read(lead + written.encode()), a="a", b="b")
    sent = body_for(call, BACKEND)
    assert sent == written.replace('{"model": "a"', '{"model": "claude-a"').encode().join(
        (lead.strip(b"\xef\xbb\xbf"), b"")
    )


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (b"", "no body"),
        (b"[]", "not an object"),
        (b"{", "not valid JSON"),
        (b"{}", "no requests"),
        (b'{"requests": {}}', "no requests"),
        (b'{"requests": []}', "no requests"),
        (b'{"requests": [1]}', "requests[0]"),
        (b'{"requests": ["x"]}', "requests[0]"),
        (b'{"requests": [{"params": {"model": "a"}} {"params": {"model": "a"}}]}', "requests[1]"),
        (b'{"requests": [{"params": {"model": "a"}},]}', "requests[1]"),
        (b'{"requests": [{"params": {"model": "a"}}, null]}', "requests[1]"),
        (b'{"requests": [{"params": {"model": "a"}}', "not valid JSON"),
        (b'{"requests": [{"params": {"model": "a"}}]}]', "not valid JSON"),
        (b'{"requests": [{"params": {"model": "a"}}], "requests": []}', "duplicate key"),
        (b'{"requests": [{"params": {"model": "a", "model": "b"}}]}', "requests[0]"),
        (b'{"requests": [{"params": {"Model": "a"}}]}', "requests[0]"),
        (b'{"requests": [{"params": {"model": ""}}]}', "requests[0]"),
        (b'{"requests": [{"params": {"model": "a", "x": "\\"}}]}', "not valid JSON"),
        (b'{"requests": [{"params": {"model": "a", "x": nul}}]}', "requests[0]"),
        (b'{"requests": [{"params": {"model": "a"}, "custom_id": 4}]}', "custom_id"),
        (b'{"requests": [{"params": [{"model": "a"}]}]}', "expected `params`"),
        (b'{"requests": [{"params": ' + b"[" * 300 + b"]" * 300 + b"}]}", "nested"),
        (b'{"requests": [{"params": {"model": "a"}}], "x": "' + b"x" * 70_000 + b'"}', "outside them"),
    ],
)
def test_what_is_no_batch_is_refused_with_its_place(written: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read(written)
    assert words in raised.value.message


def test_a_batch_has_bounds() -> None:
    one = json.dumps(request()).encode()
    with pytest.raises(InvalidRequest, match="at most 100000"):
        read(b'{"requests": [' + b",".join([one] * 100_001) + b"]}")
    with pytest.raises(InvalidRequest, match="objects and arrays"):
        read(body(request()).replace(b'"messages": []', b'"messages": [' + b"[]," * 2_000_000 + b"[]]"))
    with pytest.raises(InvalidRequest, match="more than 100 models"):
        read(body(*(request(model=f"m{number}") for number in range(101))))
    files = [{"type": "container_upload", "file_id": f"file_{number}"} for number in range(1001)]
    with pytest.raises(InvalidRequest, match="more than 1000"):
        read(body(request(messages=[{"role": "user", "content": files}])))


@pytest.mark.parametrize("end", [b"", b"\\"])
def test_a_text_that_never_ends_is_read_once(end: bytes) -> None:
    began = time.thread_time()
    with pytest.raises(InvalidRequest, match="not valid JSON"):
        read(b'{"requests":[{"custom_id":"' + b'\\"' * 30_000 + end)
    assert time.thread_time() - began < 0.5  # again from each quote: 3 s


def test_a_large_body_is_read_in_steps() -> None:
    reader, steps = BatchReader(body(*[request()] * 5000)), 1
    while not reader.read():
        steps += 1
    assert steps > 2


def test_the_results_of_a_batch_are_fetched_from_the_gateway() -> None:
    url = b'"https://api.anthropic.com/v1/messages/batches/msgbatch_1/results"'
    batch = b'{"id":"msgbatch_1", "results_url": %s, "x": 1.0}'
    assert with_own_address(batch % url) == batch % b'"/v1/messages/batches/msgbatch_1/results"'
    for other in (batch % b"null", b"<html>", b"[]", b"{}"):
        assert with_own_address(other) == other
