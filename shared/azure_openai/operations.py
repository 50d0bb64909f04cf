"""The table of operations, and the routes from a method and a path to one of them. No I/O.

Each path of the gateway is the pattern of a surface around the path of an operation in `OPERATIONS`.
"""

import functools
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from shared.azure_openai import references
from shared.errors import MethodNotAllowed, UnknownPath
from shared.types import Operation, Reference, Surface

_BELOW_DEPLOYMENT = ("chat/completions", "completions", "embeddings", "audio/", "images/generations", "images/edits")

MODEL_OF_SESSION = "session.model"
_IN_SESSION = (MODEL_OF_SESSION, "session.audio.input.transcription.model")
IN_QUERY = "?model"
_SESSION: dict[str, Any] = {"model": "body", "model_at": _IN_SESSION}
_TO_TRANSCRIBE: dict[str, Any] = {"model": "body", "model_at": ("input_audio_transcription.model",)}
_UPLOAD: dict[str, Any] = {"body": "multipart"}
_FORM: dict[str, Any] = {"model": "form", **_UPLOAD}
_TEXT: dict[str, Any] = {"model": "body", "streams": True, "metered": "tokens"}
_RUN: dict[str, Any] = {"streams": True, "metered": "once"}
_AZURE: dict[str, Any] = {"apis": ("azure",)}


def _get(name: str, path: str, **more: Any) -> Operation:
    return Operation(name=name, method="GET", path=path, body="none", **more)


def _post(name: str, path: str, **more: Any) -> Operation:
    on_deployment = path.startswith(_BELOW_DEPLOYMENT) and "{" not in path
    return Operation(name=name, method="POST", path=path, on_deployment=on_deployment, **more)


def _delete(name: str, path: str, **more: Any) -> Operation:
    return Operation(name=name, method="DELETE", path=path, body="none", **more)


def _crud(family: str, path: str, kind: str, verbs: str, **create: Any) -> list[Operation]:
    """The usual operations on the objects of a collection. `verbs`: those that it has; `create`: fields of that row."""
    one = f"{path}/{{{kind}}}"
    every = {
        "create": _post(f"{family}.create", path, makes=kind if kind in references.KINDS else "", **create),
        "list": _get(f"{family}.list", path, lists=kind if kind in references.LISTED else ""),
        "get": _get(f"{family}.get", one),
        "update": _post(f"{family}.update", one),
        "delete": _delete(f"{family}.delete", one, deletes=kind if kind in references.KINDS else ""),
        "cancel": _post(f"{family}.cancel", f"{one}/cancel"),
    }
    return [every[verb] for verb in verbs.split()]


