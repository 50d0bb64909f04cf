"""The headers of answers to calls of Anthropic's API, in the form that its clients read."""

import re
from datetime import UTC, datetime

from starlette.datastructures import MutableHeaders

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:([\d.]+)s)?(?:(\d+)ms)?")
_LIMITS = re.compile(r"x-ratelimit-(limit|remaining|reset)-(requests|tokens)")


def name_headers(headers: MutableHeaders, request_id: str, now: float) -> None:
    """Rename the headers of a response: its limits, and the request's id as Anthropic's clients read it. `now`: in
    seconds since 1970."""
    headers.setdefault("request-id", request_id)
    for name in [name for name in headers if name.startswith("x-ratelimit-")]:
        if (parts := _LIMITS.fullmatch(name)) is not None:
            value = headers[name]
            if parts[1] == "reset":
                ends = datetime.fromtimestamp(now + _seconds(value) + 0.999, UTC)
                value = ends.strftime("%Y-%m-%dT%H:%M:%SZ")
            headers[f"anthropic-ratelimit-{parts[2]}-{parts[1]}"] = value
        del headers[name]


def _seconds(duration: str) -> float:
    """A time as OpenAI writes it (`limits/_headers.py`), in seconds."""
    if (parts := _DURATION.fullmatch(duration)) is None:
        return 0.0
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in parts.groups())
    return 3600 * hours + 60 * minutes + seconds + milliseconds / 1000
