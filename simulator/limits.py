"""Limits of a deployment: tokens and requests per window, or the utilisation of a provisioned deployment.

Like Azure, they charge an estimate on arrival (azure-facts A.9). Windows are fixed; one begins with the first request
after the previous one ended.
"""

import math

import msgspec

WINDOW_SECONDS = 60.0


class RateLimited(Exception):
    """The request exceeds a limit. `what` is "token" or "call"; `retry_after` in seconds."""

    def __init__(self, what: str, retry_after: float) -> None:
        super().__init__(what)
        self.what = what
        self.retry_after = retry_after


class Limits(msgspec.Struct, frozen=True):
    tokens: int | None = None
    requests: int | None = None
    window_seconds: float = WINDOW_SECONDS


class RateLimiter:
    """Counts requests and tokens. A rejected request counts as a request, but its tokens do not count."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._window_ends = -math.inf
        self._tokens = 0
        self._requests = 0

    def admit(self, estimated_tokens: int, now: float) -> None:
        """Raises RateLimited. `now` in seconds of a monotonic clock."""
        limits = self.limits
        if limits.tokens is None and limits.requests is None:
            return
        if now >= self._window_ends:
            self._window_ends = now + limits.window_seconds
            self._tokens = self._requests = 0
        self._requests += 1
        if limits.requests is not None and self._requests > limits.requests:
            raise RateLimited("call", self._window_ends - now)
        if limits.tokens is not None and self._tokens + estimated_tokens > limits.tokens:
            raise RateLimited("token", self._window_ends - now)
        self._tokens += estimated_tokens

    def headers(self, now: float) -> dict[str, str]:
        """x-ratelimit-limit, -remaining and -reset (seconds) per configured limit."""
        reset = str(max(0, math.ceil(self._window_ends - now))) if self._window_ends > now else "0"
        headers: dict[str, str] = {}
        for what, limit, used in (
            ("requests", self.limits.requests, self._requests),
            ("tokens", self.limits.tokens, self._tokens),
        ):
            if limit is not None:
                headers[f"x-ratelimit-limit-{what}"] = str(limit)
                headers[f"x-ratelimit-remaining-{what}"] = str(max(0, limit - used))
                headers[f"x-ratelimit-reset-{what}"] = reset
        return headers


class Utilisation:
    """Leaky bucket of a provisioned deployment. Calls fill it and it drains at a steady rate. It admits calls while it
    is not full, so one call may overfill it. Estimates are corrected once the actual usage is known.

    Source: azure-facts A.9 and Azure's description of provisioned throughput ("a variation of the leaky bucket").
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._size = float(limits.tokens or 0)
        self._rate = self._size / limits.window_seconds
        self._level = 0.0
        self._at = -math.inf

    def admit(self, estimated_tokens: int, now: float) -> None:
        """Raises RateLimited while the bucket is full."""
        if not self._size:
            return
        self._drain(now)
        if self._level >= self._size:
            raise RateLimited("token", (self._level - self._size) / self._rate + 0.001)
        self._level += estimated_tokens

    def correct(self, tokens: int) -> None:
        """Add the difference between actual and estimated tokens; it may be negative."""
        self._level = max(0.0, self._level + tokens)

    def utilisation(self, now: float) -> float | None:
        """Utilisation in per cent; None without a limit."""
        self._drain(now)
        return 100 * self._level / self._size if self._size else None

    def headers(self, now: float) -> dict[str, str]:
        used = self.utilisation(now)
        return {} if used is None else {"azure-openai-deployment-utilization": f"{used:.1f}%"}

    def _drain(self, now: float) -> None:
        self._level = max(0.0, self._level - (now - max(self._at, 0.0)) * self._rate)
        self._at = now
