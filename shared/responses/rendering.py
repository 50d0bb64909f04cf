"""Renders JSON answers and errors in OpenAI's shape, as a response or as an event."""

from collections.abc import Mapping

import msgspec
from starlette.responses import Response
from starlette.types import Send

from shared.errors import GatewayError

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


def error_event(error: Mapping[str, object], *, typed: bool) -> bytes:
    """The event that reports an error, in the shape that official clients raise: they look for a member `error`."""
    if not typed:
        return b"data: " + msgspec.json.encode({"error": error}) + b"\n\n"
    event = {"type": "error", "code": error["code"], "message": error["message"], "param": None, "error": error}
    return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"


async def send_part(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
