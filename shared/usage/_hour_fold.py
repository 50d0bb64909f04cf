"""Folds one hour's raw rows into sums."""

from array import array
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from shared.token_classes import TOKEN_CLASSES, UNITS
from shared.types import BATCH, long_context
from shared.usage import durations, folds, refusals
from shared.usage.durations import bucket
from shared.usage.folds import NOBODY, REFUSED, Counts, Dimensions, Fold, Lines

GRACE = 600  # seconds, longer than any call, after which an intent without an end is closed as an estimate
_MOST_LINES = 50_000  # of an hour while it is folded: callers choose names, which must not fill the memory

# A line is a list of sums, because that is the fastest to add to: `_FIELDS` gives the places of the fields of `Counts`.
_FIELDS = {field: place for place, field in enumerate(Counts.__struct_fields__)}
_REQUESTS, _ENDS, _ESTIMATED, _ERRORS, _HUNG_UP, _CHARGES, _ATTEMPTS = (
    _FIELDS[field] for field in ("requests", "ends", "estimated", "errors", "hung_up", "charges", "attempts")
)
_REFUSED = _FIELDS["refused"]
_DURATIONS, _FIRST_BYTES = _FIELDS["durations"], _FIELDS["first_bytes"]  # as arrays of buckets, two bytes per call
_INPUT, _OUTPUT, _SOUND_MS, _MS, _TIMED, _TTFT, _FIRST_TOKENS = (
    _FIELDS[field] for field in ("input_tokens", "output_tokens", "sound_ms", "ms", "timed", "ttft", "first_tokens")
)
_CHOSEN, _MODELS = (  # the places of names that callers choose, and of those that backends may
    tuple(map(Dimensions.__struct_fields__.index, names)) for names in (("product", "system"), ("model", "served"))
)
_USER = Dimensions.__struct_fields__.index("user")
_OPTIONAL = tuple(  # properties of a row that are added as they are, where the row has them
    (row, _FIELDS[field])
    for row, field in (
        *((tokens.row, field) for field, tokens in TOKEN_CLASSES.items() if tokens.part_of),
        *((unit.row, field) for field, unit in UNITS.items() if field in _FIELDS),
        ("e_empty", "empty"),
    )
)


def _is_sum(row: Mapping[str, Any]) -> bool:
    """True for the usage of many calls. Older rows of batches have their tier alone."""
    return row.get("e_tier") == BATCH or "e_sum" in row


def _is_long(row: Mapping[str, Any]) -> bool:
    """True for a call whose size of input changes its prices, and for the sum of such calls."""
    if _is_sum(row):
        return "e_long" in row
    return bool(row.get("e_input", 0) > long_context(row.get("e_served", "")))


class HourFold:
    """A fold of raw rows: `add` each, then `result`."""

    def __init__(self, now: float) -> None:
        self._closing = now - GRACE
        self._sums = _Sums()
        self._of_users = _Sums()
        self.rows = 0

    def add(self, row: Mapping[str, Any]) -> None:
        self.rows += 1
        self._add(row, self._sums, NOBODY)
        if "s_user" in row:
            self._add(row, self._of_users, row["s_user"])

    def result(self) -> Fold:
        return self._sums.fold(folds.bounded)

    def users(self) -> Fold | None:
        """The same of the calls that name a user, by user; None if there are none."""
        return self._of_users.fold(folds.bounded_by_user) if self._of_users.lines else None

    def _add(self, row: Mapping[str, Any], sums: "_Sums", user: str) -> None:
        get = row.get
        started = "s_key" in row
        if "e_status" not in row:
            if started:
                sums.halves += 1
                if float(get("s_ts", 0.0)) < self._closing:
                    _close_orphan(row, sums, user)
            elif refusals.SUMS in row:
                _count_refusals(row, sums)
            return
        sums.halves += 1 + started + ("e_counted" in row)
        line = sums.of(_dimensions(row, user))
        if "e_role" in row:
            line[_CHARGES] += 1
        else:
            _count_call(row, line)
        if get("e_est"):
            line[_ESTIMATED] += 1
        line[_INPUT] += get("e_input", 0)
        line[_OUTPUT] += get("e_output", 0)
        for name, place in _OPTIONAL:
            if name in row:
                line[place] += row[name]
        if "e_seconds" in row:
            line[_SOUND_MS] += round(row["e_seconds"] * 1000)  # a sum of integers is the same in any order


