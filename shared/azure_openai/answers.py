"""Reads a backend's answer: its kind, its error code, its Retry-After, and the headers that callers may see."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal
from urllib.parse import parse_qsl

import msgspec

from shared.azure_openai.apis import APIS
from shared.azure_openai.json_body import reader
from shared.azure_openai.operations import PREFIXES, SEGMENT
from shared.config.document import Api, FallbackReason
from shared.types import Call, Surface

# The headers of an answer that callers may see. A backend's x-ratelimit-* are about its own limits, not the caller's;
# the others are diagnostics or belong to the connection, as content-encoding does: bodies are read decoded.
_RETURNED = frozenset(
    {
        "content-type",
        "content-disposition",
        "x-ms-region",
        "apim-request-id",
        "x-request-id",
        "request-id",
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

_THROTTLED = frozenset(("rate_limit_exceeded", "rate_limit_error", "too_many_requests", "toomanyrequests"))
_NO_CREDIT = frozenset(("insufficient_quota", "billing_error"))  # of the account, which may end at any time
_NO_ACCESS = _NO_CREDIT | {
    *("deploymentnotfound", "invalid_api_key", "invalid_authentication", "permissiondenied"),
    *("authentication_error", "permission_error"),
}
_CALLERS = frozenset(
    {
        *_REFUSALS,
        "string_above_max_length",
        "failed_to_download_image",
        "empty_image_file",
        "vector_store_not_found",
        "request_too_large",
    }
)
_CALLERS_FAMILIES = ("invalid_", "image_", "unsupported_", "missing_")
_OVERLOADED = 529  # as Anthropic says it
_TOO_LONG = "prompt is too long"  # as Anthropic says it, without a code
_FRONT_END = "x-ms-fe-error"  # a header of Azure's front end, which has found no deployment behind the path
_WAIT_IN_WORDS = re.compile(
    r"(?:try again|retry) (?:in|after) (\d[\d.dhms]*)(?: (milliseconds?|ms|seconds?|s)\b)?", re.I
)
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_UNITS = (86_400.0, 3600.0, 60.0, 1.0, 0.001)  # seconds


class ReportedError(msgspec.Struct, frozen=True):
    """An error as a backend reports it. Each field may be ""."""

    code: str = ""
    type: str = ""
    message: str = ""


class _Nested(msgspec.Struct):
    error: Any = None


class _Failing(msgspec.Struct):
    """The places of an error: `error` in bodies, chunks and some events, `response.error` in `response.failed`,
    `last_error` in `thread.run.failed`, and the fields themselves in the event `error`."""

    error: Any = None
    response: _Nested | None = None
    last_error: Any = None
    type: Any = None
    code: Any = None
    message: Any = None


_read_failing = reader(_Failing)


def reported_error(data: bytes) -> ReportedError | None:
    """The error that a body or the payload of an event reports; None if it reports none."""
    read = _read_failing(data)
    for error in (read.error, read.response and read.response.error, read.last_error):
        if isinstance(error, dict):
            return ReportedError(*(_text(error.get(name)) for name in ("code", "type", "message")))
        if isinstance(error, str) and error:
            return ReportedError(message=error)
    if read.type == "error" and (read.code is not None or read.message is not None):
        return ReportedError(_text(read.code), "", _text(read.message))
    return None


def equivalent_status(error: ReportedError, headers: Mapping[str, str]) -> int:
    """The status of the same error in a status line, for one that came under status 200.

    Never that of a refused access: a backend that has answered 200 has let the gateway in, so such words are those of
    what the call uses, as a tool's server."""
    words = {error.code.lower(), error.type.lower()}
    if len(error.code) == 3 and error.code.isdecimal() and 400 <= (status := int(error.code)) < 600:
        return 400 if status in (401, 402, 403, 407) else status
    if "overloaded_error" in words:
        return _OVERLOADED
    if words & _THROTTLED or "retry-after" in headers or "retry-after-ms" in headers:
        return 429
    if words & _NO_ACCESS:
        return 402 if words & _NO_CREDIT else 400
    if any(map(_is_callers, words)):
        return 400
    return 500


def _is_callers(word: str) -> bool:
    return word in _CALLERS or word.startswith(_CALLERS_FAMILIES) or word.endswith("_policy_violation")


def classify(status: int, body: bytes, headers: Mapping[str, str], api: Api = "azure") -> Kind:
    """Classify an answer of an API by the party at fault. `ours`: the gateway's access to that deployment; another may
    work.

    `status`: the line's, or `equivalent_status` of an error below status 200; `body`: the answer's, or the event's."""
    if status < 400:
        return "ok"
    if status in (401, 402, 403) or (status < 500 and (status, error_code(body)) in APIS[api].access_errors):
        return "ours"
    if status in (429, _OVERLOADED):
        return "capacity"
    if status == 408 or status >= 500:
        return "server"
    if status == 404 and _lacks_the_model(body):
        return "ours"
    if status == 400 and _FRONT_END in headers and not error_code(body):
        return "ours"
    return "caller"


