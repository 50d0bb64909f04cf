"""Reads the events of a stream: usage, text, objects, and whether the stream is committed, has failed or has ended."""

import re

import msgspec

from shared.azure_openai import event_stream
from shared.azure_openai._answer_shapes import (
    Choice,
    Event,
    ToolCalls,
    decode_answer,
    decode_event,
    text_of,
    tools_called,
)
from shared.azure_openai._empty_answers import marked, may_be_empty
from shared.azure_openai.answers import ReportedError, reported_error
from shared.azure_openai.event_relay import Verdict
from shared.azure_openai.json_body import UNREADABLE
from shared.azure_openai.metering import IMAGE, spoken_characters
from shared.azure_openai.outline import SEALED
from shared.azure_openai.streamed_text import StreamedText
from shared.azure_openai.usage_objects import USAGE_TAIL, usage_at_end
from shared.token_classes import TOKEN_CLASSES
from shared.types import Call, Usage

_SPOKEN = re.compile(rb'"audio"\s*:\s*\{[^{}]*"id"\s*:')  # the id of a spoken answer, which later messages may name

# Typed events that come before any content, so another backend could still take over.
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
_WITH_OBJECTS = (*_OPENING, *_ENDING, "thread.run.", "thread.message.completed")  # the beginnings of their types
_WITH_SEALED = _ENDING | {"response.output_item.done"}  # before that, such content may be incomplete
_IMAGE = frozenset(("image_generation.completed", "image_edit.completed"))  # one for each image
_IMAGE_BEGUN = frozenset(("image_generation.partial_image", "image_edit.partial_image"))


