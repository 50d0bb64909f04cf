"""What a deployment tells of its quota in the headers of its answers, and what that says of the next call. Pure.

Azure admits a call by an estimate: its prompt by the number of characters, and all the tokens that its answer may have.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

from shared.azure_openai.answers import number
from shared.types import Call

_LONGEST_WINDOW = 60.0  # seconds; Azure counts by the minute
_UNTOLD_WINDOW = 5.0  # seconds for which numbers count that came without a reset time
_FULL = 100.0  # per cent of a provisioned deployment's throughput, from where on it refuses
_UTILISATION_LASTS = 1.0  # seconds
_OVERLOAD = ("temporarily unable to process", "high demand")


class Sent(NamedTuple):
    """All that a process has sent to a deployment so far."""

    tokens: float = 0.0
    calls: int = 0


class QuotaReading(msgspec.Struct, frozen=True):
    """What one answer told. None: it did not. `tokens` and `requests` are what was left, `*_until` when that is over;
    `mark`: what had been sent to the deployment when the answered call went out, so that what was sent since counts."""

    tokens: float | None = None
    tokens_until: float = 0.0
    requests: float | None = None
    requests_until: float = 0.0
    limit_tokens: float | None = None
    full_until: float = 0.0
    mark: Sent = Sent()

    def refuses(self, tokens: float, sent: Sent, now: float) -> bool:
        """Whether a call of so many tokens would most likely be refused now."""
        if now < self.full_until:
            return True
        since_tokens, since_calls = sent.tokens - self.mark.tokens, sent.calls - self.mark.calls
        if self.tokens is not None and now < self.tokens_until and self.tokens - since_tokens < tokens:
            return True
        return self.requests is not None and now < self.requests_until and self.requests - since_calls < 1


def estimate(call: Call) -> int:
    """The tokens by which Azure will admit a call, or as good a guess."""
    return call.input_estimate + (call.max_output_tokens or 0)


def told(headers: Mapping[str, str], mark: Sent, now: float) -> QuotaReading | None:
    """The capacity in an answer's headers; None where they tell nothing, as those of most provisioned deployments."""
    tokens, requests = headers.get("x-ratelimit-remaining-tokens"), headers.get("x-ratelimit-remaining-requests")
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
    seconds = number(reset.removesuffix("s")) if reset else None
    return _UNTOLD_WINDOW if seconds is None else min(seconds, _LONGEST_WINDOW)


Throttle = Literal["quota", "adjusted", "overload", "oversized"]
"""Why a 429: the deployment's quota is used; Azure has lowered that quota for now; the region is overloaded, whatever
our quota; or something is left, and only this call was too large for it."""


def throttle(headers: Mapping[str, str], body: bytes, *, configured: float | None) -> Throttle:
    """Which of the four kinds a 429 is. `configured`: the tokens a minute that the deployment should have."""
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
