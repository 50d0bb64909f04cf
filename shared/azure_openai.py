"""The wire of Azure OpenAI: paths, operations, API versions, bodies and kinds of error. No I/O.

Every path that the gateway serves is the pattern of a surface around the path of an operation in `OPERATIONS`.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, urlencode

import msgspec

from shared.errors import InvalidRequest, MethodNotAllowed, UnknownPath
from shared.types import Backend, Call, Operation, Surface, Target

OPERATIONS = (
    Operation("chat.completions", "chat/completions", ("POST",), on_deployment=True, streams=True),
    Operation("completions", "completions", ("POST",), on_deployment=True, streams=True),
    Operation("embeddings", "embeddings", ("POST",), on_deployment=True),
    Operation("models.list", "models", ("GET",), local=True),
    Operation("models.get", "models/{id}", ("GET",), local=True),
)

CLASSIC_SCOPE = "https://cognitiveservices.azure.com/.default"
V1_SCOPE = "https://ai.azure.com/.default"

INCLUDE_USAGE_SINCE = "2024-09-01"  # the first dated version that knows stream_options.include_usage
DEFAULT_DATED_VERSION = "2024-10-21"

# Only these few pass. Azure answers 431 to a request with more than ten headers that it does not know; others carry
# secrets of the caller's sign-in (x-ms-token-*) or would choose another deployment past its policy (x-ms-spillover-*).
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
_FORWARDED_PREFIX = "aoai-"  # previews of the v1 API are asked for by headers of their own, such as aoai-evals
_MAX_CUSTOM_HEADERS = 10

# What the caller may see of an answer's headers. The upstream's x-ratelimit-* tell of the backend's limits, not of
# the caller's; the others are diagnostics or belong to the connection.
_RETURNED = frozenset(
    {
        "content-type",
        "content-encoding",
        "content-disposition",
        "x-ms-region",
        "apim-request-id",
        "x-request-id",
        "x-ms-request-id",
        "x-ms-client-request-id",
        "x-ms-spillover-from-deployment",
        "openai-processing-ms",
        "openai-version",
    }
)

_DECODE_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_NEXT_VALUE = re.compile(rb'[\s{,]*"(?:[^"\\]|\\.)*"\s*:\s*')
_OBJECT_END = re.compile(rb"\s*\{?\s*\}\s*")
_SYSTEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:@/-]{0,63}")


class Route(msgspec.Struct, frozen=True):
    """What a path says: who spells it so, which operation, and the model or object that stands in it."""

    surface: Surface
    operation: Operation
    model: str | None = None
    resource_id: str = ""


@functools.lru_cache(maxsize=1024)
def match(method: str, path: str) -> Route:
    """The route of a path. Raises `UnknownPath` (404) and `MethodNotAllowed` (405)."""
    for surface, pattern, operations in _SURFACES:
        if not (found := pattern.fullmatch(path)):
            continue
        rest = found["rest"]
        for operation, operation_pattern in operations:
            if inner := operation_pattern.fullmatch(rest):
                if method not in operation.methods:
                    allowed = ", ".join(operation.methods)
                    raise MethodNotAllowed(f"{method} is not a method of {path}; use {allowed}.", allowed)
                groups = inner.groupdict()
                model = found.groupdict().get("model") or groups.get("model")
                return Route(surface, operation, model, groups.get("id", ""))
    raise UnknownPath(
        f"{path[:200]} is not a path of this gateway. Use /v1/… as with OpenAI, or as with Azure OpenAI "
        "/openai/deployments/MODEL/…?api-version=… or /openai/v1/…, or /gateway/OPERATION/MODEL."
    )


def parse_call(route: Route, query: str, headers: Mapping[str, str], body: bytes) -> Call:
    """The call in a request. Raises `InvalidRequest` (400) that names the offending parameter."""
    parameters = parse_qsl(query, keep_blank_values=True) if query else []
    system = headers.get("systemid") or next((v for k, v in parameters if k.lower() == "systemid"), "")
    if system and not _SYSTEM.fullmatch(system):
        raise InvalidRequest(
            "systemId: expected at most 64 letters, digits, spaces and . _ : @ / -, as the name of the calling system.",
            param="systemId",
        )
    version = next((v for k, v in parameters if k == "api-version"), None)
    if route.surface == "dated" and not version:
        raise InvalidRequest(
            "The query parameter api-version is missing, e.g. ?api-version=2024-10-21.", param="api-version"
        )
    passed_on = [(k, v) for k, v in parameters if k.lower() != "systemid" and k != "api-version"]
    call = Call(
        operation=route.operation,
        surface=route.surface,
        model=route.model or route.resource_id,
        resource_id=route.resource_id,
        query=urlencode(passed_on),
        api_version=version,
        headers=_forwarded(headers),
        system=system,
    )
    return call if route.operation.local else _with_body(call, body)


def _with_body(call: Call, body: bytes) -> Call:
    fields = body_fields(body)
    named = _field(fields, "model", str, "a string that names a model")
    if not (model := call.model or named):
        raise InvalidRequest(
            "The field `model` is missing: it names the model to be called.", param="model", code="missing_model"
        )
    stream = call.operation.streams and bool(_field(fields, "stream", bool, "true or false"))
    injected = stream and _must_inject_usage(fields, call.surface, call.api_version)
    bounds = [_field(fields, name, int, "an integer") for name in ("max_completion_tokens", "max_tokens")]
    return msgspec.structs.replace(
        call,
        model=model,
        body=body,
        body_model=named,
        edits={"stream_options": _with_usage(fields.get("stream_options"))} if injected else {},
        stream=stream,
        usage_injected=injected,
        input_estimate=len(body) // 4,
        max_output_tokens=next((bound for bound in bounds if bound is not None), None),
    )


class UpstreamRequest(msgspec.Struct, frozen=True):
    """What goes to a backend, apart from how the gateway authenticates there. `scope` is the token's audience."""

    method: str
    url: str
    scope: str
    body: bytes


