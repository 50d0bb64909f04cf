"""The wire of Azure OpenAI: paths, operations, API versions, bodies and kinds of error. No I/O.

Every path that the gateway serves is the pattern of a surface around the path of an operation in `OPERATIONS`.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, quote, urlencode

import msgspec

from shared.azure_openai import multipart, references
from shared.azure_openai.json_body import Fields, rewrite, rewrite_below, top_level
from shared.errors import InvalidRequest, MethodNotAllowed, UnknownPath
from shared.types import Backend, Call, FallbackReason, Operation, Reference, Surface, Target

_BELOW_DEPLOYMENT = ("chat/completions", "completions", "embeddings", "audio/", "images/generations", "images/edits")

_MODEL_OF_SESSION = "session.model"
_IN_SESSION = (_MODEL_OF_SESSION, "session.audio.input.transcription.model")
_IN_QUERY = "?model"
_TO_TRANSCRIBE: dict[str, Any] = {"model": "body", "model_at": ("input_audio_transcription.model",)}


def _op(name: str, method: str, path: str, **more: Any) -> Operation:
    if method in ("GET", "DELETE"):
        more["body"] = "none"
    on_deployment = method == "POST" and path.startswith(_BELOW_DEPLOYMENT) and "{" not in path
    return Operation(name=name, method=method, path=path, on_deployment=on_deployment, **more)


def _crud(family: str, path: str, kind: str, verbs: str, **create: Any) -> list[Operation]:
    """The usual operations on the objects of a collection, by the first letters of their names."""
    one = f"{path}/{{{kind}}}"
    every = {
        "create": _op(f"{family}.create", "POST", path, makes=kind if kind in references.KINDS else "", **create),
        "list": _op(f"{family}.list", "GET", path, lists=kind if kind in references.LISTED else ""),
        "get": _op(f"{family}.get", "GET", one),
        "update": _op(f"{family}.update", "POST", one),
        "delete": _op(f"{family}.delete", "DELETE", one, deletes=kind if kind in references.KINDS else ""),
        "cancel": _op(f"{family}.cancel", "POST", f"{one}/cancel"),
    }
    return [every[verb] for verb in verbs.split()]


# What a call may do, each row a method and a path below the prefix of a surface (`_SURFACES`).
OPERATIONS = (
    _op(
        "chat.completions",
        "POST",
        "chat/completions",
        model="body",
        streams=True,
        metered="tokens",
        makes="chat_completion",
    ),
    _op("completions", "POST", "completions", model="body", streams=True, metered="tokens"),
    _op("embeddings", "POST", "embeddings", model="body", metered="input"),
    # Stored chat completions
    *_crud("chat.completions", "chat/completions", "chat_completion", "list get update delete"),
    _op("chat.completions.messages.list", "GET", "chat/completions/{chat_completion}/messages"),
    # Responses
    _op("responses.create", "POST", "responses", model="body", streams=True, metered="tokens", makes="response"),
    _op("responses.compact", "POST", "responses/compact", model="body", metered="tokens"),
    _op("responses.input_tokens", "POST", "responses/input_tokens", model="body"),
    _op("responses.get", "GET", "responses/{response}", streams=True, metered="once"),
    _op("responses.delete", "DELETE", "responses/{response}", deletes="response"),
    _op("responses.cancel", "POST", "responses/{response}/cancel", metered="once"),
    _op("responses.input_items.list", "GET", "responses/{response}/input_items"),
    # Conversations
    *_crud("conversations", "conversations", "conversation", "create get update delete"),
    _op("conversations.items.create", "POST", "conversations/{conversation}/items"),
    _op("conversations.items.list", "GET", "conversations/{conversation}/items"),
    _op("conversations.items.get", "GET", "conversations/{conversation}/items/{item}"),
    _op("conversations.items.delete", "DELETE", "conversations/{conversation}/items/{item}"),
    # Files, uploads, batches
    *_crud("files", "files", "file", "create list get delete", body="multipart"),
    _op("files.import", "POST", "files/import", makes="file"),  # Azure's alone: from a blob
    _op("files.content", "GET", "files/{file}/content", free_form=True),
    _op("uploads.create", "POST", "uploads", makes="upload"),
    _op("uploads.parts.create", "POST", "uploads/{upload}/parts", body="multipart"),
    _op("uploads.complete", "POST", "uploads/{upload}/complete"),
    _op("uploads.cancel", "POST", "uploads/{upload}/cancel"),
    *_crud("batches", "batches", "batch", "create list", model="hidden", metered="once"),
    _op("batches.get", "GET", "batches/{batch}", metered="once"),
    _op("batches.cancel", "POST", "batches/{batch}/cancel", metered="once"),
    # Vector stores
    *_crud("vector_stores", "vector_stores", "vector_store", "create list get update delete"),
    _op("vector_stores.search", "POST", "vector_stores/{vector_store}/search"),
    _op("vector_stores.files.create", "POST", "vector_stores/{vector_store}/files"),
    _op("vector_stores.files.list", "GET", "vector_stores/{vector_store}/files"),
    _op("vector_stores.files.get", "GET", "vector_stores/{vector_store}/files/{file}"),
    _op("vector_stores.files.update", "POST", "vector_stores/{vector_store}/files/{file}"),
    _op("vector_stores.files.delete", "DELETE", "vector_stores/{vector_store}/files/{file}"),
    _op("vector_stores.files.content", "GET", "vector_stores/{vector_store}/files/{file}/content", free_form=True),
    _op("vector_stores.file_batches.create", "POST", "vector_stores/{vector_store}/file_batches"),
    _op("vector_stores.file_batches.get", "GET", "vector_stores/{vector_store}/file_batches/{file_batch}"),
    _op("vector_stores.file_batches.cancel", "POST", "vector_stores/{vector_store}/file_batches/{file_batch}/cancel"),
    _op("vector_stores.file_batches.files.list", "GET", "vector_stores/{vector_store}/file_batches/{file_batch}/files"),
    # Containers
    *_crud("containers", "containers", "container", "create list get delete"),
    _op("containers.files.create", "POST", "containers/{container}/files", body="multipart"),
    _op("containers.files.list", "GET", "containers/{container}/files"),
    _op("containers.files.get", "GET", "containers/{container}/files/{container_file}"),
    _op("containers.files.content", "GET", "containers/{container}/files/{container_file}/content", free_form=True),
    _op("containers.files.delete", "DELETE", "containers/{container}/files/{container_file}"),
    # Images, audio, moderations
    _op("images.generations", "POST", "images/generations", model="body", streams=True, metered="images"),
    _op("images.edits", "POST", "images/edits", model="form", body="multipart", metered="images", streams=True),
    _op("images.variations", "POST", "images/variations", model="form", body="multipart", metered="images"),
    _op("audio.speech", "POST", "audio/speech", model="body", metered="speech", streams=True, free_form=True),
    _op(
        "audio.transcriptions",
        "POST",
        "audio/transcriptions",
        streams=True,
        model="form",
        body="multipart",
        metered="audio",
        free_form=True,
    ),
    _op(
        "audio.translations",
        "POST",
        "audio/translations",
        model="form",
        body="multipart",
        metered="audio",
        free_form=True,
    ),
    _op("moderations", "POST", "moderations", model="body", default_model="omni-moderation-latest"),
    # Models: answered from the configuration
    _op("models.list", "GET", "models", local=True),
    _op("models.get", "GET", "models/{model}", local=True),
    # Fine-tuning: the model is the one to be trained, no deployment
    *_crud("fine_tuning.jobs", "fine_tuning/jobs", "fine_tuning_job", "create list get cancel delete", model="hidden"),
    _op("fine_tuning.jobs.pause", "POST", "fine_tuning/jobs/{fine_tuning_job}/pause"),
    _op("fine_tuning.jobs.resume", "POST", "fine_tuning/jobs/{fine_tuning_job}/resume"),
    _op("fine_tuning.jobs.events.list", "GET", "fine_tuning/jobs/{fine_tuning_job}/events"),
    _op("fine_tuning.jobs.checkpoints.list", "GET", "fine_tuning/jobs/{fine_tuning_job}/checkpoints"),
    _op("fine_tuning.jobs.checkpoints.copy", "POST", "fine_tuning/jobs/{fine_tuning_job}/checkpoints/{step}/copy"),
    _op("fine_tuning.jobs.checkpoints.copied", "GET", "fine_tuning/jobs/{fine_tuning_job}/checkpoints/{step}/copy"),
    _op("fine_tuning.permissions.create", "POST", "fine_tuning/checkpoints/{checkpoint}/permissions"),
    _op("fine_tuning.permissions.list", "GET", "fine_tuning/checkpoints/{checkpoint}/permissions"),
    _op("fine_tuning.permissions.delete", "DELETE", "fine_tuning/checkpoints/{checkpoint}/permissions/{permission}"),
    _op("fine_tuning.graders.run", "POST", "fine_tuning/alpha/graders/run", model="hidden"),
    _op("fine_tuning.graders.validate", "POST", "fine_tuning/alpha/graders/validate", model="hidden"),
    # Evals: graders and samplers name models anywhere in the body
    *_crud("evals", "evals", "eval", "create list get update delete", model="hidden"),
    *_crud("evals.runs", "evals/{eval}/runs", "eval_run", "create list get delete", model="hidden"),
    _op("evals.runs.cancel", "POST", "evals/{eval}/runs/{eval_run}/cancel"),
    _op("evals.runs.update", "POST", "evals/{eval}/runs/{eval_run}"),  # how older clients cancel one
    _op("evals.runs.output_items.list", "GET", "evals/{eval}/runs/{eval_run}/output_items"),
    _op("evals.runs.output_items.get", "GET", "evals/{eval}/runs/{eval_run}/output_items/{output_item}"),
    # Realtime, as far as it is HTTP; dated versions of Azure's have the sessions below a name of their own
    _op("realtime.client_secrets", "POST", "realtime/client_secrets", model="body", model_at=_IN_SESSION),
    _op("realtime.sessions", "POST", "realtime/sessions", model="body"),
    _op("realtimeapi.sessions", "POST", "realtimeapi/sessions", model="body"),
    _op("realtime.transcription_sessions", "POST", "realtime/transcription_sessions", **_TO_TRANSCRIBE),
    _op("realtimeapi.transcription_sessions", "POST", "realtimeapi/transcription_sessions", **_TO_TRANSCRIBE),
    _op(
        "realtime.calls.create",
        "POST",
        "realtime/calls",
        model="body",
        model_at=_IN_SESSION,
        body="sdp",
        makes="realtime_call",
        free_form=True,
    ),
    _op("realtime.calls.accept", "POST", "realtime/calls/{realtime_call}/accept", model="optional", free_form=True),
    _op("realtime.calls.reject", "POST", "realtime/calls/{realtime_call}/reject", free_form=True),
    _op("realtime.calls.hangup", "POST", "realtime/calls/{realtime_call}/hangup", free_form=True),
    _op("realtime.calls.refer", "POST", "realtime/calls/{realtime_call}/refer", free_form=True),
    # Assistants, which Azure retired in 2026
    *_crud("assistants", "assistants", "assistant", "create list get delete", model="body"),
    _op("assistants.update", "POST", "assistants/{assistant}", model="optional"),
    *_crud("threads", "threads", "thread", "create get update delete"),
    _op("threads.create_and_run", "POST", "threads/runs", model="optional", streams=True, metered="once", makes="run"),
    *_crud("threads.messages", "threads/{thread}/messages", "message", "create list get update delete"),
    *_crud("threads.runs", "threads/{thread}/runs", "run", "list update cancel"),
    _op(
        "threads.runs.create",
        "POST",
        "threads/{thread}/runs",
        model="optional",
        streams=True,
        metered="once",
        makes="run",
    ),
    _op("threads.runs.get", "GET", "threads/{thread}/runs/{run}", metered="once"),
    _op(
        "threads.runs.submit_tool_outputs",
        "POST",
        "threads/{thread}/runs/{run}/submit_tool_outputs",
        streams=True,
        metered="once",
    ),
    _op("threads.runs.steps.list", "GET", "threads/{thread}/runs/{run}/steps"),
    _op("threads.runs.steps.get", "GET", "threads/{thread}/runs/{run}/steps/{step}"),
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
SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.:@-]*"  # of a path, in place of an id; what could lead elsewhere is none
_OUTPUT_BOUNDS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_WITH_USAGE_CHUNK = frozenset(("chat.completions", "completions"))
_STORED_IF = {"chat_completion": False, "response": True}  # what a call leaves behind when it does not say `store`
_SEALING, _SEALED = frozenset(("responses.create", "responses.compact")), b"encrypted_content"
_MOST_REFERENCES = 1000  # each may have to be looked up
_LARGEST_SESSION = 256 * 1024  # bytes of what a realtime call is to be like, instructions and tools included
_BLANKS = b" \t\r\n"  # that may stand before a JSON value
_SYSTEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:@/-]{0,63}")


class Route(msgspec.Struct, frozen=True):
    """What a path says: who spells it so, which operation, and the model and the objects that stand in it.

    `path` is what follows the surface's prefix."""

    surface: Surface
    operation: Operation
    path: str
    model: str | None = None
    references: tuple[Reference, ...] = ()


