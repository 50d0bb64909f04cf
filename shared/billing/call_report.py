"""Describes single calls from their usage rows: who, what, when, where, the tries, the tokens and the cost."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from shared import ulid
from shared.billing.charges import Tariff
from shared.billing.cost import USD
from shared.storage import Row
from shared.token_classes import TOKEN_CLASSES, UNITS
from shared.usage import calls, hours
from shared.usage.calls import CallRows

_TRY = ("backend", "model", "deployment", "role", "status", "problem", "ms")
_COLUMNS = {  # name -> property of the row, in the order of the description
    "operation": "s_op",
    "system": "s_system",
    "user": "s_user",
    "backend": "e_backend",
    "region": "e_region",
    "deployment": "e_deployment",
    "served_by": "e_model",
    "served": "e_served",
    "tier": "e_tier",
    "attempts": "e_attempts",
    "first_byte_ms": "e_ttft",
    "ms": "e_ms",
}
_AMOUNTS = {field: about.row for field, about in (TOKEN_CLASSES | UNITS).items()}


def described(call: CallRows, tariff: Tariff, now: float, names: Mapping[str, str]) -> dict[str, Any]:
    """One call on a line. `names`: of the consumers, by id. Times in RFC 3339, UTC."""
    row = call.own.properties
    # Refused calls have these under other names.
    whose = {name: str(row.get(f"s_{name}", row.get(f"r_{name}", ""))) for name in ("key", "team", "product", "model")}
    about: dict[str, Any] = {"id": call.id, "at": _when(ulid.seconds(call.id)), "consumer": whose["key"]}
    about["name"] = names.get(whose["key"], "")
    about |= {name: whose[name] or None for name in ("team", "product", "model")}
    about |= {name: row.get(column) for name, column in _COLUMNS.items()}
    about |= {"status": row.get("e_status", row.get("r_status")), "ended": calls.state(call.own, now)}
    about |= {"code": row.get("e_code", row.get("r_code")), "message": row.get("r_message")}
    about |= {field: row[column] for field, column in _AMOUNTS.items() if column in row}
    about["estimated"] = bool(row.get("e_est"))
    about["empty"] = bool(row.get("e_empty"))
    about["cost_usd"] = _cost(call.own, tariff, now)
    return about


def in_full(call: CallRows, tariff: Tariff, now: float, names: Mapping[str, str]) -> dict[str, Any]:
    """The same, with the tries in order, and what was charged for tries that did not answer the call."""
    row, about = call.own.properties, described(call, tariff, now, names)
    if "r_call" in row:
        about["call"] = row["r_call"]
    tries = [dict(zip(_TRY, one, strict=True)) for one in msgspec.json.decode(str(row.get("e_tries", "[]")))]
    if not tries and row.get("e_attempts"):  # a single one, which answered
        place = (row.get("e_backend"), row.get("e_model"), row.get("e_deployment"))
        tries = [dict(zip(_TRY, (*place, "try", row.get("e_status"), "", row.get("e_ms")), strict=True))]
    return about | {"tries": tries, "charges": [_charge(charge, tariff, now) for charge in call.charges]}


def _charge(charge: Row, tariff: Tariff, now: float) -> dict[str, Any]:
    row = charge.properties
    about: dict[str, Any] = {"role": row.get("e_role"), "backend": row.get("e_backend"), "model": row.get("e_model")}
    about |= {field: row[column] for field, column in _AMOUNTS.items() if column in row}
    return about | {"estimated": bool(row.get("e_est")), "cost_usd": _cost(charge, tariff, now)}


def _cost(row: Row, tariff: Tariff, now: float) -> float | None:
    """USD; None if it is unknown, or a share of provisioned capacity."""
    hour = hours.from_label(row.partition[:10])
    costs = [tariff.of_call(line, counts, hour) for line, counts in calls.sums(row, now).items()]
    known = [cost for cost in costs if cost is not None]
    return sum(known) / USD if len(known) == len(costs) else None


def _when(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