def upstream_request(call: Call, target: Target) -> UpstreamRequest:
    """The call as this target wants it: its path, its API version, its name for the model."""
    backend = target.backend
    v1 = call.surface == "v1" or (call.surface == "openai" and backend.api_version == "v1")
    edits = call.edits
    if v1 and call.body_model != target.deployment:
        edits = edits | {"model": msgspec.json.encode(target.deployment)}
    body = rewrite(call.body, edits) if edits else call.body
    path, query = call.operation.path, call.query
    if v1:
        path = f"/openai/v1/{path}"
        if call.api_version and call.surface == "v1":
            query = f"api-version={quote(call.api_version)}" + (f"&{query}" if query else "")
    else:
        version = call.api_version if call.surface == "dated" else backend.api_version
        path = f"/openai/deployments/{target.deployment}/{path}" if call.operation.on_deployment else f"/openai/{path}"
        query = f"api-version={quote(version or DEFAULT_DATED_VERSION)}" + (f"&{query}" if query else "")
    url = backend.endpoint.rstrip("/") + path + (f"?{query}" if query else "")
    return UpstreamRequest(call.operation.methods[0], url, token_scope(backend, v1=v1), body)


def token_scope(backend: Backend, *, v1: bool) -> str:
    """The audience of a token for a backend. Azure documents one for its v1 API and another for the dated ones."""
    return backend.token_scope or (V1_SCOPE if v1 else CLASSIC_SCOPE)


def body_fields(body: bytes) -> dict[str, msgspec.Raw]:
    """The top level of a JSON object, values undecoded (15 µs for 100 kB). Raises `InvalidRequest`."""
    if not body:
        raise InvalidRequest("The request has no body; a JSON object is expected.")
    try:
        return _DECODE_FIELDS(body)
    except msgspec.ValidationError:
        raise InvalidRequest("The body is JSON, but not an object: expected {…} at its top level.") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from None


def rewrite(body: bytes, edits: Mapping[str, bytes]) -> bytes:
    """The JSON object `body` with these raw values at its top level, replaced or added; every other byte is kept.

    The values lie in the order in which the decoder met them, so each stands right behind its key: no value has to be
    searched. A key that stands twice breaks that order and is refused (`InvalidRequest`), since two readers of such a
    body may see two different requests.
    """
    pieces, copied, position = [], 0, 0
    missing = dict(edits)
    fields = body_fields(body)
    for key, raw in fields.items():
        before = _NEXT_VALUE.match(body, position)
        length = len(memoryview(raw))
        if before is None or body[before.end() : before.end() + length] != bytes(raw):
            raise InvalidRequest("The body has a key twice at its top level.")
        start, position = before.end(), before.end() + length
        if key in missing:
            pieces += [body[copied:start], missing.pop(key)]
            copied = position
    if not _OBJECT_END.fullmatch(body, position):
        raise InvalidRequest("The body has a key twice at its top level.")
    if missing:
        added = b",".join(msgspec.json.encode(key) + b":" + value for key, value in missing.items())
        end = body.rindex(b"}")
        pieces += [body[copied:end], b"," if fields else b"", added]
        copied = end
    return b"".join([*pieces, body[copied:]])