def match(method: str, path: str) -> Route:
    """The route of a path. Raises `UnknownPath` (404) and `MethodNotAllowed` (405)."""
    if len(path) > _LONGEST_PATH:
        raise unknown(path)
    return _match(method, path)


@functools.lru_cache(maxsize=1024)
def _match(method: str, path: str) -> Route:
    for surface, pattern, rows in _SURFACES:
        if not (found := pattern.fullmatch(path)):
            continue
        rest = found["rest"].removesuffix("/")
        fitting = [
            (operation, inner)
            for operation, row in rows.get(rest.partition("/")[0], ())
            if (inner := row.fullmatch(rest))
        ]
        # A fixed word comes before an id: threads/runs is no thread.
        fewest = min((len(inner.groupdict()) for _, inner in fitting), default=0)
        fitting = [(operation, inner) for operation, inner in fitting if len(inner.groupdict()) == fewest]
        for operation, inner in fitting:
            if method == operation.method:
                ids = inner.groupdict()
                model = found.groupdict().get("model") or ids.pop("model", None)
                if surface == "openai" and path.startswith("/gateway/"):
                    rest = operation.path
                named = tuple(Reference(kind, text) for kind, text in ids.items() if kind in references.IN_PATHS)
                return Route(surface, operation, rest, model, named)
        if fitting:
            allowed = ", ".join(operation.method for operation, _ in fitting)
            raise MethodNotAllowed(f"{method} is not a method of {path}; use {allowed}.", allowed)
    raise unknown(path)


