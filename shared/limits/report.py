"""The limits report: how much of each limit is used, from the rows of the table `limits`."""

import asyncio
import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from shared.config.limits import named
from shared.limits._amounts import DIMENSIONS, Bound
from shared.limits._rows import from_properties
from shared.limits._token_bucket import BucketState, Level, caught_up, fresh
from shared.limits.scopes import Scope, bounds
from shared.storage import Store, names

_AT_ONCE = 200  # scopes between two turns of the event loop
_UNITS = {"requests": "requests", "tokens": "tokens", "usd": "USD", "slots": "calls under way"}


async def report(store: Store, scopes: Iterable[Scope]) -> list[dict[str, Any]]:
    """A line for every limit of these scopes. Raises `StoreUnavailable`."""
    now, lines = store.now(), []
    for scope in scopes:
        rows = {row.key: from_properties(row.properties) async for row in store.table(names.LIMITS).scan(scope.key)}
        lines += describe(scope, [rows.get(str(shard)) for shard in range(scope.shards)], now)
    return lines


async def budgets(store: Store, scopes: Iterable[Scope], most: int) -> tuple[list[dict[str, Any]], int]:
    """The lines of the budgets that are used most, and the number of all. The rows of each kind of scope are read in
    one scan, because each of many consumers may have a budget. Raises `StoreUnavailable`."""
    now, lines = store.now(), []
    limited: dict[str, Scope] = {}
    for number, scope in enumerate(scopes):
        if scope.limits.budget_usd:
            limited[scope.key] = scope
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)
    rows: dict[str, BucketState] = {}
    for kind in sorted({scope.kind for scope in limited.values()}):
        async for row in store.table(names.LIMITS).scan_all(f"{kind}:"):
            if not row.partition.startswith(f"{kind}:"):
                break
            if row.partition in limited and (state := from_properties(row.properties)):
                rows[row.partition] = state
    for key, scope in limited.items():
        lines += [line for line in describe(scope, [rows.get(key)], now) if line["unit"] == _UNITS["usd"]]
    lines.sort(key=lambda line: -line["used"] / line["limit"])
    return lines[:most], len(lines)


def describe(scope: Scope, rows: Sequence[BucketState | None], now: float) -> list[dict[str, Any]]:
    """A line for every limit of a scope, from the rows of all its shards."""
    limits = bounds(scope.limits, now, len(rows))
    current = [caught_up(row or fresh(limits, now), limits, now) for row in rows]
    lines = []
    for i, (name, bound) in enumerate(zip(DIMENSIONS, limits, strict=True)):
        if bound is None:
            continue
        levels = [level for row in current if (level := row.levels[i]) is not None]
        line = {"scope": scope.key, "about": scope.about, "unit": _UNITS[name]}
        out = sum(level.out + level.before for level in levels)
        if math.isfinite(bound.cap):
            limit = bound.cap * len(rows)
            per = "at a time" if math.isinf(bound.per_second) else "per minute"
            have = sum(max(0.0, level.level) for level in levels)
            lines.append({**line, "per": per, "limit": limit, "available": round(have, 2), "on_lease": round(out, 2)})
        if math.isfinite(bound.quota):
            lines.append(line | _quota(scope, name, bound, levels[0], out, now))
    active = max(row.active() if row else 0 for row in rows)
    return [{**line, "instances": active} for line in lines]


def _quota(scope: Scope, name: str, bound: Bound, level: Level, out: float, now: float) -> dict[str, Any]:
    """The line of a quota. `forecast`: the use at the period's end, if it goes on at the same rate."""
    limits = scope.limits
    periods = {
        "requests": limits.request_quota_period,
        "tokens": limits.token_quota_period,
        "usd": limits.budget_period,
    }
    passed = max(60.0, now - bound.since)
    rate = level.used / passed
    exhausted = now + (bound.quota - level.used) / rate if rate > 0 else math.inf
    return {
        "per": named(periods[name] or ("day" if name == "requests" else "month")),
        "limit": bound.quota,
        "used": round(level.used, 6),
        "on_lease": round(out, 6),
        "renews": _time(bound.until),
        "forecast": round(rate * (bound.until - bound.since), 6),
        "exhausted": _time(max(exhausted, now)) if exhausted < bound.until else None,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(round(seconds), UTC).isoformat()
