"""Wire format of rows: addresses, typed JSON, queries and pages. No I/O.

Source: "Payload format for Table service operations" and "Query timeout and pagination", learn.microsoft.com.
"""

import json
from collections.abc import Mapping
from urllib.parse import quote

import msgspec

from shared.storage import Properties, Row, Value

_ANNOTATION = "@odata.type"
_CONTINUATION = ("NextPartitionKey", "NextRowKey")
_encode = msgspec.json.Encoder().encode


class _Page(msgspec.Struct):
    value: list[dict[str, Value]]


_decode_row = msgspec.json.Decoder(dict[str, Value]).decode
_decode_page = msgspec.json.Decoder(_Page).decode


def encode(partition: str, key: str, properties: Properties) -> bytes:
    """Encode a row as JSON, with type annotations for floats and long integers: without them, the service reads
    integers as 32 bits, and 5.0 as an integer. All but ASCII is escaped: Azurite decodes a body piece by piece, which
    breaks a character between two pieces, and takes U+2028 for the end of a line."""
    entity: dict[str, Value] = {"PartitionKey": partition, "RowKey": key, **properties}
    for name, value in properties.items():
        kind = type(value)
        if kind is float:
            entity[name + _ANNOTATION] = "Edm.Double"
        elif kind is int and not -(2**31) <= value < 2**31:  # type: ignore[operator]
            entity[name + _ANNOTATION] = "Edm.Int64"
            entity[name] = str(value)
    body = _encode(entity)
    return body if body.isascii() else json.dumps(entity, separators=(",", ":")).encode()


def decode(body: bytes) -> Row:
    """Decode the row in an answer. Raises `msgspec.MsgspecError`, `ValueError` or `KeyError`, as all decoders here."""
    return _row(_decode_row(body))


def decode_page(body: bytes) -> list[Row]:
    return [_row(entity) for entity in _decode_page(body).value]


def address(partition: str, key: str) -> str:
    """The address of a row, to be appended to the path of its table."""
    return f"(PartitionKey='{escape_key(partition)}',RowKey='{escape_key(key)}')"


def escape_key(key: str) -> str:
    """A key, escaped for the quotes of an address."""
    return key if key.isalnum() and key.isascii() else quote(key.replace("'", "''"), safe="")


def query(condition: str, most: int, following: Mapping[str, str]) -> str:
    """Parameters of a query. `following`: the result of `next_page` for the previous page."""
    more = "".join(f"&{name}={quote(value, safe='')}" for name, value in following.items())
    return f"$filter={quote(condition, safe='')}&$top={most}{more}"


def next_page(headers: Mapping[str, str]) -> dict[str, str] | None:
    """Parameters that request the next page, None after the last."""
    tokens = {name: headers.get(f"x-ms-continuation-{name}") for name in _CONTINUATION}
    return {name: token for name, token in tokens.items() if token} or None


def _row(entity: dict[str, Value]) -> Row:
    partition, key, etag = entity.pop("PartitionKey"), entity.pop("RowKey"), entity.pop("odata.etag")
    entity.pop("Timestamp", None)
    for name in [name for name in entity if "." in name]:  # odata.metadata, and the types of properties
        kind, of = entity.pop(name), name.removesuffix(_ANNOTATION)
        if of in entity and kind in ("Edm.Int64", "Edm.Double"):  # other types, such as dates, stay text
            entity[of] = int(entity[of]) if kind == "Edm.Int64" else float(entity[of])
    return Row(str(partition), str(key), entity, str(etag))
