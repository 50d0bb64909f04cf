"""The tokens of answers that their callers left before the end, as far as no text shows them. Pure.

A model that reasons says nothing meanwhile, and a whole answer comes at its end: a caller who leaves just before would
have nearly all of its tokens for free. The time in which the model was waited for cannot be faked, so it counts.
"""

import re
from collections.abc import Collection

import msgspec

from shared.azure_openai.json_body import UNREADABLE
from shared.types import Call, Outcome, Target

TOKENS_PER_SECOND = 100.0  # models that reason generate 50 to 200
_PAUSE = 1.0  # seconds from which on a pause is not that of a network or of a prompt being read
_MOST = 131_072  # tokens; no model answers with more
_REASONING = re.compile(
    r"(?<![a-z0-9])o[1-9](?![0-9])|gpt-5|gpt-oss|deepseek-r|reason|think|grok-(?:3-mini|4)|kimi-k2|qwq|magistral"
)
_NONE = frozenset(("none", "minimal", "disabled"))


class _Reasoning(msgspec.Struct):
    """The settings of an object that asks for reasoning, in OpenAI's and in Anthropic's words."""

    effort: str | None = None
    type: str | None = None


_decode = msgspec.json.Decoder(str | _Reasoning | None).decode


class Pauses:
    """The seconds in which a stream was waited for and said nothing. `before`: its commitment, since its request was
    sent. The time in which its caller takes what has come does not count."""

    def __init__(self, before: float) -> None:
        self._seconds = 0.0
        self._quiet = before
        self._since: float | None = None
        self._tokens = 0

    def waiting(self, now: float) -> None:
        """For the backend, from now on."""
        self._since = now

    def chunk_arrived(self, now: float, tokens: int) -> None:
        """The wait is over; `tokens`: those of the text so far."""
        if self._since is not None:
            self._quiet += now - self._since
            self._since = None
        if tokens > self._tokens:
            self._tokens = tokens
            self._add()

    def end(self, now: float) -> None:
        """Nobody waits any more."""
        self.chunk_arrived(now, self._tokens)
        self._add()

    @property
    def seconds(self) -> float:
        return self._seconds

    def _add(self) -> None:
        if self._quiet >= _PAUSE:
            self._seconds += self._quiet
        self._quiet = 0.0


def with_unsaid(outcome: Outcome, call: Call, reasoning: Collection[str]) -> Outcome:
    """The outcome with what an answer has cost beside its text, if its caller left it and no usage came. `reasoning`:
    models that have reported reasoning before."""
    usage, target = outcome.usage, outcome.served_by
    left = outcome.ended == "hung_up" and usage.estimated and call.operation.metered == "tokens"
    if not left or target is None or outcome.quiet_seconds < _PAUSE:
        return outcome
    began = call.stream or outcome.status == 200  # else the answer would have come whole, with all that it says
    if began and not (target.model in reasoning or _reasons(target) or _asks(call)):
        return outcome
    tokens = min(round(outcome.quiet_seconds * TOKENS_PER_SECOND), _MOST)
    if call.max_output_tokens is not None:
        tokens = max(0, min(tokens, call.max_output_tokens - usage.output_tokens))
    usage = msgspec.structs.replace(
        usage,
        output_tokens=usage.output_tokens + tokens,
        reasoning_tokens=usage.reasoning_tokens + (tokens if began else 0),
    )
    return msgspec.structs.replace(outcome, usage=usage)


def _reasons(target: Target) -> bool:
    return bool(_REASONING.search(f"{target.model} {target.deployment}".lower()))


def _asks(call: Call) -> bool:
    """True if a body asks for reasoning."""
    for name in ("reasoning_effort", "reasoning", "thinking"):
        if (place := call.values.get(name)) is None:
            continue
        try:
            value = _decode(call.body[place])
        except UNREADABLE:
            return True
        word = value if isinstance(value, str) or value is None else value.effort or value.type
        if word is not None and word not in _NONE:
            return True
    return False
