"""Reads a multipart body while it passes: finds short fields and their positions. No I/O.

Only the canonical form is read, which all readers understand alike; any other is rejected. Sources: RFC 7578
(multipart/form-data) and RFC 2046, section 5.1.1.
"""

import re
from collections.abc import Callable, Iterable

import msgspec

from shared.errors import InvalidRequest

_MAX_HEAD = 16_384  # bytes of a part's headers
_MAX_VALUE = 1024  # bytes of a required field
_MOST_PARTS = 1000
_PARAMETER = r'\s*;\s*([a-z]+)=(?:"([^"\\]*)"|([^\s;"\\]+))'
_CONTENT_TYPE = re.compile(rf"multipart/form-data((?:{_PARAMETER})+)\s*", re.I)
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_TOKEN = re.compile(r"[0-9A-Za-z'+_.-]+")
_LINE = re.compile(rb"([A-Za-z-]+): ?([^\x00-\x1f\x7f]*)")
_HEADERS = frozenset((b"content-disposition", b"content-type", b"content-length", b"content-transfer-encoding"))
_DISPOSITION = re.compile(
    rb'form-data; ?name=(?:"([A-Za-z0-9_.\[\]-]{1,200})"|([A-Za-z0-9_.-]{1,200}))'
    rb'(; ?filename=(?:"[^"\\]*"|[^\s;"\\]+)(?:; ?filename\*=[^\s;"\\]+)?)?'
)
_UNENCODED = frozenset((b"binary", b"8bit", b"7bit"))
_CHARSET = re.compile(rb'charset="?([^\s;"]*)', re.I)
_CHARSETS = frozenset((b"utf-8", b"us-ascii", b"iso-8859-1"))  # in which text of ASCII is the same
_JOINED = re.compile(rb"[\[\].]+")  # a field of a field, or one of a list, in some readers


class Field(msgspec.Struct, frozen=True):
    """A field's value, and its position in the body, in bytes. `part`: the position of the part that holds it."""

    value: bytes
    start: int
    part: int

    @property
    def end(self) -> int:
        """The position of the next part."""
        return self.start + len(self.value) + 2


class FormModel(msgspec.Struct, frozen=True):
    """The value that the field `model` of a form needs. `required`: a form that lacks the field gets it."""

    name: bytes
    required: bool = True


class _Part(msgspec.Struct, frozen=True):
    """The headers of a part. `length`: the bytes of its value, if it says so."""

    name: bytes
    is_file: bool
    charset: bytes
    length: int | None


def boundary(content_type: str) -> bytes:
    """The boundary between the parts of the body. Raises `InvalidRequest`."""
    match = _CONTENT_TYPE.fullmatch(content_type.strip())
    parameters = re.findall(_PARAMETER, match[1], re.I) if match else []
    names = sorted(name.lower() for name, _, _ in parameters)
    value = next((quoted or bare for name, quoted, bare in parameters if name.lower() == "boundary"), "")
    if names not in (["boundary"], ["boundary", "charset"]) or not _BOUNDARY.fullmatch(value):
        raise InvalidRequest("The content-type is wrong: expected multipart/form-data with one boundary.")
    return value.encode()


def content_type(parting: bytes) -> str:
    """The content-type of a body with this boundary."""
    text = parting.decode()
    return (
        f"multipart/form-data; boundary={text}" if _TOKEN.fullmatch(text) else f'multipart/form-data; boundary="{text}"'
    )


