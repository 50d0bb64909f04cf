"""Errors in the shape of Anthropic's API."""

from typing import Any

import msgspec

from .errors import AzureError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class _Error(msgspec.Struct):
    message: Any = None


class _Body(msgspec.Struct):
    error: _Error | None = None
    message: Any = None


def as_message_error(status: int, body: bytes, request_id: str, kind: str | None = None) -> bytes:
    """The body of an error of Azure OpenAI, as Anthropic's API has it. `kind`: its type."""
    read = msgspec.json.decode(body, type=_Body)
    message = read.error.message if read.error is not None else read.message
    kind = kind or _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    error = {"type": kind, "message": message or "An error occurred."}
    return msgspec.json.encode({"type": "error", "error": error, "request_id": request_id})


def prompt_too_long(tokens: int, window: int) -> AzureError:
    return AzureError(400, {"error": {"message": f"prompt is too long: {tokens} tokens > {window} maximum"}})


def required(field: str) -> AzureError:
    return AzureError(400, {"error": {"message": f"{field}: Field required"}})
