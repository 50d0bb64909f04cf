"""The wire of Azure OpenAI: paths, operations, API versions, bodies and kinds of error. No I/O.

Every path that the gateway serves is the pattern of a surface around the path of an operation in `OPERATIONS`.
"""

import functools
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
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

Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]

_LONGEST_PATH = 500  # characters; no path of the table is longer, and the cache of paths must stay small
_MOST_KEYS = 1000  # at the top level of a body; the longest requests have about forty

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


def match(method: str, path: str) -> Route:
    """The route of a path. Raises `UnknownPath` (404) and `MethodNotAllowed` (405)."""
    if len(path) > _LONGEST_PATH:
        raise _unknown(path)
    return _match(method, path)


@functools.lru_cache(maxsize=1024)
def _match(method: str, path: str) -> Route:
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
    raise _unknown(path)


def _unknown(path: str) -> UnknownPath:
    return UnknownPath(
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
    passed_on = [(k, v) for k, v in parameters if k.lower() != "systemid" and k != "api-version"] if parameters else ()
    call = Call(
        operation=route.operation,
        surface=route.surface,
        model=route.model or route.resource_id,
        resource_id=route.resource_id,
        query=urlencode(passed_on) if passed_on else "",
        api_version=version,
        headers=_forwarded(headers),
        system=system,
    )
    return call if route.operation.local else _with_body(call, body)


def _with_body(call: Call, body: bytes) -> Call:
    values = top_level(body)
    fields = Fields(body, values)
    named = fields.get("model", str, "a string that names a model")
    if not (model := call.model or named):
        raise InvalidRequest(
            "The field `model` is missing: it names the model to be called.", param="model", code="missing_model"
        )
    stream = call.operation.streams and bool(fields.get("stream", bool, "true or false"))
    bounds = [fields.get(name, Tokens, "an integer, 0 or more") for name in ("max_completion_tokens", "max_tokens")]
    edits = _usage_edit(fields, call) if stream else {}
    return msgspec.structs.replace(
        call,
        model=model,
        body=body,
        values=values,
        body_model=named,
        edits=edits,
        stream=stream,
        usage_injected=bool(edits),
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
    body = rewrite(call.body, call.values, edits) if edits else call.body
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


class Fields:
    """The values at the top level of a body, decoded one by one as they are wanted."""

    def __init__(self, body: bytes, values: Mapping[str, slice]) -> None:
        self._body = body
        self._values = values

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get[T](self, name: str, kind: type[T], expected: str) -> T | None:
        """The value of an optional field; null counts as absent. Raises `InvalidRequest` for another kind."""
        place = self._values.get(name)
        if place is None:
            return None
        try:
            return msgspec.json.decode(self._body[place], type=kind | None)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise InvalidRequest(f"The field `{name}` has the wrong type: expected {expected}.", param=name) from None


def top_level(body: bytes) -> dict[str, slice]:
    """Where the values at the top level of a JSON object stand, by their keys (20 µs for 100 kB). Raises
    `InvalidRequest` for what is no JSON object, and for a key that stands twice: two readers of such a body may see two
    different requests.

    The decoder skips the values and gives them in the order in which it met their keys, so each stands right behind the
    next key: no value has to be searched.
    """
    if not body:
        raise InvalidRequest("The request has no body; a JSON object is expected.")
    if len(body) > 1_000_000 and body.count(b'":') > 100_000:  # millions of keys would take seconds, and a gigabyte
        raise InvalidRequest("The body has more keys than any request of the API.")
    try:
        fields = _DECODE_FIELDS(body)
    except msgspec.ValidationError:
        raise InvalidRequest("The body is JSON, but not an object: expected {…} at its top level.") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from None
    if len(fields) > _MOST_KEYS:
        raise InvalidRequest(f"The body has more than {_MOST_KEYS} keys at its top level.")
    values, position = {}, 0
    for key, raw in fields.items():
        before = _NEXT_VALUE.match(body, position)
        value = bytes(raw)
        if before is None or not body.startswith(value, before.end()):
            break
        position = before.end() + len(value)
        values[key] = slice(before.end(), position)
    if len(values) < len(fields) or not _OBJECT_END.fullmatch(body, position):
        raise InvalidRequest("The body has a key twice at its top level.")
    return values


def rewrite(body: bytes, values: Mapping[str, slice], edits: Mapping[str, bytes]) -> bytes:
    """The JSON object `body` with these raw values at its top level, replaced or added; every other byte is kept.
    `values` as `top_level` tells them."""
    pieces, copied = [], 0
    for key, place in values.items():
        if key in edits:
            pieces += [body[copied : place.start], edits[key]]
            copied = place.stop
    if added := [msgspec.json.encode(key) + b":" + value for key, value in edits.items() if key not in values]:
        end = body.rindex(b"}")
        pieces += [body[copied:end], b"," if values else b"", b",".join(added)]
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


def has_room(headers: Mapping[str, str]) -> bool:
    """Whether a 429 says that tokens and requests are left: this request alone was too large."""
    left = [_number(headers.get(f"x-ratelimit-remaining-{what}")) for what in ("tokens", "requests")]
    return all(number is not None and number > 0 for number in left)


def returned_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of an upstream's answer that the caller receives; what no server could send on is left out."""
    passed = ((name, headers.get(name)) for name in _RETURNED)
    return {name: value for name, value in passed if value is not None and value.isascii() and value.isprintable()}


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


def _usage_edit(fields: Fields, call: Call) -> dict[str, bytes]:
    """What asks a backend for the usage chunk, where the caller did not. Old API versions and On Your Data refuse to be
    asked."""
    if (call.surface == "dated" and (call.api_version or "") < INCLUDE_USAGE_SINCE) or "data_sources" in fields:
        return {}
    options = fields.get("stream_options", dict[str, Any], "an object") or {}
    if options.get("include_usage") is True:
        return {}
    return {"stream_options": msgspec.json.encode(options | {"include_usage": True})}


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text else -1.0
    except ValueError:
        return None
    return number if 0 <= number < 1e9 else None