class FormFields:
    """Reads one body. `values`: the required and noted fields so far, by name."""

    def __init__(
        self,
        parting: bytes,
        required: Iterable[bytes] = (),
        longest: int = _MAX_VALUE,
        noted: frozenset[bytes] = frozenset(),
    ) -> None:
        """`longest`: bytes that a required value may have. `noted`: fields that are read as well: of several
        the first counts, and one that is too long is ignored."""
        self.values: dict[bytes, Field] = {}
        self.closed = False  # the last part has ended
        self.required = set(required)
        self._noted = noted
        self.watched: dict[bytes, Callable[[bytes], object]] = {}  # receive the values of fields in pieces
        self.files: list[bytes] = []  # the names of files so far
        self._longest = longest
        self._parting = b"--" + parting
        self._buffer = bytearray()
        self._position = 0  # in the buffer, of what is to be read next
        self._base = 0  # position of the buffer in the body
        self._opened = 0  # position of the part in the body
        self._read = self._first
        self._names: dict[bytes, bytes] = {}  # as first written, by their lower case
        self._parts = 0
        self._part = _Part(b"", is_file=False, charset=b"", length=None)
        self._kept = False  # the value is read whole
        self._start = 0  # position of the value in the body

    def feed(self, chunk: bytes) -> None:
        """Read the next piece. Raises `InvalidRequest` if two readers may read the body differently."""
        self._buffer += chunk
        while self._read():
            pass
        del self._buffer[: self._position]
        self._base += self._position
        self._position = 0

    @property
    def settled(self) -> int:
        """The bytes of the body so far that belong to no part whose name is still to come, or whose value is kept."""
        if self.closed:
            return self._base + len(self._buffer)
        return self._opened if self._kept or self._read in (self._first, self._head) else self._base

    def finish(self) -> None:
        """Check the end of the body. Raises `InvalidRequest` if its last part has not ended."""
        if not self.closed or bytes(self._buffer) not in (b"", b"\r\n"):
            raise _not_canonical("it does not end with the boundary")

    # Each step reads one element from the position on. It returns True if the buffer may hold another.

    def _first(self) -> bool:
        if len(self._buffer) < len(self._parting) + 2:
            return False
        if not self._buffer.startswith(self._parting):
            raise _not_canonical("it does not begin with the boundary")
        return self._after_parting(len(self._parting))

    def _after_parting(self, end: int) -> bool:
        self._opened = self._base + end - len(self._parting)
        self._position = end + 2
        match self._buffer[end : end + 2]:
            case b"\r\n":
                self._read = self._head
            case b"--":
                self.closed = True
                self._read = self._epilogue
            case _:
                raise _not_canonical("a boundary is not followed by a line break")
        return True

    def _head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n", self._position, self._position + _MAX_HEAD + 4)
        if end < 0 and len(self._buffer) - self._position > _MAX_HEAD:
            raise InvalidRequest(f"A part of the multipart body has headers of more than {_MAX_HEAD} bytes.")
        if end < 0:
            return False
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise InvalidRequest(f"The multipart body has more than {_MOST_PARTS} parts.")
        self._part = _part(bytes(self._buffer[self._position : end]))
        self._position = end + 4
        self._start = self._base + self._position
        if self._part.is_file:
            self.files.append(self._part.name)
        self._kept = self._is_sought(self._part)
        self._read = self._value
        return True

    def _is_sought(self, part: _Part) -> bool:
        """Return True if the value of a part is to be read. Raises `InvalidRequest`."""
        name, sought = part.name, self.required | self._noted
        if self._names.setdefault(name.lower(), name) != name:
            raise _not_canonical("the names of two fields differ in case only", name)
        if name not in sought:
            if not sought.isdisjoint(_JOINED.split(name.lower())):
                raise _not_canonical("the name of a field is written differently: expected lower case, no index", name)
            return False
        if part.is_file or (part.charset and part.charset not in _CHARSETS):
            raise _not_canonical("a text field is sent as a file, or not in UTF-8", name)
        if name in self.values and name in self.required:
            raise InvalidRequest(
                f"The field `{name.decode()}` appears twice in the body: expected it once.", param=name.decode()
            )
        return name not in self.values

    def _value(self) -> bool:
        at = self._buffer.find(self._parting, self._position)
        while at >= 0 and at > self._position and self._buffer[at - 1] not in b"\r\n":  # inside of a line
            at = self._buffer.find(self._parting, at + 1)
        end = at + len(self._parting)
        if at < 0 or len(self._buffer) < end + 2:
            # The next piece may complete a delimiter, with the line end before it.
            held = at if at >= 0 else len(self._buffer) - len(self._parting) + 1
            self._pass(max(self._position, held - 2))
            return False
        if at - 2 < self._position or self._buffer[at - 2 : at] != b"\r\n":
            raise _not_canonical("a boundary does not start on a new line")
        self._pass(at - 2)
        if self._kept:
            value = bytes(self._buffer[self._position : at - 2])
            self.values[self._part.name] = Field(value, self._start, self._opened)
        length = self._base + at - 2 - self._start
        if self._part.length not in (None, length):
            raise _not_canonical("the Content-Length of a part is wrong", self._part.name)
        self._kept = False
        return self._after_parting(end)

    def _pass(self, end: int) -> None:
        """Leave the value up to `end` behind, unless it is kept."""
        name = self._part.name
        if self._kept and end - self._position > self._longest:
            if name in self.required:
                raise InvalidRequest(
                    f"The field `{name.decode()}` is too long: expected at most {self._longest} bytes.",
                    param=name.decode(),
                )
            self._kept = False
        if self._kept:
            return
        if (watch := self.watched.get(name)) is not None and end > self._position:
            watch(bytes(self._buffer[self._position : end]))
        self._position = end

    def _epilogue(self) -> bool:
        if not b"\r\n".startswith(self._buffer[self._position :]):
            raise _not_canonical("there is data after its last boundary")
        return False


def _part(head: bytes) -> _Part:
    """The headers of a part. Raises `InvalidRequest`."""
    headers: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        match = _LINE.fullmatch(line)
        if match is None or match[1].lower() not in _HEADERS or match[1].lower() in headers:
            raise _not_canonical("a part has a header that is unknown, repeated, folded or malformed")
        headers[match[1].lower()] = match[2]
    disposition = _DISPOSITION.fullmatch(headers.get(b"content-disposition", b""))
    if disposition is None:
        raise _not_canonical('a part lacks a Content-Disposition of the form form-data; name="…"')
    name, kind = disposition[1] or disposition[2], headers.get(b"content-type", b"").lower()
    length = headers.get(b"content-length")
    if length is not None and not re.fullmatch(rb"\d{1,15}", length):
        raise _not_canonical("the Content-Length of a part is not a number", name)
    if headers.get(b"content-transfer-encoding", b"binary").lower() not in _UNENCODED:
        raise _not_canonical("a part has a Content-Transfer-Encoding", name)
    if kind.startswith(b"multipart") or name == b"_charset_":
        raise _not_canonical("a part is multipart, or named _charset_", name)
    charset = _CHARSET.search(kind)
    return _Part(name, bool(disposition[3]), charset[1] if charset else b"", int(length) if length else None)


def _not_canonical(problem: str, name: bytes = b"") -> InvalidRequest:
    return InvalidRequest(f"The multipart body is not in its canonical form: {problem}.", param=name.decode() or None)
