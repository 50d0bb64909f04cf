"""Estimates the tokens of a call, in microseconds, from its bytes and from the usage of such calls. Pure."""

import msgspec

from shared.azure_openai.metering import IMAGE
from shared.types import BATCHES, Call
from shared.usage.token_averages import Size, TokenAverages

ASSUMED_OUTPUT = 4096  # tokens reserved for an answer without a bound, if the most is to be reserved
MOST_OUTPUT = 131_072  # no model answers with more; a larger bound must not empty a bucket that others share
LARGEST_IMAGE = 6240
MOST_ANSWERS = 128  # the API's own bound of `n`
_HEADROOM = 1.25  # measured: halves what a fleet admits too much, and costs less than a hundredth of the limit
_PROMPT_HEADROOM = 1.25

_UNREAD = ("multipart", "socket")  # bodies whose tokens do not follow from their bytes
_PROBES, _WINDOW = 64, 48  # places where a large body is looked at, and their bytes
_LARGE = 16_384  # bytes; what is in a smaller body cannot change much
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_="


class Estimate(msgspec.Struct, frozen=True, gc=False):
    """Tokens to be reserved for a call."""

    input: float
    output: float


NOTHING = Estimate(0.0, 0.0)


def size(call: Call) -> Size:
    """The size of a call. A form holds an image or a recording, and little text; a response of a realtime connection
    reads a conversation that its backend keeps."""
    if call.batch is not None:
        return Size(0)  # `Limiter.reserve_batch` has its size
    if call.operation.body in _UNREAD:
        return Size(0, 1, _answers(call))
    binary = _binary(call.body) if len(call.body) > _LARGE else 0
    return Size(len(call.body) - binary, len(call.references) + (binary > 0), _answers(call))


def generates(call: Call) -> bool:
    """True if a call takes tokens. Those of an object that it only reads are the matter of the call that made it."""
    return call.operation.metered not in ("none", "once") or call.makes in ("run", *BATCHES)


def expected(call: Call, size: Size, averages: TokenAverages) -> Estimate:
    """The usage of such calls so far, but not more than the call allows."""
    metered = call.operation.metered
    if not generates(call):
        return NOTHING
    output = 0.0
    if metered != "input":
        output = _HEADROOM * averages.expected_output
        if metered == "images" and not averages.calls:
            output = float(IMAGE)
        if call.max_output_tokens is not None:
            output = max(0.0, min(output, call.max_output_tokens))
    return Estimate(averages.input(size), output * size.answers)


def most(call: Call, size: Size, averages: TokenAverages) -> Estimate:
    """All that the call allows its answers. The prompt stays an estimate: a tokenizer would be too slow."""
    metered = call.operation.metered
    if not generates(call):
        return NOTHING
    output = 0.0
    if metered != "input":
        bound = call.max_output_tokens
        assumed = LARGEST_IMAGE if metered == "images" else ASSUMED_OUTPUT
        output = assumed if bound is None else max(0, min(bound, MOST_OUTPUT))
    return Estimate(averages.input(size) * _PROMPT_HEADROOM, output * size.answers)


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
