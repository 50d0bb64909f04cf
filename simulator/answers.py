"""Answers of operations before they are sent: a whole body, the events of a stream, or the bytes of a file."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

JSON = "application/json; charset=utf-8"
EVENT_STREAM = "text/event-stream; charset=utf-8"

DONE = b"data: [DONE]\n\n"


class Charge(msgspec.Struct, gc=False, kw_only=True):
    """Billed amounts. Cached, audio and image tokens are part of the input or output, reasoning tokens of the output,
    those written to a prompt cache of the input.

    `seconds` of transcribed audio, `characters` of spoken text.
    """

    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    image_input_tokens: int = 0
    audio_output_tokens: int = 0
    image_output_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0
    images: int = 0
    seconds: float = 0.0
    characters: int = 0
    web_searches: int = 0

    def charge(self, more: "Charge") -> None:
        """Add `more` to these amounts."""
        for name in _FIELDS:
            if amount := getattr(more, name):
                setattr(self, name, getattr(self, name) + amount)

    @property
    def opening(self) -> "Charge":
        """The part charged when a stream begins: everything except its output."""
        return Charge(**{name: getattr(self, name) for name in _INPUT})


_FIELDS = Charge.__struct_fields__
_INPUT = tuple(
    name for name in _FIELDS if "input" in name or "cache" in name or name in ("seconds", "characters", "web_searches")
)


EventKind = Literal["opening", "content", "closing"]


class StreamEvent(msgspec.Struct, frozen=True):
    """One piece of a stream. A chunk is an event of kind "content". `charge` is its cost (None: nothing).

    `not_before`: epoch seconds before which the event is not sent.
    """

    kind: EventKind
    data: bytes
    charge: Charge | None = None
    not_before: float = 0.0


class WholeAnswer(msgspec.Struct, frozen=True):
    body: bytes
    charge: Charge | None = None
    content_type: str = JSON
    status: int = 200
    headers: dict[str, str] = {}


class StreamedAnswer(msgspec.Struct, frozen=True):
    """`charge` is due when the stream begins. A stream that is cut is charged for the events already sent.

    `typed`: an error inside the stream has an `event:` line. A stream of another content type is cut without an error.
    """

    events: Iterator[StreamEvent]
    charge: Charge | None = None
    content_type: str = EVENT_STREAM
    typed: bool = False


class FileAnswer(msgspec.Struct, frozen=True):
    """A file that is sent in pieces, so that it need not fit into memory."""

    pieces: Iterable[bytes]
    size: int
    filename: str
    content_type: str = "application/octet-stream"


Answer = WholeAnswer | StreamedAnswer | FileAnswer

encode_json = msgspec.json.Encoder().encode


def answer_json(content: Any, charge: Charge | None = None, status: int = 200) -> WholeAnswer:
    return WholeAnswer(encode_json(content), charge, status=status)


def typed_event(
    kind: EventKind,
    name: str,
    content: Any,
    charge: Charge | None = None,
    not_before: float = 0.0,
) -> StreamEvent:
    """An event with an `event:` line."""
    data = b"event: " + name.encode() + b"\ndata: " + encode_json(content) + b"\n\n"
    return StreamEvent(kind, data, charge, not_before)


def data_event(kind: EventKind, content: Any, charge: Charge | None = None) -> StreamEvent:
    return StreamEvent(kind, b"data: " + encode_json(content) + b"\n\n", charge)
