"""The OpenAPI document of the API for callers: OpenAI's operations, and Anthropic's beside them."""

import functools
from collections.abc import Iterator
from typing import Any

import msgspec

from shared.anthropic.batch_requests import CREATE
from shared.anthropic.operations import OPERATIONS, VERSION
from shared.azure_openai import openapi, operations
from shared.azure_openai.openapi import TEXT, TEXT_OR_NULL, Version, in_path
from shared.types import Operation

_TAG = "Claude"
_REQUEST = {
    "type": "object",
    "required": ["params"],
    "properties": {"custom_id": TEXT, "params": {"$ref": "#/components/schemas/Object"}},
}
_ERROR = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"type": "string", "enum": ["error"]},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {
                "type": TEXT,
                "message": TEXT,
                "details": {"type": "object", "properties": {"error_code": TEXT}},
            },
        },
        "request_id": TEXT_OR_NULL,
    },
}
_ERROR_JSON = {"application/json": {"schema": {"$ref": "#/components/schemas/ClaudeError"}}}
_COMPONENTS: dict[str, dict[str, Any]] = {
    "securitySchemes": {
        "anthropicKey": {
            **{"type": "apiKey", "in": "header", "name": "x-api-key"},
            "description": "The key, as with Anthropic.",
        }
    },
    "parameters": {
        "anthropicVersion": {
            **{"name": VERSION, "in": "header", "required": False},
            "description": "The version of Anthropic's API, as its clients send it.",
            "schema": {"type": "string", "examples": ["2023-06-01"]},
        },
        "anthropicBeta": {
            **{"name": "anthropic-beta", "in": "header", "required": False},
            "description": "Betas of Anthropic's API, separated by commas.",
            "schema": TEXT,
        },
    },
    "schemas": {"ClaudeError": _ERROR},
    "responses": {
        "ClaudeRefused": {"description": openapi.REFUSED, "content": _ERROR_JSON},
        "ClaudeUnavailable": {"description": openapi.UNAVAILABLE, "content": _ERROR_JSON},
    },
}
_OF_EVERY_CALL = [{"$ref": f"#/components/parameters/{name}"} for name in ("anthropicVersion", "anthropicBeta")]
_LIMIT = {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 1000}}
_CURSORS: list[dict[str, Any]] = [
    _LIMIT,
    *({"name": name, "in": "query", "schema": TEXT} for name in ("after_id", "before_id")),
]
_OF_FILES: list[dict[str, Any]] = [
    {"name": "page", "in": "query", "schema": TEXT},
    {"name": "ids", "in": "query", "schema": {"type": "array", "items": TEXT}},
]


@functools.cache
def document(version: Version = "3.1") -> bytes:
    whole = _described()
    return msgspec.json.encode(whole if version == "3.1" else openapi.older(whole))


def _described() -> dict[str, Any]:
    whole = openapi.described()
    paths, components = whole["paths"], whole["components"]
    for operation in OPERATIONS:
        for style, path in _spellings(operation):
            if (item := paths.setdefault(path, {}).get(operation.method.lower())) is None:
                paths[path][operation.method.lower()] = _item(operation, style)
            else:  # one of OpenAI's, unless the header says otherwise
                item.setdefault("parameters", []).append(_of_either(operation))
    whole["components"] = {name: components[name] | more for name, more in _COMPONENTS.items()}
    whole["security"] = [{scheme: []} for scheme in whole["components"]["securitySchemes"]]
    return whole


def _spellings(operation: Operation) -> Iterator[tuple[str, str]]:
    """The API styles of an operation, with their paths. Paths of OpenAI's API have its names of what they hold."""
    path = operation.path
    for theirs in operations.OPERATIONS:
        if theirs.method == operation.method and openapi.nameless(theirs.path) == openapi.nameless(path):
            path = theirs.path
    yield "anthropic", f"/v1/{path}"
    yield "foundry", f"/anthropic/v1/{operation.path}"


def _of_either(operation: Operation) -> dict[str, Any]:
    """The parameter of a path that both APIs have."""
    description = f"With this header, the call is Anthropic's: see /anthropic/v1/{operation.path}."
    return {"name": VERSION, "in": "header", "required": False, "description": description, "schema": TEXT}


def _item(operation: Operation, style: str) -> dict[str, Any]:
    parameters = [*in_path(operation.path), *_OF_EVERY_CALL]
    if operation.lists or operation.name == "claude.models.list":
        parameters += _CURSORS + (_OF_FILES if operation.lists == "claude_file" else [])
    item = openapi.answered(operation, style, _TAG, parameters, "Claude")
    if operation.name == CREATE:
        item["requestBody"] = _body("application/json", {"requests": {"type": "array", "items": _REQUEST}})
    elif operation.body == "multipart":
        item["requestBody"] = _body("multipart/form-data", {"file": openapi.FILE})
    elif operation.model == "body":
        stream = {"stream": {"type": ["boolean", "null"]}} if operation.streams else {}
        item["requestBody"] = _body("application/json", {"model": {"type": "string", "minLength": 1}}, stream)
    return item


def _body(kind: str, required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """The parts of a body that the gateway needs to serve the call; the rest is between caller and backend."""
    schema = {"type": "object", "additionalProperties": True, "required": list(required)}
    return {"required": True, "content": {kind: {"schema": schema | {"properties": required | (optional or {})}}}}
