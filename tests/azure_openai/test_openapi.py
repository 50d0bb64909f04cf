"""The OpenAPI document: valid, complete, and what the gateway does."""

import json
import re

import pytest

from shared.azure_openai import openapi
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


def test_the_paths_of_the_document_are_paths_of_the_gateway() -> None:
    for path, items in DOCUMENT["paths"].items():
        assert set(items) <= METHODS
        names = set(re.findall(r"\{(\w+)\}", path))
        for method, item in items.items():
            declared = {one["name"] for one in item.get("parameters", []) if one.get("in") == "path"}
            assert declared == names
            if path != "/healthz":
                match(method.upper(), re.sub(r"\{\w+\}", "id_1", path))


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


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("/v1/realtime?model=gpt-4o", 501, "client_secrets"),
        ("/v1/responses", 426, "POST"),
        ("/openai/v1/responses", 426, "POST"),
        ("/openai/responses?api-version=2025-04-01-preview", 426, "POST"),
    ],
)
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
