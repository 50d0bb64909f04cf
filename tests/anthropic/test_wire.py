"""Paths, requests and errors of Anthropic's API, and what they say to routing and accounting."""

import json
from typing import Any

import pytest
from anthropic.types import beta

from shared.anthropic import operations
from shared.anthropic.backend_requests import upstream_message
from shared.anthropic.rendering import model_page
from shared.azure_openai import answers, references
from shared.azure_openai.answers import ReportedError
from shared.azure_openai.requests import parse_call
from shared.config.document import ApiKey, Backend, BackendKind
from shared.errors import MethodNotAllowed, UnknownPath
from shared.routing import _prompt_cache, quota
from shared.routing.quota import Sent
from shared.types import Call, Reference, Target
from shared.usage.tokenizer import fits
from tests.harness import client_types
from tests.harness.reference_bodies import in_body, planted

_BODIES = {
    "messages.create": beta.message_create_params.MessageCreateParamsNonStreaming,
    "messages.count_tokens": beta.message_count_tokens_params.MessageCountTokensParams,
}
HI = [{"role": "user", "content": "Hi"}]


def call(headers: dict[str, str] | None = None, query: str = "", **fields: Any) -> Call:
    body = json.dumps({"model": "claude", "max_tokens": 9, "messages": HI, **fields}).encode()
    return parse_call(operations.match("POST", "/v1/messages"), query, headers or {}, body)


def target(kind: BackendKind, deployment: str = "claude") -> Target:
    backend = Backend(
        name="b", endpoint="https://b.example/", region="r", kind=kind, auth=ApiKey("K"), models={"claude": deployment}
    )
    return Target(backend, "claude", deployment)


@pytest.mark.parametrize("path", ["/v1/messages", "/anthropic/v1/messages", "/v1/messages/", "/V1/Messages"])
def test_a_message_has_two_paths(path: str) -> None:
    route = operations.match("POST", path)
    assert (route.operation.name, route.surface, route.path) == ("messages.create", "anthropic", "messages")


@pytest.mark.parametrize("path", ["/v1/messages/batch", "/anthropic/v1/skills", "/anthropic/messages", "/v1/complete"])
def test_other_paths_are_unknown(path: str) -> None:
    with pytest.raises(UnknownPath):
        operations.match("POST", path)
    with pytest.raises(MethodNotAllowed):
        operations.match("GET", "/v1/messages")


def test_the_headers_of_a_client_tell_whose_models_it_asks_for() -> None:
    assert operations.is_messages_path("/v1/models", {"anthropic-version": "2023-06-01"})
    assert not operations.is_messages_path("/v1/models", {})


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        ("standard", "https://b.example/anthropic/v1/messages?beta=true"),
        ("anthropic", "https://b.example/v1/messages?beta=true"),
    ],
)
def test_the_bytes_pass_and_the_path_is_the_backends(kind: BackendKind, url: str) -> None:
    asked = call(query="beta=true", thinking={"type": "enabled", "budget_tokens": 5})
    request = upstream_message(asked, target(kind))
    assert (request.url, request.body) == (url, asked.body)
    renamed = upstream_message(asked, target(kind, "prod")).body
    assert renamed == asked.body.replace(b'"model": "claude"', b'"model": "prod"')


def test_only_the_apis_own_headers_pass() -> None:
    given = {
        "anthropic-beta": "b",
        "x-api-key": "secret",
        "anthropic-workspace-id": "w",
        "user-agent": "u",
        "x-app": "c",
    }
    assert call(given).headers == {
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "b",
        "content-type": "application/json",
    }


def test_the_user_is_that_of_the_metadata() -> None:
    assert call(metadata={"user_id": "someone"}).user == "someone"
    assert call(metadata={"user_id": 7}).user == call(metadata="x").user == call(user="other").user == ""


def test_the_objects_that_a_message_names() -> None:
    file = {"type": "document", "source": {"type": "file", "file_id": "f_1"}}
    result = {"type": "tool_result", "content": [{"type": "image", "source": {"type": "file", "file_id": "f_2"}}]}
    output = {"type": "x_tool_result", "content": {"type": "r", "content": [{"type": "o", "file_id": "f_3"}]}}
    free = {"type": "tool_use", "input": {"file_id": "f_4", "container": "c_4"}}
    turns = [{"role": "user", "content": [file, result, output, free]}]
    named = call(messages=turns, container={"id": "c_1", "skills": [{"skill_id": "xlsx"}]}).references
    assert set(named) == {
        Reference("claude_container", "c_1"),
        *(Reference("claude_file", f"f_{number}") for number in (1, 2, 3)),
    }
    assert call(container="c_2").references == (Reference("claude_container", "c_2"),)


PLACES = {"file_id": "claude_file", "previous_message_id": "claude_message"}


HAD = ("from", "to")  # of a fallback that an earlier turn had: it asks no model for anything


@pytest.mark.parametrize("operation", _BODIES)
def test_every_object_and_model_of_the_clients_types_is_seen(operation: str) -> None:
    for path, _ in client_types.strings(_BODIES[operation]):
        if (kind := PLACES.get(path[-1])) is not None:
            for in_lists in (False, True):
                body = json.dumps(planted(path, "id_of_it", in_lists=in_lists)).encode()
                assert Reference(kind, "id_of_it") in in_body(body, operation), path
        if path[-1] == "model" and len(path) > 1 and path[-2] not in HAD:
            for in_lists in (False, True):
                assert call(**planted(path, "another", in_lists=in_lists)).other_models == ("another",), path


