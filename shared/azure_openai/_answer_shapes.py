"""The parts of answers and events that the gateway reads: choices, the text in them, and calls of tools."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from shared.azure_openai.json_body import UNREADABLE, reader
from shared.azure_openai.usage_objects import NO_TOOLS, UsageObject
from shared.token_classes import TOOLS

_MOST_CONTAINERS = 1000  # counted of one answer


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


class _Made(msgspec.Struct, frozen=True):
    output: list[_Item] = []


class _MadeInEvent(msgspec.Struct):
    response: _Made = _Made()


class _Done(msgspec.Struct):
    item: _Item


_read_made = reader(_Made)
_read_made_in_event = reader(_MadeInEvent)
_decode_done = msgspec.json.Decoder(_Done).decode


def tools_called(data: bytes, *, event: bool = False) -> Mapping[str, int]:
    """The charged calls of tools in a response or in its last event, by the field of `Usage`."""
    if b"_call" not in data:
        return NO_TOOLS
    tools = ToolCalls()
    tools.add((_read_made_in_event(data).response if event else _read_made(data)).output)
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


def text_of(piece: Any) -> str:
    """The text in a piece of an answer: itself, the names and arguments of calls of tools, or the transcript."""
    if isinstance(piece, str):
        return piece
    if isinstance(piece, list):
        return "".join(map(text_of, piece))
    if isinstance(piece, dict):
        return "".join(text_of(piece.get(name)) for name in ("name", "arguments", "function", "transcript"))
    return ""
