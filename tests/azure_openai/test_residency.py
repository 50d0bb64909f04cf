"""Tools and sources of data in a body that could leave the place of a deployment."""

import json
import time
from typing import Any

import pytest

from shared.anthropic import operations as messages
from shared.azure_openai.apis import refusal
from shared.azure_openai.operations import match
from shared.azure_openai.requests import parse_call
from shared.azure_openai.residency import is_unseen, leaving
from shared.errors import UnknownPath
from shared.types import ANYWHERE, Access

STAYING: list[dict[str, Any]] = [
    {"type": "function", "name": "f", "parameters": {"properties": {"tools": {"type": "array"}}}},
    {"type": "custom", "name": "c"},
    {"type": "file_search", "vector_store_ids": ["vs_1"]},
    {"type": "code_interpreter", "container": {"type": "auto", "network_policy": {"type": "disabled"}}},
    {"type": "image_generation"},
    {"type": "computer_use_preview", "environment": "browser"},
    {"type": "local_shell"},
    {"type": "shell", "environment": {"type": "local"}},
    {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f"}]},
]
LEAVING: list[dict[str, Any]] = [
    {"type": "web_search"},
    {"type": "web_search_preview"},
    {"type": "mcp", "server_label": "x", "server_url": "https://mcp.example"},
    {"type": "shell"},
    {"type": "shell", "environment": {"type": "container_auto"}},
    {"type": "bing_grounding"},
    {"type": "what_will_come"},
    {"TYPE": "mcp"},
    {"type": None},
    {},
]


def leaving_part(body: dict[str, Any], path: str = "/v1/responses", *, raw: bytes = b"") -> tuple[str, str] | None:
    data = raw or json.dumps({"model": "m", **body}).encode()
    return leaving(parse_call(match("POST", path), "", {}, data), ANYWHERE)


@pytest.mark.parametrize("tool", STAYING)
def test_tools_that_run_at_the_deployment_or_the_caller_stay(tool: dict[str, Any]) -> None:
    assert leaving_part({"input": "Hi", "tools": [tool]}) is None


@pytest.mark.parametrize("tool", LEAVING)
def test_any_other_tool_may_leave(tool: dict[str, Any]) -> None:
    for body, path in (
        ({"tools": [STAYING[0], tool]}, "tools[1]"),
        ({"input": [{"type": "additional_tools", "tools": [tool]}]}, "input[0].tools[0]"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [tool]}]}, "tools[0].tools[0]"),
        ({"TOOLS": [tool]}, "tools[0]"),
    ):
        assert (leaving_part(body) or ("",))[0] == path
    assert (leaving_part({"session": {"model": "m", "tools": [tool]}}, "/v1/realtime/client_secrets") or ("",))[
        0
    ] == "session.tools[0]"
    assert (leaving_part({"tools": [tool]}, "/v1/assistants") or ("",))[0] == "tools[0]"


@pytest.mark.parametrize(
    ("body", "path", "at"),
    [
        ({"messages": [], "web_search_options": {}}, "/v1/chat/completions", "web_search_options"),
        ({"messages": [], "data_sources": [{"type": "azure_search"}]}, "/v1/chat/completions", "data_sources"),
        ({"prompt": {"id": "pmpt_1"}}, "/v1/responses", "prompt"),
        ({"prompt": {"id": "pmpt_1"}}, "/v1/realtime/sessions", "prompt"),
        ({"session": {"model": "m", "prompt": {"id": "pmpt_1"}}}, "/v1/realtime/client_secrets", "session.prompt"),
        (
            {"tools": [{"type": "code_interpreter", "container": {"network_policy": {"type": "allowlist"}}}]},
            "/v1/responses",
            "tools[0].container.network_policy",
        ),
        ({"name": "c", "network_policy": {"type": "allowlist"}}, "/v1/containers", "network_policy"),
    ],
)
def test_other_ways_out_are_found(body: dict[str, Any], path: str, at: str) -> None:
    assert (leaving_part(body, path) or ("",))[0] == at


