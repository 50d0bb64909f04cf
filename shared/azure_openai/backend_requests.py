"""Turns a `Call` and a `Target` into the request that a backend receives."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from shared.azure_openai.apis import ANTHROPIC_HEADERS, APIS, IMAGE_DEPLOYMENT
from shared.azure_openai.json_body import JsonFields, rewrite, rewrite_below
from shared.azure_openai.multipart import FormModel
from shared.azure_openai.operations import IN_QUERY
from shared.config.document import Backend
from shared.types import FAST, TIERS, Call, Surface, Target

CLASSIC_SCOPE = "https://cognitiveservices.azure.com/.default"


V1_SCOPE = "https://ai.azure.com/.default"


INCLUDE_USAGE_SINCE = "2024-09-01"  # the first dated version that knows stream_options.include_usage


DEFAULT_DATED_VERSION = "2024-10-21"


# Only these few pass. Azure answers 431 to a request with more than ten headers that it does not know. Others carry
# secrets of the caller's sign-in (x-ms-token-*), or would choose a deployment past its policy (x-ms-spillover-*).
_FORWARDED = frozenset(
    {
        "accept",
        "content-type",
        "idempotency-key",
        "openai-beta",
        "traceparent",
        "tracestate",
        "x-ms-client-request-id",
    }
)


_DEFAULT_VERSION = {"anthropic-version": "2023-06-01"}


_FORWARDED_PREFIX = "aoai-"  # headers that opt in to previews of the v1 API, such as aoai-evals


_MAX_CUSTOM_HEADERS = 10


class UpstreamRequest(msgspec.Struct, frozen=True):
    """The request to a backend, without the gateway's authentication. `scope` is the token's audience, if it takes one.

    `form_model`: the field `model` of a multipart body; None: it needs no change."""

    method: str
    url: str
    scope: str
    body: bytes
    form_model: FormModel | None = None


def upstream_request(call: Call, target: Target) -> UpstreamRequest:
    """The request for a call on one target: with its path, its API version and its name for the model."""
    backend = target.backend
    v1 = goes_to_v1(call, backend)
    edits, form_model = call.edits, None
    if not target.tier and service_tier(call):
        edits = edits | {"service_tier": b'"default"'}
    path, query = call.path or call.operation.path, call.query
    if call.body_model != target.deployment and names_deployment(call, target):
        if call.model_at == IN_QUERY:
            query = f"model={quote(target.deployment, safe='')}" + (f"&{query}" if query else "")
        elif call.multipart:
            named_in_path = call.operation.on_deployment and not v1
            form_model = FormModel(target.deployment.encode(), required=not named_in_path)
        else:
            edits = edits | _model_edit(call, target.deployment)
    version = call.api_version if call.surface == "dated" else backend.api_version
    version = version if version and version != "v1" else DEFAULT_DATED_VERSION
    if call.usage_injected and not v1 and version < INCLUDE_USAGE_SINCE:
        edits = {name: value for name, value in edits.items() if name != "stream_options"}
    body = rewrite(call.body, call.values, edits) if edits else call.body
    if v1:
        path = APIS[backend.api].prefix + path
        if call.api_version and call.surface == "v1" and backend.api == "azure":
            query = f"api-version={quote(call.api_version)}" + (f"&{query}" if query else "")
    else:
        path = f"/openai/deployments/{target.deployment}/{path}" if call.operation.on_deployment else f"/openai/{path}"
        query = f"api-version={quote(version)}" + (f"&{query}" if query else "")
    url = backend.endpoint.rstrip("/") + path + (f"?{query}" if query else "")
    return UpstreamRequest(call.operation.method, url, token_scope(backend, v1=v1), body, form_model)


_TIERS = {f'"{tier}"'.encode(): tier for tier in TIERS if tier != FAST}


def service_tier(call: Call) -> str:
    """The service tier that a call asks for, if backends throttle it apart from the standard one; else ""."""
    if call.operation.format == "anthropic":
        speed = call.values.get("speed")
        return FAST if speed is not None and call.body[speed] == b'"fast"' else ""
    place = call.values.get("service_tier")
    return "" if place is None else _TIERS.get(call.body[place], "")


def goes_to_v1(call: Call, backend: Backend) -> bool:
    """True if the backend is called by paths whose bodies name the model, False if by those of a dated API."""
    if not APIS[backend.api].dated:
        return True
    return call.surface == "v1" or (call.surface == "openai" and backend.api_version == "v1")


def names_deployment(call: Call, target: Target) -> bool:
    """True if the backend reads its deployment from the body, False if from the path or not at all."""
    operation = call.operation
    if not target.deployment or (operation.model == "optional" and call.body_model is None):
        return False
    # Azure's dated image operations also read `model` in the body, and know only deployments.
    named_too = operation.metered == "images" and (call.body_model is not None or call.multipart)
    return not operation.on_deployment or goes_to_v1(call, target.backend) or named_too


def _model_edit(call: Call, deployment: str) -> dict[str, bytes]:
    """The edit that puts the deployment where the body names the model, or has to."""
    name, _, inner = call.model_at.partition(".")
    value = msgspec.json.encode(deployment)
    return {name: rewrite_below(call.body[call.values[name]], inner, value) if inner else value}


def token_scope(backend: Backend, *, v1: bool) -> str:
    """The audience of a token for a backend, "" if it takes keys only. Azure documents one for its v1 API and another
    for the dated ones."""
    if backend.api != "azure":
        return ""
    return backend.token_scope or (V1_SCOPE if v1 else CLASSIC_SCOPE)


def forwarded_headers(headers: Mapping[str, str], surface: Surface) -> dict[str, str]:
    """The headers of a caller's request that pass to the backend."""
    if surface == "anthropic":
        named = {name: value for name in ANTHROPIC_HEADERS if (value := headers.get(name)) is not None}
        return _DEFAULT_VERSION | {name: value for name, value in named.items() if value.isascii()}
    passed = [
        (name, value)
        for name, value in headers.items()
        if (name in _FORWARDED or name == IMAGE_DEPLOYMENT or name.startswith(_FORWARDED_PREFIX)) and value.isascii()
    ]
    return dict(passed[:_MAX_CUSTOM_HEADERS])


def headers_for(call: Call, backend: Backend) -> dict[str, str]:
    """The headers of a call for one backend: those that its API knows, and with its name for the model of the image
    tool."""
    if (known := APIS[backend.api].headers) is not None:
        return {name: value for name, value in call.headers.items() if name in known}
    if (model := call.headers.get(IMAGE_DEPLOYMENT)) is None:
        return call.headers
    return call.headers | {IMAGE_DEPLOYMENT: backend.deployments.get(model, model)}


def usage_edit(fields: JsonFields, call: Call) -> dict[str, bytes]:
    """The edit that requests the usage chunk, if the caller did not. Old API versions and On Your Data reject it."""
    if (call.surface == "dated" and (call.api_version or "") < INCLUDE_USAGE_SINCE) or "data_sources" in fields:
        return {}
    options = fields.get("stream_options", dict[str, Any], "an object") or {}
    if options.get("include_usage") is True:
        return {}
    return {"stream_options": msgspec.json.encode(options | {"include_usage": True})}
