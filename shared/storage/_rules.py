"""What Table Storage accepts as names, keys and values, refused here with `ValueError` before any I/O.

Both stores check by these rules: Azurite is laxer than Azure in some (300 properties) and clumsier in others
(500 to a `/` in a key, no readable answer to 101 rows), so the emulator cannot be what finds a mistake.
Source: "Understanding the Table service data model", learn.microsoft.com.
"""

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
_known_names: set[str] = set()


def check_table_name(name: str) -> None:
    """Lower case only: Azure's table names are case-insensitive, and two spellings of one table would be a trap."""
    if not _TABLE_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no table name: 3 to 63 lower case letters and digits, a letter first")


def check_key(key: str) -> None:
    if not key or utf16_units(key) > MAX_KEY or _FORBIDDEN_IN_KEY.search(key):
        raise ValueError(
            f"{key[:80]!r} is no row's key: 1 to {MAX_KEY} characters without / \\ # ? and control characters"
        )


def check_properties(properties: Properties) -> None:
    if len(properties) > MAX_PROPERTIES:
        raise ValueError(f"{len(properties)} properties in one row; Table Storage holds {MAX_PROPERTIES}")
    long_text = False
    for name, value in properties.items():
        kind = type(value)
        if kind is str:
            assert isinstance(value, str)
            if len(value) > 1024:
                long_text = True
                if utf16_units(value) > MAX_TEXT:
                    raise ValueError(f"the text of {name} is longer than {MAX_TEXT} characters")
            elif not value.isascii():
                utf16_units(value)
        elif kind is int:
            if not -(2**63) <= value < 2**63:  # type: ignore[operator]
                raise ValueError(f"{name} = {value} does not fit into 64 bits")
        elif kind is float:
            if not math.isfinite(value):  # type: ignore[arg-type]
                raise ValueError(f"{name} = {value} is no number that a table can hold")
        elif kind is not bool:
            raise ValueError(f"{name} is a {kind.__name__}; a table holds text, numbers and booleans")
        if name not in _known_names:
            _check_property_name(name)
    if long_text and _stored_size(properties) > MAX_ROW:
        raise ValueError("the row is larger than 1 MiB")


def check_rows(partition: str, rows: Mapping[str, Properties]) -> None:
    if len(rows) > MAX_BATCH:
        raise ValueError(f"{len(rows)} rows in one transaction; Table Storage takes {MAX_BATCH}")
    check_key(partition)
    for key, properties in rows.items():
        check_key(key)
        check_properties(properties)


def utf16_units(text: str) -> int:
    """The length that Table Storage counts. A lone surrogate, which no encoding can send, is a `ValueError`."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2


def _check_property_name(name: str) -> None:
    if not _PROPERTY_NAME.fullmatch(name) or name in _SYSTEM_PROPERTIES:
        raise ValueError(f"{name[:80]!r} is no property name: letters, digits and _, and not one of the system's own")
    if len(_known_names) < 10_000:
        _known_names.add(name)


def _stored_size(properties: Properties) -> int:
    """Bytes as Azure counts them, the keys at their longest."""
    return 4 * MAX_KEY + sum(
        8 + 2 * len(name) + (4 + 2 * utf16_units(value) if isinstance(value, str) else 8)
        for name, value in properties.items()
    )