# One row per operation: its method, and its path below the prefix of a surface (`_SURFACES`).
# fmt: off
OPERATIONS = (
    _post("chat.completions", "chat/completions", **_TEXT, makes="chat_completion"),
    _post("completions", "completions", **_TEXT),
    _post("embeddings", "embeddings", model="body", metered="input"),
    # Stored chat completions
    *_crud("chat.completions", "chat/completions", "chat_completion", "list get update delete"),
    _get("chat.completions.messages.list", "chat/completions/{chat_completion}/messages"),
    # Responses
    _post("responses.create", "responses", **_TEXT, makes="response", seals=True),
    _post("responses.compact", "responses/compact", model="body", metered="tokens", seals=True),
    _post("responses.input_tokens", "responses/input_tokens", model="body"),
    _get("responses.get", "responses/{response}", streams=True, metered="once", seals=True),
    _delete("responses.delete", "responses/{response}", deletes="response"),
    _post("responses.cancel", "responses/{response}/cancel", metered="once", seals=True),
    _get("responses.input_items.list", "responses/{response}/input_items"),
    # Conversations
    *_crud("conversations", "conversations", "conversation", "create get update delete"),
    _post("conversations.items.create", "conversations/{conversation}/items"),
    _get("conversations.items.list", "conversations/{conversation}/items"),
    _get("conversations.items.get", "conversations/{conversation}/items/{item}"),
    _delete("conversations.items.delete", "conversations/{conversation}/items/{item}"),
    # Files, uploads, batches
    *_crud("files", "files", "file", "create list get delete", **_UPLOAD),
    _post("files.import", "files/import", makes="file", **_AZURE),  # from a blob
    _get("files.content", "files/{file}/content", free_form=True),
    *_crud("uploads", "uploads", "upload", "create cancel"),
    _post("uploads.parts.create", "uploads/{upload}/parts", **_UPLOAD),
    _post("uploads.complete", "uploads/{upload}/complete"),
    *_crud("batches", "batches", "batch", "create list", model="hidden", metered="once"),
    _get("batches.get", "batches/{batch}", metered="once"),
    _post("batches.cancel", "batches/{batch}/cancel", metered="once"),
    # Vector stores
    *_crud("vector_stores", "vector_stores", "vector_store", "create list get update delete"),
    _post("vector_stores.search", "vector_stores/{vector_store}/search"),
    _post("vector_stores.files.create", "vector_stores/{vector_store}/files"),
    _get("vector_stores.files.list", "vector_stores/{vector_store}/files"),
    _get("vector_stores.files.get", "vector_stores/{vector_store}/files/{file}"),
    _post("vector_stores.files.update", "vector_stores/{vector_store}/files/{file}"),
    _delete("vector_stores.files.delete", "vector_stores/{vector_store}/files/{file}"),
    _get("vector_stores.files.content", "vector_stores/{vector_store}/files/{file}/content", free_form=True),
    *_crud("vector_stores.file_batches", "vector_stores/{vector_store}/file_batches", "file_batch",
           "create get cancel"),
    _get("vector_stores.file_batches.files.list", "vector_stores/{vector_store}/file_batches/{file_batch}/files"),
    # Containers
    *_crud("containers", "containers", "container", "create list get delete"),
    *_crud("containers.files", "containers/{container}/files", "container_file", "create list get delete", **_UPLOAD),
    _get("containers.files.content", "containers/{container}/files/{container_file}/content", free_form=True),
    # Images, audio, moderations
    _post("images.generations", "images/generations", model="body", streams=True, metered="images"),
    _post("images.edits", "images/edits", **_FORM, metered="images", streams=True),
    _post("images.variations", "images/variations", **_FORM, metered="images"),
    _post("audio.speech", "audio/speech", model="body", metered="speech", streams=True, free_form=True),
    _post("audio.transcriptions", "audio/transcriptions", **_FORM, streams=True, metered="audio", free_form=True),
    _post("audio.translations", "audio/translations", **_FORM, metered="audio", free_form=True),
    _post("moderations", "moderations", model="body", default_model="omni-moderation-latest"),
    # Models: answered from the configuration
    _get("models.list", "models", local=True),
    _get("models.get", "models/{model}", local=True),
    # Fine-tuning: the model is the one to be trained, not a deployment
    *_crud("fine_tuning.jobs", "fine_tuning/jobs", "fine_tuning_job", "create list get cancel", model="hidden"),
    _delete("fine_tuning.jobs.delete", "fine_tuning/jobs/{fine_tuning_job}", **_AZURE),
    _post("fine_tuning.jobs.pause", "fine_tuning/jobs/{fine_tuning_job}/pause"),
    _post("fine_tuning.jobs.resume", "fine_tuning/jobs/{fine_tuning_job}/resume"),
    _get("fine_tuning.jobs.events.list", "fine_tuning/jobs/{fine_tuning_job}/events"),
    _get("fine_tuning.jobs.checkpoints.list", "fine_tuning/jobs/{fine_tuning_job}/checkpoints"),
    _post("fine_tuning.jobs.checkpoints.copy", "fine_tuning/jobs/{fine_tuning_job}/checkpoints/{step}/copy", **_AZURE),
    _get("fine_tuning.jobs.checkpoints.copied", "fine_tuning/jobs/{fine_tuning_job}/checkpoints/{step}/copy", **_AZURE),
    *_crud("fine_tuning.permissions", "fine_tuning/checkpoints/{checkpoint}/permissions", "permission",
           "create list delete"),
    _post("fine_tuning.graders.run", "fine_tuning/alpha/graders/run", model="hidden"),
    _post("fine_tuning.graders.validate", "fine_tuning/alpha/graders/validate", model="hidden"),
    # Evals: graders and samplers name models anywhere in the body
    *_crud("evals", "evals", "eval", "create list get update delete", model="hidden"),
    *_crud("evals.runs", "evals/{eval}/runs", "eval_run", "create list get delete", model="hidden"),
    _post("evals.runs.cancel", "evals/{eval}/runs/{eval_run}/cancel"),
    _post("evals.runs.update", "evals/{eval}/runs/{eval_run}"),  # how older clients cancel one
    *_crud("evals.runs.output_items", "evals/{eval}/runs/{eval_run}/output_items", "output_item", "list get"),
    # Realtime, as far as it is HTTP; Azure's dated versions have the sessions below `realtimeapi`
    _post("realtime.client_secrets", "realtime/client_secrets", **_SESSION),
    _post("realtime.sessions", "realtime/sessions", model="body"),
    _post("realtimeapi.sessions", "realtimeapi/sessions", model="body", **_AZURE),
    _post("realtime.transcription_sessions", "realtime/transcription_sessions", **_TO_TRANSCRIBE),
    _post("realtimeapi.transcription_sessions", "realtimeapi/transcription_sessions", **_TO_TRANSCRIBE, **_AZURE),
    _post("realtime.calls.create", "realtime/calls", **_SESSION, body="sdp", makes="realtime_call", free_form=True),
    _post("realtime.calls.accept", "realtime/calls/{realtime_call}/accept", model="optional", free_form=True),
    _post("realtime.calls.reject", "realtime/calls/{realtime_call}/reject", free_form=True),
    _post("realtime.calls.hangup", "realtime/calls/{realtime_call}/hangup", free_form=True),
    _post("realtime.calls.refer", "realtime/calls/{realtime_call}/refer", free_form=True),
    # Assistants, which Azure retired in 2026
    *_crud("assistants", "assistants", "assistant", "create list get delete", model="body"),
    _post("assistants.update", "assistants/{assistant}", model="optional"),
    *_crud("threads", "threads", "thread", "create get update delete"),
    _post("threads.create_and_run", "threads/runs", **_RUN, model="optional", makes="run"),
    *_crud("threads.messages", "threads/{thread}/messages", "message", "create list get update delete"),
    *_crud("threads.runs", "threads/{thread}/runs", "run", "list update cancel"),
    _post("threads.runs.create", "threads/{thread}/runs", **_RUN, model="optional", makes="run"),
    _get("threads.runs.get", "threads/{thread}/runs/{run}", metered="once"),
    _post("threads.runs.submit_tool_outputs", "threads/{thread}/runs/{run}/submit_tool_outputs", **_RUN),
    *_crud("threads.runs.steps", "threads/{thread}/runs/{run}/steps", "step", "list get"),
)
# fmt: on


