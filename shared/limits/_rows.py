"""The row of a limit as the table holds it."""

import math

from shared.limits._token_bucket import DIMENSIONS, BucketState, Level
from shared.storage import Properties, Value


def to_properties(row: BucketState) -> dict[str, Value]:
    """The row as the table holds it. What is not limited is left out, since a table knows no infinity."""
    properties: dict[str, Value] = {
        "time": row.time,
        "epoch": row.epoch,
        "lessees": ",".join(row.lessees),
        "lessees_before": ",".join(row.lessees_before),
        "expected_output": row.expected_output,
    }
    for name, level in zip(DIMENSIONS, row.levels, strict=True):
        if level is None:
            continue
        if math.isfinite(level.level):
            properties[f"{name}_level"] = level.level
        properties[f"{name}_out"] = level.out
        properties[f"{name}_before"] = level.before
        properties[f"{name}_used"] = level.used
        properties[f"{name}_since"] = level.since
        properties[f"{name}_told"] = level.told
    return properties


def from_properties(properties: Properties) -> BucketState:
    """The row in a table's properties. Raises `ValueError` on what is none."""

    def number(name: str, missing: float = 0.0) -> float:
        value = float(properties.get(name, missing))
        if math.isnan(value):
            raise ValueError(f"{name} is no number")
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
