"""Event streams (text/event-stream) cut into events, whatever the chunks they come in. No I/O.

Source: the HTML standard, "Server-sent events": a line ends with CR LF, LF or CR; an empty line ends an event.
"""

import re
from collections.abc import Iterator

# Atomic groups: without them, CR LF would be tried again as CR, LF and a single line end taken for two.
# A CR that is the last byte so far may be half of a line end.
_EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r(?!\Z))")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_LITERAL = re.compile(rb"(?<![0-9.])[a-z]+\Z")
_LITERALS = (b"true", b"false", b"null")


def ends_event(data: bytes) -> bool:
    """Whether an event ends somewhere in `data`."""
    return next(_event_ends(data, 0), None) is not None


def split(data: bytes, searched: int = 0) -> tuple[list[bytes], bytes]:
    """The whole events in `data`, each with the empty line that ends it, and what is left of an unfinished one.
    `searched`: bytes before which no event ends."""
    events, start = [], 0
    for end in _event_ends(data, searched):
        events.append(data[start:end])
        start = end
    return events, data[start:] if start else data


def _event_ends(data: bytes, position: int) -> Iterator[int]:
    """Where events end in `data` from a position on. Lines may be megabytes long: only their ends are looked at."""
    if b"\r" not in data:
        while (found := data.find(b"\n\n", position)) >= 0:
            position = found + 2
            yield position
        return
    line_feed = carriage_return = -1
    while True:
        if line_feed < position:
            line_feed = _find(data, b"\n", position)
        if carriage_return < position:
            carriage_return = _find(data, b"\r", position)
        line_end = min(line_feed, carriage_return)
        if line_end == len(data):
            return
        if event_end := _EVENT_END.match(data, line_end):
            position = event_end.end()
            yield position
        else:
            position = line_end + (2 if data.startswith(b"\r\n", line_end) else 1)


def _find(data: bytes, wanted: bytes, position: int) -> int:
    """Where it stands next; the length of `data` where it does not."""
    found = data.find(wanted, position)
    return found if found >= 0 else len(data)


def _lines(event: bytes) -> list[bytes]:
    if b"\r" in event:
        event = event.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return event.split(b"\n")


def payload(event: bytes) -> bytes:
    """What an event says in its `data:` lines, joined by line feeds; empty for comments."""
    if (
        event.startswith(b"data: ") and event.endswith(b"\n\n") and event.count(b"\n") == 2 and b"\r" not in event
    ):  # nearly every event there is
        return event[6:-2]
    lines = [line[5:].removeprefix(b" ") for line in _lines(event) if line.startswith(b"data:")]
    return b"\n".join(lines)


def name(event: bytes) -> str:
    """What an event calls itself in its `event:` line, or ""."""
    lines = (line[6:].strip() for line in _lines(event) if line.startswith(b"event:"))
    return next((line.decode("utf-8", "replace") for line in lines), "")


def finish(begun: bytes, error: bytes) -> bytes:
    """What ends an event that broke off in the middle, so that the events behind it are read as they are written.

    `begun` has been sent already. A reader has to find whole JSON in it, else it stumbles there and never sees what
    follows: what is open is closed, and the object gets a member `error` with this value (JSON), so that nobody takes
    it for an event of the backend's.
    """
    if not begun:
        return b""
    *_, line = _LINE_END.split(begun)
    said = payload(begun)
    if line and not line.startswith(b"data:"):
        return b"\n" + _data(said, b"", error)  # a comment, a name, or the beginning of a field's name
    if line:
        lead = b"" if line != b"data:" else b" "
        return lead + (_completion(said, error) or b"") + b"\n\n"
    return _data(said, b"\n\n" if begun.endswith(b"\r") else b"\n", error)  # CR LF is one line end, not two


def _data(said: bytes, otherwise: bytes, error: bytes) -> bytes:
    """The rest of an event at the beginning of a line."""
    rest = _completion(said + b"\n" if said else b"", error)
    return b"data: " + rest + b"\n\n" if rest else otherwise


def _completion(text: bytes, error: bytes) -> bytes:
    """What makes a JSON object with a member `error` of the beginning of one; empty where nothing is missing."""
    if not text.strip():
        return b'{"error":' + error + b"}"
    rest, opened, in_text, is_key = bytearray(), bytearray(), False, False
    position, start = 0, 0  # `start`: of the text that is open
    while position < len(text):
        byte = text[position]
        if in_text:
            if byte == 0x5C:
                position += 1
            elif byte == 0x22:
                in_text = False
        elif byte == 0x22:
            in_text, start = True, position
        elif byte in b"{[":
            opened.append(byte)
        elif byte in b"}]" and opened:
            opened.pop()
            if not opened:
                return b""
        position += 1
    if not opened:
        return b""  # no object: not the beginning of JSON that anybody could complete
    before = text[:start].rstrip() if in_text else text.rstrip()
    if in_text:
        rest += _rest_of_text(text[start + 1 :]) + b'"'
        is_key = opened[-1] == 0x7B and before[-1:] in b"{,"
        if is_key:
            rest += b":null"
    else:
        rest += _rest_of_value(before, opened[-1])
    while len(opened) > 1:
        rest += b"}" if opened.pop() == 0x7B else b"]"
    empty = before.endswith(b"{") and not in_text and len(before.strip()) == 1
    return bytes(rest) + (b"" if empty else b",") + b'"error":' + error + b"}"


def _rest_of_text(text: bytes) -> bytes:
    """What an open text needs before its quotation mark: the rest of an escape or of a character."""
    if escape := re.search(rb"(?:[^\\]|\A)(?:\\\\)*\\(u[0-9a-fA-F]{0,3})?\Z", text):
        digits = escape[1]
        return b"\\" if digits is None else b"0" * (5 - len(digits))
    for back in range(1, min(4, len(text) + 1)):
        byte = text[-back]
        if byte & 0xC0 == 0x80:
            continue
        length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        missing = length - back
        if missing <= 0:
            return b""
        second = b"\xbf" if byte in (0xE0, 0xF0) else b"\x80"
        return (second if back == 1 else b"\x80") + b"\x80" * (missing - 1)
    return b""


def _rest_of_value(before: bytes, within: int) -> bytes:
    """What is missing behind the last byte of an object or array (`within`), outside of texts."""
    if literal := _LITERAL.search(before):
        return next((word[len(literal[0]) :] for word in _LITERALS if word.startswith(literal[0])), b"")
    last = before[-1:]
    if last == b":":
        return b"null"
    if last == b",":
        return b'"_":null' if within == 0x7B else b"null"
    if last in b"-.eE+":
        return b"0"
    if last == b'"' and within == 0x7B and _is_key(before):
        return b":null"
    return b""


def _is_key(before: bytes) -> bool:
    """Whether the text that has just been closed, in an object, is a name without its value."""
    opening = before.rindex(b'"', 0, -1)
    while opening > 0 and _odd_backslashes(before[:opening]):
        opening = before.rindex(b'"', 0, opening)
    return before[:opening].rstrip()[-1:] in b"{,"


def _odd_backslashes(text: bytes) -> bool:
    return (len(text) - len(text.rstrip(b"\\"))) % 2 == 1
