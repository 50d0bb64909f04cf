"""Reads the events of a stream of messages: usage, text, objects, and whether it is committed, has failed or ended."""

from typing import Any

import msgspec

from shared.azure_openai import event_stream
from shared.azure_openai.answers import ReportedError, reported_error
from shared.azure_openai.event_relay import Verdict
from shared.azure_openai.json_body import UNREADABLE
from shared.azure_openai.streamed_text import StreamedText
from shared.azure_openai.usage_objects import USAGE_TAIL, UsageObject, usage_at_end
from shared.types import Call, Usage

# Events that come before any content, so another backend could still take over.
_OPENING = frozenset(("message_start", "content_block_start", "content_block_stop", "ping"))
# Blocks that begin empty, and which deltas fill. Any other one has its content with it.
_FILLED = frozenset(("text", "thinking", "tool_use", "server_tool_use", "mcp_tool_use"))
_TEXTS = ("text", "thinking", "partial_json")  # of deltas


class _Message(msgspec.Struct):
    model: Any = None
    usage: UsageObject | None = None
    container: Any = None


class _Block(msgspec.Struct):
    type: Any = None


class _Event(msgspec.Struct):
    type: Any = None
    message: _Message | None = None
    content_block: _Block | None = None
    delta: dict[str, Any] | None = None
    usage: UsageObject | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


class MessageEventReader:
    """Reads one stream, as an `event_relay.Reader`."""

    def __init__(self, call: Call) -> None:
        self.committed = self.failed = self.marked = self.may_end = False
        self.error: ReportedError | None = None
        self.failure = b""
        self.objects: list[bytes] = []
        self._call = call
        self._model: object = ""
        self._usage: UsageObject | None = None
        self._between_blocks = False  # or behind the last one
        self._final = False  # the usage is that of the whole answer
        self._text = StreamedText()

    @property
    def is_empty(self) -> bool:
        """False: a message that runs out of tokens has begun with its thinking."""
        return False

    def read(self, event: bytes) -> Verdict:
        """Read a whole event."""
        data = event_stream.payload(event)
        if not data:
            return "pass"
        try:
            read = _decode(data)
        except UNREADABLE:
            self.committed = True  # not the gateway's to judge: it passes as it is
            return "pass"
        match read.type:
            case "error":
                if not self.committed:
                    self.failed, self.error, self.failure = True, reported_error(data) or ReportedError(), data
            case "message_start":
                self._begin(read.message or _Message())
            case "content_block_stop":
                self._between_blocks = True
            case "content_block_start":
                self._between_blocks = False
                self.committed = self.committed or (read.content_block or _Block()).type not in _FILLED
            case "content_block_delta" | "message_delta":
                self.committed = True
                self._add(read.delta or {})
            case "message_stop":
                self.committed = self.marked = True
            case kind if kind not in _OPENING:
                self.committed = True
        if read.usage is not None:
            self._report(read.usage, final=True)
        named = read.type == "message_start" or b'"container"' in data or b'"file_id"' in data
        if named and self._call.leaves_parts:
            self.objects.append(data)
        return "end" if self.marked else "pass"

    def read_beginning(self, begun: bytes) -> None:
        """Read the beginning of a long event, which is content."""
        self.committed = True

    def read_end(self, tail: bytes) -> Verdict:
        """Read the end of an event that is too long to be kept."""
        if (usage := usage_at_end(tail[-USAGE_TAIL:])) is not None:
            self._report(usage, final=True)
        return "pass"

    @property
    def owes_usage(self) -> bool:
        """True while a block has ended, no other one has begun, and the usage has not come."""
        return self._between_blocks and not self._final

    def reported(self) -> Usage | None:
        """The usage that the stream reported of its whole answer; None if it reported none."""
        return self._usage.value(self._model) if self._usage is not None and self._final else None

    def usage(self) -> Usage:
        """The usage that the stream reported. If its end is missing, its output is an estimate; so is its input if the
        beginning is missing, too."""
        if (reported := self.reported()) is not None:
            return reported
        said = self._text.tokens()
        if self._usage is None:
            return Usage(input_tokens=self._call.input_estimate, output_tokens=said, estimated=True)
        begun = self._usage.value(self._model)
        return msgspec.structs.replace(begun, output_tokens=max(begun.output_tokens, said), estimated=True)

    @property
    def said(self) -> int:
        """An estimate of the tokens of the text so far."""
        return self._text.tokens()

    def text(self) -> str:
        """The text so far, for its tokens to be counted; "" if it is too long to be kept."""
        return self._text.whole()

    def _begin(self, message: _Message) -> None:
        self._model = message.model
        if message.usage is not None:
            self._report(message.usage, final=False)

    def _add(self, delta: dict[str, Any]) -> None:
        for name in _TEXTS:
            if isinstance(text := delta.get(name), str):
                self._text.add(text)

    def _report(self, usage: UsageObject, *, final: bool) -> None:
        """Take over the counts of an event. They are sums so far, and each replaces its earlier value."""
        if self._usage is None:
            self._usage = usage
        else:
            for name in UsageObject.__struct_fields__:
                if (value := getattr(usage, name)) is not None:
                    setattr(self._usage, name, value)
        self._final = self._final or final
