"""The structure of a large JSON body, read in pieces while it arrives: bounded, and without its long texts. No I/O.

A parsed value takes up to a hundred times its bytes: `[],` is three, and an empty list 64. So the values are counted
before anything is parsed, and what has to be parsed as a whole is parsed without its long texts.
"""

import hashlib

from shared.errors import InvalidRequest

LARGE = 64 * 1024  # bytes of a body from which on its outline is read
PIECE = 64 * 1024  # bytes of a piece, which takes 10 ms at most

_MOST_CONTAINERS = 100_000  # objects and arrays
_MOST_KEYS = 100_000
_MOST_VALUES = 250_000
_DEEPEST = 256
_LONGEST_KEY = 4096  # bytes
_LONG = 256  # bytes of a text; identifiers are shorter
_LEFT_OUT = b"-"  # replaces a long text: not empty, and no identifier
SEALED = b"encrypted_content"  # the key of content that only the backend that made it can open

_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_BLANKS = b" \t\r\n"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def sealed_name(content: bytes | str) -> str:
    """The name of sealed content, by its digest: such content has no id, or one that says nothing."""
    return _name_of(hashlib.sha256(content.encode("utf-8", "replace") if isinstance(content, str) else content))


class Outline:
    """Reads one body. `counts_values` False: it may have any number of them, as the tokens of embeddings."""

    def __init__(self, *, counts_values: bool = True) -> None:
        self._most_values = _MOST_VALUES if counts_values else None
        self._kept = bytearray()
        self._carried = b""  # a backslash whose character has not arrived
        self._in_text = False
        self._text = b""  # the beginning of the text that is being read, unless it is long
        self._text_length = 0
        self._after_long_text = False  # which is a key if a colon follows
        self._after_sealed: bytes | None = None  # the structure since the key of sealed content
        self._hash: hashlib._Hash | None = None  # of the sealed content that is being read
        self._containers = self._keys = self._values = self._depth = 0

    @staticmethod
    def of(body: bytes, most: int) -> "Outline":
        """Read a whole body. Raises `InvalidRequest` beyond a bound, `most` bytes of its outline included."""
        outline = Outline()
        for start in range(0, len(body), PIECE):
            outline.feed(body[start : start + PIECE])
            if outline.size > most:
                raise InvalidRequest("The body is too large outside its long texts.")
        return outline

    def take(self) -> str:
        """Return the body as JSON with the same values, but the name of sealed content for it and `-` for every other
        long text, and forget it. Characters beyond ASCII are read as Latin-1, in which each byte takes one."""
        text = self.text()
        self._kept.clear()
        return text

    def text(self) -> str:
        """The same of the bytes so far, without forgetting it."""
        if self._kept.startswith(_BYTE_ORDER_MARK):
            del self._kept[:3]
        return self._kept.decode("latin-1")

    @property
    def size(self) -> int:
        """The bytes that it keeps."""
        return len(self._kept)

    def feed(self, piece: bytes) -> None:
        """Read the next piece, of `PIECE` bytes or so. Raises `InvalidRequest` if the body exceeds a bound."""
        parts = self._without_escaped_quotes(piece).split(b'"')  # outside and inside of texts in turn
        first = 1 if self._in_text else 0
        structure = parts[first::2]
        self._count(b"".join(structure))
        parts = self._shorten(parts)
        self._kept += b'"'.join(parts)

    def _without_escaped_quotes(self, piece: bytes) -> bytes:
        """The same JSON, with other escapes of quotes and backslashes, so that each quote begins or ends a text."""
        piece = self._carried + piece
        backslashes = len(piece) - len(piece.rstrip(b"\\"))
        end = len(piece) - backslashes % 2
        self._carried = piece[end:]
        return piece[:end].replace(b"\\\\", b"\\u005c").replace(b'\\"', b"\\u0022")

    def _count(self, structure: bytes) -> None:
        opened = structure.count(b"[") + structure.count(b"{")
        self._containers += opened
        self._keys += structure.count(b":")
        self._values += structure.count(b",") + opened
        if self._containers > _MOST_CONTAINERS:
            raise InvalidRequest(f"The body has more than {_MOST_CONTAINERS} objects and arrays.")
        if self._keys > _MOST_KEYS:
            raise InvalidRequest("The body has more keys than any request of the API.")
        if self._most_values is not None and self._values > self._most_values:
            raise InvalidRequest(f"The body has more than {self._most_values} values.")
        if opened + self._depth <= _DEEPEST:
            self._depth = max(0, self._depth + opened - structure.count(b"]") - structure.count(b"}"))
            return
        for bracket in structure.translate(None, _NO_BRACKETS):
            self._depth = max(0, self._depth + (1 if bracket in b"[{" else -1))
            if self._depth > _DEEPEST:
                raise InvalidRequest("The body is nested too deeply.")

    def _shorten(self, parts: list[bytes]) -> list[bytes]:
        """The parts of a piece without the long texts. A text that has not ended is kept for the next piece."""
        for i, part in enumerate(parts):
            if not self._in_text:
                if self._after_long_text:
                    self._check_key(part)
                if self._after_sealed is not None:
                    self._look_for_sealed(part)
            else:
                self._text_length += len(part)
                self._text = self._text + part if self._text_length <= _LONG else b""
                parts[i] = b""
                if self._hash is not None:
                    self._hash.update(part.replace(b"\\/", b"/"))
            if i == len(parts) - 1:
                break
            if self._in_text:
                parts[i] = self._end_text()
            elif self._after_sealed == b":":
                self._hash = hashlib.sha256()
            self._in_text = not self._in_text
        return parts

    def _end_text(self) -> bytes:
        text = self._text if self._text_length <= _LONG else _LEFT_OUT
        if self._hash is not None and self._text_length:
            text = _name_of(self._hash).encode()
        self._hash = None
        self._after_sealed = b"" if len(text) == len(SEALED) and text.lower() == SEALED else None
        self._after_long_text = self._text_length > _LONGEST_KEY
        self._text, self._text_length = b"", 0
        return text

    def _look_for_sealed(self, structure: bytes) -> None:
        """Read on from the key of sealed content to its value, if that is a text."""
        after = (self._after_sealed or b"") + structure.translate(None, _BLANKS)
        self._after_sealed = after if after in (b"", b":") else None

    def _check_key(self, after: bytes) -> None:
        if follows := after.lstrip(_BLANKS):
            if follows.startswith(b":"):
                raise InvalidRequest(f"The body has a key of more than {_LONGEST_KEY} bytes.")
            self._after_long_text = False


def _name_of(hashed: "hashlib._Hash") -> str:
    return f"sealed_{hashed.hexdigest()}"