def unknown(path: str) -> UnknownPath:
    return UnknownPath(
        f"{path[:200]} is not a path of this gateway. Use /v1/… as with OpenAI, or as with Azure OpenAI "
        "/openai/deployments/MODEL/…?api-version=… or /openai/v1/…, or /gateway/OPERATION/MODEL."
    )


def parse_call(route: Route, query: str, headers: Mapping[str, str], body: bytes) -> Call:
    """The call in a request. Raises `InvalidRequest` (400) that names the offending parameter."""
    call = _bodiless(route, query, headers)
    if route.operation.body == "none":
        if body:
            raise InvalidRequest(f"{route.operation.method} {route.path} takes no body.")
        return call
    if not body and route.operation.model not in ("body", "form"):
        return call
    return _with_body(call, body)


def parse_upload(route: Route, query: str, headers: Mapping[str, str], model: str | None, *, stream: bool) -> Call:
    """The call in a request whose body is multipart. `model`, `stream`: what its fields of that name say, as far as
    they have come."""
    call = msgspec.structs.replace(_bodiless(route, query, headers), stream=stream and route.operation.streams)
    if route.operation.model != "form":
        return msgspec.structs.replace(call, multipart=True)
    if not (call.model or model):
        raise _missing_model()
    return msgspec.structs.replace(call, multipart=True, model=call.model or model, body_model=model)


