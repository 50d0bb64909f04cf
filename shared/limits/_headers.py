"""Limits as callers see them: headers of every response, and the errors of denied calls."""

import math
from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from shared.config.limits import Limits, named
from shared.errors import BudgetExceeded, GatewayError, QuotaExceeded, RateLimitExceeded
from shared.limits._amounts import DIMENSIONS
from shared.limits._exchange import Denied
from shared.limits._lease import LeasedLimit

_HEADER_DIMENSIONS = [(name, DIMENSIONS.index(name)) for name in ("requests", "tokens")]


def headers(limits: Sequence[LeasedLimit], now: float) -> dict[str, str]:
    """The caller's limits in OpenAI's form: of several limits, those of the narrowest."""
    fields = {}
    for name, dimension in _HEADER_DIMENSIONS:
        available = [have for limit in limits if (have := limit.available(dimension, now)) is not None]
        if available:
            limit, remaining, reset = min(available, key=lambda have: have[1] / have[0])
            fields[f"x-ratelimit-limit-{name}"] = str(round(limit))
            fields[f"x-ratelimit-remaining-{name}"] = str(int(remaining + 1e-6))
            fields[f"x-ratelimit-reset-{name}"] = duration(reset)
    return fields


_NEAR_ITS_END = "Near the end of a quota a call reserves its longest answer: retry with a smaller max_tokens."


def error(denied: Denied, limits: Sequence[LeasedLimit], now: float, contact: str) -> GatewayError:
    """The error for a denied call: the limit, its value, when to come back, and whom to ask."""
    about, own, denial = denied.scope.about, denied.scope.limits, denied.denial
    if denial.kind == "rate":
        wait = math.ceil(denial.wait * 1000) / 1000
        limited = f"{about} is limited to {_rate(own, denial.dimension)}."
        message = f"{limited} Retry after {wait:.3f} seconds; for more, ask {contact}."
        return RateLimitExceeded(message, wait, headers(limits, now))
    zone = ZoneInfo(own.time_zone or "UTC")
    renews = datetime.fromtimestamp(round(now + denial.wait), zone).isoformat(timespec="seconds")
    kind = BudgetExceeded if denial.dimension == "usd" else QuotaExceeded
    used_up = f"{about}: the rest of its {_quota(own, denial.dimension)} is too small for this call."
    shorter = "" if denial.dimension == "requests" else f" {_NEAR_ITS_END}"
    return kind(f"{used_up}{shorter} It renews at {renews}; for more, ask {contact}.", renews, headers(limits, now))


def _rate(limits: Limits, dimension: str) -> str:
    if dimension == "requests" and limits.requests_per_minute:
        return f"{limits.requests_per_minute} requests per minute"
    if dimension == "tokens" and limits.tokens_per_minute:
        return f"{limits.tokens_per_minute} tokens per minute"
    if dimension == "slots":
        return f"{limits.max_concurrent} calls at a time"
    return "its remaining quota, most of which other calls have reserved"


def _quota(limits: Limits, dimension: str) -> str:
    if dimension == "requests":
        counted = "successful requests" if limits.quota_counts == "success" else "requests"
        return f"{limits.request_quota} {counted} per {named(limits.request_quota_period or 'day')}"
    if dimension == "tokens":
        return f"{limits.token_quota} tokens per {named(limits.token_quota_period or 'month')}"
    return f"budget of {limits.budget_usd} USD per {named(limits.budget_period or 'month')}"


def duration(seconds: float) -> str:
    """A time as OpenAI writes it: 120ms, 7.66s, 6m0s, 1h0m0s."""
    if seconds < 1:
        return f"{max(0, math.ceil(seconds * 1000))}ms"
    if seconds < 60:
        return f"{seconds:.2f}".rstrip("0").rstrip(".") + "s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"
