"""Schema of limits, and of the sections that hold them."""

from typing import Annotated, Literal
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

from shared.config.alerting import WebhookSettings

Limit = Annotated[int, Meta(ge=0, le=10**15)]  # 0: no limit
# A name, or seconds: such periods follow one another since the first day of the year 1, as API Management's do.
Period = Literal["hour", "day", "week", "month"] | Annotated[int, Meta(ge=60, le=31_622_400)]
QuotaCounts = Literal["all", "success"]
Estimated = Literal["max", "learned", "none"]


class Limits(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    """Limits of a consumer, a team, an address or a model. None: the configuration's default; 0: no limit. Periods
    start by the clocks of `time_zone` (UTC). `quota_counts` `success`: the quota of requests counts calls that ended
    with 2xx or 3xx. `soft`: calls over a limit are reported, not rejected. `estimate`: tokens to reserve, with the most
    that the answer may have (`max`), with the average (`learned`), or none: only what was used counts."""

    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    token_quota: Limit | None = None
    token_quota_period: Period | None = None
    request_quota: Limit | None = None
    request_quota_period: Period | None = None
    budget_usd: Annotated[float, Meta(ge=0, le=1e15)] | None = None
    budget_period: Period | None = None
    max_concurrent: Limit | None = None
    quota_counts: QuotaCounts | None = None
    time_zone: str | None = None
    soft: bool | None = None
    estimate: Estimated | None = None


_NO_LIMITS = Limits()


class AddressLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits of one client address, across all keys. None or 0: no limit. `connections`: to one process, that of the
    container edge."""

    connections: Limit = 1024
    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    request_quota: Limit | None = None
    request_quota_period: Period = "day"
    quota_counts: QuotaCounts = "all"
    time_zone: str = "UTC"
    estimate: Estimated = "learned"


class TokenHeaders(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names of the token headers, as API Management's `llm-token-limit` has them. None: not sent."""

    remaining_tokens: str | None = None
    consumed_tokens: str | None = None


class LimitSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits for all callers. `defaults`: for consumers that set none; `teams`: shared by the keys of each team;
    `users`: of each user behind a key; `addresses`: for every client address, with and without a valid key.

    `contact` is named in the error of a rejected call; `webhook` receives alerts about quotas that are nearly used up,
    as a receiver of `alerts` does.
    `unpriced`: what becomes of a call under a budget if its model has no known price. `warn`: it passes, does not count
    towards the budget, and the log says so; `refuse`: it is rejected.
    """

    defaults: Limits = Limits()
    teams: dict[str, Limits] = {}
    users: Limits = Limits()
    addresses: AddressLimits = AddressLimits()
    contact: str = "the gateway's operator"
    headers: TokenHeaders = TokenHeaders()
    webhook: WebhookSettings | None = None
    unpriced: Literal["refuse", "warn"] = "warn"


def merged(defaults: Limits, own: Limits) -> Limits:
    """The limits of a consumer: field by field its own, else the defaults."""
    if own == _NO_LIMITS:
        return defaults
    if defaults == _NO_LIMITS:
        return own
    values = {
        name: value if (value := getattr(own, name)) is not None else getattr(defaults, name)
        for name in Limits.__struct_fields__
    }
    return Limits(**values)


def named(period: Period) -> str:
    """A period in messages: `day`, `3600 s`."""
    return f"{period} s" if isinstance(period, int) else period


def time_zone_problem(limits: Limits | AddressLimits) -> str:
    """The complaint about a time zone, "" if it exists."""
    try:
        ZoneInfo(limits.time_zone or "UTC")
    except (ValueError, OSError, KeyError):
        return f"expected the name of a time zone such as Europe/Berlin, got {limits.time_zone!r}"
    return ""