def test_an_answer_is_an_object_where_the_conversation_is_kept() -> None:
    continued = call(thread={"type": "continue", "previous_message_id": "msg_1"})
    assert continued.references == (Reference("claude_message", "msg_1"),)
    assert call(thread={"type": "create"}).leaves_parts
    assert call(diagnostics={"previous_message_id": None}).leaves_parts
    assert not call().leaves_parts
    for answer in ({"id": "msg_1", "content": []}, {"type": "message_start", "message": {"id": "msg_1"}}):
        objects = references.in_answer(json.dumps(answer).encode(), "messages.create")
        assert objects == (Reference("claude_message", "msg_1"),)


def test_a_choice_of_models_that_the_backend_makes_is_no_models_name() -> None:
    assert call(fallbacks="default").other_models == ("default",)


def test_an_answer_tells_of_its_container_and_of_files_that_code_has_made() -> None:
    made = {"type": "code_execution_output", "file_id": "file_1"}
    block = {"type": "x_tool_result", "content": {"type": "x_result", "content": [made]}}
    server = {"type": "mcp_tool_result", "content": [{"type": "text", "text": "x", "file_id": "file_of_others"}]}
    message = {"content": [block, server], "container": {"id": "container_1", "expires_at": "later"}}
    expected = {Reference("claude_file", "file_1"), Reference("claude_container", "container_1")}
    for answer in (
        [json.dumps(message)],
        [json.dumps({"content_block": block}), json.dumps({"delta": {"container": {"id": "container_1"}}})],
        [json.dumps({"content_block": block}), json.dumps({"message": {"container": {"id": "container_1"}}})],
        [json.dumps({"content_block": server}), json.dumps(message)],
    ):
        assert {one for text in answer for one in references.in_answer(text.encode(), "messages.create")} == expected


@pytest.mark.parametrize(
    ("limit", "shown"), [("1", 1), ("0", 20), ("x", 20), ("9" * 5000, 30), ("000000001" + "0" * 5000, 1)]
)
def test_a_page_of_models_has_a_limit_of_any_length(limit: str, shown: int) -> None:
    models = [{"id": f"m{number}"} for number in range(30)]
    assert len(model_page(models, f"limit={limit}")["data"]) == shown


def error(kind: str, message: str = "") -> bytes:
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "party"),
    [
        (529, error("overloaded_error"), "capacity"),
        (429, error("rate_limit_error"), "capacity"),
        (500, error("api_error"), "server"),
        (401, error("authentication_error"), "ours"),
        (402, error("billing_error"), "ours"),
        (403, error("permission_error"), "ours"),
        (404, error("not_found_error", "model: claude-x"), "ours"),
        (404, error("not_found_error", "Container not found"), "caller"),
        (400, error("invalid_request_error"), "caller"),
        (413, error("request_too_large"), "caller"),
    ],
)
def test_a_status_says_whose_fault_it_is(status: int, body: bytes, party: str) -> None:
    assert answers.classify(status, body, {}, "anthropic") == party


@pytest.mark.parametrize(
    ("kind", "status"),
    [("overloaded_error", 529), ("rate_limit_error", 429), ("api_error", 500), ("permission_error", 400)],
)
def test_an_error_in_a_stream_is_what_it_would_be_in_a_status_line(kind: str, status: int) -> None:
    assert answers.equivalent_status(ReportedError(type=kind), {}) == status


def test_too_long_a_prompt_may_go_to_another_model() -> None:
    long = error("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum")
    assert answers.fallback_reason(400, long) == "context_window"
    assert answers.fallback_reason(400, error("invalid_request_error", "max_tokens: too large")) is None


def test_anthropics_own_count_of_requests_orders_targets() -> None:
    reading = quota.read({"anthropic-ratelimit-requests-remaining": "1"}, Sent(0.0, 1), 100.0)
    assert reading is not None
    assert not reading.refuses(10, Sent(0.0, 1), 100.0)
    assert reading.refuses(10, Sent(0.0, 2), 100.0)
    assert not reading.refuses(10, Sent(0.0, 2), 110.0)


def test_marked_prompts_have_a_key_by_what_they_share() -> None:
    kept = {"cache_control": {"type": "ephemeral"}}
    rules = [{"type": "text", "text": "rule " * 2000, **kept}]
    asked = [{"role": "user", "content": "one"}], [{"role": "user", "content": "two"}]
    assert _prompt_cache.prefix(call(system=rules, messages=asked[0])) == _prompt_cache.prefix(
        call(system=rules, messages=asked[1])
    )
    turns = [[{"role": "user", "content": [{"type": "text", "text": f"{who} " * 2000, **kept}]}] for who in "ab"]
    keys = {_prompt_cache.prefix(call(system=rules, messages=turn)) for turn in turns}
    assert len(keys) == 2
    assert _prompt_cache.prefix(call(system=[{"type": "text", "text": "rule " * 2000}])) is None


@pytest.mark.parametrize("model", ["claude-opus-5", "DeepSeek-R1", "grok-4", "Llama-3.3-70B", "Mistral-Large-3"])
def test_tokens_of_other_makers_are_not_counted_by_openais_tables(model: str) -> None:
    assert not fits(model)
    assert fits("gpt-oss-120b")
    assert fits("gpt-5.4")