def _missing_model() -> InvalidRequest:
    return InvalidRequest(
        "The field `model` is missing: it names the model to be called.", param="model", code="missing_model"
    )


def _bodiless(route: Route, query: str, headers: Mapping[str, str]) -> Call:
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
    operation = route.operation
    return Call(
        operation=operation,
        surface=route.surface,
        model=route.model or "",
        path=route.path,
        query=urlencode(passed_on) if passed_on else "",
        api_version=version,
        stream=operation.body == "none" and operation.streams and ("stream", "true") in parameters,
        headers=_forwarded(headers),
        system=system,
        references=route.references,
        makes=operation.makes,
    )


def _with_body(call: Call, body: bytes) -> Call:
    operation = call.operation
    if operation.body == "sdp":
        return _with_offer(call, body)
    values = top_level(body)
    fields = Fields(body, values)
    named, model_at = _named_model(operation, fields) if operation.model != "none" else (None, "model")
    model = "" if operation.model == "hidden" else call.model or named or operation.default_model
    if not model and operation.model in ("body", "form"):
        raise _missing_model()
    stream = operation.streams and bool(fields.get("stream", bool, "true or false"))
    edits, output, makes = {}, None, operation.makes
    if operation.metered in ("tokens", "once"):
        bounds = [fields.get(name, Tokens, "an integer, 0 or more") for name in _OUTPUT_BOUNDS if name in values]
        output = next((bound for bound in bounds if bound is not None), None)
        edits = _usage_edit(fields, call) if stream and operation.name in _WITH_USAGE_CHUNK else {}
    if makes in _STORED_IF:
        store = fields.get("store", bool, "true or false")
        makes = makes if (_STORED_IF[makes] if store is None else store) else ""
    named_too = _named_objects(body, operation) if operation.metered != "input" else ()
    return msgspec.structs.replace(
        call,
        model=model,
        body=body,
        values=values,
        body_model=named,
        model_at=model_at,
        edits=edits,
        stream=stream,
        background="background" in values and fields.get("background", bool, "true or false") is True,
        usage_injected=bool(edits),
        input_estimate=len(body) // 4 if operation.metered not in ("none", "once") else 0,
        max_output_tokens=output,
        references=(*call.references, *named_too) if named_too else call.references,
        makes=makes,
        seals=operation.name in _SEALING and (_SEALED in body or operation.name != "responses.create"),
    )


