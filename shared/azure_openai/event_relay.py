"""Passes an event stream on event by event, and keeps its end back until the usage is on record. No I/O."""

from typing import Literal, Protocol

from shared.azure_openai import event_stream
from shared.azure_openai.answers import ReportedError
from shared.azure_openai.usage_objects import USAGE_TAIL
from shared.types import Usage

_LONGEST_HELD = 65_536  # bytes of an event that are held back until it is whole
_LONGEST_READ = 8 * 1024 * 1024  # bytes of an event that are kept to be read
_SEAM = 3  # bytes before a chunk that may begin the end of an event

Verdict = Literal["pass", "drop", "end"]
"""Of an event: it passes; only the gateway asked for it, to learn the usage; or it ends the answer."""


class Reader(Protocol):
    """Reads the events of one stream of an API.

    `committed`: a part of the answer has passed, so no other backend can take over now. `failed`: the backend reported
    an error before that; `error` is its reason, which may follow in another event, and `failure` the payload with
    that reason. `marked`: the end marker has come, behind which nothing follows. `may_end`: the stream may end without
    another word. `objects`: payloads that name objects; the recorder empties the list."""

    committed: bool
    failed: bool
    error: ReportedError | None
    failure: bytes
    marked: bool
    may_end: bool
    objects: list[bytes]

    @property
    def is_empty(self) -> bool:
        """True once the stream has run out of tokens before any content."""
        ...

    @property
    def owes_usage(self) -> bool:
        """True while the answer is there, or an image of it, and the usage of that is not."""
        ...

    @property
    def text_tokens(self) -> int:
        """An estimate of the tokens of the text so far."""
        ...

    def read(self, event: bytes) -> Verdict:
        """Read a whole event."""
        ...

    def read_beginning(self, begun: bytes) -> None:
        """Read the beginning of a long event. It commits the stream if its name is that of content."""
        ...

    def read_end(self, tail: bytes) -> Verdict:
        """Read the end of an event that is too long to be kept."""
        ...

    def reported(self) -> Usage | None:
        """The usage that the stream reported; None if it reported none."""
        ...

    def usage(self) -> Usage:
        """The usage that the stream reported, else an estimate."""
        ...

    def text(self) -> str:
        """The text so far, for its tokens to be counted; "" if it is too long to be kept."""
        ...


class EventRelay:
    """Passes each event as soon as it is whole, byte for byte. An event longer than 64 kB passes raw from there on.

    Two things do not pass: an event that `reader` drops, and the one that ends the answer. That one waits for `finish`,
    because the caller must not have its whole answer before the usage is on record.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.done = False  # the end has come
        self._begun: list[bytes] = []  # the event whose end has not come, in pieces
        self._length = 0  # of these, in bytes
        self._raw = False  # they have passed
        self._cut = False  # they have lost their beginning
        self._half_line_end: Verdict | None = None  # of an event that ended with CR: an LF may follow
        self._kept = b""  # the end, and all that follows it

    def feed(self, chunk: bytes) -> bytes:
        """The bytes that may go to the caller now."""
        if self.done:
            self._kept += chunk
            return b""
        if self._half_line_end is not None and chunk:
            line_feed, self._half_line_end = b"\n" if self._half_line_end == "pass" else b"", None
            if chunk.startswith(b"\n"):
                return line_feed + self.feed(chunk[1:])
        data = chunk
        if self._begun:
            # Only the seam is searched again, so a long event in many pieces is not read with each of them.
            if not event_stream.ends_event(self._seam() + chunk):
                return self._lengthen(chunk)
            data = b"".join([*self._begun, chunk])
        events, rest = event_stream.split(data, max(0, self._length - _SEAM))
        if not events:
            return self._lengthen(chunk)
        passing: list[bytes] = []
        verdict: Verdict = "pass"
        for event in events:
            unseen = event[self._length :] if self._raw else event
            verdict = "end" if self.done else self._read(event)
            if verdict == "end":
                self.done = True
                self._kept += unseen
            elif verdict == "pass" or self._raw:
                passing.append(unseen)
            self._raw = self._cut = False
        self._begun, self._length = [], 0
        if self.done:
            self._kept += rest
        elif rest:
            passing.append(self._lengthen(rest))
        elif data.endswith(b"\r"):
            self._half_line_end = verdict
        return passing[0] if len(passing) == 1 else b"".join(passing)

    def end(self) -> None:
        """Note that the backend has closed the stream. An end marker counts without its empty line, too."""
        if not self.done and event_stream.payload(b"".join(self._begun)).strip() == b"[DONE]":
            self.done = self.reader.marked = True
        self.done = self.done or self.reader.may_end

    def finish(self) -> bytes:
        """The end of the stream, to be sent once the usage is on record."""
        kept = self._kept if self._raw else self._kept + b"".join(self._begun)
        self._kept, self._begun = b"", []
        return kept

    @property
    def may_go_on(self) -> bool:
        """True if more may follow the end: it is not an end marker, or its last line end may be only half of CR LF."""
        return not self.reader.marked or self._kept.endswith(b"\r")

    @property
    def owes_usage(self) -> bool:
        """True if the caller may have all it wants, and the usage has not come: it may end a long event under way."""
        return not self.done and (self.reader.owes_usage or (self._raw and self.reader.reported() is None))

    @property
    def between_events(self) -> bool:
        """True if the caller has only whole events, so that another may follow."""
        return not self._raw

    def _lengthen(self, piece: bytes) -> bytes:
        """Add a piece to the event that has begun; the bytes of it that may pass."""
        self._begun.append(piece)
        self._length += len(piece)
        if self._raw:
            if self._length > _LONGEST_READ:
                tail = b"".join(self._begun)[-USAGE_TAIL:]
                self._begun, self._length, self._cut = [tail], len(tail), True
            return piece
        if self._length <= _LONGEST_HELD:
            return b""
        self._raw = True
        begun = b"".join(self._begun)
        self.reader.read_beginning(begun)
        return begun

    def _seam(self) -> bytes:
        """The last bytes of the event that has begun."""
        return b"".join([piece[-_SEAM:] for piece in self._begun[-_SEAM:]])[-_SEAM:]

    def _read(self, event: bytes) -> Verdict:
        return self.reader.read_end(event) if self._cut else self.reader.read(event)
