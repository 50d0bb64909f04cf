"""Reads the usage out of answers while they pass, and changes nothing but for a usage chunk nobody asked for."""

import json
import re
from typing import Annotated, Any

import msgspec

from shared import sse
from shared.azure_openai import error_code
from shared.types import Usage

_MOST_WORDS = 1_000_000  # characters of a stream's text that are kept while it runs: more than any model answers
_MAX_EVENT = 16 * 1024 * 1024  # bytes; the largest true ones hold an image
_USAGE_TAIL = 4096
_USAGE_KEY = re.compile(rb'"usage"\s*:\s*(?=\{)')


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class _PromptDetails(msgspec.Struct):
    cached_tokens: _Count | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: _Count | None = None


class _Usage(msgspec.Struct):
    """Azure's usage object of chat completions, completions and embeddings; details may be absent or null."""

    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _OutputDetails | None = None

    def value(self) -> Usage:
        return Usage(
            input_tokens=self.prompt_tokens or 0,
            output_tokens=self.completion_tokens or 0,
            cached_input_tokens=(self.prompt_tokens_details and self.prompt_tokens_details.cached_tokens) or 0,
            reasoning_tokens=(self.completion_tokens_details and self.completion_tokens_details.reasoning_tokens) or 0,
        )


class _Answer(msgspec.Struct):
    usage: _Usage | None = None


class _Choice(msgspec.Struct):
    delta: dict[str, Any] | None = None
    message: dict[str, Any] | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Choices(msgspec.Struct):
    choices: list[_Choice] = []


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_choices = msgspec.json.Decoder(_Choices).decode
_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def is_json_object(body: bytes) -> bool:
    """Whether a body is what a backend answers with: a proxy's error page under status 200 is not."""
    try:
        _decode_answer(body)
    except msgspec.ValidationError:
        return body.lstrip()[:1] == b"{"  # an object whose usage has another shape
    except _UNREADABLE:
        return False
    return True