def _lacks_the_model(body: bytes) -> bool:
    """True if Anthropic says that it does not have the model of a call; its errors have no codes."""
    error = reported_error(body)
    return error is not None and error.type == "not_found_error" and error.message.startswith("model:")


def is_about_another_model(status: int, report: bytes, own: Iterable[str], others: Iterable[str]) -> bool:
    """True if an error is about one of the `others`, models that a caller has named beside its `own`: a 404 that does
    not name that, or a 402, 403, 429 or 529 that names one of them alone. It says nothing about other calls."""
    own = {name.lower() for name in own if name}
    others = {name.lower() for name in others if name} - own
    if not others or status not in (402, 403, 404, 429, _OVERLOADED):
        return False
    error = reported_error(report)
    rest = words = error.message.lower() if error is not None else ""
    for name in sorted(others, key=len, reverse=True):
        if name in rest:  # else a long name would take long to compile
            rest = re.sub(_whole(name), " ", rest)
    if any(re.search(_whole(name), rest) for name in own):
        return False
    return status == 404 or rest != words


def _whole(name: str) -> str:
    """The pattern of a model's name that is not part of a longer one."""
    return rf"(?<![\w.-]){re.escape(name)}(?![\w-]|\.\w)"


def missing_action(body: bytes) -> str:
    """Return the data action that a role lacks, as a backend's 401 or 403 names it; "": it names none."""
    named = re.search(rb"\bdata action [`'\"]?(Microsoft\.CognitiveServices/[\w/.-]+[\w])", body)
    return named[1].decode() if named else ""


def error_code(body: bytes) -> str:
    """The code of the error that an answer reports, or ""."""
    error = reported_error(body)
    return "" if error is None else error.code


def _text(value: object) -> str:
    return "" if value is None else str(value)


def wait(headers: Mapping[str, str], report: bytes) -> float | None:
    """The seconds to wait after a 429: from the milliseconds, which are exact, the seconds, the message, which in a
    stream is all, or the resets of the limits. At OpenAI a reset is the time until nothing of a limit is used any more,
    so the message, which is about this call, comes before it."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if (seconds := number(headers.get(name))) is not None:
            return seconds * unit
    if (seconds := _wait_in_words(report)) is not None:
        return seconds
    resets = [duration(headers.get(f"x-ratelimit-reset-{kind}")) for kind in ("tokens", "requests")]
    return max((seconds for seconds in resets if seconds is not None), default=None)


def _wait_in_words(report: bytes) -> float | None:
    error = reported_error(report)
    if error is None or (words := _WAIT_IN_WORDS.search(error.message)) is None:
        return None
    unit = "" if words[2] is None else "ms" if words[2].lower().startswith("m") else "s"
    text = words[1].rstrip(".").lower() + unit
    return None if text[-1].isdigit() else duration(text)


def duration(text: str | None) -> float | None:
    """The seconds in a text: a number, as Azure writes them, or 6m0s, 1.2s or 120ms, as OpenAI does. None: in another
    form."""
    if (seconds := number(text)) is not None or not text:
        return seconds
    if (parts := _DURATION.fullmatch(text)) is None:
        return None
    return sum(float(part) * unit for part, unit in zip(parts.groups(), _UNITS, strict=True) if part is not None)


def is_sealed_elsewhere(status: int, report: bytes) -> bool:
    """Return True for the answer of a backend to content that it cannot open, because another has sealed it."""
    return status == 400 and error_code(report) == "invalid_encrypted_content"


def fallback_reason(status: int, body: bytes) -> FallbackReason | None:
    """The reason for which an answer refuses a call, if another model may take it."""
    if status != 400 or (error := reported_error(body)) is None:
        return None
    if not error.code and error.message.lower().startswith(_TOO_LONG):
        return "context_window"
    return _REFUSALS.get(error.code)


def returned_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of a backend's answer that the caller receives, without values that no server could send on."""
    return {
        name: value
        for name in _RETURNED
        if (value := headers.get(name)) is not None and value.isascii() and value.isprintable()
    }


def returned_location(call: Call, location: str) -> dict[str, str]:
    """The header with the address of the object that a call created: below the gateway's address, in the API style of
    the call."""
    object_id = location.partition("?")[0].rstrip("/").rpartition("/")[2]
    return {"location": f"{PREFIXES[call.surface]}{call.path}/{object_id}"} if re.fullmatch(SEGMENT, object_id) else {}


def model_object(
    model: str, surface: Surface, ends: int | None = None, replaced_by: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A model as the models operations return it, in OpenAI's shape or in Azure's, which has more fields. Its creation
    time is not known here, but clients expect a number. `ends`: seconds since 1970, in the field that Azure has for
    it; `replaced_by`: the model that takes its place, and the day."""
    fields: dict[str, Any] = {"id": model, "object": "model", "created": 0, "owned_by": "azure-openai"}
    if ends is not None:
        fields["deprecation"] = {"inference": ends}
    if replaced_by is not None:
        fields["replaced_by"] = replaced_by
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
