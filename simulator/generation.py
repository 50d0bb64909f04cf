"""Simulated models: the tokens of a prompt, and the generated text."""

import re
from collections.abc import Mapping
from typing import Literal

import msgspec

from . import errors
from .models import Model
from .tokens import PromptCache, generate_tokens, measure

TOKENS_PER_CHUNK = 2
NATURAL_OUTPUT_TOKENS = 32
REASONING_TOKENS = 16
FILTERED_WORD = "simulate_content_filter"

_DIRECTIVE = re.compile(r"simulate_(output_tokens|seconds|bytes|web_searches)=(\d{1,9})\b")


class Reading(msgspec.Struct, frozen=True):
    """Tokens charged for a prompt."""

    input_tokens: int
    cached_tokens: int


class GeneratedChoice(msgspec.Struct, frozen=True):
    tokens: list[str]
    reasoning_tokens: int
    finish_reason: Literal["stop", "length"]

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    @property
    def output_tokens(self) -> int:
        return len(self.tokens) + self.reasoning_tokens


def read_prompt(text: str, overhead_tokens: int, model: Model, cache: PromptCache, param: str) -> Reading:
    """Raises AzureError 400 for a filtered or too long prompt; `param` is the parameter that holds it."""
    measured = measure(text)
    input_tokens = measured.tokens + overhead_tokens
    if FILTERED_WORD in text:
        raise errors.content_filtered(input_tokens)
    if input_tokens > model.context_window:
        raise errors.context_length_exceeded(model.context_window, input_tokens, param)
    return Reading(input_tokens, cache.remember(measured))


def generate(
    prompt: str, index: int, limit: int | None, model: Model, directions: str | None = None, effort: str | None = None
) -> GeneratedChoice:
    """Deterministic text for a prompt and index, cut at the limit.

    The natural length is 32 tokens, or N if `directions` (by default the prompt) contains `simulate_output_tokens=N`. A
    reasoning model adds 16 reasoning tokens, which count towards the limit, unless its effort is `none` or `minimal`.
    """
    natural = directive(prompt if directions is None else directions, "output_tokens")
    if natural is None:
        natural = NATURAL_OUTPUT_TOKENS
    allowed = model.context_window if limit is None else limit
    reasons = model.kind == "reasoning" and effort not in ("none", "minimal")
    reasoning = min(REASONING_TOKENS, allowed) if reasons else 0
    visible = min(natural, allowed - reasoning)
    return GeneratedChoice(
        tokens=generate_tokens(prompt, index, visible),
        reasoning_tokens=reasoning,
        finish_reason="stop" if visible == natural else "length",
    )


def work_seconds(metadata: Mapping[str, str] | None, usual: float) -> float:
    """The time that work goes on after its call: `simulate_seconds` of its metadata, or the usual time."""
    seconds = (metadata or {}).get("simulate_seconds", "")
    return float(seconds) if seconds.isdecimal() else usual


def directive(prompt: str, name: Literal["output_tokens", "seconds", "bytes", "web_searches"]) -> int | None:
    """The number in a directive such as `simulate_seconds=3` in the prompt; None without one."""
    if "simulate_" not in prompt:
        return None
    return next((int(number) for kind, number in _DIRECTIVE.findall(prompt) if kind == name), None)