def _named_objects(body: bytes, operation: Operation) -> tuple[Reference, ...]:
    try:
        found = references.named(body, operation.name)
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.") from None
    except ValueError:
        raise InvalidRequest("The body has a number of too many digits.") from None
    if len(found) > _MOST_REFERENCES:
        raise InvalidRequest(f"The body names more than {_MOST_REFERENCES} objects.")
    return found


def _with_offer(call: Call, body: bytes) -> Call:
    """An offer of WebRTC: in a form beside the session that is wanted, or alone, with the model in the query."""
    kind, values = call.headers.get("content-type", ""), {}
    if kind.lower().startswith("multipart/"):
        fields = multipart.Fields(multipart.boundary(kind), frozenset((b"session",)), _LARGEST_SESSION)
        for start in range(0, len(body), _LARGEST_SESSION):
            fields.feed(body[start : start + _LARGEST_SESSION])
        if found := fields.found.get(b"session"):
            blanks = len(found.value) - len(found.value.lstrip(_BLANKS))
            values["session"] = slice(found.start + blanks, found.start + len(found.value))
    elif not kind.lower().startswith("application/sdp"):
        raise InvalidRequest(
            "The content-type is wrong: expected application/sdp, or multipart/form-data with `sdp` and `session`."
        )
    named, model_at = _named_model(call.operation, Fields(body, values))
    parameters = parse_qsl(call.query, keep_blank_values=True)
    asked = dict(parameters).get("model")
    if not (named or asked):
        raise _missing_model()
    if asked and model_at != _MODEL_OF_SESSION:
        named = None  # it transcribes what the model of the query hears
    if named and asked and named != asked:
        raise InvalidRequest("The query and the session name two models.", param="model")
    return msgspec.structs.replace(
        call,
        model=named or asked,
        query=urlencode([(name, value) for name, value in parameters if name != "model"]),
        body=body,
        values=values,
        body_model=named,
        model_at=model_at if named else _IN_QUERY,
        references=_named_objects(body[values["session"]], call.operation) if values else (),
    )


