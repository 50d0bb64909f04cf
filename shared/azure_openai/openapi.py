"""The part of the OpenAPI document for OpenAI's API and Azure's, from the table of operations; `anthropic/openapi.py`
has the rest. For API Management and Postman: 3.1, and 3.0 for importers that take no newer one."""

import re
from collections.abc import Iterator
from typing import Any, Literal

from shared.azure_openai.operations import OPERATIONS, SEGMENT
from shared.types import Operation

Version = Literal["3.1", "3.0"]
VERSIONS: tuple[Version, ...] = ("3.1", "3.0")

_PARAMETER = re.compile(r"\{(\w+)\}")
_TAGS = {"chat": "Chat completions", "fine_tuning": "Fine-tuning", "vector_stores": "Vector stores"}

TEXT = {"type": "string"}
TEXT_OR_NULL = {"type": ["string", "null"]}
FILE = {"type": "string", "contentMediaType": "application/octet-stream"}
ANY_JSON = {"application/json": {"schema": {"$ref": "#/components/schemas/Object"}}}
_ERROR = {"message": TEXT, "type": TEXT_OR_NULL, "param": TEXT_OR_NULL, "code": TEXT_OR_NULL}
_ERROR_JSON = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
REFUSED = "The call is refused: it is invalid, not allowed, names something that does not exist, or exceeds a limit."
UNAVAILABLE = "The gateway or the backends that may serve this call cannot do so now."
_BEARER = "A key of this gateway, as with OpenAI; or a token of Entra ID, if it accepts them."
_API_KEY = {"type": "apiKey", "in": "header", "name": "api-key", "description": "The key, as with Azure OpenAI."}
_SUBSCRIPTION_KEY = {
    **{"type": "apiKey", "in": "header", "name": "Ocp-Apim-Subscription-Key"},
    "description": "The key, as with API Management. `;product=NAME` after it names one of its products.",
}
_SUBSCRIPTION_KEY_IN_QUERY = {
    **{"type": "apiKey", "in": "query", "name": "subscription-key"},
    "description": "The same in the query. Proxies may log it: prefer a header.",
}
_COMPONENTS: dict[str, Any] = {
    "securitySchemes": {
        "bearer": {"type": "http", "scheme": "bearer", "description": _BEARER},
        "apiKey": _API_KEY,
        "subscriptionKey": _SUBSCRIPTION_KEY,
        "subscriptionKeyInQuery": _SUBSCRIPTION_KEY_IN_QUERY,
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
            "properties": {"error": {"type": "object", "properties": _ERROR}},
        },
        "Object": {"type": "object", "additionalProperties": True},
    },
    "responses": {
        "Refused": {"description": REFUSED, "content": _ERROR_JSON},
        "Unavailable": {"description": UNAVAILABLE, "content": _ERROR_JSON},
    },
}
_HEALTH = {
    "operationId": "healthz",
    "summary": "Report liveness",
    "tags": ["Gateway"],
    "security": [],
    "responses": {"200": {"description": "The process is alive.", "content": ANY_JSON}},
}
_INFO = {
    "title": "Tollgate",
    "version": "1",
    "summary": "One gateway in front of many deployments of Azure OpenAI, OpenAI and Claude.",
    "description": "Bodies are those of OpenAI's, Azure OpenAI's and Anthropic's APIs and pass unchanged.",
}


def older(document: dict[str, Any]) -> dict[str, Any]:
    """The document as OpenAPI 3.0: types with null are nullable, and what came with 3.1 is left out."""
    info = {name: value for name, value in document["info"].items() if name != "summary"}
    whole: dict[str, Any] = _older(document)
    return whole | {"openapi": "3.0.3", "info": info}


def _older(value: Any) -> Any:
    if isinstance(value, list):
        return [_older(one) for one in value]
    if not isinstance(value, dict):
        return value
    older = {name: _older(one) for name, one in value.items()}
    if isinstance(types := older.get("type"), list):
        (older["type"],) = (one for one in types if one != "null")
        older["nullable"] = True
    if isinstance(older.get("examples"), list):
        older["example"] = older.pop("examples")[0]
    if older.pop("contentMediaType", None) is not None:
        older["format"] = "binary"
    return older


def described() -> dict[str, Any]:
    """The document with this part alone; each call returns another one."""
    paths: dict[str, dict[str, Any]] = {"/healthz": {"get": _HEALTH}}
    for operation in OPERATIONS:
        for surface, path, parameters in _spellings(operation):
            paths.setdefault(path, {})[operation.method.lower()] = _item(operation, surface, path, parameters)
    head: dict[str, Any] = {"openapi": "3.1.0", "info": _INFO, "servers": [{"url": "/"}]}
    return head | {"paths": paths, "components": _COMPONENTS}


def in_path(path: str) -> list[dict[str, Any]]:
    """The parameters of a path."""
    place = {"in": "path", "required": True, "schema": {"type": "string", "pattern": f"^{SEGMENT}$"}}
    return [{"name": name} | place for name in _PARAMETER.findall(path)]


def nameless(path: str) -> str:
    """A path without the names of its parameters, by which two of them are the same."""
    return _PARAMETER.sub("{}", path)


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
    item = answered(operation, surface, _TAGS.get(family, family.capitalize()), in_path(path) + parameters)
    if operation.body != "none":
        model_in_path = surface in ("dated", "gateway") and operation.on_deployment
        item["requestBody"] = _body(operation, model_in_path=model_in_path)
    return item


def answered(
    operation: Operation, style: str, tag: str, parameters: list[dict[str, Any]], errors: str = ""
) -> dict[str, Any]:
    """An operation without its body. `errors`: the beginning of their names."""
    answer: dict[str, Any] = dict(ANY_JSON)
    if operation.streams:
        parameters = [*parameters, {"$ref": "#/components/parameters/heartbeat"}]
        answer["text/event-stream"] = {"schema": TEXT}
    if operation.free_form:
        answer["*/*"] = {}
    item: dict[str, Any] = {
        "operationId": f"{style}.{operation.name}",
        "summary": operation.name,
        "tags": [tag],
        "responses": {
            "2XX": {"description": "The backend's answer.", "content": answer},
            "4XX": {"$ref": f"#/components/responses/{errors}Refused"},
            "5XX": {"$ref": f"#/components/responses/{errors}Unavailable"},
        },
    }
    return item | {"parameters": parameters} if parameters else item


def _body(operation: Operation, *, model_in_path: bool) -> dict[str, Any]:
    """The parts of a body that the gateway needs to serve the call; the rest is between caller and backend."""
    if operation.body == "sdp":
        form = {"type": "object", "required": ["sdp"], "properties": {"sdp": TEXT, "session": {"type": "object"}}}
        content = {"application/sdp": {"schema": TEXT}, "multipart/form-data": {"schema": form}}
        return {"required": True, "content": content}
    schema: dict[str, Any] = {"type": "object", "additionalProperties": True, "properties": {}}
    in_body = operation.model in ("body", "form")
    if (in_body or operation.model == "optional") and operation.model_at == ("model",):
        schema["properties"]["model"] = {"type": "string", "minLength": 1}
        if in_body and not model_in_path and not operation.default_model:
            schema["required"] = ["model"]
    if operation.streams:
        schema["properties"]["stream"] = {"type": ["boolean", "null"]}
    if operation.body == "multipart":
        schema["properties"]["file"] = FILE
        return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    return {"required": in_body, "content": {"application/json": {"schema": schema}}}
