"""Reads a backend's answer: its kind, its error code, its Retry-After, and the headers that callers may see."""

import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import parse_qsl

import msgspec

from shared.azure_openai.operations import PREFIXES, SEGMENT
from shared.config.document import FallbackReason
from shared.types import Call, Surface

# What the caller may see of an answer's headers. The upstream's x-ratelimit-* tell of the backend's limits, not of
# the caller's; the others are diagnostics or belong to the connection.
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
    """Whose fault an answer is. `ours`: the gateway's access to that deployment; another backend may not share it."""
    if status < 400:
        return "ok"
    if status == 429:
        return "capacity"
    if status == 408 or status >= 500:
        return "server"
    if status in (401, 403) or (status == 404 and error_code(body) == "DeploymentNotFound"):
        return "ours"
    return "caller"


def error_code(body: bytes) -> str:
    """The `error.code` of an answer, or ""."""
    try:
        error = msgspec.json.decode(body).get("error")
        return str(error.get("code") or "")
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, AttributeError):
        return ""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait that a 429 tells: the milliseconds first, being exact, then seconds, then the limits' resets."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if (seconds := number(headers.get(name))) is not None:
            return seconds * unit
    resets = [
        number((headers.get(f"x-ratelimit-reset-{what}") or "").removesuffix("s")) for what in ("tokens", "requests")
    ]
    return max((seconds for seconds in resets if seconds is not None), default=None)


def fallback_reason(status: int, body: bytes) -> FallbackReason | None:
    """Why an answer refuses a call that another model may take."""
    if status != 400:
        return None
    return _REFUSALS.get(error_code(body))


def returned_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of an upstream's answer that the caller receives; what no server could send on is left out."""
    passed = ((name, headers.get(name)) for name in _RETURNED)
    return {name: value for name, value in passed if value is not None and value.isascii() and value.isprintable()}


def returned_location(call: Call, given: str) -> dict[str, str]:
    """The header that tells the caller where it finds what an answer has made: below the gateway's address, in the
    style in which the call was spelled."""
    made = given.partition("?")[0].rstrip("/").rpartition("/")[2]
    return {"location": f"{PREFIXES[call.surface]}{call.path}/{made}"} if re.fullmatch(SEGMENT, made) else {}


def model_object(model: str, surface: Surface) -> dict[str, Any]:
    """A model as the models operations tell it, in OpenAI's shape or in Azure's, which has more. When it was made, and
    what it can do beyond answering, is not known here; clients expect a number."""
    told: dict[str, Any] = {"id": model, "object": "model", "created": 0, "owned_by": "azure-openai"}
    if surface == "openai":
        return told
    return told | {
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
    try:
        number = float(text) if text else -1.0
    except ValueError:
        return None
    return number if 0 <= number < 1e9 else None
