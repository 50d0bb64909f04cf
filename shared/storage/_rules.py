"""Table Storage's rules for names, keys and values, checked before any I/O (`ValueError`).

Both stores check them, because Azurite does not find all mistakes: it accepts 300 properties, answers 500 to a `/` in a
key, and has no readable answer to 101 rows.
Source: "Understanding the Table service data model", learn.microsoft.com.
"""

import functools
import math
import re
from collections.abc import Mapping

from shared.storage import MAX_BATCH, Properties

MAX_KEY = 512  # UTF-16 units: 1 KiB
MAX_TEXT = 32 * 1024  # UTF-16 units: 64 KiB
MAX_PROPERTIES = 252  # 255 with both keys and the timestamp
MAX_ROW = 1024 * 1024
MAX_TRANSACTION = 4 * 1024 * 1024

_TABLE_NAME = re.compile(r"[a-z][a-z0-9]{2,62}")
_PROPERTY_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_FORBIDDEN_IN_KEY = re.compile(r"[/\\#?\x00-\x1f\x7f-\x9f]")
_SYSTEM_PROPERTIES = frozenset(("PartitionKey", "RowKey", "Timestamp"))


def check_table_name(name: str) -> None:
    """Raise `ValueError` unless the name is valid. Lower case only, because Azure ignores the case of table names."""
    if not _TABLE_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a table name: expected a lower case letter, then 2 to 62 letters or digits")


def check_key(key: str) -> None:
    if not key or utf16_units(key) > MAX_KEY or _FORBIDDEN_IN_KEY.search(key):
        raise ValueError(
            f"{key[:80]!r} is not a key: expected 1 to {MAX_KEY} characters without / \\ # ? and control characters"
        )


def check_properties(properties: Properties) -> None:
    if len(properties) > MAX_PROPERTIES:
        raise ValueError(f"the row has {len(properties)} properties; Table Storage allows {MAX_PROPERTIES}")
    long_text = False
    for name, value in properties.items():
        kind = type(value)
        if kind is str:
            units = len(value) if value.isascii() else utf16_units(value)  # type: ignore[arg-type, union-attr]
            if units > MAX_TEXT:
                raise ValueError(f"{name} is longer than {MAX_TEXT} characters")
            long_text |= units > 1024
        elif kind is int:
            if not -(2**63) <= value < 2**63:  # type: ignore[operator]
                raise ValueError(f"{name} = {value} does not fit into 64 bits")
        elif kind is float:
            if not math.isfinite(value):  # type: ignore[arg-type]
                raise ValueError(f"{name} = {value} is not a finite number")
        elif kind is not bool:
            raise ValueError(f"{name} is a {kind.__name__}; expected text, a number or a boolean")
        _check_property_name(name)
    if long_text and _stored_size(properties) > MAX_ROW:
        raise ValueError("the row is larger than 1 MiB")


def check_rows(partition: str, rows: Mapping[str, Properties]) -> None:
    if len(rows) > MAX_BATCH:
        raise ValueError(f"the transaction has {len(rows)} rows; Table Storage allows {MAX_BATCH}")
    check_key(partition)
    for key, properties in rows.items():
        check_key(key)
        check_properties(properties)


def utf16_units(text: str) -> int:
    """The length as Table Storage counts it. Raises `ValueError` for a lone surrogate, which cannot be encoded."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2


@functools.lru_cache(10_000)
def _check_property_name(name: str) -> None:
    if not _PROPERTY_NAME.fullmatch(name) or name in _SYSTEM_PROPERTIES:
        raise ValueError(f"{name[:80]!r} is not a property name: expected letters, digits and _, no reserved name")


def _stored_size(properties: Properties) -> int:
    """Bytes as Azure counts them, with keys of the maximum length."""
    return 4 * MAX_KEY + sum(
        8 + 2 * len(name) + (4 + 2 * utf16_units(value) if isinstance(value, str) else 8)
        for name, value in properties.items()
    )
