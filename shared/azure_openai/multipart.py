"""Finds short fields and their positions in a multipart body while it passes; nothing is rebuilt. No I/O.

Source: RFC 7578 (multipart/form-data) and RFC 2046, section 5.1.1.
"""

import re

import msgspec

from shared.errors import InvalidRequest

_MAX_HEAD = 16_384  # bytes of a part's headers
_MAX_VALUE = 1024  # bytes of a required field
_MAX_PARTS = 1000
_BOUNDARY = re.compile(r'multipart/form-data\s*;(?:.*;)?\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.I)
_NAME = re.compile(rb'(?<![a-z*])name\s*=\s*(?:"([^"\r\n]*)"|([^\s;"\r\n]+))', re.I)
_NAMES = re.compile(rb"(?<![a-z])name\*?\s*=", re.I)


class Field(msgspec.Struct, frozen=True):
    """A field's value, and its position in the body, in bytes."""

    value: bytes
    start: int


def boundary(content_type: str) -> bytes:
    """The boundary between the parts of the body. Raises `InvalidRequest`."""
    match = _BOUNDARY.match(content_type.strip())
    if match is None:
        raise InvalidRequest("The content-type is wrong: expected multipart/form-data with a boundary.")
    return (match[1] or match[2]).encode("latin-1")


class FormFields:
    """Reads one body. `values`: the required and noted fields so far, by name."""

    def __init__(
        self,
        parting: bytes,
        required: frozenset[bytes],
        longest: int = _MAX_VALUE,
        noted: frozenset[bytes] = frozenset(),
    ) -> None:
        """`longest`: bytes that a required value may have. `noted`: fields that are read as well, but for which no
        body is rejected: of several the first counts, and one that is too long is ignored."""
        self.values: dict[bytes, Field] = {}
        self.closed = False  # the last part has ended
        self._delimiter = b"\r\n--" + parting
        self._required = required
        self._noted = noted
        self._longest = longest
        self._buffer = b"\r\n"  # the first delimiter has no line end before it
        self._base = -2  # position of the buffer in the body
        self._parts = 0
        self._in_head = False
        self._field = b""  # the field whose value is being read

    def feed(self, chunk: bytes) -> None:
        """Read the next piece. Raises `InvalidRequest` if two readers may read the body differently."""
        if self.closed:
            return
        self._buffer = self._buffer + chunk if self._buffer else chunk
        while self._step():
            pass

    def _step(self) -> bool:
        """Read one delimiter, head or value. Returns True if the buffer may hold another."""
        if self._in_head:
            return self._head()
        at = self._buffer.find(self._delimiter)
        if self._field and (at if at >= 0 else len(self._buffer)) > self._longest:
            if self._field in self._required:
                raise InvalidRequest(
                    f"The field `{self._field.decode()}` is too long: expected at most {self._longest} bytes.",
                    param=self._field.decode(),
                )
            self._field = b""
        if at < 0 or len(self._buffer) < at + len(self._delimiter) + 2:
            if not self._field:
                self._drop(max(0, (at if at >= 0 else len(self._buffer) - len(self._delimiter))))
            return False
        if self._field:
            self.values[self._field] = Field(self._buffer[:at], self._base)
            self._field = b""
        self._drop(at + len(self._delimiter))
        self._parts += 1
        if self._parts > _MAX_PARTS:  # each takes time, however short it is
            raise InvalidRequest(f"The multipart body has more than {_MAX_PARTS} parts.")
        self.closed = self._buffer.startswith(b"--")
        self._in_head = not self.closed
        return not self.closed

    def _head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end > _MAX_HEAD or (end < 0 and len(self._buffer) > _MAX_HEAD):
            raise InvalidRequest(f"A part of the multipart body has headers of more than {_MAX_HEAD} bytes.")
        if end < 0:
            return False
        head = self._buffer[:end]
        self._drop(end + 4)
        self._in_head = False
        names = _NAME.findall(head)
        name = (names[0][0] or names[0][1]) if names else b""
        if any(field in head for field in self._required) and (len(_NAMES.findall(head)) != 1 or b"\\" in name):
            raise InvalidRequest(
                "A part of the multipart body has an ambiguous name: expected one `name`, without escapes."
            )
        if name in self._required:
            if name in self.values:
                raise InvalidRequest(
                    f"The field `{name.decode()}` appears twice in the body: expected it once.", param=name.decode()
                )
            self._field = name
        elif name in self._noted and name not in self.values:
            self._field = name
        return True

    def _drop(self, count: int) -> None:
        self._buffer = self._buffer[count:]
        self._base += count
