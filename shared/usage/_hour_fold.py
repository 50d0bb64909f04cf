"""Folds one hour's raw rows into sums."""

from collections.abc import Iterable, Mapping
from typing import Any

from shared.types import LONG_CONTEXT
from shared.usage import aggregates
from shared.usage.aggregates import Counts, Dimensions, Fold

GRACE = 600  # seconds after which an intent without an end is closed as an estimate: longer than any call


_MOST_LINES = 50_000  # of an hour while it is folded: what names callers make up must not fill the memory


NOBODY = "-"  # the backend and region of a call that reached none; the consumer of an end whose start is missing


# What is added up as it stands in a row, where it does.
_SUMS = tuple(
    (name, Counts.__struct_fields__.index(field))
    for name, field in (
        ("e_cached", "cached_input_tokens"),
        ("e_reasoning", "reasoning_tokens"),
        ("e_audio_in", "audio_input_tokens"),
        ("e_image_in", "image_input_tokens"),
        ("e_audio_out", "audio_output_tokens"),
        ("e_image_out", "image_output_tokens"),
        ("e_accepted", "accepted_prediction_tokens"),
        ("e_rejected", "rejected_prediction_tokens"),
        ("e_images", "images"),
        ("e_chars", "characters"),
    )
)

SOUND, HUNG_UP, CHARGES = map(Counts.__struct_fields__.index, ("sound_ms", "hung_up", "charges"))


class HourFold:
    """Folds raw rows one by one: `add` each, then `result`."""

    def __init__(self, now: float) -> None:
        self._closing = now - GRACE
        self._lines: dict[tuple[str, ...], list[int]] = {}
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
        self._halves += 1 + started
        line = self._line(row)
        if "e_role" in row:
            line[CHARGES] += 1
        else:
            self._count_call(row, line)
        if get("e_est"):
            line[2] += 1
        line[4] += get("e_input", 0)
        line[5] += get("e_output", 0)
        for name, place in _SUMS:
            if name in row:
                line[place] += row[name]
        if "e_seconds" in row:
            line[SOUND] += round(row["e_seconds"] * 1000)  # a sum of integers is the same in any order

    @staticmethod
    def _count_call(row: Mapping[str, Any], line: list[int]) -> None:
        get = row.get
        line[0] += 1
        line[1] += 1
        if get("e_ended") == "hung_up":
            line[HUNG_UP] += 1
        elif row["e_status"] >= 400:
            line[3] += 1
        line[8] += get("e_attempts", 0)
        if "e_ms" in row:
            line[9] += row["e_ms"]
            line[10] += 1
        if ttft := get("e_ttft"):  # 0 when no byte came
            line[11] += ttft
            line[12] += 1

    def _close_orphan(self, row: Mapping[str, Any]) -> None:
        self._orphans += 1
        line = self._line(row)
        line[0] += 1
        line[2] += 1
        line[4] += int(row.get("s_prompt", 0))

    def _line(self, row: Mapping[str, Any]) -> list[int]:
        """The counts that a row belongs to; the order of the names is that of `Dimensions`."""
        get = row.get
        model = get("e_model") or get("s_model") or NOBODY  # "" of calls that name none, as those about a file
        dimensions = (
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
            "long" if get("e_input", 0) > LONG_CONTEXT else "short",
        )
        line = self._lines.get(dimensions)
        if line is None and len(self._lines) >= _MOST_LINES:
            dimensions = (*dimensions[:-3], aggregates.OTHERS, aggregates.OTHERS, dimensions[-1])
            line = self._lines.get(dimensions)
        if line is None:
            line = self._lines[dimensions] = [0] * len(Counts.__struct_fields__)
        return line

    def result(self) -> Fold:
        lines = {Dimensions(*key): Counts(*line) for key, line in self._lines.items()}
        return Fold((self._halves, self._orphans), aggregates.bounded(lines))


def fold_rows(rows: Iterable[Mapping[str, Any]], now: float) -> Fold:
    """The fold of one hour's raw rows, `now` by the store's clock."""
    fold = HourFold(now)
    for row in rows:
        fold.add(row)
    return fold.result()
