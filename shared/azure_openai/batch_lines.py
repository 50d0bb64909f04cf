"""Scans the file of a batch, one request per line, while it passes: does a line name an object, or ask for more than an
answer to its own content? No I/O."""

from typing import Any

import msgspec

from shared.azure_openai import references
from shared.azure_openai.json_body import JsonFields, reader, top_level
from shared.azure_openai.outline import LARGE, Outline
from shared.errors import InvalidRequest

_LONGEST_LINE = 4 * 1024 * 1024  # bytes
_MOST_LINES = 200_000  # Azure takes 100,000 requests, and a blank line may stand between two of them
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Ends of lines for some readers only: what is one line here may be three there.
_OTHER_LINE_ENDS = (b"\r", b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e", b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xa9")
# The endpoints whose answers depend on the line alone, with their operations.
_ENDPOINTS = {
    prefix + path: path.replace("/", ".")
    for prefix in ("/v1/", "/", "/openai/v1/")
    for path in ("chat/completions", "completions", "embeddings", "moderations")
}


def is_self_contained(endpoint: str) -> bool:
    """Return True for an endpoint whose answers depend on the request alone."""
    return endpoint in _ENDPOINTS


_ANSWERED = frozenset(("chat.completions", "completions"))


class BatchSize(msgspec.Struct, frozen=True, omit_defaults=True):
    """The size of a batch: the bytes of its requests, those that generate an answer, the model or deployment that the
    first one names, and the other ones, if they are known."""

    bytes: int = 0
    answers: int = 0
    model: str = ""
    others: tuple[str, ...] = ()


class _Body(msgspec.Struct):
    model: Any = ""


_read_body = reader(_Body)


class BatchLines:
    """Reads one file."""

    def __init__(self) -> None:
        self._self_contained = True
        self._size = BatchSize()
        self._line = bytearray()
        self._read = 0  # lines

    @property
    def decided(self) -> bool:
        """True if the rest of the file makes no difference."""
        return not self._self_contained

    def feed(self, piece: bytes) -> None:
        """Read the next piece of the file."""
        if self.decided:
            return
        if self._read + piece.count(b"\n") > _MOST_LINES + 1:  # `finish` ends one
            self._self_contained = False
            self._line.clear()
            return
        *lines, rest = piece.split(b"\n")
        for line in lines:
            self._line += line
            self._self_contained = self._self_contained and self._is_self_contained()
            self._line.clear()
        self._line += rest
        if len(self._line) > _LONGEST_LINE:
            self._self_contained = False
        if not self._self_contained:
            self._line.clear()

    def finish(self) -> BatchSize | None:
        """Return the size if no line names an object, and all lines are answered by their own content; else None."""
        self.feed(b"\n")
        return self._size if self._self_contained else None

    def _is_self_contained(self) -> bool:
        line = bytes(self._line)
        if not self._read:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        self._read += 1
        line = line.removesuffix(b"\r")
        if not line.strip(b" \t"):
            return True
        if len(line) > _LONGEST_LINE or any(end in line for end in _OTHER_LINE_ENDS):
            return False
        try:
            fields = JsonFields(line, top_level(line))
            endpoint = fields.get("url", str, "a path") or ""
            body = fields.raw("body")
            top_level(body)
            outline = Outline.of(body, _LONGEST_LINE) if len(body) > LARGE else None
            named, _ = references.in_request(body, _ENDPOINTS.get(endpoint, ""), outline)
        except (InvalidRequest, RecursionError, ValueError):
            return False
        self._count(endpoint, body)
        return is_self_contained(endpoint) and not named

    def _count(self, endpoint: str, body: bytes) -> None:
        size = self._size
        model = size.model
        if not model:
            named = _read_body(body).model
            model = named[:128] if isinstance(named, str) else ""
        answers = size.answers + (_ENDPOINTS.get(endpoint, "") in _ANSWERED)
        self._size = BatchSize(size.bytes + len(body), answers, model)
