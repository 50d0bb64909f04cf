"""Detects answers that are empty because reasoning took all the tokens that the call allowed."""

import msgspec

from shared.azure_openai._answer_shapes import Choice
from shared.azure_openai.json_body import reader
from shared.types import Usage

_STEP = 64  # some models report their reasoning in such steps, so a rest below it may be reasoning, too


class _Reason(msgspec.Struct):
    reason: str = ""


class _Item(msgspec.Struct):
    type: str = ""


class _Ending(msgspec.Struct, frozen=True):
    """A chat completion, or a response."""

    choices: list[Choice] = []
    incomplete_details: _Reason | None = None
    output: list[_Item] = []

    def is_empty(self) -> bool:
        if self.incomplete_details is not None:
            ran_out = self.incomplete_details.reason == "max_output_tokens"
            return ran_out and all(item.type == "reasoning" for item in self.output)
        empty = (choice.finish_reason == "length" and not choice.pieces() for choice in self.choices)
        return bool(self.choices) and all(empty)


class _LastEvent(msgspec.Struct):
    response: _Ending = _Ending()


_read_ending = reader(_Ending)
_read_last_event = reader(_LastEvent)


def may_be_empty(usage: Usage) -> bool:
    """True if (nearly) all generated tokens are reasoning, so that it is worth a look at the answer."""
    return usage.reasoning_tokens > 0 and usage.output_tokens - usage.reasoning_tokens < _STEP


def marked(usage: Usage, data: bytes, *, event: bool = False) -> Usage:
    """The usage, marked as that of an empty answer if the answer is empty. `event`: the last one of a response's
    stream, instead of a whole answer."""
    if not may_be_empty(usage):
        return usage
    ending = _read_last_event(data).response if event else _read_ending(data)
    return msgspec.structs.replace(usage, empty=True) if ending.is_empty() else usage
