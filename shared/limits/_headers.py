"""What callers are told of their limits: the headers of every answer, and the refusals."""

import math
from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from shared.config.document import Limits
from shared.errors import BudgetExceeded, GatewayError, QuotaExceeded, RateLimitExceeded
from shared.limits._exchange import Refused
from shared.limits._lease import LeasedLimit
from shared.limits._token_bucket import DIMENSIONS

_TOLD = [(name, DIMENSIONS.index(name)) for name in ("requests", "tokens")]


def headers(lessees: Sequence[LeasedLimit], now: float) -> dict[str, str]:
    """The caller's limits, in OpenAI's form; those of the narrowest scope where there are several."""
    told = {}
    for name, dimension in _TOLD:
        narrowest: tuple[float, float, float] | None = None
        for lessee in lessees:
            shown = lessee.available(dimension, now)
            if shown is not None and (narrowest is None or shown[1] / shown[0] < narrowest[1] / narrowest[0]):
                narrowest = shown
        if narrowest is not None:
            limit, remaining, reset = narrowest
            told[f"x-ratelimit-limit-{name}"] = str(round(limit))
            told[f"x-ratelimit-remaining-{name}"] = str(int(remaining + 1e-6))
            told[f"x-ratelimit-reset-{name}"] = duration(reset)
    return told


def error(refused: Refused, lessees: Sequence[LeasedLimit], now: float, contact: str) -> GatewayError:
    """Names the limit, its value, when to come back, and whom to ask."""
    about, limits, refusal = refused.scope.about, refused.scope.limits, refused.refusal
    told: GatewayError
    if refusal.kind == "rate":
        wait = math.ceil(refusal.wait * 1000) / 1000
        allowed = _rate(limits, refusal.dimension)
        told = RateLimitExceeded(
            f"{about} is limited to {allowed}. Retry after {wait:.3f} seconds; for more, ask {contact}.", wait
        )
    else:
        zone = ZoneInfo(limits.time_zone or "UTC")
        renews = datetime.fromtimestamp(round(now + refusal.wait), zone).isoformat(timespec="seconds")
        kind = BudgetExceeded if refusal.dimension == "usd" else QuotaExceeded
        told = kind(
            f"{about} has no room left for this call in its {_quota(limits, refusal.dimension)}. It renews at "
            f"{renews}; for more, ask {contact}.",
            renews,
        )
    told.limits = headers(lessees, now)
    return told


def _rate(limits: Limits, dimension: str) -> str:
    if dimension == "requests" and limits.requests_per_minute:
        return f"{limits.requests_per_minute} requests per minute"
    if dimension == "tokens" and limits.tokens_per_minute:
        return f"{limits.tokens_per_minute} tokens per minute"
    if dimension == "slots":
        return f"{limits.max_concurrent} calls at a time"
    return "what is left of its quota, most of which other calls hold just now"


def _quota(limits: Limits, dimension: str) -> str:
    if dimension == "requests":
        return f"{limits.request_quota} requests per {limits.request_quota_period or 'day'}"
    if dimension == "tokens":
        return f"{limits.token_quota} tokens per {limits.token_quota_period or 'month'}"
    return f"budget of {limits.budget_usd} USD per {limits.budget_period or 'month'}"


def duration(seconds: float) -> str:
    """A time as OpenAI writes it: 120ms, 7.66s, 6m0s, 1h0m0s."""
    if seconds < 1:
        return f"{max(0, math.ceil(seconds * 1000))}ms"
    if seconds < 60:
        return f"{seconds:.2f}".rstrip("0").rstrip(".") + "s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"
