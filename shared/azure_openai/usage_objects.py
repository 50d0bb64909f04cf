"""The usage objects of answers and events, of every API, and their reading as `Usage`."""

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

import msgspec

from shared.token_classes import TOKEN_CLASSES, reported_name
from shared.types import BATCH, US, Usage

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
_PARTS["output"]["thinking_tokens"] = "reasoning_tokens"  # in Anthropic's words
_CACHED_PARTS = "cached_tokens_details"  # of the realtime API: the cached tokens of each class
_NOT_CHARGED = frozenset(("text_tokens",))  # the rest of a total
_MOST_UNKNOWN = 16  # classes of one answer that are kept
_LONGEST_NAME = 64
_BESIDE_SUMS = ("compaction", "advisor_message")  # iterations of Anthropic's


class _CacheCreation(msgspec.Struct):
    ephemeral_1h_input_tokens: _Count = 0


class _ServerTools(msgspec.Struct):
    web_search_requests: _Count | None = None


class UsageObject(msgspec.Struct):
    """The usage object of every API: chat calls its tokens prompt and completion, the others input and output, and
    transcripts their details in the singular. Details may be absent or null. Anthropic's counts the tokens of prompt
    caches beside those of the input, and calls of tools."""

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
    cache_creation_input_tokens: _Count | None = None
    cache_read_input_tokens: _Count | None = None
    cache_creation: _CacheCreation | None = None
    server_tool_use: _ServerTools | None = None
    service_tier: Any = None
    speed: Any = None
    inference_geo: Any = None
    type: Any = None  # of an iteration
    iterations: list["UsageObject"] | None = None

    def value(
        self, model: object = "", tier: object = "", images: int = 0, tools: Mapping[str, int] = NO_TOOLS
    ) -> Usage:
        """The usage, with the calls of `tools` beside the tokens. Anthropic's iterations count, also those that its
        sums leave out."""
        usage = self._sums(model, tier, images, tools)
        return _with_iterations(usage, self.iterations) if self.iterations else usage

    def _sums(self, model: object, tier: object, images: int, tools: Mapping[str, int]) -> Usage:
        details = {
            "input": self.prompt_tokens_details or self.input_tokens_details or self.input_token_details,
            "output": self.completion_tokens_details or self.output_tokens_details or self.output_token_details,
        }
        parts: dict[str, Any] = {**tools}
        unknown: dict[str, int] = {}
        cached: dict[str, Any] | None = None
        for total, counts in details.items():
            for name, count in counts.items() if counts else ():
                if not (type(count) is int and 0 < count < _MOST_TOKENS):
                    if name == _CACHED_PARTS and isinstance(count, dict):
                        cached = count
                    continue
                if (field := _PARTS[total].get(name)) is not None:
                    parts[field] = count
                elif name.endswith("_tokens") and name not in _NOT_CHARGED and len(unknown) < _MOST_UNKNOWN:
                    unknown[f"{total}.{name}"[:_LONGEST_NAME]] = count
        if cached is not None:
            _take_out_cached(parts, cached)
        beside = 0
        if self.cache_creation_input_tokens or self.cache_read_input_tokens:
            beside = self._add_cached(parts)
        if self.server_tool_use is not None and self.server_tool_use.web_search_requests:
            parts["web_searches"] = self.server_tool_use.web_search_requests
        return Usage(
            input_tokens=(self.prompt_tokens or self.input_tokens or 0) + beside,
            output_tokens=self.completion_tokens or self.output_tokens or 0,
            images=images,
            seconds=self.seconds or 0.0,
            model=short_text(model),
            service_tier=short_text(tier or self._tier()),
            unknown=msgspec.json.encode(unknown).decode() if unknown else "",
            **parts,
        )

    def _tier(self) -> str:
        """The tier in Anthropic's words, as far as it changes the prices: not the one of a commitment. `us` is the one
        of a call that the model has answered in the United States, as it was asked to."""
        tier = BATCH if self.service_tier == BATCH else "fast" if self.speed == "fast" else ""
        return "-".join(filter(None, (tier, US if self.inference_geo == US else "")))

    def _add_cached(self, parts: dict[str, Any]) -> int:
        """Add the parts of a prompt that a cache has read or written, and return their sum."""
        written, read = self.cache_creation_input_tokens or 0, self.cache_read_input_tokens or 0
        for_an_hour = min(written, self.cache_creation.ephemeral_1h_input_tokens if self.cache_creation else 0)
        counts = {
            "cached_input_tokens": read,
            "cache_write_tokens": written - for_an_hour,
            "cache_write_1h_tokens": for_an_hour,
        }
        parts |= {field: count for field, count in counts.items() if count}
        return written + read


def _with_iterations(sums: Usage, iterations: list[UsageObject]) -> Usage:
    """The usage of a message that took several iterations of one or more models, never less than either the sums or the
    iterations say. Those of compactions and advisors stand beside the sums."""
    inside, beside = dict.fromkeys(TOKEN_CLASSES, 0), dict.fromkeys(TOKEN_CLASSES, 0)
    for iteration in iterations:
        usage, into = iteration._sums("", "", 0, NO_TOOLS), beside if iteration.type in _BESIDE_SUMS else inside
        for name in TOKEN_CLASSES:
            into[name] += getattr(usage, name)
    counts = {name: max(getattr(sums, name), inside[name]) + beside[name] for name in TOKEN_CLASSES}
    return msgspec.structs.replace(sums, **counts)


def _take_out_cached(parts: dict[str, Any], cached: Mapping[str, Any]) -> None:
    """Count cached sound and pictures as cached alone: they have the price of cached tokens, not that of their
    class."""
    for field in ("audio_input_tokens", "image_input_tokens"):
        count = cached.get(reported_name(field))
        if field in parts and type(count) is int and count > 0:
            parts[field] = max(0, parts[field] - count)


def usage_at_end(tail: bytes) -> UsageObject | None:
    """The last usage object in the end of an answer."""
    for key in reversed(list(_USAGE_KEY.finditer(tail))):
        try:
            value, _ = json.JSONDecoder().raw_decode(tail[key.end() :].decode("utf-8", "replace"))
            return msgspec.convert(value, UsageObject)
        except (ValueError, RecursionError):
            continue
    return None


def short_text(value: object) -> str:
    """A string, cut to 128 characters; "" for any other value."""
    return value[:128] if isinstance(value, str) else ""
