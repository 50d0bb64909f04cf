"""The OpenAPI document: valid, complete, and what the gateway does."""

import json
import re

import pytest
from openapi_spec_validator import OpenAPIV30SpecValidator, OpenAPIV31SpecValidator

from shared.anthropic import openapi
from shared.anthropic import operations as messages
from shared.azure_openai.openapi import Version
from shared.azure_openai.operations import OPERATIONS, match
from tests.harness.system import System

DOCUMENT = json.loads(openapi.document())
METHODS = {"get", "post", "delete"}


def test_the_document_has_every_operation_in_every_style() -> None:
    ids = [item["operationId"] for path in DOCUMENT["paths"].values() for item in path.values()]
    assert len(set(ids)) == len(ids)
    for operation in OPERATIONS:
        for style in ("openai", "v1", "dated"):
            assert f"{style}.{operation.name}" in ids
    for operation in messages.OPERATIONS:
        assert f"foundry.{operation.name}" in ids
        of_both = operation.family == "claude"  # its files and models: a header tells whose a path means
        assert (f"anthropic.{operation.name}" in ids) != of_both


def test_a_path_of_both_apis_says_which_header_tells_them_apart() -> None:
    items = [("get", "/v1/models"), ("get", "/v1/models/{model}"), ("get", "/v1/files/{file}/content")]
    items += [(method, path) for path in ("/v1/files", "/v1/files/{file}") for method in DOCUMENT["paths"][path]]
    for method, path in items:
        headers = [
            one for one in DOCUMENT["paths"][path][method]["parameters"] if one.get("name") == "anthropic-version"
        ]
        assert len(headers) == 1
        assert "/anthropic/v1/" in headers[0]["description"]


def test_errors_of_claude_have_anthropics_shape() -> None:
    for path, items in DOCUMENT["paths"].items():
        for item in items.values():
            claude = item["operationId"].startswith(("anthropic.", "foundry."))
            assert claude == (path.startswith(("/anthropic/", "/v1/messages")))
            if path != "/healthz":
                end = "ClaudeRefused" if claude else "Refused"
                assert item["responses"]["4XX"] == {"$ref": f"#/components/responses/{end}"}


def test_a_batch_needs_its_requests() -> None:
    body = DOCUMENT["paths"]["/v1/messages/batches"]["post"]["requestBody"]
    assert body["required"]
    assert body["content"]["application/json"]["schema"]["required"] == ["requests"]


def test_the_paths_of_the_document_are_paths_of_the_gateway() -> None:
    for path, items in DOCUMENT["paths"].items():
        assert set(items) <= METHODS
        names = set(re.findall(r"\{(\w+)\}", path))
        for method, item in items.items():
            declared = {one["name"] for one in item.get("parameters", []) if one.get("in") == "path"}
            assert declared == names
            if path != "/healthz":
                table = messages.match if messages.is_messages_path(path, {}) else match
                table(method.upper(), re.sub(r"\{\w+\}", "id_1", path))


def test_every_reference_in_the_document_resolves() -> None:
    references = set(re.findall(r'"\$ref":"#/([^"]+)"', openapi.document().decode()))
    assert references
    for reference in references:
        at = DOCUMENT
        for step in reference.split("/"):
            at = at[step]


def test_the_document_is_public_and_names_no_model_of_the_configuration(gateway: System) -> None:
    answer = gateway.gateway.request("GET", "/gateway/openapi.json")
    assert answer.status == 200
    assert answer.json()["openapi"] == "3.1.0"
    assert b"spare-" not in answer.body


@pytest.mark.parametrize("version", ["3.1", "3.0"])
def test_the_document_is_valid_by_the_published_schema(version: Version) -> None:
    document = json.loads(openapi.document(version))
    kind = OpenAPIV30SpecValidator if version == "3.0" else OpenAPIV31SpecValidator
    assert [error.message for error in kind(document).iter_errors()] == []
    assert document["openapi"].startswith(version)


def test_both_versions_have_the_same_operations_and_ways_to_send_a_key() -> None:
    older = json.loads(openapi.document("3.0"))
    assert {path: set(items) for path, items in older["paths"].items()} == {
        path: set(items) for path, items in DOCUMENT["paths"].items()
    }
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert older["components"]["securitySchemes"] == schemes
    places = {(scheme.get("in"), scheme.get("name")) for scheme in schemes.values()}
    assert {
        ("header", "Ocp-Apim-Subscription-Key"),
        ("query", "subscription-key"),
        ("header", "api-key"),
        ("header", "x-api-key"),
    } <= places
    assert [next(iter(one)) for one in DOCUMENT["security"]] == list(schemes)


def test_importers_that_take_no_newer_version_get_3_0(gateway: System) -> None:
    older = gateway.gateway.request("GET", "/gateway/openapi.json?version=3.0")
    assert older.json()["openapi"] == "3.0.3"
    wrong = gateway.gateway.request("GET", "/gateway/openapi.json?version=2.0")
    assert (wrong.status, wrong.error()["param"]) == (400, "version")
    assert "one of 3.1, 3.0" in wrong.error()["message"]


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("/v1/realtime?model=gpt-4o", 501, "client_secrets"),
        ("/v1/responses", 426, "POST"),
        ("/openai/v1/responses", 426, "POST"),
        ("/openai/responses?api-version=2025-04-01-preview", 426, "POST"),
    ],
)
@pytest.mark.parametrize("edge", ["functions"], indirect=True, scope="session")  # the other edge takes WebSockets
def test_a_websocket_is_rejected_with_an_explanation(gateway: System, path: str, status: int, word: str) -> None:
    headers = {
        "authorization": f"Bearer {gateway.key}",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-version": "13",
    }
    answer = gateway.gateway.request("GET", path, None, headers)
    assert answer.status == status
    assert answer.error()["code"] == "websockets_not_supported"
    assert word in answer.error()["message"]
    assert answer.headers.get("upgrade") == ("HTTP/1.1" if status == 426 else None)
