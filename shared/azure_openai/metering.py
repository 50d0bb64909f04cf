"""Reads the usage out of answers while they pass, and changes nothing but for a usage chunk nobody asked for."""

import json
import re
from typing import Annotated, Any, Literal

import msgspec

from shared.azure_openai import event_stream as sse
from shared.azure_openai.answers import error_code
from shared.azure_openai.json_body import JsonFields, top_level
from shared.errors import GatewayError
from shared.types import Call, Usage

_MOST_WORDS = 1_000_000  # characters of a stream's text that are kept while it runs: more than any model answers
_MAX_EVENT = 8 * 1024 * 1024  # bytes of one event that are kept; what is longer passes all the same
_SURELY_CONTENT = 65_536  # bytes; no usage chunk is as long
_SHORT = 64  # bytes; the end marker with all that may stand before it in its event
_USAGE_TAIL = 4096
_USAGE_KEY = re.compile(rb'"usage"\s*:\s*(?=\{)')
_SPOKEN = re.compile(rb'"audio"\s*:\s*\{[^{}]*"id"\s*:')  # the id of a spoken answer, which later messages may name
_WITH_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\{')

# Events of typed streams. The first kind comes before any content, so another backend could still take over.
_OPENING = frozenset(
    {
        "response.created",
        "response.queued",
        "response.in_progress",
        "thread.created",
        "thread.run.created",
        "thread.run.queued",
        "thread.run.in_progress",
    }
)
_FAILING = frozenset(("error", "response.failed", "thread.run.failed"))
_ENDING = frozenset(
    {
        "response.completed",
        "response.incomplete",
        "response.failed",
        "response.cancelled",
        "transcript.text.done",
        "speech.audio.done",
    }
)
_TELLING = (*_OPENING, *_ENDING, "thread.run.", "thread.message.completed")  # their beginnings
_MAY_END = frozenset(("image_generation.completed", "image_edit.completed"))  # one for each image
_UNDER_WAY = frozenset(("validating", "queued", "in_progress", "requires_action", "finalizing", "cancelling"))
UNFINISHED = _UNDER_WAY | {"cancelled", "failed", "expired"}

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class _Details(msgspec.Struct):
    cached_tokens: _Count | None = None
    audio_tokens: _Count | None = None
    image_tokens: _Count | None = None
    reasoning_tokens: _Count | None = None
    accepted_prediction_tokens: _Count | None = None
    rejected_prediction_tokens: _Count | None = None


_NO_DETAILS = _Details()


class _Usage(msgspec.Struct):
    """The usage object of every API: chat calls its tokens prompt and completion, the others input and output, and
    transcripts their details in the singular. Details may be absent or null."""

    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None
    input_token_details: _Details | None = None
    output_token_details: _Details | None = None
    seconds: Annotated[float, msgspec.Meta(ge=0, le=1e7)] | None = None

    def value(self, model: object = "", tier: object = "", images: int = 0) -> Usage:
        read = self.prompt_tokens_details or self.input_tokens_details or self.input_token_details or _NO_DETAILS
        made = self.completion_tokens_details or self.output_tokens_details or self.output_token_details or _NO_DETAILS
        return Usage(
            input_tokens=self.prompt_tokens or self.input_tokens or 0,
            output_tokens=self.completion_tokens or self.output_tokens or 0,
            cached_input_tokens=read.cached_tokens or 0,
            audio_input_tokens=read.audio_tokens or 0,
            image_input_tokens=read.image_tokens or 0,
            reasoning_tokens=made.reasoning_tokens or 0,
            audio_output_tokens=made.audio_tokens or 0,
            image_output_tokens=made.image_tokens or 0,
            accepted_prediction_tokens=made.accepted_prediction_tokens or 0,
            rejected_prediction_tokens=made.rejected_prediction_tokens or 0,
            images=images,
            seconds=self.seconds or 0.0,
            model=_word(model),
            service_tier=_word(tier),
        )


class _Answer(msgspec.Struct):
    usage: _Usage | None = None
    model: Any = None
    service_tier: Any = None


class _Told(msgspec.Struct):
    """What answers without a usage object tell: images, the length of a sound, how far a run is."""

    data: list[msgspec.Raw] = []
    duration: Any = None
    status: Any = None
    model: Any = None


class _Choice(msgspec.Struct):
    delta: dict[str, Any] | None = None
    message: dict[str, Any] | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Choices(msgspec.Struct):
    choices: list[_Choice] = []


class _Event(msgspec.Struct):
    """A chat chunk, or an event that has a type; `response` is the object that events of the Responses API tell."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None
    type: Any = None
    response: _Answer | None = None
    delta: Any = None


_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_told = msgspec.json.Decoder(_Told).decode
_decode_choices = msgspec.json.Decoder(_Choices).decode
_decode_event = msgspec.json.Decoder(_Event).decode
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


def usage_in_answer(call: Call, status: int, body: bytes) -> Usage:
    """The usage that a whole answer reports. It is an estimate where a model's answer tells none, or nonsense, and for
    a prompt that the content filter refused, which is charged without being told."""
    metered = call.operation.metered
    if metered == "none":
        return Usage()
    if status >= 300:
        refused = status == 400 and metered in ("tokens", "input") and error_code(body) == "content_filter"
        return Usage(input_tokens=call.input_estimate, estimated=True) if refused else Usage()
    try:
        answer = _decode_answer(body)
    except _UNREADABLE:
        answer = _Answer()
    told = _told(body) if metered in ("images", "audio", "once") or answer.usage is None else _Told()
    images = len(told.data) if metered == "images" else 0
    if metered == "once" and told.status in _UNDER_WAY:
        return Usage()  # what is told so far, if anything, is not all
    if answer.usage is not None:
        tier = "batch" if call.operation.name.startswith("batches.") else answer.service_tier
        return answer.usage.value(answer.model, tier, images)
    model = _word(told.model)
    match metered:
        case "images":
            return Usage(images=images, model=model)
        case "audio":
            return Usage(seconds=_seconds(told.duration), model=model)
        case "speech":
            return Usage(characters=_spoken_characters(call))
        case "once":
            return Usage()
    if told.status in UNFINISHED:
        return Usage()
    return Usage(input_tokens=call.input_estimate, output_tokens=_characters_in(body) // 4, estimated=True)


def unanswered(call: Call) -> Usage:
    """What a backend charges for a call that it has read, and of which it told nothing: the prompt at least."""
    match call.operation.metered:
        case "tokens" | "input" | "images":
            return Usage(input_tokens=call.input_estimate, estimated=True)
        case "speech":
            return Usage(characters=_spoken_characters(call))
    return Usage()


def _told(body: bytes) -> _Told:
    try:
        return _decode_told(body)
    except _UNREADABLE:
        return _Told()


def _seconds(duration: object) -> float:
    """The length of a sound, which older answers tell as text."""
    try:
        seconds = float(duration) if isinstance(duration, int | float | str) else 0.0
    except ValueError:
        return 0.0
    return seconds if 0 <= seconds < 1e7 else 0.0


def _spoken_characters(call: Call) -> int:
    try:
        return len(JsonFields(call.body, call.values or top_level(call.body)).get("input", str, "text") or "")
    except GatewayError:
        return 0


def _characters_in(body: bytes) -> int:
    try:
        choices = _decode_choices(body).choices
    except _UNREADABLE:
        return 0
    return sum(len(_words(piece)) for choice in choices for piece in _pieces(choice))


def _word(value: object) -> str:
    return value[:128] if isinstance(value, str) else ""


class BodyMeter:
    """Follows one body that is too large to be kept, or that is no JSON. The usage stands near its end."""

    event_stream = False
    done = True  # its end is the transport's to judge
    marked = True
    objects: list[bytes] = []  # noqa: RUF012 - none, ever

    def __init__(self, call: Call, status: int, head: bytes) -> None:
        self._call = call
        self._status = status
        self._tail = head[-_USAGE_TAIL:]
        self._images = head.count(b'"b64_json"')

    def feed(self, chunk: bytes) -> bytes:
        self._images += (self._tail[-9:] + chunk).count(b'"b64_json"')
        self._tail = (self._tail + chunk)[-_USAGE_TAIL:]
        return chunk

    def end(self) -> None:
        pass

    def finish(self) -> bytes:
        return b""

    def said(self) -> str:
        return ""

    def result(self) -> Usage:
        """The usage at the end of what has passed, else what can be known without."""
        metered = self._call.operation.metered
        images = self._images if metered == "images" else 0
        if metered == "none" or self._status >= 300:
            return Usage()
        if (usage := _usage_at_end(self._tail)) is not None:
            return usage.value(images=images)
        if metered == "speech":
            return Usage(characters=_spoken_characters(self._call))
        if metered in ("tokens", "input"):
            return Usage(input_tokens=self._call.input_estimate, estimated=True)
        return Usage(images=images)


def _usage_at_end(tail: bytes) -> _Usage | None:
    for found in reversed(list(_USAGE_KEY.finditer(tail))):
        try:
            value, _ = json.JSONDecoder().raw_decode(tail[found.end() :].decode("utf-8", "replace"))
            return msgspec.convert(value, _Usage)
        except (ValueError, RecursionError):
            continue
    return None


class StreamMeter:
    """Follows one event stream, of chat or text completions or of typed events.

    `feed` takes the chunks as they come and gives back what may go to the caller now: all of it, at once, whether
    events are whole or not, but for two things. What may be the usage chunk that only the gateway asked for
    (`call.usage_injected`) waits until that can be told. And the end, the end marker or the last piece of the event
    that closes the answer, is kept until `finish`, because the caller must not have its answer in full before the usage
    is on record.
    """

    event_stream = True

    def __init__(self, call: Call, *, eager: bool = False) -> None:
        """`eager`: any event commits the stream, because no other backend could take over."""
        self.committed = False  # something of the answer has passed: no other backend can take over now
        self.failed = False  # the backend reported an error inside the stream
        self.done = False  # the end came
        self.marked = False  # ... as an end marker, behind which nothing follows
        self.typed = False  # its events have types
        self.objects: list[bytes] = []  # events that tell of objects, to be taken by whoever keeps note of those
        self._call = call
        self._eager = eager
        self._strip = call.usage_injected
        self._collects = call.stateful
        self._usages: list[Usage] = []
        self._may_end = False
        self._tail: list[bytes] = []  # the beginning of an event whose end has not come, in pieces
        self._length = 0  # of the tail, in bytes
        self._passed = 0  # of the tail, bytes that the caller has
        self._cut = False  # the tail was too long and has lost its beginning
        self._kept = b""  # the end
        self._words: list[str] = []
        self._characters = 0
        self._pieces = 0

    def feed(self, chunk: bytes) -> bytes:
        """What may go to the caller now."""
        if self.done:
            self._kept += chunk  # whatever follows the end stays behind it
            return b""
        # Only the seam is searched again: a long event that comes in many pieces is not read anew with each.
        if self._tail and not sse.ends_event(b"".join([piece[-3:] for piece in self._tail[-3:]])[-3:] + chunk):
            return self._lengthen(chunk)
        data = b"".join([*self._tail, chunk]) if self._tail else chunk
        events, rest = sse.split(data, max(0, self._length - 3))
        passed, self._passed = self._passed, 0
        out: list[bytes] = []
        whole = True  # all events are the caller's now
        for event in events:
            unpassed = event[passed:] if passed else event
            verdict = "end" if self.done else self._read(event)
            passed, self._cut = 0, False
            if verdict == "pass":
                out.append(unpassed)
                continue
            whole = False
            if verdict == "end":
                self.done = True
                self._kept += unpassed
        self._tail, self._length = ([rest], len(rest)) if rest else ([], 0)
        if self.done:
            self._kept += rest[passed:]
            self._tail, self._length = [], 0
        elif rest and not self._waits(rest):
            out.append(rest[passed:])
            self._passed = len(rest)
        elif rest:
            self._passed, whole = passed, False
        if whole and data is chunk:
            return chunk
        return out[0] if len(out) == 1 else b"".join(out)

    def end(self) -> None:
        """The backend has closed the stream. An end marker counts without its empty line, too."""
        tail = b"".join(self._tail)
        if not self.done and sse.payload(tail).strip() == b"[DONE]":
            self.done = self.marked = True
            self._kept = tail[self._passed :]
            self._tail, self._length = [], 0
        elif not self.done and tail.endswith((b"\r\r", b"\n\r")):  # no LF follows, so that the CR ends a line
            verdict = self._read(tail)
            self.done = verdict == "end"
            self._kept = b"" if verdict == "drop" else tail[self._passed :]
            self._tail, self._length = [], 0
        self.done = self.done or self._may_end

    def finish(self) -> bytes:
        """What was held back, to be sent once the usage is on record."""
        kept, self._kept = self._kept + b"".join(self._tail)[self._passed :], b""
        self._tail = []
        return kept

    def break_off(self, error: bytes) -> bytes | None:
        """What ends the stream where its backend broke off, so that an error event can follow. None: nothing can."""
        if self._cut:
            return None
        begun = b"".join(self._tail)[: self._passed]
        return sse.finish(begun, error)

    @property
    def between_events(self) -> bool:
        """Whether a comment may be put in now."""
        return not self._passed

    def result(self) -> Usage:
        """The usage that the stream told. Where it told none, an estimate: a token per four characters, or per piece
        where pieces are shorter."""
        if self._usages:
            return self._usages[0] if len(self._usages) == 1 else _sum(self._usages)
        call = self._call
        if call.operation.metered == "speech":  # told by events it is charged by tokens, of which sound is not known
            return Usage(input_tokens=call.input_estimate, characters=_spoken_characters(call), estimated=True)
        if call.operation.metered in ("none", "once") or call.background:
            return Usage()
        output = max(self._characters // 4, min(self._pieces, self._characters))
        return Usage(input_tokens=call.input_estimate, output_tokens=output, estimated=True)

    def said(self) -> str:
        """The text that has passed, for its tokens to be counted; "" where it is too long to be kept."""
        return "".join(self._words) if self._characters <= _MOST_WORDS else ""

    def _lengthen(self, chunk: bytes) -> bytes:
        """One more piece of an event that goes on."""
        self._tail.append(chunk)
        self._length += len(chunk)
        shown = self._passed == self._length - len(chunk)
        if shown and not (self._length < _SHORT and self._waits(b"".join(self._tail))):
            self._passed = self._length
            if self._length > _MAX_EVENT:  # passes unread; of its end the usage can still be read
                kept = b"".join(self._tail)[-_USAGE_TAIL:]
                self._tail, self._length, self._passed, self._cut = [kept], len(kept), len(kept), True
                self.committed = True
            return chunk
        data = b"".join(self._tail)
        if self._waits(data):
            return b""
        out, self._passed = data[self._passed :], self._length
        return out

    def _waits(self, begun: bytes) -> bool:
        """Whether the beginning of an event is not to be shown yet: it may be the end marker, or the usage chunk."""
        if len(begun) > _SURELY_CONTENT:
            return False
        if self._strip and not self._passed:
            return not _WITH_CHOICES.search(begun)
        said = sse.payload(begun).lstrip()
        return said.startswith(b"[") and b"[DONE]".startswith(said.strip()[:6])

    def _read(self, event: bytes) -> Literal["pass", "drop", "end"]:
        """Take note of a whole event."""
        if self._cut:
            if (usage := _usage_at_end(event)) is not None:
                self._may_end = self._call.operation.metered == "images"
                self._usages.append(usage.value(images=int(self._may_end)))
            return "pass"
        data = sse.payload(event)
        if not data:
            return "pass"
        if data.strip() == b"[DONE]":
            self.marked = True
            return "end"
        try:
            read = _decode_event(data)
        except _UNREADABLE:
            self.committed = True  # not ours to judge: it passes as it is
            return "pass"
        if self._eager:
            self.committed = True
        kind = read.type if isinstance(read.type, str) else sse.name(event) if event.startswith(b"event:") else ""
        if kind:
            return self._read_typed(kind, read, data)
        if read.error is not None and not self.committed:
            self.failed = True
        if self._collects and read.choices and ((not self.objects and not self.committed) or _SPOKEN.search(data)):
            self.objects.append(data)
        if read.usage is not None:
            about = _decode_answer(data)  # only here, because every chunk tells its model
            self._usages = [read.usage.value(about.model, about.service_tier)]
            if self._strip and not read.choices:
                return "drop"
        for choice in read.choices:
            self._note(choice)
        return "pass"

    def _read_typed(self, kind: str, read: _Event, data: bytes) -> Literal["pass", "end"]:
        self.typed = True
        if (kind in _FAILING or read.error is not None) and not self.committed:
            self.failed = True
        elif kind not in _OPENING:
            self.committed = True
        if isinstance(read.delta, str) and not kind.endswith("audio.delta"):  # whose delta is sound
            self._hear(read.delta)
        if self._collects and kind.startswith(_TELLING):
            self.objects.append(data)
        if read.response is not None and read.response.usage is not None:
            self._usages = [read.response.usage.value(read.response.model, read.response.service_tier)]
        elif read.usage is not None:
            image = kind in _MAY_END
            if not image:
                self._usages = []
            about = _decode_answer(data)
            self._usages.append(read.usage.value(about.model, about.service_tier, int(image)))
        elif kind in _MAY_END:
            self._usages.append(Usage(images=1))
        if kind in _MAY_END:
            self._may_end = True
        return "end" if kind in _ENDING else "pass"

    def _note(self, choice: _Choice) -> None:
        """Any piece of an answer commits the stream, of whatever kind it is: words, calls of tools, sound."""
        if pieces := _pieces(choice):
            self._hear("".join(map(_words, pieces)))
        if pieces or choice.finish_reason:
            self.committed = True

    def _hear(self, words: str) -> None:
        self._characters += len(words)
        self._pieces += 1
        if self._characters <= _MOST_WORDS:
            self._words.append(words)
            if len(self._words) > 1000:
                self._words = ["".join(self._words)]


def _sum(usages: list[Usage]) -> Usage:
    """Of the images of one stream, each of which tells its own."""
    names = ("input_tokens", "output_tokens", "image_input_tokens", "image_output_tokens", "images")
    total = {name: sum(getattr(usage, name) for usage in usages) for name in names}
    return msgspec.structs.replace(usages[-1], **total)


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
