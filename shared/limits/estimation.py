"""Estimates the tokens of a call, in microseconds, from its bytes and from the usage of such calls. Pure."""

import msgspec

from shared.types import Call, Usage

ASSUMED_OUTPUT = 4096  # tokens reserved for an answer without a bound, if the most is to be reserved
MOST_OUTPUT = 131_072  # no model answers with more; a larger bound must not empty a bucket that others share
IMAGE = 4160  # tokens of a generated image in the highest quality, 1024 x 1024 pixels (gpt-image-1)
LARGEST_IMAGE = 6240
MOST_ANSWERS = 128  # the API's own bound of `n`
_HEADROOM = 1.25  # measured: halves what a fleet admits too much, and costs less than a hundredth of the limit
_WEIGHT = 0.02  # of the newest call in an average; of the first ones more
_PROMPT_HEADROOM = 1.25

_PROBES, _WINDOW = 64, 48  # places where a large body is looked at, and their bytes
_LARGE = 16_384  # bytes; what is in a smaller body cannot change much
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_="


class Size(msgspec.Struct, frozen=True, gc=False):
    """The properties of a call that decide its tokens: bytes of text; `pieces` whose tokens do not follow from their
    bytes (images, sound, files, objects that the backend keeps of earlier calls); the number of answers."""

    text: int
    pieces: int = 0
    answers: int = 1


class Experience(msgspec.Struct, frozen=True, gc=False):
    """Averages over the calls of one key to one model. A token is about four bytes of English, less of its JSON.

    `output` and `output_squared` are averages per answer. Their quotient is the average per token, which is used:
    a long answer is under way for longer, so answers under way are longer than the average one.
    """

    tokens_per_byte: float = 0.25
    output: float = 240.0
    output_squared: float = 240.0 * 450.0
    calls: int = 0
    tokens_per_piece: float = 1000.0

    @property
    def expected_output(self) -> float:
        """Tokens of an answer that is under way."""
        return self.output_squared / self.output if self.output >= 1 else self.output

    @staticmethod
    def of_others(expected_output: float) -> "Experience":
        """The averages to start from, given what another instance expects."""
        return Experience(output=expected_output / 1.9, output_squared=expected_output**2 / 1.9)

    def learn(self, size: Size, usage: Usage) -> "Experience":
        """The averages with one more call, whose usage the backend has reported."""
        weight, output = max(_WEIGHT, 1 / (self.calls + 12)), usage.output_tokens / size.answers
        ratio, piece = self.tokens_per_byte, self.tokens_per_piece
        if size.pieces:
            rest = max(0.0, usage.input_tokens - size.text * ratio)
            piece += max(weight, 0.2) * (rest / size.pieces - piece)
        elif size.text:
            ratio += weight * (min(2.0, usage.input_tokens / size.text) - ratio)
        return Experience(
            ratio,
            self.output + weight * (output - self.output),
            self.output_squared + weight * (output**2 - self.output_squared),
            self.calls + 1,
            piece,
        )

    def input(self, size: Size) -> float:
        """Tokens of the prompt."""
        return size.text * self.tokens_per_byte + size.pieces * self.tokens_per_piece


class Estimate(msgspec.Struct, frozen=True, gc=False):
    """Tokens to be reserved for a call."""

    input: float
    output: float


NOTHING = Estimate(0.0, 0.0)


def size(call: Call) -> Size:
    """The size of a call. A form holds an image or a recording, and little text."""
    if call.operation.body == "multipart":
        return Size(0, 1, _answers(call))
    binary = _binary(call.body) if len(call.body) > _LARGE else 0
    return Size(len(call.body) - binary, len(call.references) + (binary > 0), _answers(call))


def expected(call: Call, size: Size, experience: Experience) -> Estimate:
    """The usage of such calls so far, but not more than the call allows."""
    metered = call.operation.metered
    if metered in ("none", "once"):  # nothing is generated, or it was reserved by an earlier call
        return NOTHING
    output = 0.0
    if metered != "input":
        output = _HEADROOM * experience.expected_output
        if metered == "images" and not experience.calls:
            output = float(IMAGE)
        if call.max_output_tokens is not None:
            output = max(0.0, min(output, call.max_output_tokens))
    return Estimate(experience.input(size), output * size.answers)


def most(call: Call, size: Size, experience: Experience) -> Estimate:
    """All that the call allows its answers. The prompt stays an estimate: a tokenizer would be too slow."""
    metered = call.operation.metered
    if metered in ("none", "once"):
        return NOTHING
    output = 0.0
    if metered != "input":
        bound = call.max_output_tokens
        assumed = LARGEST_IMAGE if metered == "images" else ASSUMED_OUTPUT
        output = assumed if bound is None else max(0, min(bound, MOST_OUTPUT))
    return Estimate(experience.input(size) * _PROMPT_HEADROOM, output * size.answers)


def _answers(call: Call) -> int:
    """The number of answers: `n` or `best_of`, whichever is more. The prompt is read, and paid for, only once."""
    values, most = call.values, 1
    if "n" in values or "best_of" in values:
        for name in ("n", "best_of"):
            text = call.body[values[name]] if name in values else b""
            if text.isdigit():
                most = max(most, int(text[:4]))
    return min(most, MOST_ANSWERS)


def _binary(body: bytes) -> int:
    """The bytes of a large body that are images, sound or files in base64, estimated from samples: text has spaces and
    quotes."""
    step = len(body) // _PROBES
    samples = (body[at : at + _WINDOW] for at in range(step // 2, len(body), step))
    return sum(not sample.translate(None, _BASE64) for sample in samples) * step
