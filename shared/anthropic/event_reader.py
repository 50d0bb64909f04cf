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
_TEXTS = ("text", "thinking", "partial_json", "content")  # of deltas; the last one of compactions


class _Message(msgspec.Struct):
    model: Any = None
    usage: UsageObject | None = None
    container: Any = None


class _Block(msgspec.Struct):
    type: Any = None
    name: Any = None
    content: Any = None

    @property
    def aside(self) -> str:
        """The text that a compaction or the answer of an advisor begins with, else ""."""
        if self.type not in ("compaction", "advisor_tool_result"):
            return ""
        text = self.content.get("text") if isinstance(self.content, dict) else self.content
        return text if isinstance(text, str) else ""


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
        self._compactions = self._advisor_calls = self._advisor_answers = 0
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
                self._open(read.content_block or _Block())
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
        """True until the usage has come, while a block has ended and no other one has begun, or from the beginning of a
        compaction or an advisor on, whose prompts no event shows."""
        return not self._final and (self._between_blocks or self._again > 0)

    @property
    def _again(self) -> int:
        """The number of times that compactions and advisors have read the prompt."""
        return self._compactions + max(self._advisor_calls, self._advisor_answers)

    def reported(self) -> Usage | None:
        """The usage that the stream reported of its whole answer; None if it reported none."""
        return self._usage.value(self._model) if self._usage is not None and self._final else None

    def usage(self) -> Usage:
        """The usage that the stream reported. If its end is missing, its output is an estimate; so is its input if the
        beginning is missing, too."""
        if (reported := self.reported()) is not None:
            return reported
        output, again = self._text.tokens(), self._again * self._call.input_estimate
        if self._usage is None:
            return Usage(input_tokens=self._call.input_estimate + again, output_tokens=output, estimated=True)
        begun = self._usage.value(self._model)
        read, output = begun.input_tokens + again, max(begun.output_tokens, output)
        return msgspec.structs.replace(begun, input_tokens=read, output_tokens=output, estimated=True)

    @property
    def text_tokens(self) -> int:
        """An estimate of the tokens of the text so far."""
        return self._text.tokens()

    def text(self) -> str:
        """The text so far, for its tokens to be counted; "" if it is too long to be kept."""
        return self._text.whole()

    def _begin(self, message: _Message) -> None:
        self._model = message.model
        if message.usage is not None:
            self._report(message.usage, final=False)

    def _open(self, block: _Block) -> None:
        self._between_blocks = False
        self.committed = self.committed or block.type not in _FILLED
        self._compactions += block.type == "compaction"
        self._advisor_answers += block.type == "advisor_tool_result"
        self._advisor_calls += block.type == "server_tool_use" and block.name == "advisor"
        if text := block.aside:
            self._text.add(text)

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
