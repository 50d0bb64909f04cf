"""JSON bodies as bytes: the positions of their top-level values, and edits that keep every other byte. No I/O."""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from shared.errors import InvalidRequest

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # raised when JSON is decoded

_LONGEST_VALUE = 64 * 1024  # bytes of a field that the gateway reads; names, numbers and options are far shorter
_MOST_KEYS = 1000  # at the top level of a body; the longest requests have about forty

_MOST_TOKENS = 2**31 - 1
_SEARCHED = 1_000_000  # bytes of a body that is not JSON, searched for the reason

_DECODE_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
# Possessive (`*+`): what could be given back takes a hundred bytes of memory per byte of a key, and blanks that two
# parts could share are tried in all ways.
_NEXT_VALUE = re.compile(rb'[\s{,]*+"[^"\\]*+(?:\\.[^"\\]*+)*+"\s*+:\s*+', re.DOTALL)
_ESCAPES = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_OBJECT_END = re.compile(rb"\s*+\{?+\s*+\}\s*+")


_decoder: Callable[[Any], Callable[[bytes], Any]] = functools.cache(
    lambda kind: msgspec.json.Decoder(kind | None).decode
)


def reader[S: msgspec.Struct](kind: type[S]) -> Callable[[bytes], S]:
    """Return a function that reads JSON as a kind whose fields all have defaults. What cannot be read has these."""
    decode = msgspec.json.Decoder(kind).decode

    def read(body: bytes) -> S:
        try:
            return decode(body)
        except UNREADABLE:
            return kind()

    return read


class JsonFields:
    """The values at the top level of a body, each decoded on demand."""

    def __init__(self, body: bytes, values: Mapping[str, slice]) -> None:
        self._body = body
        self._values = values
        self._in_other_case = {key.lower(): key for key in values if not key.islower()}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def below(self, name: str) -> "JsonFields":
        """The fields of the object in an optional field; empty if it is absent or null. Raises `InvalidRequest` for
        another type."""
        place = self._values.get(name)
        if place is None:
            self.get(name, dict, "a JSON object")
        inner = self._body[place] if place else b"null"
        if inner[:1] != b"{" and inner != b"null":
            raise InvalidRequest(f"The field `{name}` has the wrong type: expected a JSON object.", param=name)
        return JsonFields(inner, top_level(inner) if inner != b"null" else {})

    def raw(self, name: str) -> bytes:
        """The bytes of an optional field; empty if it is absent."""
        place = self._values.get(name)
        return self._body[place] if place is not None else b""

    def tokens(self, name: str) -> int | None:
        """The value of an optional field that counts tokens. `100.0` is an integer, too: some languages write it so."""
        value = self.get(name, float, "an integer, 0 or more")
        if value is not None and not (value.is_integer() and 0 <= value <= _MOST_TOKENS):
            raise InvalidRequest(f"The field `{name}` has the wrong type: expected an integer, 0 or more.", param=name)
        return None if value is None else int(value)

    def get[T](self, name: str, kind: type[T], expected: str) -> T | None:
        """The value of an optional field; null counts as absent. Raises `InvalidRequest` for another type, and for a
        name in another case, which some readers take for the same."""
        place = self._values.get(name)
        if place is None:
            if (other := self._in_other_case.get(name)) is not None:
                raise InvalidRequest(f"The field `{other}` is misspelt: expected `{name}`.", param=name)
            return None
        if place.stop - place.start > _LONGEST_VALUE:
            raise InvalidRequest(f"The field `{name}` is too long: expected {expected}.", param=name)
        try:
            value: T | None = _decoder(kind)(self._body[place])
        except UNREADABLE:
            raise InvalidRequest(f"The field `{name}` has the wrong type: expected {expected}.", param=name) from None
        return value


def top_level(body: bytes) -> dict[str, slice]:
    """The positions of the values at the top level of a JSON object, by key (20 µs for 100 kB). Raises `InvalidRequest`
    if the body is not a JSON object, or has a key twice, be it in two cases: two readers of such a body may see two
    different requests.

    The decoder skips the values and returns them in the order of their keys, so each stands right behind the next key:
    no value has to be searched.
    """
    if not body:
        raise InvalidRequest("The request has no body: expected a JSON object.")
    if len(body) > 1_000_000 and body.count(b'":') > 100_000:  # millions of keys would take seconds, and a gigabyte
        raise InvalidRequest("The body has more keys than any request of the API.")
    try:
        fields = _DECODE_FIELDS(body)
    except msgspec.ValidationError:
        raise InvalidRequest("The body is JSON, but not an object: expected {…} at its top level.") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(_half_pair(body) or f"The body is not valid JSON: {error}.") from None
    if len(fields) > _MOST_KEYS:
        raise InvalidRequest(f"The body has more than {_MOST_KEYS} keys at its top level.")
    values, position = {}, 0
    for key, raw in fields.items():
        before = _NEXT_VALUE.match(body, position)
        value = bytes(raw)
        if before is None or not body.startswith(value, before.end()):
            break
        position = before.end() + len(value)
        values[key] = slice(before.end(), position)
    if len(values) < len(fields) or not _OBJECT_END.fullmatch(body, position):
        raise InvalidRequest("The body has a duplicate key at its top level.")
    if len({key.lower() for key in values}) < len(values):
        raise InvalidRequest("The body has two keys at its top level that differ in case only: leave one out.")
    return values


def _half_pair(body: bytes) -> str:
    """The complaint about an escape that is half of a character, or "": libraries make them when they cut a text."""
    for escape in _ESCAPES.finditer(body) if len(body) <= _SEARCHED else ():
        if half := escape["half"]:
            return (
                f"The body is not valid JSON: \\{half.decode()} at byte {escape.start()} is a lone surrogate, half "
                "of a character. Cut texts between characters, or send \\ufffd instead."
            )
    return ""


def rewrite(body: bytes, values: Mapping[str, slice], edits: Mapping[str, bytes]) -> bytes:
    """The JSON object `body` with these raw values at its top level, replaced or added; every other byte is kept.
    `values`: the positions from `top_level`."""
    pieces, copied = [], 0
    for key, place in values.items():
        if key in edits:
            pieces += [body[copied : place.start], edits[key]]
            copied = place.stop
    if added := [msgspec.json.encode(key) + b":" + value for key, value in edits.items() if key not in values]:
        end = body.rindex(b"}")
        pieces += [body[copied:end], b"," if values else b"", b",".join(added)]
        copied = end
    return b"".join([*pieces, body[copied:]])


def rewrite_below(body: bytes, path: str, value: bytes) -> bytes:
    """The JSON object `body` with a raw value at `path`: names of fields joined by dots, the outermost first. The
    objects on the way must exist."""
    name, _, inner = path.partition(".")
    values = top_level(body)
    return rewrite(body, values, {name: rewrite_below(body[values[name]], inner, value) if inner else value})
