"""Folds one hour's raw rows into sums."""

from array import array
from collections.abc import Mapping
from typing import Any

from shared.token_classes import TOKEN_CLASSES, UNITS
from shared.types import BATCH, LONG_CONTEXT
from shared.usage import aggregates, durations
from shared.usage.aggregates import NOBODY, Counts, Dimensions, Fold
from shared.usage.durations import bucket

GRACE = 600  # seconds, longer than any call, after which an intent without an end is closed as an estimate
_MOST_LINES = 50_000  # of an hour while it is folded: callers choose names, which must not fill the memory

# A line is a list of sums, because that is the fastest to add to: `_FIELDS` gives the places of the fields of `Counts`.
_FIELDS = {field: place for place, field in enumerate(Counts.__struct_fields__)}
_REQUESTS, _ENDS, _ESTIMATED, _ERRORS, _HUNG_UP, _CHARGES, _ATTEMPTS = (
    _FIELDS[field] for field in ("requests", "ends", "estimated", "errors", "hung_up", "charges", "attempts")
)
_INPUT, _OUTPUT, _SOUND_MS, _MS, _TIMED, _TTFT, _FIRST_TOKENS = (
    _FIELDS[field] for field in ("input_tokens", "output_tokens", "sound_ms", "ms", "timed", "ttft", "first_tokens")
)
_DURATIONS, _FIRST_BYTES = _FIELDS["durations"], _FIELDS["first_bytes"]  # as arrays of buckets, two bytes per call
_CHOSEN, _MODELS = (  # the places of names that callers choose, and of those that backends may
    tuple(map(Dimensions.__struct_fields__.index, names)) for names in (("product", "system"), ("model", "served"))
)
_OPTIONAL = tuple(  # properties of a row that are added as they are, where the row has them
    (row, _FIELDS[field])
    for row, field in (
        *((tokens.row, field) for field, tokens in TOKEN_CLASSES.items() if tokens.part_of),
        *((unit.row, field) for field, unit in UNITS.items() if field in _FIELDS),
    )
)


def _is_sum(row: Mapping[str, Any]) -> bool:
    """True for the usage of many calls. Older rows of batches have their tier alone."""
    return row.get("e_tier") == BATCH or "e_sum" in row


class HourFold:
    """A fold of raw rows: `add` each, then `result`."""

    def __init__(self, now: float) -> None:
        self._closing = now - GRACE
        self._lines: dict[tuple[str, ...], list[Any]] = {}
        self._halves = 0
        self._orphans = 0
        self.rows = 0

    def add(self, row: Mapping[str, Any]) -> None:
        get = row.get
        started = "s_key" in row
        self.rows += 1
        if "e_status" not in row:
            if started:
                self._halves += 1
                if float(get("s_ts", 0.0)) < self._closing:
                    self._close_orphan(row)
            return
        self._halves += 1 + started + ("e_counted" in row)
        line = self._line(row)
        if "e_role" in row:
            line[_CHARGES] += 1
        else:
            self._count_call(row, line)
        if get("e_est"):
            line[_ESTIMATED] += 1
        line[_INPUT] += get("e_input", 0)
        line[_OUTPUT] += get("e_output", 0)
        for name, place in _OPTIONAL:
            if name in row:
                line[place] += row[name]
        if "e_seconds" in row:
            line[_SOUND_MS] += round(row["e_seconds"] * 1000)  # a sum of integers is the same in any order

    @staticmethod
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

    def _close_orphan(self, row: Mapping[str, Any]) -> None:
        self._orphans += 1
        line = self._line(row)
        line[_REQUESTS] += 1
        line[_ESTIMATED] += 1
        line[_INPUT] += int(row.get("s_prompt", 0))

    def _line(self, row: Mapping[str, Any]) -> list[Any]:
        """Return the sums that a row is added to. The names are in the order of `Dimensions`."""
        get = row.get
        model = get("e_model") or get("s_model") or NOBODY  # "": the call names no model, as one about a file
        dimensions: tuple[str, ...] = (
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
            "long" if get("e_input", 0) > LONG_CONTEXT and not _is_sum(row) else "short",
        )
        line = self._lines.get(dimensions)
        if line is None and len(self._lines) >= _MOST_LINES:
            replaced = _CHOSEN if len(self._lines) < 2 * _MOST_LINES else (*_CHOSEN, *_MODELS)
            dimensions = tuple(aggregates.OTHERS if i in replaced else name for i, name in enumerate(dimensions))
            line = self._lines.get(dimensions)
        if line is None:
            line = self._lines[dimensions] = [0] * len(Counts.__struct_fields__)
            line[_DURATIONS], line[_FIRST_BYTES] = array("H"), array("H")
        return line

    def result(self) -> Fold:
        lines = {Dimensions(*key): _counts(line) for key, line in self._lines.items()}
        return Fold((self._halves, self._orphans), aggregates.bounded(lines))


def _counts(line: list[Any]) -> Counts:
    fields = list(line)
    for place in (_DURATIONS, _FIRST_BYTES):
        fields[place] = durations.of_buckets(line[place])
    return Counts(*fields)
