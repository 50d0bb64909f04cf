"""Finds short fields in a multipart body while it passes, by their places in it, so that nothing is rebuilt. No I/O.

Source: RFC 7578 (multipart/form-data) and RFC 2046, section 5.1.1.
"""

import re

import msgspec

from shared.errors import InvalidRequest

_MAX_HEAD = 16_384  # bytes of a part's headers
_MAX_VALUE = 1024  # bytes of a field that is looked for
_BOUNDARY = re.compile(r'multipart/form-data\s*;(?:.*;)?\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.I)
_NAME = re.compile(rb'(?<![a-z*])name\s*=\s*(?:"([^"\r\n]*)"|([^\s;"\r\n]+))', re.I)
_NAMES = re.compile(rb"(?<![a-z])name\*?\s*=", re.I)


class Field(msgspec.Struct, frozen=True):
    """A field's value, and where it begins in the body, in bytes."""

    value: bytes
    start: int


def boundary(content_type: str) -> bytes:
    """What parts the body. Raises `InvalidRequest`."""
    found = _BOUNDARY.match(content_type.strip())
    if found is None:
        raise InvalidRequest("The content-type is not multipart/form-data with a boundary, as this operation needs.")
    return (found[1] or found[2]).encode("latin-1")


class FormFields:
    """Follows one body. `found`: the wanted fields that have come so far, by their names."""

    def __init__(
        self, parting: bytes, wanted: frozenset[bytes], longest: int = _MAX_VALUE, noted: frozenset[bytes] = frozenset()
    ) -> None:
        """`longest`: bytes that a wanted value may have. `noted`: fields that are found, too, but on which too little
        depends to refuse a body for them: of several the first counts, and one that is too long is none."""
        self.found: dict[bytes, Field] = {}
        self.closed = False  # the last part has ended
        self._delimiter = b"\r\n--" + parting
        self._wanted = wanted
        self._noted = noted
        self._longest = longest
        self._buffer = b"\r\n"  # the first delimiter stands at the very beginning
        self._base = -2  # where the buffer begins in the body
        self._in_head = False
        self._field = b""  # the wanted field whose value is being read

    def feed(self, chunk: bytes) -> None:
        """The next piece. Raises `InvalidRequest` for what two readers may read differently."""
        if self.closed:
            return
        self._buffer = self._buffer + chunk if self._buffer else chunk
        while self._step():
            pass

    def _step(self) -> bool:
        """Read one delimiter, head or value; whether there may be more."""
        if self._in_head:
            return self._head()
        at = self._buffer.find(self._delimiter)
        if self._field and (at if at >= 0 else len(self._buffer)) > self._longest:
            if self._field in self._wanted:
                raise InvalidRequest(f"The field `{self._field.decode()}` is too long.", param=self._field.decode())
            self._field = b""
        if at < 0 or len(self._buffer) < at + len(self._delimiter) + 2:
            if not self._field:
                self._drop(max(0, (at if at >= 0 else len(self._buffer) - len(self._delimiter))))
            return False
        if self._field:
            self.found[self._field] = Field(self._buffer[:at], self._base)
            self._field = b""
        self._drop(at + len(self._delimiter))
        self.closed = self._buffer.startswith(b"--")
        self._in_head = not self.closed
        return not self.closed

    def _head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end > _MAX_HEAD or (end < 0 and len(self._buffer) > _MAX_HEAD):
            raise InvalidRequest("A part of the multipart body has headers that do not end.")
        if end < 0:
            return False
        head = self._buffer[:end]
        self._drop(end + 4)
        self._in_head = False
        names = _NAME.findall(head)
        name = (names[0][0] or names[0][1]) if names else b""
        if any(wanted in head for wanted in self._wanted) and (len(_NAMES.findall(head)) != 1 or b"\\" in name):
            raise InvalidRequest("A part of the multipart body has an ambiguous name.")
        if name in self._wanted:
            if name in self.found:
                raise InvalidRequest(f"The field `{name.decode()}` stands twice in the body.", param=name.decode())
            self._field = name
        elif name in self._noted and name not in self.found:
            self._field = name
        return True

    def _drop(self, count: int) -> None:
        self._buffer = self._buffer[count:]
        self._base += count