def _named_model(operation: Operation, fields: Fields) -> tuple[str | None, str]:
    """The model that a body names, and where: in a field, or in one of an object that a field holds."""
    if operation.model_at == ("model",):
        return fields.get("model", str, "a string that names a model"), "model"
    for place in operation.model_at:
        inner = fields
        *outer, last = place.split(".")
        for name in outer:
            inner = inner.below(name)
        if named := inner.get(last, str, "a string that names a model"):
            return named, place
    return None, operation.model_at[0]


class UpstreamRequest(msgspec.Struct, frozen=True):
    """What goes to a backend, apart from how the gateway authenticates there. `scope` is the token's audience.

    `form_model`: what a multipart body must have in its field `model`, where that is not there already."""

    method: str
    url: str
    scope: str
    body: bytes
    form_model: bytes | None = None


def upstream_request(call: Call, target: Target) -> UpstreamRequest:
    """The call as this target wants it: its path, its API version, its name for the model."""
    backend = target.backend
    v1 = goes_to_v1(call, backend)
    edits, form_model = call.edits, None
    path, query = call.path or call.operation.path, call.query
    if call.body_model != target.deployment and names_deployment(call, target):
        if call.model_at == _IN_QUERY:
            query = f"model={quote(target.deployment, safe='')}" + (f"&{query}" if query else "")
        elif call.multipart:
            form_model = target.deployment.encode()
        else:
            edits = edits | _model_edit(call, target.deployment)
    body = rewrite(call.body, call.values, edits) if edits else call.body
    if v1:
        path = f"/openai/v1/{path}"
        if call.api_version and call.surface == "v1":
            query = f"api-version={quote(call.api_version)}" + (f"&{query}" if query else "")
    else:
        version = call.api_version if call.surface == "dated" else backend.api_version
        path = f"/openai/deployments/{target.deployment}/{path}" if call.operation.on_deployment else f"/openai/{path}"
        version = version if version and version != "v1" else DEFAULT_DATED_VERSION
        query = f"api-version={quote(version)}" + (f"&{query}" if query else "")
    url = backend.endpoint.rstrip("/") + path + (f"?{query}" if query else "")
    return UpstreamRequest(call.operation.method, url, token_scope(backend, v1=v1), body, form_model)


def goes_to_v1(call: Call, backend: Backend) -> bool:
    """Whether the backend is called by its v1 API, or by a dated one."""
    return call.surface == "v1" or (call.surface == "openai" and backend.api_version == "v1")


def names_deployment(call: Call, target: Target) -> bool:
    """Whether the backend looks for its deployment in the body; else in the path, or nowhere."""
    operation = call.operation
    if not target.deployment or (operation.model == "optional" and call.body_model is None):
        return False
    return not operation.on_deployment or goes_to_v1(call, target.backend)


def _model_edit(call: Call, deployment: str) -> dict[str, bytes]:
    """What puts the deployment where the body names the model, or has to."""
    name, _, inner = call.model_at.partition(".")
    value = msgspec.json.encode(deployment)
    return {name: rewrite_below(call.body[call.values[name]], inner, value) if inner else value}


