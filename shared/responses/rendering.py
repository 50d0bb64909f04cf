"""Renders JSON answers and errors in OpenAI's shape, as a response or as an event."""

import contextlib
from collections.abc import Mapping

import msgspec
from starlette.responses import Response
from starlette.types import Message, Send

from shared.anthropic import rendering as errors_of_messages
from shared.azure_openai import event_stream
from shared.azure_openai.json_body import UNREADABLE
from shared.config.document import Format
from shared.errors import GatewayError
from shared.types import Operation

KEEP_ALIVE_COMMENT = b": keep-alive\n\n"
_LONGEST_ID = 256  # characters
_FIELDS = ("code", "message", "param")


class JsonResponse(Response):
    """A value as JSON, rendered by msgspec."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        return msgspec.json.encode(content)


class ErrorResponse(JsonResponse):
    """A `GatewayError` as a response, in the shape of an API. The message names the request, if the headers do."""

    def __init__(self, error: GatewayError, headers: Mapping[str, str], form: Format = "openai") -> None:
        body = error_body(error, headers.get("x-gateway-request-id", ""), form)
        if error.complaints:
            body["complaints"] = [{"path": one.path, "message": one.message} for one in error.complaints]
        super().__init__(body, error.status, {**headers, **error.limits, **error.headers()})
        self.error = error
        self.request_id = headers.get("x-gateway-request-id", "")


def interrupted(request_id: str, form: Format) -> dict[str, object]:
    """The body for an answer that its backend did not finish."""
    message = "The backend closed the connection before the answer was complete."
    return error_body(GatewayError(message, code="upstream_interrupted"), request_id, form)


def error_body(error: GatewayError, request_id: str, form: Format) -> dict[str, object]:
    """An error as a body has it. Its message has the id by which the operator finds the request in the log."""
    message = f"{error.message} (request {request_id})" if request_id else error.message
    if form == "anthropic":
        return errors_of_messages.error_body(error, message, request_id)
    return {"error": {"message": message, "type": error.type, "param": error.param, "code": error.code}}


def identify(response: Response, request_id: str, client_request_id: str) -> None:
    """Give a response the ids that Azure's have, as far as its backend has not. Clients show `x-request-id`.

    `client_request_id`: the caller's `x-ms-client-request-id`, which is returned as it came."""
    headers = response.headers
    headers.setdefault("x-request-id", request_id)
    headers.setdefault("apim-request-id", request_id)
    if client_request_id.isprintable() and 0 < len(client_request_id) <= _LONGEST_ID:
        headers.setdefault("x-ms-client-request-id", client_request_id)


def has_typed_events(operation: Operation) -> bool:
    """True if the events of an operation's streams have types, False for chat and completions."""
    return operation.name not in ("chat.completions", "completions")


def ends_cleanly(operation: Operation) -> bool:
    """True if a broken stream of an operation ends like a whole one, behind its error event. Responses clients read
    that event; some chat clients read no error, so that only a body left unfinished shows them the break."""
    return operation.name.startswith("responses.")


def error_in(body: bytes) -> Mapping[str, object] | None:
    """A backend's answer, if it reports an error; else None."""
    with contextlib.suppress(*UNREADABLE):
        read: Mapping[str, object] = msgspec.json.decode(body, type=Mapping[str, object])
        if isinstance(read.get("error"), Mapping):
            return read
    return None


def error_event(body: Mapping[str, object], operation: Operation) -> bytes:
    """The event that reports the error of a body, in the shape that official clients raise: they look for a member
    `error`, Anthropic's for the name of the event."""
    error = body.get("error")
    if not has_typed_events(operation):
        return b"data: " + msgspec.json.encode({"error": error}) + b"\n\n"
    event = body
    if operation.format == "openai":
        fields = {name: error.get(name) if isinstance(error, Mapping) else None for name in _FIELDS}
        event = {"type": "error", **fields, "error": error}
    return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"


async def send_error_event(send: Send, body: Mapping[str, object], operation: Operation) -> None:
    """End a stream with an error event."""
    event = error_event(body, operation)
    await send({"type": "http.response.body", "body": event, "more_body": not ends_cleanly(operation)})


async def send_part(send: Send, body: bytes | memoryview) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def taken(send: Send) -> None:
    """Wait until the caller has taken all but some kB of what was sent: a server sends nothing more before."""
    await send_part(send, b"")


def as_data(send: Send) -> Send:
    """Sends a body as the data of an event that has begun, and ends the event."""

    async def send_data(message: Message) -> None:
        end = b"" if message.get("more_body") else b"\n\n"
        await send({**message, "body": event_stream.as_data(bytes(message["body"])) + end})

    return send_data
