"""What a deployment answers to a decoded request: checks the model's rules, generates, and says what is charged."""

import base64
import math
import re
import uuid
from array import array
from collections.abc import Iterator
from hashlib import shake_128

import msgspec

from . import answers, errors
from .answers import Charge, GeneratedChoice, Generation, StreamEvent
from .models import Kind, Model
from .requests import ChatRequest, CompletionRequest, EmbeddingRequest, OperationRequest
from .tokens import PromptCache, generate_tokens, measure

NATURAL_OUTPUT_TOKENS = 32
REASONING_TOKENS = 16
FILTERED_WORD = "simulate_content_filter"

# Before this version an Azure API version knows no `stream_options` (azure-facts A.6).
FIRST_VERSION_WITH_STREAM_OPTIONS = "2024-08-01"

_OUTPUT_DIRECTIVE = re.compile(r"simulate_output_tokens=(\d{1,6})\b")
_AZURE_OPERATION = {
    ChatRequest: "chatCompletion",
    CompletionRequest: "completion",
    EmbeddingRequest: "embeddings",
}
_KINDS: dict[type[OperationRequest], tuple[Kind, ...]] = {
    ChatRequest: ("chat", "reasoning"),
    CompletionRequest: ("completions",),
    EmbeddingRequest: ("embeddings",),
}


class WholeAnswer(msgspec.Struct, frozen=True):
    charge: Charge
    body: bytes


class StreamedAnswer(msgspec.Struct, frozen=True):
    """`charge` is that of the whole stream; a stream that is cut is charged by the events that were sent."""

    charge: Charge
    events: Iterator[StreamEvent]


Answer = WholeAnswer | StreamedAnswer

FREE = Charge(0)


def answer_request(
    request: OperationRequest, model: Model, cache: PromptCache, *, api_version: str | None, now: float
) -> Answer:
    """Raises AzureError. `api_version` is None on the v1 surface, `now` an epoch in seconds."""
    if model.kind not in _KINDS[type(request)]:
        raise errors.operation_not_supported(_AZURE_OPERATION[type(request)], model.name)
    if isinstance(request, EmbeddingRequest):
        return _embed(request, model)
    _check_stream_options(request, api_version)
    generation = _generate(request, model, cache, int(now))
    if request.stream:
        include_usage = request.stream_options is not None and request.stream_options.include_usage
        return StreamedAnswer(generation.charge, answers.completion_events(generation, include_usage))
    return WholeAnswer(generation.charge, answers.completion_body(generation))


def _check_stream_options(request: ChatRequest | CompletionRequest, api_version: str | None) -> None:
    if request.stream_options is None:
        return
    if api_version is not None and api_version < FIRST_VERSION_WITH_STREAM_OPTIONS:
        raise errors.unrecognized_argument("stream_options")
    if not request.stream:
        raise errors.invalid_request(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options"
        )


def _generate(request: ChatRequest | CompletionRequest, model: Model, cache: PromptCache, created: int) -> Generation:
    """Generates one text of the prompt's natural length per choice, cut at the request's limit.

    The natural length is 32 tokens, or N where the prompt says `simulate_output_tokens=N`. A reasoning model thinks
    for 16 tokens first, which count towards the limit too.
    """
    if model.kind == "reasoning" and isinstance(request, ChatRequest) and request.max_tokens is not None:
        raise errors.unsupported_parameter("max_tokens", "max_completion_tokens")
    prompts = request.prompts
    text = "\n".join(prompts)
    measured = measure(text)
    input_tokens = measured.tokens + request.overhead_tokens
    if FILTERED_WORD in text:
        raise errors.content_filtered(input_tokens)
    if input_tokens > model.context_window:
        param = "messages" if isinstance(request, ChatRequest) else "prompt"
        raise errors.context_length_exceeded(model.context_window, input_tokens, param)
    choices = [
        _generate_choice(prompt, index, request.output_limit, model)
        for prompt in prompts
        for index in range(request.n or 1)
    ]
    legacy = isinstance(request, CompletionRequest)
    reasoning_tokens = sum(choice.reasoning_tokens for choice in choices)
    return Generation(
        id=("cmpl-" if legacy else "chatcmpl-") + uuid.uuid4().hex,
        created=created,
        model=model.answered_name,
        legacy=legacy,
        charge=Charge(
            input_tokens=input_tokens,
            cached_tokens=cache.remember(measured),
            output_tokens=reasoning_tokens + sum(len(choice.tokens) for choice in choices),
            reasoning_tokens=reasoning_tokens,
        ),
        prompts=len(prompts),
        choices=choices,
    )


def _generate_choice(prompt: str, index: int, limit: int | None, model: Model) -> GeneratedChoice:
    directive = _OUTPUT_DIRECTIVE.search(prompt)
    natural = int(directive[1]) if directive else NATURAL_OUTPUT_TOKENS
    allowed = model.context_window if limit is None else limit
    reasoning = min(REASONING_TOKENS, allowed) if model.kind == "reasoning" else 0
    visible = min(natural, allowed - reasoning)
    return GeneratedChoice(
        tokens=generate_tokens(prompt, index, visible),
        reasoning_tokens=reasoning,
        finish_reason="stop" if visible == natural else "length",
    )


def _embed(request: EmbeddingRequest, model: Model) -> WholeAnswer:
    dimensions = request.dimensions or model.dimensions
    if dimensions > model.dimensions:
        raise errors.invalid_request(
            f"Invalid value for 'dimensions': must be less than or equal to {model.dimensions}.", "dimensions"
        )
    texts = request.texts
    counts = [measure(text).tokens for text in texts]
    if max(counts) > model.context_window:
        raise errors.context_length_exceeded(model.context_window, max(counts), "input")
    vectors = [_embedding(text, dimensions) for text in texts]
    embeddings: list[list[float] | str] = [
        base64.b64encode(vector.tobytes()).decode() if request.encoding_format == "base64" else vector.tolist()
        for vector in vectors
    ]
    return WholeAnswer(Charge(input_tokens=sum(counts)), answers.embedding_body(embeddings, model.name, sum(counts)))


def _embedding(text: str, dimensions: int) -> "array[float]":
    """A unit vector that depends on nothing but the text."""
    values = array("h", shake_128(text.encode()).digest(2 * dimensions))
    length = math.sqrt(math.sumprod(values, values)) or 1.0
    return array("f", [value / length for value in values])
