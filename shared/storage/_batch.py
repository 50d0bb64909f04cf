"""Wire format of a Table Storage transaction: encodes rows as one `$batch` of merges, and decodes its answer.

Source: "Performing entity group transactions" and "Insert Or Merge Entity", learn.microsoft.com. No I/O.
"""

import re
from collections.abc import Mapping

import msgspec

from shared.storage import Properties, _entity
from shared.storage._rules import MAX_TRANSACTION

CONTENT_TYPE = "multipart/mixed; boundary=batch_tollgate"

_HEAD = b"--batch_tollgate\r\nContent-Type: multipart/mixed; boundary=changeset_tollgate\r\n\r\n"
_TAIL = b"--changeset_tollgate--\r\n--batch_tollgate--\r\n"
_ROW = (
    "--changeset_tollgate\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    "MERGE {target}(PartitionKey='{partition}',RowKey='"
)
_ROW_END = (
    b"') HTTP/1.1\r\nContent-Type: application/json\r\nAccept: application/json\r\nDataServiceVersion: 3.0\r\n\r\n"
)

_STATUS = re.compile(rb"^HTTP/1\.\d (\d{3})", re.MULTILINE)
_CODE = re.compile(rb'"code"\s*:\s*"(\w{1,80})"')


class BatchError(msgspec.Struct, frozen=True):
    """The error of a transaction that was not executed. `code` is Azure's error code, or empty."""

    status: int
    code: str


def encode(target: str, partition: str, rows: Mapping[str, Properties]) -> bytes:
    """Encode a transaction that merges `rows`, already checked by `_rules`. `target` is the table's URL."""
    row_head = _ROW.format(target=target, partition=_entity.escape_key(partition)).encode()
    parts = [_HEAD]
    for key, properties in rows.items():
        parts += (row_head, _entity.escape_key(key).encode(), _ROW_END)
        parts += (_entity.encode(partition, key, properties), b"\r\n")
    body = b"".join((*parts, _TAIL))
    if len(body) > MAX_TRANSACTION:
        raise ValueError(f"the transaction has {len(body)} bytes; Table Storage allows {MAX_TRANSACTION}")
    return body


def error_in(status: int, body: bytes, rows: int) -> BatchError | None:
    """The error, None if all `rows` were written. A rejected transaction has status 202, too, and one error part."""
    if status != 202:
        return BatchError(status, code(body))
    statuses = [int(digits) for digits in _STATUS.findall(body)]
    for part in statuses:
        if not 200 <= part < 300:
            return BatchError(part, code(body))
    return None if len(statuses) == rows else BatchError(0, "")


def code(body: bytes) -> str:
    """Azure's error code in the body of an answer, or ""."""
    match = _CODE.search(body)
    return match[1].decode() if match else ""
