"""How many tokens a call will take: guessed in microseconds from its bytes and from what such calls took. Pure."""

import msgspec

from shared.types import Call, Usage

ASSUMED_OUTPUT = 4096  # tokens reserved for an answer without a bound, where the most is to be reserved
MOST_OUTPUT = 131_072  # no model answers with more; a caller's larger bound must not empty a bucket that others share
_HEADROOM = 1.25  # measured: halves what a fleet admits too much, and costs less than a hundredth of the limit
_WEIGHT = 0.02  # of the newest call in an average; of the first ones more
_PROMPT_HEADROOM = 1.25


class Experience(msgspec.Struct, frozen=True):
    """What the calls of one key to one model have taken. A token is about four bytes of English, less of its JSON.

    `output` and `output_squared` are averages over the answers. What counts is the average over the tokens, their
    quotient: a long answer is under way for longer, so those under way are longer than the average one.
    """

    tokens_per_byte: float = 0.25
    output: float = 240.0
    output_squared: float = 240.0 * 450.0
    calls: int = 0

    @property
    def expected_output(self) -> float:
        """Tokens of an answer that is under way."""
        return self.output_squared / self.output if self.output >= 1 else self.output

    @staticmethod
    def of_others(expected_output: float) -> "Experience":
        """Begin with what another instance expects."""
        return Experience(output=expected_output / 1.9, output_squared=expected_output**2 / 1.9)

    def learn(self, body_bytes: int, usage: Usage) -> "Experience":
        """With one more call, of which the backend told the usage."""
        ratio, weight = min(2.0, usage.input_tokens / max(1, body_bytes)), max(_WEIGHT, 1 / (self.calls + 12))
        return Experience(
            self.tokens_per_byte + weight * (ratio - self.tokens_per_byte),
            self.output + weight * (usage.output_tokens - self.output),
            self.output_squared + weight * (usage.output_tokens**2 - self.output_squared),
            self.calls + 1,
        )


class Estimate(msgspec.Struct, frozen=True):
    """Tokens to be reserved for a call."""

    input: float
    output: float


def expected(call: Call, experience: Experience) -> Estimate:
    """What such calls have taken, and not more than the call allows."""
    output = 0.0
    if call.operation.metered == "tokens":
        output = _HEADROOM * experience.expected_output
        if call.max_output_tokens is not None:
            output = max(0.0, min(output, call.max_output_tokens))
    return Estimate(len(call.body) * experience.tokens_per_byte, output)


def most(call: Call, experience: Experience) -> Estimate:
    """All that the call allows its answer. The prompt stays an estimate: only a tokenizer could tell, too slowly."""
    output = 0.0
    if call.operation.metered == "tokens":
        bound = call.max_output_tokens
        output = ASSUMED_OUTPUT if bound is None else max(0, min(bound, MOST_OUTPUT))
    return Estimate(len(call.body) * experience.tokens_per_byte * _PROMPT_HEADROOM, output)
