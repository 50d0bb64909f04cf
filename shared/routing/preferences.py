"""Per-request routing preferences, from `x-gateway-*` headers. Pure."""

from collections.abc import Mapping

import msgspec

from shared.errors import InvalidRequest

TIMEOUT, BACKEND, FALLBACK, TIER_FALLBACK, HEDGE, EXPLAIN = (
    "x-request-timeout-ms",
    "x-gateway-backend",
    "x-gateway-fallback",
    "x-gateway-tier-fallback",
    "x-gateway-hedge",
    "x-gateway-explain",
)
_HEADERS = frozenset((TIMEOUT, BACKEND, FALLBACK, TIER_FALLBACK, HEDGE, EXPLAIN))
_MOST_FALLBACKS = 8


class RoutingPreferences(msgspec.Struct, frozen=True):
    """The caller's preferences; None and "": as configured. `seconds`: for the whole call; `backend`: the only one it
    may go to; `fallbacks`: the models to fall back on; `tier_fallback`: the standard tier may serve in place of `flex`
    or `priority`; `hedge`: also send a slow call to another backend; `explain`: return the decisions."""

    seconds: float | None = None
    backend: str = ""
    fallbacks: tuple[str, ...] | None = None
    hedge: bool | None = None
    explain: bool = False
    tier_fallback: bool | None = None


NONE = RoutingPreferences()


def parse(headers: Mapping[str, str]) -> RoutingPreferences:
    """The preferences in a request's headers. Raises `InvalidRequest` (400) that names the header."""
    if _HEADERS.isdisjoint(headers):
        return NONE
    return RoutingPreferences(
        seconds=_seconds(headers.get(TIMEOUT)),
        backend=headers.get(BACKEND, "").strip(),
        fallbacks=_names(headers.get(FALLBACK)),
        tier_fallback=_yes(headers, TIER_FALLBACK),
        hedge=_yes(headers, HEDGE),
        explain=_yes(headers, EXPLAIN) or False,
    )


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    if not text.strip().isdecimal() or len(text) > 12 or int(text) < 1:
        raise InvalidRequest(f"{TIMEOUT}: expected milliseconds, 1 or more, as an integer.", param=TIMEOUT)
    return int(text) / 1000


def _names(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if len(names) > _MOST_FALLBACKS:
        raise InvalidRequest(f"{FALLBACK}: expected at most {_MOST_FALLBACKS} models.", param=FALLBACK)
    return names


def _yes(headers: Mapping[str, str], name: str) -> bool | None:
    text = headers.get(name)
    if text is None:
        return None
    if text.strip().lower() not in ("true", "false"):
        raise InvalidRequest(f"{name}: expected true or false.", param=name)
    return text.strip().lower() == "true"