_LONGEST_PATH = 500  # characters; no path of the table is longer, and the cache of paths must stay small
SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.:@-]*"  # of a path, as an id; `.`, `..` and escapes are not segments


class Route(msgspec.Struct, frozen=True):
    """The operation that a path names, with its surface, its model and its objects. `path` is the part behind the
    surface's prefix."""

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
    lookup_method = "GET" if method == "HEAD" else method
    for surface, pattern, rows in _SURFACES:
        if not (matched := pattern.fullmatch(path)):
            continue
        rest = matched["rest"].removesuffix("/")
        fitting = [
            (operation, inner)
            for operation, row in rows.get(rest.partition("/")[0].lower(), ())
            if (inner := _insensitive(row).fullmatch(rest))
        ]
        # A fixed word wins over an id: threads/runs is not a thread.
        fewest = min((len(inner.groupdict()) for _, inner in fitting), default=0)
        fitting = [(operation, inner) for operation, inner in fitting if len(inner.groupdict()) == fewest]
        for operation, inner in fitting:
            if lookup_method == operation.method:
                ids = inner.groupdict()
                canonical = operation.path.format_map(ids)  # fixed words in their own case
                model = matched.groupdict().get("model") or ids.pop("model", None)
                if model is not None and "%2" in model:
                    model = re.sub("%2f", "/", model, flags=re.IGNORECASE)  # a slash that is part of the name
                named = tuple(Reference(kind, text) for kind, text in ids.items() if kind in references.IN_PATHS)
                return Route(surface, operation, canonical, model, named)
        if fitting:
            raise not_allowed(method, path, [operation for operation, _ in fitting])
    raise unknown(path)


