"""Policies of API Management that limit, as limits of the configuration."""

from shared.cli._apim_draft import Draft
from shared.cli._apim_expressions import Counter, counted, counter, is_expression
from shared.cli._apim_xml import Element

_PERIODS = {"hourly": "hour", "daily": "day", "weekly": "week", "monthly": "month"}
_YEAR = 31_536_000
_LEAST, _MOST = 60, 31_622_400  # seconds of a period
_SUBSCRIPTION = Counter("subscription")
_ELSEWHERE = {
    "product": "counts per product: put the limit under products.NAME.shared_limits",
    "user": "counts per user of API Management: give the user's keys a team, and the limit under teams.NAME.limits",
    "all": "is one counter for all callers: put the limit under models.NAME.limits, or under a product's shared_limits",
    "unknown": "counts by something else than keys, client addresses, callers with tokens, and headers",
}


def rate(draft: Draft, element: Element) -> None:
    """`rate-limit` and `rate-limit-by-key`."""
    calls, seconds = _number(draft, element, "calls"), _number(draft, element, "renewal-period")
    if calls is None or not seconds:
        return
    place = _place(draft, element)
    if place is None:
        return
    per_minute = max(1, calls * 60 // seconds)
    draft.put(element, f"{place}.requests_per_minute", per_minute)
    if seconds != 60:
        exact = "the same rate" if calls * 60 % seconds == 0 else "about the same rate"
        at_once = f"of which {per_minute} may come at once, instead of {calls}"
        draft.differs(element, f"{calls} calls in {seconds} s are {per_minute} a minute: {exact}, {at_once}")
    if element.get("increment-condition"):
        draft.drop(element, "increment-condition: a rate counts every call that was not refused")
    _rest(draft, element, "calls", "renewal-period", "increment-condition")


def quota(draft: Draft, element: Element) -> None:
    """`quota` and `quota-by-key`."""
    if element.get("bandwidth"):
        draft.drop(element, "bandwidth: the gateway counts requests, tokens and money, not bytes")
    calls, seconds = _number(draft, element, "calls"), _number(draft, element, "renewal-period")
    if calls is None or seconds is None:
        return
    if not _LEAST <= seconds <= _MOST:
        what = "a quota for ever" if seconds == 0 else f"a period of {seconds} s"
        draft.drop(element, f"{what}: periods have {_LEAST} to {_MOST} s")
        return
    place = _place(draft, element)
    if place is None:
        return
    draft.put(element, f"{place}.request_quota", calls)
    draft.put(element, f"{place}.request_quota_period", seconds)
    if condition := element.get("increment-condition"):
        _condition(draft, element, place, condition)
    if start := element.get("first-period-start"):
        draft.differs(element, f"first-period-start {start}: periods are counted from 0001-01-01T00:00Z")
    _rest(draft, element, "calls", "renewal-period", "increment-condition", "bandwidth", "first-period-start")


def _condition(draft: Draft, element: Element, place: str, condition: str) -> None:
    match counted(condition):
        case "success":
            draft.put(element, f"{place}.quota_counts", "success")
        case "2xx":
            draft.put(element, f"{place}.quota_counts", "success")
            draft.differs(element, "increment-condition: 3xx counts as well as 2xx")
        case _:
            draft.drop(element, "increment-condition: the quota counts every call that a backend answered")


def tokens(draft: Draft, element: Element) -> None:
    """`azure-openai-token-limit` and `llm-token-limit`."""
    place = _place(draft, element)
    if place is None:
        return
    if (per_minute := _number(draft, element, "tokens-per-minute", needed=False)) is not None:
        draft.put(element, f"{place}.tokens_per_minute", per_minute)
    if (amount := _number(draft, element, "token-quota", needed=False)) is not None:
        _token_quota(draft, element, place, amount)
    match element.get("estimate-prompt-tokens").lower():
        case "true":
            draft.put(element, f"{place}.estimate", "learned")
            draft.differs(element, "estimate-prompt-tokens: the answer is estimated, too, by what such calls took")
        case "false":
            draft.put(element, f"{place}.estimate", "none")
        case _:
            draft.todo(element, "estimate-prompt-tokens is decided at run time: set `estimate`")
    for attribute, key in (
        ("remaining-tokens-header-name", "remaining_tokens"),
        ("tokens-consumed-header-name", "consumed_tokens"),
    ):
        if name := element.get(attribute):
            draft.put(element, f"limits.headers.{key}", name)
    _rest(
        draft,
        element,
        *("tokens-per-minute", "token-quota", "token-quota-period", "estimate-prompt-tokens"),
        *("remaining-tokens-header-name", "tokens-consumed-header-name"),
    )


def _token_quota(draft: Draft, element: Element, place: str, amount: int) -> None:
    if place == "limits.addresses":
        draft.drop(element, "token-quota by client address: addresses have only tokens per minute")
        return
    period = element.get("token-quota-period")
    draft.put(element, f"{place}.token_quota", amount)
    draft.put(element, f"{place}.token_quota_period", _PERIODS.get(period.lower(), _YEAR))
    if period.lower() not in _PERIODS:
        draft.differs(element, f"token-quota-period {period}: 365 days, which do not begin on 1 January")


def concurrency(draft: Draft, element: Element) -> None:
    """`limit-concurrency`, whose children are read by the walk."""
    if counter(element.get("key")).by != "subscription":
        draft.drop(element, "the gateway limits concurrent calls of a key, a team or a model")
    elif (most := _number(draft, element, "max-count")) is not None:
        draft.put(element, "limits.defaults.max_concurrent", most)


def _place(draft: Draft, element: Element) -> str | None:
    """The path of the limits that count as the policy does."""
    by = counter(element.get("counter-key")) if "counter-key" in element.attributes else _SUBSCRIPTION
    match by:
        case Counter("subscription", _):
            return "limits.defaults"
        case Counter("identity", _):
            text = "the gateway counts by user or application of Entra ID, whatever claim the policy names"
            draft.differs(element, text)
            return "limits.defaults"
        case Counter("address", ""):
            return "limits.addresses"
        case Counter("address", header):
            draft.put(element, "client_address.header", header)
            draft.todo(element, "client_address.hops: the number of your proxies, if it is not 1")
            return "limits.addresses"
        case Counter("header", header):
            draft.put(element, "end_users.header", header)
            draft.differs(element, "the gateway counts by key and header: the same user of two keys is two")
            return "limits.users"
    draft.drop(element, _ELSEWHERE[by.by])
    return None


def _number(draft: Draft, element: Element, attribute: str, *, needed: bool = True) -> int | None:
    text = element.get(attribute)
    if text.isascii() and text.isdigit() and len(text) <= 15:
        return int(text)
    if text:
        why = "is decided at run time" if is_expression(text) else "is not a whole number"
        draft.drop(element, f"{attribute} {why}: {text[:60]}")
    elif needed and not element.get("bandwidth"):
        draft.drop(element, f"{attribute} is missing")
    return None


def _rest(draft: Draft, element: Element, *read: str) -> None:
    """Note the attributes that mean nothing here, and what is inside of a limit by subscription."""
    for attribute in element.attributes:
        if attribute in read or attribute == "counter-key":
            continue
        if attribute.endswith(("-header-name", "-variable-name")):
            text = f"{attribute}: answers have x-ratelimit-* and retry-after under their own names"
            draft.note(element, "differs" if attribute.endswith("-header-name") else "not carried over", text)
        else:
            draft.drop(element, f"{attribute}: {element.get(attribute)[:60]}")
    for child in element.children:
        draft.drop(child, "limits of single APIs and operations: put them under models.NAME.limits")
