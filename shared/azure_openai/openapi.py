"""The OpenAPI 3.1 document of the API, from the table of operations, for API Management and Postman."""

import functools
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from shared.azure_openai.operations import OPERATIONS, SEGMENT
from shared.types import Operation

PATH = "/gateway/openapi.json"

_PARAMETER = re.compile(r"\{(\w+)\}")
_MEDIA = {"json": "application/json", "stream": "text/event-stream", "any": "application/octet-stream"}
_ERRORS = {
    "4XX": "The call is refused: it is wrong, not allowed, names what is not there, or exceeds a limit.",
    "5XX": "The gateway or the backends that may serve this call cannot do so now.",
}
_TAGS = {
    "chat": "Chat completions",
    "fine_tuning": "Fine-tuning",
    "vector_stores": "Vector stores",
}

_COMPONENTS: dict[str, Any] = {
    "securitySchemes": {
        "bearer": {"type": "http", "scheme": "bearer", "description": "A key of this gateway, as with OpenAI."},
        "apiKey": {
            "type": "apiKey",
            "in": "header",
            "name": "api-key",
            "description": "The same, as with Azure OpenAI.",
        },
    },
    "parameters": {
        "apiVersion": {
            "name": "api-version",
            "in": "query",
            "required": True,
            "description": "A dated version of Azure's API.",
            "schema": {"type": "string", "examples": ["2024-10-21"], "minLength": 1},
        },
        "heartbeat": {
            "name": "x-gateway-heartbeat",
            "in": "header",
            "description": "`off`: no comment lines in a stream while the backend is silent.",
            "schema": {"type": "string", "enum": ["off"]},
        },
    },
    "schemas": {
        "Error": {
            "type": "object",
            "required": ["error"],
            "properties": {
                "error": {
                    "type": "object",
                    "properties": {
                        "message": {"type": "string"},
                        "type": {"type": ["string", "null"]},
                        "param": {"type": ["string", "null"]},
                        "code": {"type": ["string", "null"]},
                    },
                }
            },
        },
        "Object": {"type": "object", "additionalProperties": True},
    },
    "responses": {
        name: {
            "description": description,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
        for name, description in (("Refused", _ERRORS["4XX"]), ("Unavailable", _ERRORS["5XX"]))
    },
}


@functools.cache
def document() -> bytes:
    """The document as JSON."""
    paths: dict[str, dict[str, Any]] = {
        "/healthz": {
            "get": {
                "operationId": "healthz",
                "summary": "Whether the process serves",
                "tags": ["Gateway"],
                "security": [],
                "responses": {"200": {"description": "It does.", "content": _content("json")}},
            }
        }
    }
    for operation in OPERATIONS:
        for surface, path, parameters in _spellings(operation):
            paths.setdefault(path, {})[operation.method.lower()] = _item(operation, surface, path, parameters)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Tollgate",
                "version": "1",
                "summary": "One gateway in front of many Azure OpenAI deployments.",
                "description": "Bodies are those of OpenAI's and Azure OpenAI's APIs and pass unchanged.",
            },
            "servers": [{"url": "/"}],
            "security": [{"bearer": []}, {"apiKey": []}],
            "paths": paths,
            "components": _COMPONENTS,
        }
    )


def _spellings(operation: Operation) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """The API styles of an operation: their names, paths and parameters."""
    version = {"$ref": "#/components/parameters/apiVersion"}
    yield "openai", f"/v1/{operation.path}", []
    yield "v1", f"/openai/v1/{operation.path}", []
    if operation.on_deployment:
        yield "dated", f"/openai/deployments/{{deployment}}/{operation.path}", [version]
        yield "gateway", f"/gateway/{operation.path}/{{deployment}}", []
    else:
        yield "dated", f"/openai/{operation.path}", [version]


def _item(operation: Operation, surface: str, path: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    family = operation.name.partition(".")[0]
    names = _PARAMETER.findall(path)
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": f"^{SEGMENT}$"}}
        for name in names
    ] + parameters
    if operation.streams:
        parameters = [*parameters, {"$ref": "#/components/parameters/heartbeat"}]
    item: dict[str, Any] = {
        "operationId": f"{surface}.{operation.name}",
        "summary": operation.name,
        "tags": [_TAGS.get(family, family.capitalize())],
        "responses": {
            "2XX": {"description": "The backend's answer.", "content": _answer(operation)},
            "4XX": {"$ref": "#/components/responses/Refused"},
            "5XX": {"$ref": "#/components/responses/Unavailable"},
        },
    }
    if parameters:
        item["parameters"] = parameters
    if operation.body != "none":
        in_path = surface in ("dated", "gateway") and operation.on_deployment
        item["requestBody"] = _body(operation, model_in_path=in_path)
    return item


def _answer(operation: Operation) -> dict[str, Any]:
    content = _content("json")
    if operation.streams:
        content |= {_MEDIA["stream"]: {"schema": {"type": "string"}}}
    if operation.free_form:
        content |= {"*/*": {}}
    return content


def _content(kind: str) -> dict[str, Any]:
    return {_MEDIA[kind]: {"schema": {"$ref": "#/components/schemas/Object"}}}


def _body(operation: Operation, *, model_in_path: bool) -> dict[str, Any]:
    """The parts of a body that the gateway needs to serve the call; the rest is between caller and backend."""
    schema: dict[str, Any] = {"type": "object", "additionalProperties": True, "properties": {}}
    needed = operation.model in ("body", "form") and not model_in_path and not operation.default_model
    if operation.model in ("body", "form", "optional") and operation.model_at == ("model",):
        schema["properties"]["model"] = {"type": "string", "minLength": 1}
        if needed:
            schema["required"] = ["model"]
    if operation.streams:
        schema["properties"]["stream"] = {"type": ["boolean", "null"]}
    if operation.body == "sdp":
        text = {"type": "string"}
        form = {"type": "object", "required": ["sdp"], "properties": {"sdp": text, "session": {"type": "object"}}}
        return {
            "required": True,
            "content": {"application/sdp": {"schema": text}, "multipart/form-data": {"schema": form}},
        }
    if operation.body == "multipart":
        schema["properties"]["file"] = {"type": "string", "contentMediaType": "application/octet-stream"}
        return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    return {"required": operation.model in ("body", "form"), "content": {_MEDIA["json"]: {"schema": schema}}}
