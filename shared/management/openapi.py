"""The OpenAPI 3.1 document of the gateway's own paths, made from their routes."""

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from starlette.responses import Response

from shared import __version__
from shared.management.routes import ManagementRequest, Route
from shared.responses.rendering import JsonResponse

PATH = "/gateway/management/openapi.json"

_PARAMETER = re.compile(r"\{(\w+)\}")
_REFERENCE = "#/components/schemas/{name}"
_MERGE_PATCH = "application/merge-patch+json"
_NULLABLE_TEXT = {"type": ["string", "null"]}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code"],
            "properties": {
                "message": {"type": "string"},
                **dict.fromkeys(("type", "param", "code"), _NULLABLE_TEXT),
            },
        }
    },
}
_SECURITY: dict[str, list[dict[str, list[str]]]] = {
    "anyone": [],
    "probe": [{}, {"operator": []}],
    "caller": [{"caller": []}, {"callerKey": []}],
    "operator": [{"operator": []}, {"operatorKey": []}],
}
_SCHEMES = {
    "operator": {
        "type": "http",
        "scheme": "bearer",
        "description": "The management key, or a token of Entra ID with a role of the gateway.",
    },
    "operatorKey": {"type": "apiKey", "in": "header", "name": "api-key", "description": "The management key."},
    "caller": {"type": "http", "scheme": "bearer", "description": "The key or token of a caller."},
    "callerKey": {"type": "apiKey", "in": "header", "name": "api-key", "description": "The key of a caller."},
}
_INFO = {
    "title": "Tollgate management",
    "version": __version__,
    "summary": "Consumers, keys, limits, usage and state of a gateway.",
}


class ManagementOpenApi:
    """`GET /gateway/management/openapi.json`: the document of these routes and of itself."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = routes

    def routes(self) -> Sequence[Route]:
        return (Route("GET", PATH, "operator", self._document, gives=dict[str, Any]),)

    async def _document(self, request: ManagementRequest) -> Response:
        """Describe the management API."""
        return JsonResponse(document((*self._routes, *self.routes())))


def document(routes: Sequence[Route]) -> dict[str, Any]:
    types = list(dict.fromkeys(kind for route in routes for kind in (route.takes, route.gives) if kind is not None))
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation = _operation(route, schema_of)
        if route.status == 201 and (links := _links(route, routes)):
            operation["responses"]["201"]["links"] = links
        paths.setdefault(route.pattern, {})[route.method.lower()] = operation
    refused = {
        "description": "Refused.",
        "content": {"application/json": {"schema": {"$ref": _REFERENCE.format(name="Error")}}},
    }
    return {
        "openapi": "3.1.0",
        "info": _INFO,
        "paths": paths,
        "components": {
            "securitySchemes": _SCHEMES,
            "schemas": {**components, "Error": _ERROR},
            "responses": {"Refused": refused},
        },
    }


def _operation(route: Route, schema_of: dict[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _id(route),
        "summary": route.summary or _first_sentence(route.handler) or f"{route.method} {route.pattern}",
        "tags": [route.pattern.split("/")[2] if route.pattern.startswith("/gateway/") else "health"],
        "security": _SECURITY[route.access],
        "responses": {
            str(route.status): _answer(route, schema_of),
            "4XX": {"$ref": "#/components/responses/Refused"},
            "5XX": {"$ref": "#/components/responses/Refused"},
        },
    }
    if route.method == "PUT" and route.status != 204:
        operation["responses"]["201"] = operation["responses"][str(route.status)]  # it was not there
    if route.pattern == "/readyz":
        del operation["responses"]["5XX"]  # it has the state, as with 200
        operation["responses"]["503"] = operation["responses"]["200"]
    if route.access == "operator":
        roles = ", ".join(sorted(route.roles))
        operation["description"] = f"For operators with one of the roles: {roles}."
    if parameters := _parameters(route):
        operation["parameters"] = parameters
    if route.takes is not None:
        kinds = (_MERGE_PATCH, "application/json") if route.method == "PATCH" else ("application/json",)
        content = {kind: {"schema": schema_of[route.takes]} for kind in kinds}
        operation["requestBody"] = {"required": route.method != "POST", "content": content}
    return operation


def _id(route: Route) -> str:
    return _PARAMETER.sub(r"\1", f"{route.method.lower()}{route.pattern}").replace("/", ".")


def _links(made: Route, routes: Iterable[Route]) -> dict[str, Any]:
    """The operations on what a route makes, which take its id."""
    below = re.compile(re.escape(made.pattern) + r"/\{(\w+)\}.*")
    parameters = {name: f"$request.path.{name}" for name in _PARAMETER.findall(made.pattern)}
    return {
        _id(route): {"operationId": _id(route), "parameters": {**parameters, match[1]: "$response.body#/id"}}
        for route in routes
        if (match := below.fullmatch(route.pattern)) and len(_PARAMETER.findall(route.pattern)) == len(parameters) + 1
    }


_EVENT = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string", "contentMediaType": "application/json"}},
    "required": ["event", "data"],
}


def _answer(route: Route, schema_of: dict[Any, Any]) -> dict[str, Any]:
    if route.status == 204:
        return {"description": "Done."}
    if route.streams:
        return {"description": "The events, each of this form.", "content": {"text/event-stream": {"schema": _EVENT}}}
    schema = schema_of[route.gives] if route.gives is not None else {}
    kinds = ("application/json", "text/csv") if "format" in route.query else ("application/json",)
    return {"description": "The answer.", "content": {kind: {"schema": schema} for kind in kinds}}


def _parameters(route: Route) -> list[dict[str, Any]]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(route.pattern)
    ]
    in_query = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in route.query]
    in_header = [
        {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
        for name, text in route.headers.items()
    ]
    return [*in_path, *in_query, *in_header]


def _first_sentence(handler: Any) -> str:
    return (inspect.getdoc(handler) or "").split(". ")[0].split("\n\n")[0].replace("\n", " ").removesuffix(".")
