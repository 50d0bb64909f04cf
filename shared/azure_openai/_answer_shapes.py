"""The parts of answers and events that the gateway reads: usage objects, choices, and the text in them."""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any

import msgspec

from shared.azure_openai.json_body import UNREADABLE
from shared.token_classes import TOKEN_CLASSES, TOOLS, reported_name
from shared.types import Usage

NO_TOOLS: Mapping[str, int] = MappingProxyType({})

USAGE_TAIL = 4096  # bytes at the end of an answer within which its usage object begins
_USAGE_KEY = re.compile(rb'"usage"\s*:\s*(?=\{)')

_MOST_TOKENS = 2**31
_Count = Annotated[int, msgspec.Meta(ge=0, lt=_MOST_TOKENS)]


_Details = dict[str, Any]
_PARTS = {  # of each total: the name that backends report -> the field of `TokenCounts`
    total: {reported_name(field): field for field, tokens in TOKEN_CLASSES.items() if tokens.part_of == total}
    for total in ("input", "output")
}
_NOT_CHARGED = frozenset(("text_tokens",))  # the rest of a total
_MOST_UNKNOWN = 16  # classes of one answer that are kept
_LONGEST_NAME = 64
_MOST_CONTAINERS = 1000  # of one answer that are told apart


class UsageObject(msgspec.Struct):
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

    def value(
        self, model: object = "", tier: object = "", images: int = 0, tools: Mapping[str, int] = NO_TOOLS
    ) -> Usage:
        """The usage, with the calls of `tools` beside the tokens."""
        details = {
            "input": self.prompt_tokens_details or self.input_tokens_details or self.input_token_details,
            "output": self.completion_tokens_details or self.output_tokens_details or self.output_token_details,
        }
        parts: dict[str, Any] = {**tools}
        unknown: dict[str, int] = {}
        for total, counts in details.items():
            for name, count in counts.items() if counts else ():
                if not (type(count) is int and 0 < count < _MOST_TOKENS):
                    continue
                if (field := _PARTS[total].get(name)) is not None:
                    parts[field] = count
                elif name.endswith("_tokens") and name not in _NOT_CHARGED and len(unknown) < _MOST_UNKNOWN:
                    unknown[f"{total}.{name}"[:_LONGEST_NAME]] = count
        return Usage(
            input_tokens=self.prompt_tokens or self.input_tokens or 0,
            output_tokens=self.completion_tokens or self.output_tokens or 0,
            images=images,
            seconds=self.seconds or 0.0,
            model=short_text(model),
            service_tier=short_text(tier),
            unknown=msgspec.json.encode(unknown).decode() if unknown else "",
            **parts,
        )


class Answer(msgspec.Struct):
    usage: UsageObject | None = None
    model: Any = None
    service_tier: Any = None


class Choice(msgspec.Struct):
    delta: dict[str, Any] | None = None
    message: dict[str, Any] | None = None
    text: str | None = None
    finish_reason: str | None = None
    index: int | None = 0

    def pieces(self) -> list[Any]:
        """The pieces of an answer in this choice, of whatever kind: text, calls of tools, sound."""
        message = self.delta or self.message
        pieces = [value for name, value in message.items() if value and name != "role"] if message else []
        return [*pieces, self.text] if self.text else pieces


class Event(msgspec.Struct):
    """A chat chunk, or a typed event; `response` is the object of the Responses API's events."""

    choices: list[Choice] = []
    usage: UsageObject | None = None
    error: Any = None
    type: Any = None
    response: Answer | None = None
    delta: Any = None


decode_answer = msgspec.json.Decoder(Answer).decode
decode_event = msgspec.json.Decoder(Event).decode


class _Action(msgspec.Struct):
    type: str = ""


class _Item(msgspec.Struct):
    type: str = ""
    container_id: str = ""
    action: _Action | None = None


class _Made(msgspec.Struct):
    output: list[_Item] = []


class _MadeInEvent(msgspec.Struct):
    response: _Made


class _Done(msgspec.Struct):
    item: _Item


_decode_made = msgspec.json.Decoder(_Made).decode
_decode_made_in_event = msgspec.json.Decoder(_MadeInEvent).decode
_decode_done = msgspec.json.Decoder(_Done).decode


def tools_called(data: bytes, *, event: bool = False) -> Mapping[str, int]:
    """The charged calls of tools in a response or in its last event, by the field of `Usage`."""
    if b"_call" not in data:
        return NO_TOOLS
    tools = ToolCalls()
    try:
        tools.add((_decode_made_in_event(data).response if event else _decode_made(data)).output)
    except UNREADABLE:
        return NO_TOOLS
    return tools.counted


class ToolCalls:
    """Counts the charged calls of tools, by the field of `Usage`: each search, and each container in which code ran. A
    model that opens a page that it has found does not search."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()
        self._containers: set[tuple[str, str]] = set()

    def add(self, items: Iterable[_Item]) -> None:
        for item in items:
            field, place = TOOLS.get(item.type), (item.type, item.container_id)
            searches = item.action is None or item.action.type in ("", "search")
            if field is None or not searches or place in self._containers:
                continue
            self.counted[field] += 1
            if item.container_id and len(self._containers) < _MOST_CONTAINERS:
                self._containers.add(place)

    def add_done(self, data: bytes) -> None:
        """Count the item of an event that reports it done."""
        if b"_call" in data:
            with contextlib.suppress(*UNREADABLE):
                self.add((_decode_done(data).item,))


def usage_at_end(tail: bytes) -> UsageObject | None:
    """The last usage object in the end of an answer."""
    for key in reversed(list(_USAGE_KEY.finditer(tail))):
        try:
            value, _ = json.JSONDecoder().raw_decode(tail[key.end() :].decode("utf-8", "replace"))
            return msgspec.convert(value, UsageObject)
        except (ValueError, RecursionError):
            continue
    return None


def text_of(piece: Any) -> str:
    """The text in a piece of an answer: itself, the names and arguments of calls of tools, or the transcript."""
    if isinstance(piece, str):
        return piece
    if isinstance(piece, list):
        return "".join(map(text_of, piece))
    if isinstance(piece, dict):
        return "".join(text_of(piece.get(name)) for name in ("name", "arguments", "function", "transcript"))
    return ""


def short_text(value: object) -> str:
    """A string, cut to 128 characters; "" for any other value."""
    return value[:128] if isinstance(value, str) else ""