class _Sums:
    """Lines of sums by `Dimensions`, and what they are made of."""

    def __init__(self) -> None:
        self.lines: dict[tuple[str, ...], list[Any]] = {}
        self.halves = 0
        self.orphans = 0

    def of(self, dimensions: tuple[str, ...]) -> list[Any]:
        """The sums of a line."""
        line = self.lines.get(dimensions)
        if line is None and len(self.lines) >= _MOST_LINES:
            replaced = _CHOSEN if dimensions[_USER] == NOBODY else (_USER,)
            if len(self.lines) >= 2 * _MOST_LINES:
                replaced += (*_CHOSEN, *_MODELS)
            dimensions = tuple(folds.OTHERS if i in replaced else name for i, name in enumerate(dimensions))
            line = self.lines.get(dimensions)
        if line is None:
            line = self.lines[dimensions] = [0] * len(Counts.__struct_fields__)
            line[_DURATIONS], line[_FIRST_BYTES] = array("H"), array("H")
        return line

    def fold(self, bounded: Callable[[Lines], Lines]) -> Fold:
        lines = {Dimensions(*key): _counts(line) for key, line in self.lines.items()}
        return Fold((self.halves, self.orphans), bounded(lines))


def _counts(line: list[Any]) -> Counts:
    fields = list(line)
    for place in (_DURATIONS, _FIRST_BYTES):
        fields[place] = durations.of_buckets(line[place])
    return Counts(*fields)


def _count_call(row: Mapping[str, Any], line: list[Any]) -> None:
    get = row.get
    line[_REQUESTS] += 1
    line[_ENDS] += 1
    ended, failed = get("e_ended", "complete"), row["e_status"] >= 400
    if ended == "hung_up":
        line[_HUNG_UP] += 1
    elif failed:
        line[_ERRORS] += 1
    succeeded = ended == "complete" and not failed
    line[_ATTEMPTS] += get("e_attempts", 0)
    if "e_ms" in row:
        line[_MS] += row["e_ms"]
        line[_TIMED] += 1
        if succeeded:
            line[_DURATIONS].append(bucket(row["e_ms"]))
    if ttft := get("e_ttft"):  # 0: no byte came
        line[_TTFT] += ttft
        line[_FIRST_TOKENS] += 1
        if succeeded:
            line[_FIRST_BYTES].append(bucket(ttft))


def _close_orphan(row: Mapping[str, Any], sums: _Sums, user: str) -> None:
    sums.orphans += 1
    line = sums.of(_dimensions(row, user))
    line[_REQUESTS] += 1
    line[_ESTIMATED] += 1
    line[_INPUT] += int(row.get("s_prompt", 0))


def _count_refusals(row: Mapping[str, Any], sums: _Sums) -> None:
    sums.halves += 1
    for refused, count in refusals.sums_of(row):
        line = Dimensions(
            key=refused.key or NOBODY,
            model=refused.model or NOBODY,
            backend=NOBODY,
            region=NOBODY,
            role=REFUSED,
            team=refused.team or NOBODY,
            product=refused.product or NOBODY,
            code=refused.code,
        )
        sums.of(msgspec.structs.astuple(line))[_REFUSED] += count


def _dimensions(row: Mapping[str, Any], user: str) -> tuple[str, ...]:
    """The names of the line that a row is added to, in the order of `Dimensions`."""
    get = row.get
    model = get("e_model") or get("s_model") or NOBODY  # "": the call names no model, as one about a file
    return (
        get("s_key", NOBODY),
        model,
        get("e_backend", NOBODY),
        get("e_region", NOBODY),
        get("e_deployment", NOBODY),
        get("e_served", NOBODY),
        get("e_tier", "default"),
        get("e_role", "served"),
        get("s_team", NOBODY),
        get("s_product", NOBODY),
        get("s_system", NOBODY),
        "long" if _is_long(row) else "short",
        NOBODY,
        user,
    )
