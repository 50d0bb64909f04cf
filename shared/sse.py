"""Event streams (text/event-stream) cut into events, whatever the chunks they come in. No I/O.

Source: the HTML standard, "Server-sent events": a line ends with CR LF, LF or CR; an empty line ends an event.
"""

import re

# Atomic groups: without them, CR LF would be tried again as CR, LF and a single line end taken for two.
_EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")


def ends_event(data: bytes) -> bool:
    """Whether an event ends somewhere in `data`."""
    return _EVENT_END.search(data) is not None


def split(data: bytes) -> tuple[list[bytes], bytes]:
    """The whole events in `data`, each with the empty line that ends it, and what is left of an unfinished one."""
    events, start = [], 0
    for end in _EVENT_END.finditer(data):
        events.append(data[start : end.end()])
        start = end.end()
    return events, data[start:] if start else data


def payload(event: bytes) -> bytes:
    """What an event says in its `data:` lines, joined by line feeds; empty for comments."""
    if (
        event.startswith(b"data: ") and event.endswith(b"\n\n") and event.count(b"\n") == 2
    ):  # nearly every event there is
        return event[6:-2]
    lines = [line[5:].removeprefix(b" ") for line in _LINE_END.split(event) if line.startswith(b"data:")]
    return b"\n".join(lines)
