"""Reads the path and the headers of a request so that they mean the same on both edges.

The Functions host joins a header that comes twice with a comma, and leaves an encoded slash in the path as it is.
"""

import re
from collections.abc import Mapping, Sequence
from urllib.parse import unquote

from starlette.types import Scope

from shared.errors import InvalidRequest

# Headers that hold one value, and the form of each. A comma may also be part of a value.
_SINGLE = {
    "authorization": re.compile(r"(bearer|basic) .", re.IGNORECASE),
    "api-key": re.compile(r"tg_."),
    "content-type": re.compile(r"[\w.+-]+/[\w.+-]+\s*(;|$)"),
}
_MOST_DIGITS = 18  # of a length that servers can count
_SLASH = re.compile(rb"%2f", re.IGNORECASE)


def path_of(scope: Scope) -> str:
    """The decoded path. An encoded slash stays `%2F`: it is part of a name, and separates nothing."""
    raw: bytes = scope.get("raw_path") or b""
    if b"%2" not in raw or not _SLASH.search(raw):
        path: str = scope["path"]
        return path
    return "%2F".join(unquote(piece.decode("latin-1")) for piece in _SLASH.split(raw))


def headers_of(raw: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers by their names in lower case; one that comes twice is joined with a comma. Raises `InvalidRequest` if
    two different values are given for one that holds a single value."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}
    if len(headers) < len(raw):
        headers = _joined(raw)
    for name, form in _SINGLE.items():
        value = headers.get(name)
        if value is not None and "," in value:
            headers[name] = _one(name, value, form)
    return headers


def content_length(headers: Mapping[str, str]) -> int | None:
    """The length of the body as the headers give it, None if they do not. Raises `InvalidRequest` for a number that no
    body has."""
    text = headers.get("content-length", "")
    if len(text) > _MOST_DIGITS:
        raise InvalidRequest(f"The header content-length is wrong: expected at most {_MOST_DIGITS} digits.")
    return int(text) if text.isascii() and text.isdigit() else None


def _joined(raw: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name_bytes, value_bytes in raw:
        name, value = name_bytes.decode("latin-1"), value_bytes.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _one(name: str, joined: str, form: re.Pattern[str]) -> str:
    values = [value.strip() for value in joined.split(",")]
    if len(set(values)) == 1:
        return values[0]
    if all(map(form.match, values)):
        raise InvalidRequest(f"The header {name} comes {len(values)} times with different values: send it once.")
    return joined
