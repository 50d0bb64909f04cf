"""Parses rate-limit headers, and predicts if the next call would get a 429. Pure.

Azure admits a call by an estimate: its prompt by the number of characters, and all the tokens that its answer may have.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

from shared.azure_openai.answers import duration, number
from shared.types import Call

_LONGEST_WINDOW = 60.0  # seconds; Azure counts by the minute
_DEFAULT_WINDOW = 5.0  # seconds for which a number without a reset time is valid
_FULL = 100.0  # per cent of a provisioned deployment's throughput: from there on it rejects calls
_UTILISATION_LASTS = 1.0  # seconds
_OVERLOAD = ("temporarily unable to process", "high demand", "overloaded_error")


# Resets are times of day there, so a number counts for a moment only.
_REQUESTS_AT_ANTHROPIC = "anthropic-ratelimit-requests-remaining"
_TOKENS_AT_ANTHROPIC = "anthropic-ratelimit-tokens-remaining"


class Sent(NamedTuple):
    """All that a process has sent to a deployment so far."""

    tokens: float = 0.0
    calls: int = 0


class QuotaReading(msgspec.Struct, frozen=True):
    """The quota that one answer reported. `tokens` and `requests`: what was left, None if not reported; `*_until`: when
    that is over; `mark`: all that had been sent to the deployment when the answered call went out."""

    tokens: float | None = None
    tokens_until: float = 0.0
    requests: float | None = None
    requests_until: float = 0.0
    limit_tokens: float | None = None
    full_until: float = 0.0
    mark: Sent = Sent()

    def refuses(self, tokens: float, sent: Sent, now: float) -> bool:
        """True if a call of so many tokens would most likely get a 429 now."""
        if now < self.full_until:
            return True
        tokens_left, requests_left = self.tokens_left(sent, now), self.requests_left(sent, now)
        return (tokens_left is not None and tokens_left < tokens) or (requests_left is not None and requests_left < 1)

    def tokens_left(self, sent: Sent, now: float) -> float | None:
        """The tokens left, less those sent since; None if no current number is known."""
        if self.tokens is None or now >= self.tokens_until:
            return None
        return self.tokens - (sent.tokens - self.mark.tokens)

    def requests_left(self, sent: Sent, now: float) -> float | None:
        if self.requests is None or now >= self.requests_until:
            return None
        return self.requests - (sent.calls - self.mark.calls)


def estimate(call: Call) -> int:
    """The tokens by which Azure will probably admit a call."""
    return call.input_estimate + (call.max_output_tokens or 0)


def read(headers: Mapping[str, str], mark: Sent, now: float) -> QuotaReading | None:
    """The quota in an answer's headers; None if they have none, like those of most provisioned deployments."""
    tokens, requests = headers.get("x-ratelimit-remaining-tokens"), headers.get("x-ratelimit-remaining-requests")
    if tokens is None and requests is None and (counted := headers.get(_REQUESTS_AT_ANTHROPIC)) is not None:
        tokens, requests = headers.get(_TOKENS_AT_ANTHROPIC), counted
    if tokens is None and requests is None:
        used = headers.get("azure-openai-deployment-utilization")
        if used is None or (number(used.rstrip("% ")) or 0.0) < _FULL:
            return None
        return QuotaReading(full_until=now + _UTILISATION_LASTS, mark=mark)
    return QuotaReading(
        tokens=number(tokens),
        tokens_until=now + _window(headers.get("x-ratelimit-reset-tokens")),
        requests=number(requests),
        requests_until=now + _window(headers.get("x-ratelimit-reset-requests")),
        limit_tokens=number(headers.get("x-ratelimit-limit-tokens")),
        mark=mark,
    )


def _window(reset: str | None) -> float:
    seconds = duration(reset)
    return _DEFAULT_WINDOW if seconds is None else min(seconds, _LONGEST_WINDOW)


Throttle = Literal["quota", "adjusted", "overload", "oversized"]
"""The reason of a 429: the deployment's quota is used up; Azure has lowered that quota for now; the region is
overloaded, whatever the quota; or some quota is left, but too little for this call."""


def throttle(headers: Mapping[str, str], body: bytes, *, configured: float | None) -> Throttle:
    """The reason of a 429. `configured`: the tokens per minute that the deployment should have."""
    left = [number(headers.get(f"x-ratelimit-remaining-{what}")) for what in ("tokens", "requests")]
    if all(count is not None and count > 0 for count in left):
        return "oversized"
    text = body[:2000].decode("utf-8", "replace").lower()
    if any(words in text for words in _OVERLOAD):
        return "overload"
    limit = number(headers.get("x-ratelimit-limit-tokens"))
    if limit is not None and configured is not None and limit < configured:
        return "adjusted"
    return "quota"
