"""Reads the specification of an API that stood behind API Management: its backend, its version and its deployments."""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from shared.cli._apim_draft import Draft

MOST_BYTES = 16_777_216
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?")
_DEPLOYMENT = re.compile(r"/deployments/([A-Za-z0-9][A-Za-z0-9._-]{0,63})(?:/|$)")
_NAMES = ("deployment-id", "deployment", "deploymentid", "deployment_id")


def read_into(draft: Draft, text: str) -> None:
    """Take the models and the API version from a specification. Raises `ValueError` for an invalid one."""
    try:
        document = json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(document, dict) or not ("openapi" in document or "swagger" in document):
        raise ValueError("is not an OpenAPI document in JSON")
    if not draft.backends and (address := _server(document)):
        draft.add_backend(None, address, "", 1)
    parameters = list(_parameters(document))
    for parameter in parameters:
        name, values = str(parameter.get("name", "")).lower(), _values(parameter)
        if name == "api-version" and not draft.api_version:
            draft.api_version = next(filter(_VERSION.fullmatch, values), "")
            if draft.api_version:
                draft.carried(None, f"backends: api_version: {draft.api_version}, by the specification")
        if name in _NAMES and not draft.models:
            draft.models = {value: value for value in values if re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", value)}
    paths = document.get("paths")
    for path in paths if isinstance(paths, dict) else ():
        if (match := _DEPLOYMENT.search(path)) is not None:
            draft.models.setdefault(match[1], match[1])
    if draft.models:
        draft.carried(None, f"backends: models: {', '.join(draft.models)}, by the specification")


def _server(document: dict[str, Any]) -> str:
    """The address of the first server; with variables, by their defaults."""
    servers = document.get("servers")
    first = servers[0] if isinstance(servers, list) and servers and isinstance(servers[0], dict) else {}
    url = str(first.get("url", ""))
    variables = first.get("variables")
    for name, about in variables.items() if isinstance(variables, dict) else ():
        if isinstance(about, dict):
            url = url.replace(f"{{{name}}}", str(about.get("default", "")))
    parts = urlsplit(url)
    return url if parts.scheme in ("http", "https") and parts.hostname and "{" not in parts.netloc else ""


def _parameters(value: Any) -> Iterator[dict[str, Any]]:
    """All parameters of the document, wherever they stand."""
    level = [value]
    while level:
        one = level.pop()
        if isinstance(one, dict):
            if one.get("in") in ("query", "path") and "name" in one:
                yield one
            level += one.values()
        elif isinstance(one, list):
            level += one


def _values(parameter: dict[str, Any]) -> list[str]:
    schema = parameter.get("schema")
    places = [parameter, *([schema] if isinstance(schema, dict) else [])]
    samples: list[Any] = []
    for place in places:
        enum = place.get("enum")
        samples += [place.get("default"), place.get("example"), *(enum if isinstance(enum, list) else [])]
    return [value for value in samples if isinstance(value, str)]
