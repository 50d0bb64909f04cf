"""The events on WebSockets: those of callers that the gateway has to know, those of backends that report responses,
and those with which it reports errors. No I/O.

A message is one JSON object. `type` names the event; of a caller's, `event_id` names it in the error that answers it.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from shared.azure_openai import model_paths, references
from shared.azure_openai.json_body import JsonFields, reader, top_level
from shared.azure_openai.outline import Outline
from shared.azure_openai.sockets import CREATE_RESPONSE, REALTIME
from shared.azure_openai.usage_objects import UsageObject
from shared.errors import GatewayError, InvalidRequest
from shared.types import Call, Operation, Usage

CREATE = "response.create"
_LONGEST_ID = 512
_WITH_SETTINGS = ("session", "response")  # the members of realtime events in which objects and models may be named
_ENDINGS = frozenset(("response.done", "response.completed", "response.incomplete", "response.failed"))
_TRANSCRIBED = "conversation.item.input_audio_transcription.completed"
_SETTINGS = frozenset(
    (*("session.created", "session.updated"), *("transcription_session.created", "transcription_session.updated"))
)
_NO_STATUS = 500


class CallerEvent(msgspec.Struct, frozen=True):
    """An event of a caller. `values`: the places of its top-level values in `body`. `lane`: that of several responses
    at once on one connection; "": the first."""

    type: str
    id: str
    lane: str
    body: bytes
    values: dict[str, slice]


def callers(message: bytes) -> CallerEvent:
    """Read a caller's event. Raises `InvalidRequest`."""
    values = top_level(message)
    fields = JsonFields(message, values)
    kind = fields.get("type", str, "the name of an event")
    if not kind:
        raise InvalidRequest("The event has no `type`.", param="type")
    own_id = fields.get("event_id", str, "a text") or ""
    lane = fields.get("stream_id", str, "a text") or ""
    if len(own_id) > _LONGEST_ID or len(lane) > _LONGEST_ID:
        raise InvalidRequest(f"event_id and stream_id: expected at most {_LONGEST_ID} characters.", param="event_id")
    return CallerEvent(kind, own_id, lane, message, values)


def names_something(connection: Call, event: CallerEvent) -> bool:
    """True if an event may name objects or models."""
    return connection.operation is not REALTIME or any(name.lower() in _WITH_SETTINGS for name in event.values)


def with_names(connection: Call, event: CallerEvent, outline: Outline | None) -> Call:
    """Return the connection's call with an event as its body, to be checked for the objects and models that it names.
    `outline`: that of a large event. Raises `InvalidRequest`."""
    shape = connection.operation.name if connection.operation is REALTIME else CREATE_RESPONSE.operation.name
    others = model_paths.in_request(event.body, event.values, shape, outline)
    try:
        named, _ = references.in_request(event.body, shape, outline)
    except (RecursionError, ValueError) as error:
        raise references.too_complex(error, "The event") from None
    return msgspec.structs.replace(
        connection, body=event.body, values=event.values, other_models=others, references=named
    )


class _Response(msgspec.Struct):
    id: Any = None


class _Transcription(msgspec.Struct):
    model: Any = None


class _Input(msgspec.Struct):
    transcription: _Transcription | None = None


class _Audio(msgspec.Struct):
    input: _Input | None = None


class _Session(msgspec.Struct, frozen=True):
    audio: _Audio | None = None
    input_audio_transcription: _Transcription | None = None


class _Error(msgspec.Struct):
    event_id: Any = None
    type: Any = None


class _Backends(msgspec.Struct):
    type: Any = None
    status: Any = None
    stream_id: Any = None
    response_id: Any = None
    response: _Response | None = None
    error: _Error | None = None
    delta: Any = None


class _Transcribed(msgspec.Struct):
    usage: UsageObject | None = None


class _Settings(msgspec.Struct):
    session: _Session = _Session()


_read = reader(_Backends)
_read_transcribed = reader(_Transcribed)
_read_settings = reader(_Settings)


class BackendEvent(msgspec.Struct, frozen=True):
    """An event of a backend. `response`: the id of the response that it belongs to, as far as it says so; `lane`: see
    `CallerEvent`. `answers`: the id of the caller's event that an error answers. `status`: of an error. `sound`: the
    characters of generated sound in it, in base64."""

    type: str
    response: str = ""
    lane: str = ""
    answers: str = ""
    status: int = 0
    sound: int = 0

    @property
    def begins(self) -> bool:
        return self.type == "response.created"

    @property
    def ends(self) -> bool:
        return self.type in _ENDINGS

    @property
    def transcribes(self) -> bool:
        return self.type == _TRANSCRIBED

    @property
    def sets(self) -> bool:
        return self.type in _SETTINGS


def backends(message: bytes) -> BackendEvent:
    """Read a backend's event. One that cannot be read has no type, and passes as it is."""
    read = _read(message)
    kind = _text(read.type)
    status = 0
    if kind == "error":
        status = read.status if type(read.status) is int and 400 <= read.status < 600 else 0
        if not status:
            status = 400 if read.error is not None and read.error.type == "invalid_request_error" else _NO_STATUS
    return BackendEvent(
        kind,
        _text(read.response_id) or (_text(read.response.id) if read.response is not None else ""),
        _text(read.stream_id),
        _text(read.error.event_id) if read.error is not None else "",
        status,
        len(read.delta) if isinstance(read.delta, str) and kind.endswith("audio.delta") else 0,
    )


def transcription(message: bytes) -> Usage | None:
    """Return the usage that the transcription of a caller's speech reports; None if it reports none."""
    usage = _read_transcribed(message).usage
    return None if usage is None else usage.value()


def transcriber(message: bytes) -> str:
    """Return the model that transcribes the speech of a session's caller, in the backend's words; "": the
    event names none."""
    session = _read_settings(message).session
    transcribing = session.input_audio_transcription
    if session.audio is not None and session.audio.input is not None:
        transcribing = session.audio.input.transcription or transcribing
    return _text(transcribing.model) if transcribing is not None else ""


def error(operation: Operation, error: GatewayError, body: Mapping[str, Any], answers: str, number: str) -> bytes:
    """Return the event that reports an error. `body`: the error as a body has it; `answers`: the id of the caller's
    event; `number`: the id of this one."""
    if operation is REALTIME:
        return msgspec.json.encode(
            {"type": "error", "event_id": f"event_{number}", "error": {**body["error"], "event_id": answers or None}}
        )
    headers = {**error.limits, **error.headers()}
    return msgspec.json.encode({"type": "error", "status": error.status, "error": body["error"], "headers": headers})


def _text(value: object) -> str:
    return value[:_LONGEST_ID] if isinstance(value, str) else ""