def token_scope(backend: Backend, *, v1: bool) -> str:
    """The audience of a token for a backend. Azure documents one for its v1 API and another for the dated ones."""
    return backend.token_scope or (V1_SCOPE if v1 else CLASSIC_SCOPE)


_REFUSALS: dict[str, FallbackReason] = {
    "context_length_exceeded": "context_window",
    "content_filter": "content_filter",
    "content_policy_violation": "content_filter",
}

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
        if (seconds := number(headers.get(name))) is not None:
            return seconds * unit
    resets = [
        number((headers.get(f"x-ratelimit-reset-{what}") or "").removesuffix("s")) for what in ("tokens", "requests")
    ]
    return max((seconds for seconds in resets if seconds is not None), default=None)


def refusal(status: int, body: bytes) -> FallbackReason | None:
    """Why an answer refuses a call that another model may take."""
    if status != 400:
        return None
    return _REFUSALS.get(error_code(body))


def returned_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of an upstream's answer that the caller receives; what no server could send on is left out."""
    passed = ((name, headers.get(name)) for name in _RETURNED)
    return {name: value for name, value in passed if value is not None and value.isascii() and value.isprintable()}


def returned_location(call: Call, given: str) -> dict[str, str]:
    """The header that tells the caller where it finds what an answer has made: below the gateway's address, in the
    style in which the call was spelled."""
    made = given.partition("?")[0].rstrip("/").rpartition("/")[2]
    return {"location": f"{_PREFIXES[call.surface]}{call.path}/{made}"} if re.fullmatch(SEGMENT, made) else {}


def model_object(model: str, surface: Surface) -> dict[str, Any]:
    """A model as the models operations tell it, in OpenAI's shape or in Azure's, which has more. When it was made, and
    what it can do beyond answering, is not known here; clients expect a number."""
    told: dict[str, Any] = {"id": model, "object": "model", "created": 0, "owned_by": "azure-openai"}
    if surface == "openai":
        return told
    return told | {
        "created_at": 0,
        "status": "succeeded",
        "lifecycle_status": "generally-available",
        "capabilities": {"inference": True, "fine_tune": False},
    }


_Rows = dict[str, list[tuple[Operation, re.Pattern[str]]]]  # by the first segment of their paths


def _surfaces() -> list[tuple[Surface, re.Pattern[str], _Rows]]:
    def rows(operations: Iterable[Operation]) -> _Rows:
        table: _Rows = {}
        for operation in operations:
            pattern = re.compile(
                re.sub(r"\{(\w+)\}", rf"(?P<\1>{SEGMENT})", operation.path).replace(f"<model>{SEGMENT}", "<model>[^/]+")
            )
            table.setdefault(operation.path.partition("/")[0], []).append((operation, pattern))
        return table

    on_deployment = [operation for operation in OPERATIONS if operation.on_deployment]
    elsewhere = [operation for operation in OPERATIONS if not operation.on_deployment]
    with_model = [
        o for o in OPERATIONS if o.model in ("body", "form") and o.model_at == ("model",) and "{" not in o.path
    ]
    return [
        ("v1", re.compile(r"/openai/v1/(?P<rest>.+)"), rows(OPERATIONS)),
        ("openai", re.compile(r"/v1/(?P<rest>.+)"), rows(OPERATIONS)),
        ("dated", re.compile(r"/openai/deployments/(?P<model>[^/]+)/(?P<rest>.+)"), rows(on_deployment)),
        ("dated", re.compile(r"/openai/(?P<rest>.+)"), rows(elsewhere)),
        ("openai", re.compile(r"/gateway/(?P<rest>.+?)/(?P<model>[^/]+)/?"), rows(with_model)),
    ]


_SURFACES = _surfaces()
_PREFIXES: dict[Surface, str] = {"openai": "/v1/", "v1": "/openai/v1/", "dated": "/openai/"}


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


def number(text: str | None) -> float | None:
    try:
        number = float(text) if text else -1.0
    except ValueError:
        return None
    return number if 0 <= number < 1e9 else None
