"""The parts of bodies for which a backend uses an identity or a secret of its own."""

import json
from typing import Any

import pytest

from shared.azure_openai import identity_paths
from shared.azure_openai.operations import match
from shared.azure_openai.requests import parse_call
from shared.errors import InvalidRequest
from tests.harness.calls import call

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
AI_SEARCH = {"type": "azure_ai_search", "azure_ai_search": {"indexes": [{"index_name": "i"}]}}
CONNECTED = {"type": "mcp", "server_label": "a", "server_url": "https://a.invalid", "project_connection_id": "c"}
CONNECTOR = {"type": "mcp", "server_label": "mail", "connector_id": "connector_gmail"}
FUNCTION = {
    "type": "function",
    "name": "f",
    "parameters": {"properties": {"connection_id": {"type": "azure_ai_search"}}},
}


def source(authentication: Any, **more: Any) -> dict[str, Any]:
    return {"data_sources": [{"type": "azure_search", "parameters": {"authentication": authentication, **more}}]}


def used(path: str, body: dict[str, Any] | str) -> str:
    if isinstance(body, str):
        return identity_paths.used(parse_call(match("POST", path), "", {}, body.encode()))
    model = {"model": "gpt-4o"} if path in (CHAT, RESPONSES) else {}
    return identity_paths.used(call("POST", path, {**model, **body}))


def api(**auth: Any) -> dict[str, Any]:
    return {"type": "openapi", "openapi": {"name": "a", "spec": {}, "auth": auth}}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (CHAT, source({"type": "system_assigned_managed_identity"}), "data_sources[0].parameters.authentication"),
        (CHAT, source({"type": "user_assigned_managed_identity"}), "data_sources[0].parameters.authentication"),
        (CHAT, source({"type": "a way of tomorrow"}), "data_sources[0].parameters.authentication"),
        (CHAT, source(None), "data_sources[0].parameters.authentication"),
        (CHAT, {"Data_Sources": source({"Type": "SystemAssigned"})["data_sources"][0]}, "Data_Sources[0]"),
        (
            CHAT,
            source({"type": "api_key"}, embedding_dependency={"type": "endpoint", "endpoint": "https://a.invalid"}),
            "data_sources[0].parameters.embedding_dependency.authentication",
        ),
        (RESPONSES, {"tools": [FUNCTION, AI_SEARCH]}, "tools[1]"),
        (RESPONSES, {"tools": [CONNECTED]}, "tools[0]"),
        (RESPONSES, {"tools": [CONNECTOR]}, "tools[0]"),
        (RESPONSES, {"tools": [{"type": "web_search", "custom": {"Project_Connection_Id": "c"}}]}, "tools[0]"),
        (RESPONSES, {"tools": [{"type": "bing_grounding", "bing_grounding": {}}]}, "tools[0]"),
        (RESPONSES, {"tools": [api(type="managed_identity", security_scheme={})]}, "tools[0]"),
        (RESPONSES, {"tools": [{"type": "namespace", "name": "n", "tools": [CONNECTOR]}]}, "tools[0].tools[0]"),
        (RESPONSES, {"input": [{}, {"type": "additional_tools", "tools": [AI_SEARCH]}]}, "input[1].tools[0]"),
        (RESPONSES, {"agent_reference": {"name": "a", "type": "agent_reference"}}, "agent_reference"),
        ("/v1/conversations", {"items": [{"type": "additional_tools", "tools": [AI_SEARCH]}]}, "items[0].tools[0]"),
        (
            "/v1/realtime/client_secrets",
            {"session": {"model": "gpt-realtime", "tools": [CONNECTOR]}},
            "session.tools[0]",
        ),
        ("/v1/assistants", {"model": "gpt-4o", "tools": [AI_SEARCH]}, "tools[0]"),
        ("/v1/threads/thread_12345/runs", {"assistant_id": "asst_12345", "tools": [AI_SEARCH]}, "tools[0]"),
        ("/v1/files/import", {"content_url": "https://a.blob.core.windows.net/b/c"}, "content_url"),
        ("/v1/batches", {"input_blob": "https://a.blob.core.windows.net/b/c"}, "input_blob"),
        ("/v1/batches", {"output_folder": {"url": "https://a.blob.core.windows.net/b"}}, "output_folder"),
        ("/v1/fine_tuning/jobs", {"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations"),
        (
            "/v1/evals/eval_12345/runs",
            {"data_source": {"type": "responses", "sampling_params": {"tools": [AI_SEARCH]}}},
            "data_source.sampling_params.tools[0]",
        ),
    ],
)
def test_what_a_backend_reads_as_itself_is_found(path: str, body: dict[str, Any], field: str) -> None:
    assert used(path, body).startswith(field)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"data_sources": []}),
        (CHAT, {"data_sources": None, "tools": [FUNCTION]}),
        (CHAT, source({"type": "api_key", "key": "k"}, embedding_dependency={"type": "deployment_name"})),
        (CHAT, source({"type": "access_token", "access_token": "k"})),
        (RESPONSES, {"tools": [FUNCTION, {"type": "web_search"}, {"type": "file_search", "vector_store_ids": []}]}),
        (RESPONSES, {"tools": [{**CONNECTOR, "authorization": "ya29"}, {**CONNECTED, "project_connection_id": None}]}),
        (RESPONSES, {"tools": [api(type="anonymous"), {"type": "custom", "name": "connection_id"}]}),
        (RESPONSES, {"input": [{"role": "user", "content": json.dumps([AI_SEARCH, {"type": "additional_tools"}])}]}),
        (RESPONSES, {"metadata": {"agent": "a"}, "input": "azure_ai_search"}),
        ("/v1/batches", {"input_file_id": "file-12345", "output_folder": None}),
        ("/v1/fine_tuning/jobs", {"integrations": []}),
        ("/v1/embeddings", {"model": "m", "input": "content_url"}),
    ],
)
def test_what_the_caller_brings_and_runs_is_left_alone(path: str, body: dict[str, Any]) -> None:
    assert used(path, body) == ""


def test_a_name_written_with_escapes_is_found_in_a_long_input_too() -> None:
    said = ", ".join([json.dumps({"role": "user", "content": "x" * 1000})] * 500)
    tools = '{"type": "additional_t\\u006fols", "tools": [{"type": "azure\\u005fai_search"}]}'
    assert used(RESPONSES, f'{{"model": "gpt-4o", "input": [{said}, {tools}]}}') == "input[500].tools[0]"


def test_tools_that_are_nested_too_deeply_are_refused() -> None:
    depth = 900
    tools = '{"type": "namespace", "tools": [' * depth + "]}" * depth
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        used(RESPONSES, f'{{"model": "gpt-4o", "input": "x", "tools": [{tools}]}}')


def test_a_key_that_stands_twice_is_refused() -> None:
    twins = '{"type": "api_key", "type": "system_assigned_managed_identity"}'
    body = '{"model": "gpt-4o", "data_sources": [{"parameters": {"authentication": %s}}]}'
    in_two_cases = twins.replace(', "type"', ', "Type"')
    for text, problem in ((twins, "duplicate key"), (in_two_cases, "differ in case only")):
        with pytest.raises(InvalidRequest, match=problem):
            used(CHAT, body % text)
