"""Reports of usage and cost, for operators, callers and the command line."""

import asyncio
import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from shared.billing.charges import UNUSED, Charge, Tariff
from shared.billing.cost import USD
from shared.billing.forecast import Forecast, of_month
from shared.errors import InvalidRequest
from shared.storage import Store
from shared.token_classes import REPORTED, UNITS
from shared.usage import hours, query
from shared.usage.folds import REFUSED, Counts, added

DIMENSIONS = (
    *("key", "team", "product", "user", "model", "served", "deployment", "backend", "region", "system", "tier", "role"),
    "code",
)
PARAMETERS = ("by", "since", "until", "every", "format", *DIMENSIONS)
_EARLIEST = datetime(2024, 1, 1, tzinfo=UTC)
_AT_ONCE = 200  # lines priced before others may run


class Pieces(NamedTuple):
    """The pieces of a series: `start` returns the first hour of an hour's piece; the least hours; the most pieces."""

    start: Callable[[int], int]
    hours: int
    most: int
    label: str


EVERY = {
    "": Pieces(int, 1, 10**9, ""),
    "hour": Pieces(int, 1, 31 * 24, "%Y-%m-%dT%H:00Z"),
    "day": Pieces(hours.day_start, 24, 366, "%Y-%m-%d"),
    "month": Pieces(hours.month_start, 28 * 24, 120, "%Y-%m"),
}

_SUMS = (
    *("requests", "refused", "errors", "hung_up", "estimated", "empty"),
    *(*REPORTED, *(field for field in UNITS if field != "seconds")),
)

_TIMES = {"p50_ms": ("durations", 0.5), "p95_ms": ("durations", 0.95)} | {
    "first_byte_p50_ms": ("first_bytes", 0.5),
    "first_byte_p95_ms": ("first_bytes", 0.95),
}
TIMES = tuple(_TIMES)  # columns with quantiles of the calls that succeeded; None without any


class UsageQuery(msgspec.Struct, frozen=True):
    """The parameters of a report. Lines are grouped `by` dimensions, and by the pieces of `every`, if given; `where`
    filters by dimension. Hours that begin in the period count."""

    since: datetime
    until: datetime
    by: tuple[str, ...] = ("key",)
    every: str = ""
    where: dict[str, str] = {}


def parse_query(parameters: Mapping[str, str], now: float, *, by: str = "key") -> UsageQuery:
    """Parse the parameters of a report. Raises `InvalidRequest`, which names the wrong one."""
    current = datetime.fromtimestamp(now, UTC)
    since = _moment(parameters, "since") or current.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = _moment(parameters, "until") or current + timedelta(hours=1)
    until = min(end, current + timedelta(hours=1))
    if since < _EARLIEST:
        raise InvalidRequest.of("since", f"a time after {_EARLIEST:%Y-%m-%d}", f"{since:%Y-%m-%d}")
    if since >= until:
        expected = f"a time before until, which is {until:%Y-%m-%dT%H:%M}"
        raise InvalidRequest.of("since", expected, f"{since:%Y-%m-%dT%H:%M}")
    names = tuple(dict.fromkeys(name.strip() for name in parameters.get("by", by).split(",")))
    if wrong := [name for name in names if name not in DIMENSIONS]:
        raise InvalidRequest.of("by", "some of " + ", ".join(DIMENSIONS), wrong[0])
    every = parameters.get("every", "")
    pieces = EVERY.get(every)
    if pieces is None:
        raise InvalidRequest.of("every", "one of " + ", ".join(filter(None, EVERY)), every)
    if (until - since) / timedelta(hours=pieces.hours) > pieces.most + 1:
        expected = f"a period of at most {pieces.most} pieces; ask for a shorter one, or for larger pieces"
        raise InvalidRequest.of("every", expected, every)
    return UsageQuery(since, end, names, every, {name: parameters[name] for name in DIMENSIONS if name in parameters})


class ReportLine(Counts, frozen=True):
    """Sums of the calls that answered a caller; money in picodollars. `refused` calls are no `requests`. Other charged
    attempts (hedges, shadows, failures that the backend charged) are only in `charges`, `beside_tokens` and `beside`.
    No sum has the cost of `unpriced` requests and charges, whose price is unknown. `to_come`: the cost that is expected
    until the month ends."""

    beside_tokens: int = 0
    unpriced: int = 0
    cost: int = 0
    beside: int = 0
    to_come: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @classmethod
    def of(cls, charge: Charge, weight: float) -> "ReportLine":
        """The line of one charge. `weight`: with which its cost is expected again."""
        counts, money = charge.counts, charge.picodollars or 0
        unpriced = counts.requests + counts.charges if charge.picodollars is None else 0
        to_come = round(money * weight)
        if charge.line.role in ("served", UNUSED, REFUSED):
            return cls(**msgspec.structs.asdict(counts), cost=money, unpriced=unpriced, to_come=to_come)
        tokens = counts.input_tokens + counts.output_tokens
        return cls(charges=counts.charges, beside_tokens=tokens, beside=money, unpriced=unpriced, to_come=to_come)


