"""Scans the file of a batch, one request per line, while it passes: does a line name an object, or ask for more than an
answer to its own content? No I/O."""

import re

from shared.azure_openai import references
from shared.azure_openai.json_body import JsonFields, top_level
from shared.errors import InvalidRequest

_LONGEST_LINE = 4 * 1024 * 1024  # bytes
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Ends of lines for some readers only: what is one line here may be three there.
_OTHER_LINE_ENDS = re.compile(rb"\r(?!\n)|[\x0b\x0c\x1c-\x1e]|\xc2\x85|\xe2\x80[\xa8\xa9]")
# The endpoints whose answers depend on the line alone, with their operations.
_ENDPOINTS = {
    prefix + path: path.replace("/", ".")
    for prefix in ("/v1/", "/", "/openai/v1/")
    for path in ("chat/completions", "completions", "embeddings", "moderations")
}


def is_self_contained(endpoint: str) -> bool:
    """Return True for an endpoint whose answers depend on the request alone."""
    return endpoint in _ENDPOINTS


class BatchLines:
    """Reads one file."""

    def __init__(self) -> None:
        self._self_contained = True
        self._line = bytearray()
        self._first = True

    def feed(self, piece: bytes) -> None:
        """Read the next piece of the file."""
        if not self._self_contained:
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

    def finish(self) -> bool:
        """Return True if no line names an object, and all lines are answered by their own content."""
        self.feed(b"\n")
        return self._self_contained

    def _is_self_contained(self) -> bool:
        line = bytes(self._line)
        if self._first:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        self._first = False
        line = line.removesuffix(b"\r")
        if not line.strip(b" \t"):
            return True
        if len(line) > _LONGEST_LINE or _OTHER_LINE_ENDS.search(line):
            return False
        try:
            fields = JsonFields(line, top_level(line))
            endpoint = fields.get("url", str, "a path") or ""
            body = fields.raw("body")
            top_level(body)
            named, _ = references.in_request(body, _ENDPOINTS.get(endpoint, ""))
        except (InvalidRequest, RecursionError, ValueError):
            return False
        return is_self_contained(endpoint) and not named
