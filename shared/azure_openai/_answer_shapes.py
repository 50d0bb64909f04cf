"""The parts of answers and events that the gateway reads: usage objects, choices, and the text in them."""

import json
import re
from typing import Annotated, Any

import msgspec

from shared.types import Usage

USAGE_TAIL = 4096  # bytes at the end of an answer within which its usage object begins
_USAGE_KEY = re.compile(rb'"usage"\s*:\s*(?=\{)')

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class _Details(msgspec.Struct):
    cached_tokens: _Count | None = None
    cache_write_tokens: _Count | None = None
    audio_tokens: _Count | None = None
    image_tokens: _Count | None = None
    reasoning_tokens: _Count | None = None
    accepted_prediction_tokens: _Count | None = None
    rejected_prediction_tokens: _Count | None = None


_NO_DETAILS = _Details()


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

    def value(self, model: object = "", tier: object = "", images: int = 0) -> Usage:
        read = self.prompt_tokens_details or self.input_tokens_details or self.input_token_details or _NO_DETAILS
        made = self.completion_tokens_details or self.output_tokens_details or self.output_token_details or _NO_DETAILS
        return Usage(
            input_tokens=self.prompt_tokens or self.input_tokens or 0,
            output_tokens=self.completion_tokens or self.output_tokens or 0,
            cached_input_tokens=read.cached_tokens or 0,
            cache_write_tokens=read.cache_write_tokens or 0,
            audio_input_tokens=read.audio_tokens or 0,
            image_input_tokens=read.image_tokens or 0,
            reasoning_tokens=made.reasoning_tokens or 0,
            audio_output_tokens=made.audio_tokens or 0,
            image_output_tokens=made.image_tokens or 0,
            accepted_prediction_tokens=made.accepted_prediction_tokens or 0,
            rejected_prediction_tokens=made.rejected_prediction_tokens or 0,
            images=images,
            seconds=self.seconds or 0.0,
            model=short_text(model),
            service_tier=short_text(tier),
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