class Report(msgspec.Struct, frozen=True):
    """`lines` by the piece's beginning and the values of `by`. `forecast` None: the period cannot be
    forecast."""

    query: UsageQuery
    lines: dict[tuple[str, ...], ReportLine]
    total: ReportLine
    forecast: Forecast | None

    def rows(self, consumers: Mapping[str, str]) -> list[dict[str, Any]]:
        """The lines as they are shown: by time, then the costliest first. `consumers` maps ids to names."""
        order = sorted(
            self.lines.items(),
            key=lambda item: (item[0][0], -item[1].cost - item[1].beside, -item[1].total_tokens, item[0]),
        )
        return [self._names(names, consumers) | self._row(line) for names, line in order]

    def _names(self, names: tuple[str, ...], consumers: Mapping[str, str]) -> dict[str, Any]:
        columns: dict[str, Any] = {"period": names[0]} if self.query.every else {}
        for dimension, name in zip(self.query.by, names[1:], strict=True):
            columns[dimension] = name
            if dimension == "key":
                columns["name"] = consumers.get(name, "")
        return columns

    def _row(self, line: ReportLine) -> dict[str, Any]:
        row: dict[str, Any] = {name: getattr(line, name) for name in _SUMS}
        for name in ("seconds", "total_tokens", "charges", "beside_tokens"):
            row[name] = getattr(line, name)
        known = not line.unpriced or line.cost or line.beside
        row |= {"cost_usd": line.cost / USD if known else None, "beside_usd": line.beside / USD if known else None}
        row["unpriced"] = line.unpriced
        row |= {head: getattr(line, name).quantile(share) for head, (name, share) in _TIMES.items()}
        if self.forecast is not None:
            forecast = (line.cost + line.beside + line.to_come) / USD
            row["forecast_usd"] = round(forecast, 6) if known else None
        return row

    def totals(self) -> dict[str, Any]:
        return self._row(self.total)

    def heads(self) -> list[str]:
        """The names of the columns, also without lines."""
        return [*self._names(("", *self.query.by), {}), *self._row(ReportLine())]


async def report(store: Store, tariff: Tariff, request: UsageQuery) -> Report:
    """Sum and price usage. Hours that the period touches count whole. Raises `StoreUnavailable`."""
    now = store.now()
    first, end = hours.hour_of(request.since.timestamp()), -hours.hour_of(-min(request.until.timestamp(), now + 3600))
    forecast = None if request.every else of_month(first, end, now)
    every = EVERY[request.every]
    cuts = [hour for hour in range(first, end) if request.every and every.start(hour) == hour]
    pieces = query.spans(first, end, [*cuts, *(forecast.cuts() if forecast else ()), *tariff.cuts(first, end)])
    lines: dict[tuple[str, ...], ReportLine] = {}
    total, done = ReportLine(), 0
    by_user = "user" in request.by or "user" in request.where
    for piece, used in zip(pieces, await query.read(store, pieces, by_user=by_user), strict=True):
        label = datetime.fromtimestamp(every.start(piece.first) * hours.HOUR, UTC).strftime(every.label)
        for charge in tariff.charges(piece, used, now):
            if any(getattr(charge.line, name) != value for name, value in request.where.items()):
                continue
            names = (label, *(getattr(charge.line, name) for name in request.by))
            weight = forecast.weight(piece.first, capacity=bool(charge.unit_hour)) if forecast else 0.0
            line = ReportLine.of(charge, weight)
            lines[names] = added(lines[names], line) if names in lines else line
            total = added(total, line)
            done += 1
            if done % _AT_ONCE == 0:
                await asyncio.sleep(0)
    return Report(request, lines, total, forecast)


def as_csv(heads: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Lines as CSV, with money in decimals, never as 1e-06."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    for row in rows:
        writer.writerow([_cell(row[head]) for head in heads])
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.12f}".rstrip("0").rstrip(".")
    text = str(value)
    return f"'{text}" if len(text) > 1 and text[0] in "=+-@\t\r" else text  # a spreadsheet would run it as a formula


def _moment(parameters: Mapping[str, str], name: str) -> datetime | None:
    text = parameters.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(f"{text}-01" if len(text) == 7 else text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        expected = "a month (2026-11), a day (2026-11-21) or a time (2026-11-21T14:00Z)"
        raise InvalidRequest.of(name, expected, text) from None
