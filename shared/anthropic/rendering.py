"""The gateway's errors and models in the shapes of Anthropic's API. Pure."""

from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

from shared.errors import GatewayError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
}
_MOST_LISTED = 1000


def error_body(error: GatewayError, message: str, request_id: str) -> dict[str, object]:
    """An error as a body or an event has it. The gateway's own code is among the details."""
    kind = _TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    details = {"type": kind, "message": message, "details": {"error_code": error.code}}
    return {"type": "error", "error": details, "request_id": request_id}


def claude_object(model: str, ends: str) -> dict[str, Any]:
    """A model as the models operations return it. Its time of creation is not known here, but clients expect one.
    `ends`: the day of its end (YYYY-MM-DD), or ""."""
    retires = {"retires_at": f"{ends}T00:00:00Z"} if ends else {}
    created = "1970-01-01T00:00:00Z"
    fields = {"type": "model", "id": model, "display_name": model, "created_at": created, "lifecycle": "active"}
    return fields | retires


def model_page(models: Iterable[dict[str, Any]], query: str) -> dict[str, Any]:
    """The answer that lists models: a page, as the cursors and the limit of the query say."""
    parameters, left = dict(parse_qsl(query)), list(models)
    ids = [model["id"] for model in left]
    if (after := parameters.get("after_id")) in ids:
        left = left[ids.index(after) + 1 :]
    elif (before := parameters.get("before_id")) in ids:
        left = left[: ids.index(before)][::-1]
    limit = parameters.get("limit", "")
    most = min(int(limit[:9]), _MOST_LISTED) if limit.isdecimal() and limit.isascii() and int(limit[:9]) else 20
    page = left[:most][:: -1 if "before_id" in parameters else 1]
    first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    return {"data": page, "has_more": len(left) > len(page), "first_id": first, "last_id": last}
