"""The rows of the table `limits`: read, decoded, and written under their ETags."""

import logging
import math
from collections.abc import Callable

import msgspec

from shared.limits._amounts import DIMENSIONS
from shared.limits._safe_mode import Reach
from shared.limits._token_bucket import BucketState, Level
from shared.limits.scopes import for_log
from shared.storage import Properties, Table, Value

logger = logging.getLogger("tollgate.limits")

_COLUMNS = ("level", "out", "before", "used", "since", "told")  # the fields of `Level`, behind a dimension's name


class LimitsTable:
    """The table, shared by all limits of a process. `now`: the table's clock, in seconds since 1970; `reach`: records
    whether the table answers."""

    def __init__(self, table: Table, now: Callable[[], float]) -> None:
        self.now = now
        self.reach = Reach()
        self._table = table

    async def read(self, partition: str, key: str) -> tuple[BucketState | None, str | None]:
        """The state and the ETag of a row. Raises `StoreUnavailable`."""
        stored = await self._table.get(partition, key)
        self.reach.hear(self.now())
        if stored is None:
            return None, None
        try:
            return from_properties(stored.properties), stored.etag
        except ValueError as error:
            logger.error("resetting the limit row %s/%s: it is unreadable (%s)", for_log(partition), key, error)
            return None, stored.etag

    async def write(self, partition: str, key: str, state: BucketState, etag: str | None) -> str | None:
        """Write the row if it still has this ETag (None: if there is no row). Return the new ETag, or None if another
        writer was first. Raises `StoreUnavailable`; the row may be written all the same."""
        started = self.now()
        written = await self._table.put(partition, key, to_properties(state), etag)
        if written is not None:
            self.reach.hear(started)
        return written


def to_properties(row: BucketState) -> dict[str, Value]:
    """The properties of a row. What is not limited is left out, since a table knows no infinity."""
    properties: dict[str, Value] = {
        "time": row.time,
        "epoch": row.epoch,
        "lessees": ",".join(row.writers),
        "lessees_before": ",".join(row.writers_before),
        "expected_output": row.expected_output,
    }
    for name, level in zip(DIMENSIONS, row.levels, strict=True):
        stored = zip(_COLUMNS, msgspec.structs.astuple(level), strict=True) if level is not None else ()
        properties |= {f"{name}_{column}": value for column, value in stored if math.isfinite(value)}
    return properties


def from_properties(properties: Properties) -> BucketState:
    """The row with these properties. Raises `ValueError` if they are not a limit's."""

    def number(name: str, missing: float = 0.0) -> float:
        value = float(properties.get(name, missing))
        if math.isnan(value):
            raise ValueError(f"{name} is not a number")
        return value

    levels = tuple(
        Level(
            number(f"{name}_level", math.inf),
            number(f"{name}_out"),
            number(f"{name}_before"),
            number(f"{name}_used"),
            number(f"{name}_since"),
            int(number(f"{name}_told")),
        )
        if f"{name}_out" in properties
        else None
        for name in DIMENSIONS
    )
    if "time" not in properties or "epoch" not in properties:
        raise ValueError("it has no time")
    return BucketState(
        levels,
        number("time"),
        int(number("epoch")),
        _nonces(properties.get("lessees")),
        _nonces(properties.get("lessees_before")),
        number("expected_output"),
    )


def _nonces(text: object) -> tuple[str, ...]:
    return tuple(str(text).split(",")) if text else ()