Kind = Literal["ok", "caller", "ours", "capacity", "server"]


def classify(status: int, body: bytes) -> Kind:
    """Whose fault an answer is. `ours`: the gateway's access to that deployment; another backend may not share it."""
    if status < 400:
        return "ok"
    if status == 429:
        return "capacity"
    if status == 408 or status >= 500:
        return "server"
    if status in (401, 403) or (status == 404 and error_code(body) == "DeploymentNotFound"):
        return "ours"
    return "caller"


def error_code(body: bytes) -> str:
    """The `error.code` of an answer, or ""."""
    try:
        error = msgspec.json.decode(body).get("error")
        return str(error.get("code") or "")
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, AttributeError):
        return ""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait that a 429 tells: the milliseconds first, being exact, then seconds, then the limits' resets."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if (seconds := _number(headers.get(name))) is not None:
            return seconds * unit
    resets = [
        _number((headers.get(f"x-ratelimit-reset-{what}") or "").removesuffix("s")) for what in ("tokens", "requests")
    ]
    return max((seconds for seconds in resets if seconds is not None), default=None)


def returned_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of an upstream's answer that the caller receives."""
    return {name: value for key, value in headers.items() if (name := key.lower()) in _RETURNED}


def model_object(model: str) -> dict[str, str | int]:
    """A model as the models operations tell it. When it was made is not known here; clients expect a number."""
    return {"id": model, "object": "model", "created": 0, "owned_by": "azure-openai"}


def _surfaces() -> list[tuple[Surface, re.Pattern[str], list[tuple[Operation, re.Pattern[str]]]]]:
    def patterns(suffix: str = "", *, on_deployment: bool | None = None) -> list[tuple[Operation, re.Pattern[str]]]:
        return [
            (operation, re.compile(operation.path.replace("{id}", r"(?P<id>[^/]+)") + suffix + "/?"))
            for operation in OPERATIONS
            if on_deployment is None or operation.on_deployment == on_deployment
        ]

    return [
        ("v1", re.compile(r"/openai/v1/(?P<rest>.+)"), patterns()),
        ("openai", re.compile(r"/v1/(?P<rest>.+)"), patterns()),
        ("dated", re.compile(r"/openai/deployments/(?P<model>[^/]+)/(?P<rest>.+)"), patterns(on_deployment=True)),
        ("dated", re.compile(r"/openai/(?P<rest>.+)"), patterns(on_deployment=False)),
        ("openai", re.compile(r"/gateway/(?P<rest>.+)"), patterns(r"/(?P<model>[^/]+)", on_deployment=True)),
    ]


_SURFACES = _surfaces()


def _forwarded(headers: Mapping[str, str]) -> dict[str, str]:
    passed = [
        (name, value)
        for name, value in headers.items()
        if (name in _FORWARDED or name.startswith(_FORWARDED_PREFIX)) and value.isascii()
    ]
    return dict(passed[:_MAX_CUSTOM_HEADERS])


def _field[T](fields: Mapping[str, msgspec.Raw], name: str, kind: type[T], expected: str) -> T | None:
    """The value of an optional top-level field; null counts as absent."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=kind | None)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise InvalidRequest(f"The field `{name}` has the wrong type: expected {expected}.", param=name) from None


def _must_inject_usage(fields: Mapping[str, msgspec.Raw], surface: Surface, version: str | None) -> bool:
    """Whether the backend has to be asked for the usage chunk. Old API versions and On Your Data refuse to be asked."""
    if (surface == "dated" and (version or "") < INCLUDE_USAGE_SINCE) or "data_sources" in fields:
        return False
    options = _field(fields, "stream_options", dict[str, Any], "an object")
    return not (options and options.get("include_usage") is True)


def _with_usage(options: msgspec.Raw | None) -> bytes:
    given = msgspec.json.decode(options, type=dict[str, msgspec.Raw] | None) if options is not None else None
    return msgspec.json.encode((given or {}) | {"include_usage": True})


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text else -1.0
    except ValueError:
        return None
    return number if 0 <= number < 1e9 else None