class EventReader:
    """Reads the events of one stream, of chat or text completions or of typed events, as an `event_relay.Reader`."""

    def __init__(self, call: Call, *, eager: bool = False) -> None:
        """`eager`: any event commits the stream, because no other backend could take over."""
        self.committed = self.failed = self.marked = False
        self.may_end = False  # True once an image, or each choice, is complete
        self.error: ReportedError | None = None
        self.failure = b""
        self.objects: list[bytes] = []
        self._unfinished: set[int | None] = set()  # the choices that have begun and not finished, by their index
        self._finished: set[int | None] = set()
        self._image_begun = False  # the caller has a part of an image, or a preview
        self._latest = ""  # type of event
        self._ran_out = False  # the last choice that finished had all the tokens that the call allowed
        self._call = call
        self._eager = eager
        self._drops_usage = call.usage_injected
        self._collects = call.stateful
        self._usages: list[Usage] = []
        self._tools = ToolCalls()  # of the items that are done; the last event has them all, unless it is too long
        self._text = StreamedText()

    def read(self, event: bytes) -> Verdict:
        """Read a whole event."""
        data = event_stream.payload(event)
        if not data:
            return "pass"
        if data.startswith(b"[") and data.strip() == b"[DONE]":
            self.marked = True
            return "end"
        try:
            read = decode_event(data)
        except UNREADABLE:
            self.committed = True  # not the gateway's to judge: it passes as it is
            return "pass"
        if self._eager:
            self.committed = True
        kind = read.type if isinstance(read.type, str) else event_stream.name(event) if event[:6] == b"event:" else ""
        if kind:
            return self._read_typed(kind, read, data)
        if read.error is not None:
            self._image_begun = False
            if not self.committed:
                self._fail(data)
        if self._collects and read.choices and ((not self.objects and not self.committed) or _SPOKEN.search(data)):
            self.objects.append(data)
        if read.usage is not None:
            about = decode_answer(data)  # only here, because every chunk names its model
            self._usages = [read.usage.value(about.model, about.service_tier)]
            if self._drops_usage and not read.choices:
                return "drop"
        for choice in read.choices:
            self._read_choice(choice)
        return "pass"

    def read_beginning(self, begun: bytes) -> None:
        """Read the beginning of a long event. It commits the stream if its name is that of content."""
        if (name := event_stream.name(begun)) not in _OPENING | _FAILING:
            self.committed = self.committed or bool(name)
            self._image_begun = self._call.operation.metered == "images"

    def read_end(self, tail: bytes) -> Verdict:
        """Read the end of an event that is too long to be kept."""
        if (usage := usage_at_end(tail[-USAGE_TAIL:])) is not None:
            self.may_end = self._call.operation.metered == "images"
            self._image_begun = False
            self._usages.append(usage.value(images=int(self.may_end), tools=self._tools.counted))
        return "pass"

    def reported(self) -> Usage | None:
        """The usage that the stream reported; None if it reported none."""
        if not self._usages:
            return None
        return self._usages[0] if len(self._usages) == 1 else _sum(self._usages)

    def usage(self) -> Usage:
        """The usage that the stream reported. If it reported none, an estimate: a token per four characters, or per
        piece if pieces are shorter."""
        if self._image_begun:
            image = Usage(input_tokens=self._call.input_estimate, output_tokens=IMAGE, images=1)
            return msgspec.structs.replace(_sum([image, *self._usages]), estimated=True)
        if (reported := self.reported()) is not None:
            empty = self.is_empty and may_be_empty(reported)
            return msgspec.structs.replace(reported, empty=True) if empty else reported
        call = self._call
        if call.operation.metered == "speech":  # events are charged by tokens, and those of audio are not known
            return Usage(input_tokens=call.input_estimate, characters=spoken_characters(call), estimated=True)
        if call.operation.metered in ("none", "once") or call.background:
            return Usage()
        estimate = Usage(input_tokens=call.input_estimate, output_tokens=self._text.tokens(), estimated=True)
        return msgspec.structs.replace(estimate, **self._tools.counted)

    @property
    def owes_usage(self) -> bool:
        """True while the answer is there, or an image of it, and the usage of that is not."""
        if self._call.operation.metered in ("none", "once") or self._call.background:
            return False
        return self._image_begun or (not self._usages and (self.may_end or _is_last(self._latest)))

    @property
    def text_tokens(self) -> int:
        """An estimate of the tokens of the text so far."""
        return self._text.tokens()

    @property
    def is_empty(self) -> bool:
        """True if the choices of a stream have run out of tokens before any content."""
        return self._ran_out and not self._text.begun

    def text(self) -> str:
        """The text so far, for its tokens to be counted; "" if it is too long to be kept."""
        return self._text.whole()

    def _read_typed(self, kind: str, read: Event, data: bytes) -> Verdict:
        if kind != "keepalive":
            self._latest, self._image_begun = kind, kind in _IMAGE_BEGUN
        if (kind in _FAILING or read.error is not None) and not self.committed:
            self._fail(data)
        elif kind not in _OPENING:
            self.committed = True
        if isinstance(read.delta, str) and not kind.endswith("audio.delta"):  # whose delta is sound
            self._text.add(read.delta)
        if (self._collects and kind.startswith(_WITH_OBJECTS)) or (kind in _WITH_SEALED and SEALED in data):
            self.objects.append(data)
        if kind == "response.output_item.done":
            self._tools.add_done(data)
        image = kind in _IMAGE
        if read.response is not None and read.response.usage is not None:
            response, tools = read.response, tools_called(data, event=True)
            usage = read.response.usage.value(response.model, response.service_tier, tools=tools)
            self._usages = [marked(usage, data, event=True) if kind == "response.incomplete" else usage]
        elif read.usage is not None:
            about = decode_answer(data)
            usage = read.usage.value(about.model, about.service_tier, int(image))
            self._usages = [*self._usages, usage] if image else [usage]
        elif image:
            self._usages.append(Usage(images=1))
        self.may_end = self.may_end or image
        # The reason of a failure may follow in an event `error`, so the stream goes on until then.
        return "end" if kind in _ENDING and not (self.failed and self.error is None) else "pass"

    def _fail(self, data: bytes) -> None:
        self.failed = True
        if self.error is None and (error := reported_error(data)) is not None:
            self.error, self.failure = error, data

    def _read_choice(self, choice: Choice) -> None:
        """Any piece of an answer commits the stream, of whatever kind it is: text, calls of tools, sound."""
        if pieces := choice.pieces():
            self._text.add(text_of(pieces[0] if len(pieces) == 1 else pieces))
        if pieces or choice.finish_reason:
            self.committed = True
            if choice.finish_reason:
                self._ran_out = choice.finish_reason == "length"
                self._finished.add(choice.index)
                self._unfinished.discard(choice.index)
                self.may_end = not self._unfinished
            elif choice.index not in self._finished:
                self._unfinished.add(choice.index)
                self.may_end = False


def _is_last(kind: str) -> bool:
    """True for an event of a response after which the caller may have all of it: the end of a text, a call or an item
    (another item begins with a new event), or an image that a tool makes."""
    if not kind.startswith("response."):
        return False
    return "image_generation_call." in kind or (kind.endswith(".done") and not kind.startswith("response.reasoning"))


def _sum(usages: list[Usage]) -> Usage:
    """The usage of all images of one stream, each of which reports its own."""
    total = {name: sum(getattr(usage, name) for usage in usages) for name in (*TOKEN_CLASSES, "images")}
    return msgspec.structs.replace(usages[-1], **total)
