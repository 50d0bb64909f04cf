"""Tables of timed calls: a line per call, a summary per model and way, their differences, and failures. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from shared.cli._timing_calls import TimedCall
from shared.cli._timing_chart import Group
from shared.cli._timing_statistics import difference, quantile

CALL_HEADS = (
    *("model", "start_time", "end_time", "duration"),  # first, as people's sheets have them
    *("first_token", "tokens_per_second", "region", "overhead", "status", "via", "problem"),
)


def call_rows(calls: Iterable[TimedCall]) -> list[dict[str, Any]]:
    """A line per call, by its start. Times are in UTC as spreadsheets read them, durations in seconds."""
    return [
        {
            "model": call.model,
            "start_time": _moment(call.start),
            "end_time": _moment(call.start + call.duration),
            "duration": round(call.duration, 6),
            "first_token": _rounded(call.first_token, 6),
            "tokens_per_second": _rounded(call.tokens_per_second, 2),
            "region": call.region,
            "overhead": _rounded(call.overhead, 6),
            "status": call.status,
            "via": call.via,
            "problem": call.problem,
        }
        for call in sorted(calls, key=lambda call: call.start)
    ]


def groups(calls: Iterable[TimedCall]) -> list[Group]:
    """The durations of the calls that succeeded, per model and way."""
    durations: dict[tuple[str, str], list[float]] = {}
    for call in calls:
        some = durations.setdefault((call.model, call.via), [])
        if not call.problem:
            some.append(call.duration)
    models = dict.fromkeys(model for model, _ in durations)
    ways = [(model, via) for model in models for via in ("gateway", "direct")]
    return [Group(*way, durations[way]) for way in ways if way in durations]


def summary(calls: Sequence[TimedCall]) -> list[dict[str, Any]]:
    """A line per model and way. Times are in milliseconds, of the calls that succeeded."""
    return [_line(group, [c for c in calls if (c.model, c.via) == group[:2]]) for group in groups(calls)]


def _line(group: Group, calls: Sequence[TimedCall]) -> dict[str, Any]:
    good = [call for call in calls if not call.problem]
    first = [call.first_token for call in good if call.first_token is not None]
    speeds = [call.tokens_per_second for call in good if call.tokens_per_second is not None]
    overheads = [call.overhead for call in good if call.overhead is not None]
    row: dict[str, Any] = {
        "model": group.model,
        "via": group.via,
        "calls": len(calls),
        "errors": len(calls) - len(good),
    }
    row |= {f"p{share}_ms": _ms(quantile(group.seconds, share / 100)) for share in (50, 95, 99)}
    row |= {f"first_token_p{share}_ms": _ms(quantile(first, share / 100)) for share in (50, 95)}
    row["tokens_per_second"] = _rounded(quantile(speeds, 0.5), 1)
    row["overhead_p50_ms"] = _ms(quantile(overheads, 0.5))
    return row


def differences(calls: Iterable[TimedCall]) -> list[dict[str, Any]]:
    """Gateway minus direct, per model, in milliseconds, with intervals of 95 % confidence."""
    by_way = {group[:2]: group.seconds for group in groups(calls)}
    rows = []
    for model in dict.fromkeys(model for model, _ in by_way):
        for share in (50, 95):
            pair = by_way.get((model, "gateway"), ()), by_way.get((model, "direct"), ())
            if (estimate := difference(*pair, share / 100)) is not None:
                row = {"model": model, "gateway_minus_direct": f"p{share}", "difference_ms": _ms(estimate.value)}
                rows.append(row | {"from_ms": _ms(estimate.low), "to_ms": _ms(estimate.high)})
    return rows


def failures(calls: Iterable[TimedCall]) -> list[dict[str, Any]]:
    """The kinds of failures with their numbers, the most frequent first."""
    kinds = Counter((call.model, call.via, call.status, call.problem) for call in calls if call.problem)
    heads = ("model", "via", "status", "problem")
    return [{**dict(zip(heads, kind, strict=True)), "calls": count} for kind, count in kinds.most_common()]


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def _ms(seconds: float | None) -> float | None:
    return _rounded(seconds * 1000 if seconds is not None else None, 1)


def _rounded(number: float | None, digits: int) -> float | None:
    return None if number is None else round(number, digits)
