"""The fold of raw usage rows that are all in memory."""

from collections.abc import Iterable, Mapping
from typing import Any

from shared.usage._hour_fold import HourFold
from shared.usage.folds import Fold


def fold_rows(rows: Iterable[Mapping[str, Any]], now: float) -> Fold:
    """Fold one hour's raw rows. `now` is the time by the store's clock."""
    fold = HourFold(now)
    for row in rows:
        fold.add(row)
    return fold.result()