def not_allowed(method: str, path: str, fitting: Iterable[Operation]) -> MethodNotAllowed:
    """The refusal of a method that the operations of this path do not have."""
    methods = [operation.method for operation in fitting]
    allowed = ", ".join([*methods, "HEAD"] if "GET" in methods else methods)
    return MethodNotAllowed(f"{method} is not a method of {path}; use {allowed}.", allowed)


def unknown(path: str) -> UnknownPath:
    return UnknownPath(
        f"{path[:200]} is not a path of this gateway. Use /v1/… as with OpenAI, or as with Azure OpenAI "
        "/openai/deployments/MODEL/…?api-version=… or /openai/v1/…, or /gateway/OPERATION/MODEL."
    )


# Paths of Azure's other APIs, and the reason why they are not served with the path to use instead.
_FOREIGN = (
    (
        re.compile(r"/models/(chat/completions|embeddings|images/embeddings|info)/?", re.IGNORECASE),
        "is of Azure AI's model inference API, which this gateway does not serve. Use OpenAI's client with the base "
        "URL https://GATEWAY/v1: POST /v1/chat/completions or /v1/embeddings, with the model in the body.",
    ),
    (
        re.compile(r"/api/projects(/.*)?", re.IGNORECASE),
        "is of a Foundry project, which this gateway does not serve. Use OpenAI's client with the base URL "
        "https://GATEWAY/v1, for example POST /v1/responses with the model in the body.",
    ),
)


def reject_foreign(path: str) -> None:
    """Reject paths of related APIs, whose clients send keys in other headers. Raises `UnknownPath`."""
    for pattern, reason in _FOREIGN:
        if pattern.fullmatch(path):
            raise UnknownPath(f"{path[:200]} {reason}")


_Rows = dict[str, list[tuple[Operation, str]]]  # operations and patterns, by the first segment of their paths


def _surfaces() -> list[tuple[Surface, re.Pattern[str], _Rows]]:
    def rows(operations: Iterable[Operation]) -> _Rows:
        table: _Rows = {}
        for operation in operations:
            pattern = re.sub(r"\{(\w+)\}", rf"(?P<\1>{SEGMENT})", operation.path)
            pattern = pattern.replace(f"<model>{SEGMENT}", "<model>[^/]+")
            table.setdefault(operation.path.partition("/")[0], []).append((operation, pattern))
        return table

    on_deployment = [operation for operation in OPERATIONS if operation.on_deployment]
    elsewhere = [operation for operation in OPERATIONS if not operation.on_deployment]
    with_model = [
        o for o in OPERATIONS if o.model in ("body", "form") and o.model_at == ("model",) and "{" not in o.path
    ]
    return [
        ("openai", _insensitive(r"/v1/engines/(?P<model>[^/]+)/(?P<rest>.+)"), rows(on_deployment)),  # before 2023
        ("v1", _insensitive(r"/openai/v1/(?P<rest>.+)"), rows(OPERATIONS)),
        ("openai", _insensitive(r"/v1/(?P<rest>.+)"), rows(OPERATIONS)),
        ("dated", _insensitive(r"/openai/deployments/(?P<model>[^/]+)/(?P<rest>.+)"), rows(on_deployment)),
        ("dated", _insensitive(r"/openai/(?P<rest>.+)"), rows(elsewhere)),
        ("openai", _insensitive(r"/gateway/(?P<rest>.+?)/(?P<model>[^/]+)/?"), rows(with_model)),
    ]


@functools.cache
def _insensitive(pattern: str) -> re.Pattern[str]:
    """A pattern of paths, which Azure compares without regard to case. Compiled when a path needs it: all of them
    would take a start 10 ms."""
    return re.compile(pattern, re.IGNORECASE | re.ASCII)


_SURFACES = _surfaces()
PREFIXES: dict[Surface, str] = {"openai": "/v1/", "v1": "/openai/v1/", "dated": "/openai/", "anthropic": "/v1/"}