@pytest.mark.parametrize(
    ("session", "at"),
    [({"tools": [{"type": "mcp"}]}, "session.tools[0]"), ({"prompt": {"id": "pmpt_1"}}, "session.prompt"), ({}, "")],
)
def test_the_session_beside_an_offer_is_looked_at(session: dict[str, Any], at: str) -> None:
    form = [b'--x\r\nContent-Disposition: form-data; name="sdp"\r\n\r\nv=0\r\n']
    form.append(b'--x\r\nContent-Disposition: form-data; name="session"\r\n\r\n')
    form.append(json.dumps({"model": "m", **session}).encode() + b"\r\n--x--\r\n")
    headers = {"content-type": "multipart/form-data; boundary=x"}
    call = parse_call(match("POST", "/v1/realtime/calls"), "", headers, b"".join(form))
    assert (leaving(call, ANYWHERE) or ("",))[0] == at


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({"tools": [{"name": "f", "input_schema": {}}, {"type": "bash_20250124", "name": "bash"}]}, ""),
        ({"tools": [{"type": "custom", "name": "f"}, {"type": "web_search_20250305", "name": "w"}]}, "tools[1]"),
        ({"tools": [{"type": "code_execution_20250825", "name": "c"}]}, "tools[0]"),
        ({"mcp_servers": [{"type": "url", "url": "https://mcp.example"}]}, "mcp_servers"),
        ({"messages": [{"content": [{"tool": {"definition": {"type": "bash_20250124"}}}]}]}, ""),
        (
            {"messages": [{"content": [{"tool": {"definition": {"type": "web_search_20250305"}}}]}]},
            "messages[0].content[0].tool.definition",
        ),
    ],
)
def test_claudes_tools_have_rules_of_their_own(body: dict[str, Any], at: str) -> None:
    data = json.dumps({"model": "claude", "messages": [], "max_tokens": 9, **body}).encode()
    call = parse_call(messages.match("POST", "/v1/messages"), "", {"anthropic-version": "2023-06-01"}, data)
    assert (leaving(call, ANYWHERE) or ("",))[0] == at
    assert isinstance(refusal(call, "openai"), UnknownPath)


IN_US = Access(data_zones=frozenset(("us",)))
NEAR = Access(regions=frozenset(("eastus2",)), data_zones=frozenset(("us",)))


@pytest.mark.parametrize(
    ("geography", "access", "stays"),
    [
        ("us", IN_US, True),
        ("us", Access(data_zones=frozenset(("eu",))), False),
        ("us", Access(regions=frozenset(("eastus2",))), False),
        ("us", NEAR, False),
        ("global", IN_US, False),
        ("US", IN_US, False),
        (1, IN_US, False),
        (None, NEAR, True),
    ],
)
@pytest.mark.parametrize("key", ["inference_geo", "Inference_Geo", "inference\\u005fgeo"])
def test_a_model_runs_where_a_key_must_stay(geography: Any, access: Access, stays: bool, key: str) -> None:
    data = f'{{"model": "claude", "messages": [], "max_tokens": 9, "{key}": {json.dumps(geography)}}}'.encode()
    call = parse_call(messages.match("POST", "/v1/messages"), "", {"anthropic-version": "2023-06-01"}, data)
    assert (leaving(call, access) is None) == stays


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"messages": [{"role": "user", "content": 'use "tools": [{"type": "mcp"}]'}]}, "/v1/chat/completions"),
        ({"messages": [], "data_sources": None, "tools": None}, "/v1/chat/completions"),
        ({"prompt": "Once upon a time"}, "/v1/completions"),
        ({"prompt": {"id": "mine"}, "messages": []}, "/v1/chat/completions"),
        ({"session": {"model": "m", "audio": {"prompt": {}}}}, "/v1/realtime/client_secrets"),
        ({"prompt": "A picture of tools"}, "/v1/images/generations"),
        ({"input": "Hi", "metadata": {"web_search_options": "no"}}, "/v1/responses"),
    ],
)
def test_words_alone_go_nowhere(body: dict[str, Any], path: str) -> None:
    assert leaving_part(body, path) is None


def test_long_keys_with_many_items_are_walked_in_proportion_to_their_bytes() -> None:
    body = {"tools": [], "k" * 128_000: [0] * 64_000, "l" * 64_000: [{}] * 20_000}
    began = time.thread_time()
    assert leaving_part(body) is None
    assert time.thread_time() - began < 0.5  # with a path for each item: seconds


def test_a_path_is_told_whole() -> None:
    nested = {"a": [[{"b": {"tools": [{"type": "function"}, {"type": "mcp"}]}}]]}
    assert (at := leaving_part(nested)) is not None
    assert at[0] == "a[0][0].b.tools[1]"


def test_escaped_keys_do_not_hide_a_tool() -> None:
    raw = b'{"model": "m", "input": "Hi", "t\\u006fols": [{"type": "mcp"}]}'
    assert (leaving_part({}, raw=raw) or ("",))[0] == "tools[0]"
    inner = b'{"model": "m", "input": "Hi", "tools": [{"t\\u0079pe": "m\\u0063p"}]}'
    assert (leaving_part({}, raw=inner) or ("",))[0] == "tools[0]"


@pytest.mark.parametrize(
    ("path", "body", "unseen"),
    [
        ("/v1/batches", b'{"input_file_id": "file-1"}', True),
        ("/v1/fine_tuning/jobs", b'{"model": "m"}', True),
        ("/v1/threads/thread_1/runs", b'{"assistant_id": "asst_1"}', True),
        ("/v1/threads/thread_1/runs", b'{"assistant_id": "asst_1", "model": "m"}', False),
        ("/v1/chat/completions", b'{"model": "m"}', False),
        ("/v1/threads", b"{}", False),
    ],
)
def test_models_in_files_jobs_and_assistants_are_not_seen(path: str, body: bytes, unseen: bool) -> None:
    assert is_unseen(parse_call(match("POST", path), "", {}, body)) is unseen
