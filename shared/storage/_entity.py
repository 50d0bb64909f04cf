"""The wire of rows: their addresses, their JSON with the types that JSON does not tell, and pages of them. No I/O.

Source: "Payload format for Table service operations" and "Query timeout and pagination", learn.microsoft.com.
"""

from collections.abc import Mapping
from urllib.parse import quote

import msgspec

from shared.storage import Properties, Row, Value

_ANNOTATION = "@odata.type"
_type_of: dict[str, str] = {}  # property name -> the name of its annotation
_encode = msgspec.json.Encoder().encode


class _Page(msgspec.Struct):
    value: list[dict[str, Value]]


_decode_row = msgspec.json.Decoder(dict[str, Value]).decode
_decode_page = msgspec.json.Decoder(_Page).decode


def encode(partition: str, key: str, properties: Properties) -> bytes:
    """A row's JSON. Numbers carry their types where they need to: the service takes an integer for 32 bits, and 5.0 for
    one.

    JSON may hold U+2028 and U+2029 as they are, but Azurite takes them for ends of lines and loses the row."""
    entity: dict[str, Value] = {"PartitionKey": partition, "RowKey": key, **properties}
    for name, value in properties.items():
        kind = type(value)
        if kind is float:
            entity[_annotation(name)] = "Edm.Double"
        elif kind is int and not -(2**31) <= value < 2**31:  # type: ignore[operator]
            entity[_annotation(name)] = "Edm.Int64"
            entity[name] = str(value)
    body = _encode(entity)
    if b"\xe2\x80" in body:
        body = body.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return body


def decode(body: bytes) -> Row:
    """The row in an answer. Raises `msgspec.MsgspecError`, `ValueError` or `KeyError` over a foreign body."""
    return _row(_decode_row(body))


def decode_page(body: bytes) -> list[Row]:
    """The rows of a query's page, in the service's order. Raises as `decode`."""
    return [_row(entity) for entity in _decode_page(body).value]


def address(partition: str, key: str) -> str:
    """What follows a table's path to name one of its rows."""
    return f"(PartitionKey='{escape_key(partition)}',RowKey='{escape_key(key)}')"


def escape_key(key: str) -> str:
    """A key as it stands between the quotes of an entity's address."""
    return key if key.isalnum() and key.isascii() else quote(key.replace("'", "''"), safe="")


def query(condition: str, most: int, following: Mapping[str, str]) -> str:
    """A query's parameters. `following`: what the last page told of the next one (`next_page`)."""
    more = "".join(f"&{name}={quote(value, safe='')}" for name, value in following.items())
    return f"$filter={quote(condition, safe='')}&$top={most}{more}"


def next_page(headers: Mapping[str, str]) -> dict[str, str]:
    """The parameters that ask for the page behind this one; empty behind the last."""
    told = {name: headers.get(f"x-ms-continuation-{name}") for name in ("NextPartitionKey", "NextRowKey")}
    return {name: value for name, value in told.items() if value}


def _row(entity: dict[str, Value]) -> Row:
    partition, key, etag = entity.pop("PartitionKey"), entity.pop("RowKey"), entity.pop("odata.etag")
    entity.pop("Timestamp", None)
    for name in [name for name in entity if "." in name]:  # odata.metadata, and the types of properties
        kind, of = entity.pop(name), name.removesuffix(_ANNOTATION)
        if of in entity:
            entity[of] = _typed(kind, entity[of])
    return Row(str(partition), str(key), entity, str(etag))


def _typed(kind: Value, value: Value) -> Value:
    """Dates and the like, written by other hands, stay text."""
    if kind == "Edm.Int64":
        return int(value)
    return float(value) if kind == "Edm.Double" else value


def _annotation(name: str) -> str:
    annotation = _type_of.get(name)
    if annotation is None:
        annotation = name + _ANNOTATION
        if len(_type_of) < 10_000:
            _type_of[name] = annotation
    return annotation