def usage_in_answer(status: int, body: bytes, input_estimate: int) -> Usage:
    """The usage that a whole JSON answer reports. It is an estimate where a 200 tells none, or nonsense, and for a
    prompt that the content filter refused, which is charged without being told."""
    try:
        if (usage := _decode_answer(body).usage) is not None:
            return usage.value()
    except _UNREADABLE:
        pass
    if status == 200:
        return Usage(input_tokens=input_estimate, output_tokens=_characters_in(body) // 4, estimated=True)
    if status == 400 and error_code(body) == "content_filter":
        return Usage(input_tokens=input_estimate, estimated=True)
    return Usage()


def _characters_in(body: bytes) -> int:
    try:
        choices = _decode_choices(body).choices
    except _UNREADABLE:
        return 0
    return sum(len(_words(piece)) for choice in choices for piece in _pieces(choice))


class BodyMeter:
    """Follows one body that is too large to be kept. The usage stands near its end."""

    event_stream = False
    done = True  # its end is the transport's to judge

    def __init__(self, head: bytes) -> None:
        self._tail = head[-_USAGE_TAIL:]

    def feed(self, chunk: bytes) -> bytes:
        self._tail = (self._tail + chunk)[-_USAGE_TAIL:]
        return chunk

    def end(self) -> None:
        pass

    def finish(self) -> bytes:
        return b""

    def said(self) -> str:
        return ""

    def result(self, input_estimate: int) -> Usage:
        """The usage at the end of what has passed, else an estimate."""
        for found in reversed(list(_USAGE_KEY.finditer(self._tail))):
            try:
                value, _ = json.JSONDecoder().raw_decode(self._tail[found.end() :].decode("utf-8", "replace"))
                return msgspec.convert(value, _Usage).value()
            except (ValueError, RecursionError):
                continue
        return Usage(input_tokens=input_estimate, estimated=True)


class EventTooLarge(ValueError):
    """An event of a stream does not end."""


class StreamMeter:
    """Follows one stream of chat or text completions.

    `feed` takes the chunks as they come and gives back the events that are complete: only of them can be told whether
    they are the usage chunk that only the gateway asked for (`strip_usage`), and half an event could not be followed by
    the error event that tells of a broken stream. The end marker is kept until `finish`, because the caller must not
    have its answer in full before the usage is on record.
    """

    event_stream = True

    def __init__(self, *, strip_usage: bool) -> None:
        self.usage: Usage | None = None
        self.committed = False  # a token, a tool call or a refusal has passed: no other backend can take over now
        self.failed = False  # the backend reported an error inside the stream
        self.done = False  # the end marker came
        self._strip = strip_usage
        self._tail: list[bytes] = []  # the beginning of an event whose end has not come, in pieces
        self._length = 0  # of the tail, in bytes
        self._kept = b""  # the end marker
        self._words: list[str] = []
        self._characters = 0
        self._pieces = 0

    def feed(self, chunk: bytes) -> bytes:
        """The events that may go to the caller now. Raises `EventTooLarge`."""
        # Only the seam is searched again: a long event that comes in many pieces is not read anew with each.
        if self._tail and not sse.ends_event(b"".join(self._tail[-3:])[-3:] + chunk):
            self._tail.append(chunk)
            self._length += len(chunk)
            if self._length > _MAX_EVENT:
                raise EventTooLarge(f"an event of more than {_MAX_EVENT} bytes")
            return b""
        events, rest = sse.split(b"".join([*self._tail, chunk]) if self._tail else chunk)
        self._tail, self._length = ([rest], len(rest)) if rest else ([], 0)
        out = []
        for event in events:
            if self.done:
                self._kept += event  # whatever follows the end marker stays behind it
            elif self._read(event):
                out.append(event)
        return out[0] if len(out) == 1 else b"".join(out)

    def end(self) -> None:
        """The backend has closed the stream. An end marker counts without its empty line, too."""
        tail = b"".join(self._tail)
        if not self.done and sse.payload(tail).strip() == b"[DONE]":
            self._read(tail)
            self._tail, self._length = [], 0

    def finish(self) -> bytes:
        """What was held back from the end marker on, to be sent once the usage is on record."""
        return self._kept + b"".join(self._tail)

    def result(self, input_estimate: int) -> Usage:
        """The usage that the stream told. Where it told none, an estimate: a token per four characters, or per piece
        where pieces are shorter."""
        if self.usage is not None:
            return self.usage
        output = max(self._characters // 4, min(self._pieces, self._characters))
        return Usage(input_tokens=input_estimate, output_tokens=output, estimated=True)

    def said(self) -> str:
        """The text that has passed, for its tokens to be counted; "" where it is too long to be kept."""
        return "".join(self._words) if self._characters <= _MOST_WORDS else ""

    def _read(self, event: bytes) -> bool:
        """Take note of a whole event; whether it is the caller's to see now."""
        data = sse.payload(event)
        if not data:
            return True
        if data.strip() == b"[DONE]":
            self.done = True
            self._kept = event
            return False
        try:
            chunk = _decode_chunk(data)
        except _UNREADABLE:
            self.committed = True  # not ours to judge: it passes as it is
            return True
        if chunk.error is not None:
            self.failed = True
        if chunk.usage is not None:
            self.usage = chunk.usage.value()
            if self._strip and not chunk.choices:
                return False
        for choice in chunk.choices:
            self._note(choice)
        return True

    def _note(self, choice: _Choice) -> None:
        """Any piece of an answer commits the stream, of whatever kind it is: words, calls of tools, sound."""
        if pieces := _pieces(choice):
            words = "".join(map(_words, pieces))
            self._characters += len(words)
            self._pieces += 1
            if self._characters <= _MOST_WORDS:
                self._words.append(words)
                if len(self._words) > 1000:
                    self._words = ["".join(self._words)]
        if pieces or choice.finish_reason:
            self.committed = True


def _pieces(choice: _Choice) -> list[Any]:
    said = choice.delta or choice.message or {}
    pieces = [value for name, value in said.items() if value and name != "role"]
    return [*pieces, choice.text] if choice.text else pieces


def _words(piece: Any) -> str:
    """The text in a piece: itself, the arguments of calls of tools, or the words to a sound."""
    if isinstance(piece, str):
        return piece
    if isinstance(piece, list):
        return "".join(map(_words, piece))
    if isinstance(piece, dict):
        return "".join(_words(piece.get(name)) for name in ("name", "arguments", "function", "transcript"))
    return ""
