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


BROKEN_OFF = msgspec.json.encode(INTERRUPTED)


KEEP_ALIVE_COMMENT = b": keep-alive\n\n"


class JsonResponse(Response):
    """A value as JSON, rendered by msgspec."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        return msgspec.json.encode(content)


def error_response(error: GatewayError, headers: Mapping[str, str]) -> Response:
    """The answer that tells a `GatewayError`."""
    body = {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
    return JsonResponse(body, error.status, {**headers, **error.limits, **error.headers()})


def error_event(error: Mapping[str, object], *, typed: bool) -> bytes:
    """The event that tells an error, as official clients raise it: they look for a member `error`."""
    if not typed:
        return b"data: " + msgspec.json.encode({"error": error}) + b"\n\n"
    told = {"type": "error", "code": error["code"], "message": error["message"], "param": None, "error": error}
    return b"event: error\ndata: " + msgspec.json.encode(told) + b"\n\n"


async def send_part(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
