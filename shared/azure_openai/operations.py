"""The wire of Azure OpenAI: paths, operations, API versions, bodies and kinds of error. No I/O.

Every path that the gateway serves is the pattern of a surface around the path of an operation in `OPERATIONS`.
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


_LONGEST_PATH = 500  # characters; no path of the table is longer, and the cache of paths must stay small
SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.:@-]*"  # of a path, in place of an id; what could lead elsewhere is none


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
                if model is not None and "%2" in model:
                    model = re.sub("%2f", "/", model, flags=re.IGNORECASE)  # a slash that is part of the name
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
PREFIXES: dict[Surface, str] = {"openai": "/v1/", "v1": "/openai/v1/", "dated": "/openai/"}
