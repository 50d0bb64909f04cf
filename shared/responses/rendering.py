"""Renders JSON answers and errors in OpenAI's shape, as a response or as an event."""

import contextlib
from collections.abc import Mapping

import msgspec
from starlette.responses import Response
from starlette.types import Send

from shared.errors import GatewayError
from shared.types import Operation

INTERRUPTED = {
    "message": "The backend broke off in the middle of this answer. What has arrived is incomplete.",
    "type": "server_error",
    "param": None,
    "code": "upstream_interrupted",
}


KEEP_ALIVE_COMMENT = b": keep-alive\n\n"


class JsonResponse(Response):
    """A value as JSON, rendered by msgspec."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        return msgspec.json.encode(content)


class ErrorResponse(JsonResponse):
    """A `GatewayError` as a response."""

    def __init__(self, error: GatewayError, headers: Mapping[str, str]) -> None:
        super().__init__({"error": error_object(error)}, error.status, {**headers, **error.limits, **error.headers()})
        self.error = error


def error_object(error: GatewayError) -> dict[str, object]:
    """The member `error` of a body or an event."""
    return {"message": error.message, "type": error.type, "param": error.param, "code": error.code}


def has_typed_events(operation: Operation) -> bool:
    """True if the events of an operation's streams have types, False for chat and completions."""
    return operation.name not in ("chat.completions", "completions")


def ends_cleanly(operation: Operation) -> bool:
    """True if a broken stream of an operation ends like a whole one, behind its error event. Responses clients read
    that event; some chat clients read no error, so that only a body left unfinished shows them the break."""
    return operation.name.startswith("responses.")


def error_in(body: bytes) -> Mapping[str, object]:
    """The member `error` of a backend's answer. An answer without one is only said to be incomplete."""
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
        error = msgspec.json.decode(body, type=Mapping[str, object]).get("error")
        if isinstance(error, Mapping):
            return error
    return INTERRUPTED


def error_event(error: Mapping[str, object], *, typed: bool) -> bytes:
    """The event that reports an error, in the shape that official clients raise: they look for a member `error`."""
    if not typed:
        return b"data: " + msgspec.json.encode({"error": error}) + b"\n\n"
    fields = {name: error.get(name) for name in ("code", "message", "param")}
    event = {"type": "error", **fields, "error": error}
    return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"


async def send_error_event(send: Send, error: Mapping[str, object], operation: Operation) -> None:
    """End a stream with an error event."""
    event = error_event(error, typed=has_typed_events(operation))
    await send({"type": "http.response.body", "body": event, "more_body": not ends_cleanly(operation)})


async def send_part(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
