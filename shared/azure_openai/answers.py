"""Reads a backend's answer: its kind, its error code, its Retry-After, and the headers that callers may see."""

import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import parse_qsl

import msgspec

from shared.azure_openai.json_body import UNREADABLE
from shared.azure_openai.operations import PREFIXES, SEGMENT
from shared.config.document import FallbackReason
from shared.types import Call, Surface

# The headers of an answer that callers may see. A backend's x-ratelimit-* are about its own limits, not the caller's;
# the others are diagnostics or belong to the connection.
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


_REFUSALS: dict[str, FallbackReason] = {
    "context_length_exceeded": "context_window",
    "content_filter": "content_filter",
    "content_policy_violation": "content_filter",
}


Kind = Literal["ok", "caller", "ours", "capacity", "server"]


def classify(status: int, body: bytes) -> Kind:
    """Classify an answer by the party at fault. `ours`: the gateway's access to that deployment; another may work."""
    if status < 400:
        return "ok"
    if status == 429:
        return "capacity"
    if status == 408 or status >= 500:
        return "server"
    if status in (401, 403) or (status == 404 and error_code(body) == "DeploymentNotFound"):
        return "ours"
    return "caller"


def missing_action(body: bytes) -> str:
    """Return the data action that a role lacks, as a backend's 401 or 403 names it; "": it names none."""
    named = re.search(rb"\bdata action [`'\"]?(Microsoft\.CognitiveServices/[\w/.-]+[\w])", body)
    return named[1].decode() if named else ""


def error_code(body: bytes) -> str:
    """The `error.code` of an answer, or ""."""
    try:
        error = msgspec.json.decode(body).get("error")
        return str(error.get("code") or "")
    except (*UNREADABLE, AttributeError):
        return ""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds to wait after a 429: from the milliseconds, which are exact, the seconds or the limits' resets."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if (seconds := number(headers.get(name))) is not None:
            return seconds * unit
    resets = [
        number((headers.get(f"x-ratelimit-reset-{kind}") or "").removesuffix("s")) for kind in ("tokens", "requests")
    ]
    return max((seconds for seconds in resets if seconds is not None), default=None)


def fallback_reason(status: int, body: bytes) -> FallbackReason | None:
    """The reason for which an answer refuses a call, if another model may take it."""
    if status != 400:
        return None
    return _REFUSALS.get(error_code(body))


def returned_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of a backend's answer that the caller receives, without values that no server could send on."""
    passed = ((name, headers.get(name)) for name in _RETURNED)
    return {name: value for name, value in passed if value is not None and value.isascii() and value.isprintable()}


def returned_location(call: Call, given: str) -> dict[str, str]:
    """The header with the address of the object that a call created: below the gateway's address, in the API style of
    the call."""
    object_id = given.partition("?")[0].rstrip("/").rpartition("/")[2]
    return {"location": f"{PREFIXES[call.surface]}{call.path}/{object_id}"} if re.fullmatch(SEGMENT, object_id) else {}


def model_object(model: str, surface: Surface) -> dict[str, Any]:
    """A model as the models operations return it, in OpenAI's shape or in Azure's, which has more fields. Its creation
    time is not known here, but clients expect a number."""
    fields: dict[str, Any] = {"id": model, "object": "model", "created": 0, "owned_by": "azure-openai"}
    if surface == "openai":
        return fields
    return fields | {
        "created_at": 0,
        "status": "succeeded",
        "lifecycle_status": "generally-available",
        "capabilities": {"inference": True, "fine_tune": False},
    }


def model_list(models: list[dict[str, Any]], query: str) -> dict[str, Any]:
    """The answer that lists models. Codex sends its `client_version` and reads `models`: their instructions, tools and
    levels of reasoning, which only Codex itself knows. An empty list lets it keep those."""
    for_codex = any(name == "client_version" for name, _ in parse_qsl(query))
    return {"object": "list", "data": models} | ({"models": []} if for_codex else {})


def number(text: str | None) -> float | None:
    """The number in a header, or None if it is missing, negative, or not a number."""
    try:
        number = float(text) if text else -1.0
    except ValueError:
        return None
    return number if 0 <= number < 1e9 else None
