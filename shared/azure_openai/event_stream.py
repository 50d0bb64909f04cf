"""Event streams (text/event-stream): cuts bytes into events and reads their fields. No I/O.

Source: the HTML standard, "Server-sent events": a line ends with CR LF, LF or CR; an empty line ends an event.
"""

import re

# Atomic groups: without them, CR LF would be tried again as CR, LF and a single line end taken for two.
_EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")


def split(data: bytes, searched: int = 0) -> tuple[list[bytes], bytes]:
    """The whole events in `data`, each with the empty line that ends it, and the rest.
    `searched`: bytes at the beginning in which no event ends.

    An event that ends with CR at the end of `data` is whole. If the next byte is LF, it belongs to that line end, too.
    """
    events, start = [], 0
    for end in _event_ends(data, searched):
        events.append(data[start:end])
        start = end
    return events, data[start:] if start else data


def ends_event(data: bytes) -> bool:
    """True if an event ends somewhere in `data`."""
    return b"\n\n" in data or (b"\r" in data and bool(_event_ends(data, 0)))


def _event_ends(data: bytes, position: int) -> list[int]:
    """The positions behind each event. Only line ends are looked at, because lines may be megabytes long."""
    ends: list[int] = []
    if b"\r" not in data:
        while (empty_line := data.find(b"\n\n", position)) >= 0:
            position = empty_line + 2
            ends.append(position)
        return ends
    line_feed = carriage_return = -1
    while True:
        if line_feed < position:
            line_feed = _find(data, b"\n", position)
        if carriage_return < position:
            carriage_return = _find(data, b"\r", position)
        line_end = min(line_feed, carriage_return)
        if line_end == len(data):
            return ends
        if event_end := _EVENT_END.match(data, line_end):
            position = event_end.end()
            ends.append(position)
        else:
            position = line_end + (2 if data.startswith(b"\r\n", line_end) else 1)


def _find(data: bytes, byte: bytes, position: int) -> int:
    """The position of the next such byte; the length of `data` if there is none."""
    place = data.find(byte, position)
    return place if place >= 0 else len(data)


def _lines(event: bytes) -> list[bytes]:
    if b"\r" in event:
        event = event.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return event.split(b"\n")


def payload(event: bytes) -> bytes:
    """The `data:` lines of an event, joined by line feeds; empty for comments."""
    if event.startswith(b"data: ") and event.endswith(b"\n\n") and event.count(b"\n") == 2 and b"\r" not in event:
        return event[6:-2]  # nearly every event of a chat
    lines = [line[5:].removeprefix(b" ") for line in _lines(event) if line.startswith(b"data:")]
    return b"\n".join(lines)


def name(event: bytes) -> str:
    """The name of an event, from its `event:` line, or ""."""
    lines = (line[6:].strip() for line in _lines(event) if line.startswith(b"event:"))
    return next((line.decode("utf-8", "replace") for line in lines), "")


def as_data(body: bytes) -> bytes:
    """The lines of a body as `data:` lines, all but the beginning of the first and the end of the last."""
    return body.replace(b"\r", b"").replace(b"\n", b"\ndata: ")
