"""Chat completions, completions and embeddings: checks the request, generates the answer and its charge."""

import base64
import math
import uuid
from array import array
from collections.abc import Callable
from hashlib import shake_128

from msgspec import structs

from simulator import errors
from simulator.answers import Answer, Charge, StreamedAnswer, WholeAnswer
from simulator.api import completion_bodies as bodies
from simulator.api.completion_bodies import Generation
from simulator.api.completion_requests import ChatRequest, CompletionRequest, EmbeddingRequest, OperationRequest
from simulator.api.stored_completions import keep
from simulator.call import Call, Route
from simulator.generation import generate, read_prompt
from simulator.model_rules import check_chat
from simulator.models import Kind, Model
from simulator.tokens import PromptCache, measure, tokenize

# Earlier Azure API versions reject `stream_options` (azure-facts A.6).
FIRST_VERSION_WITH_STREAM_OPTIONS = "2024-08-01"

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


def _answering(kind: type[OperationRequest]) -> Callable[[Call], Answer]:
    def answer(call: Call) -> Answer:
        call.deployments.check_path()
        if not call.body:
            raise errors.not_json()
        request = call.decode(kind)
        call.entry.stream = bool(request.stream)
        deployment = call.deployments.find(request.model)
        request.check()
        call.deployments.admit(deployment, request.estimated_tokens)
        model = deployment.model
        if model.kind not in _KINDS[kind]:
            raise errors.operation_not_supported(_AZURE_OPERATION[kind], model.name)
        if isinstance(request, EmbeddingRequest):
            return _embed(request, model)
        if isinstance(request, ChatRequest):
            check_chat(model, structs.asdict(request), [message.role for message in request.messages or ()])
        _check_stream_options(request, call.dated_version)
        generation = _generate(request, model, deployment.cache, int(call.entry.time), filters=call.filters)
        if isinstance(request, ChatRequest) and request.store:
            keep(call.store.completions, generation, call.body)
        if request.stream:
            include_usage = request.stream_options is not None and request.stream_options.include_usage
            return StreamedAnswer(bodies.completion_events(generation, include_usage), generation.charge.opening)
        return WholeAnswer(bodies.completion_body(generation), generation.charge)

    return answer


def _check_stream_options(request: ChatRequest | CompletionRequest, dated_version: str | None) -> None:
    if request.stream_options is None:
        return
    if dated_version is not None and dated_version < FIRST_VERSION_WITH_STREAM_OPTIONS:
        raise errors.unrecognized_argument("stream_options")
    if not request.stream:
        raise errors.invalid_request(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options"
        )


def _generate(
    request: ChatRequest | CompletionRequest, model: Model, cache: PromptCache, created: int, *, filters: bool
) -> Generation:
    legacy = isinstance(request, CompletionRequest)
    prompts = request.prompts
    reading = read_prompt("\n".join(prompts), request.overhead_tokens, model, cache, "prompt" if legacy else "messages")
    effort = request.reasoning_effort if isinstance(request, ChatRequest) else None
    choices = [
        generate(prompt, index, request.output_limit, model, effort=effort)
        for prompt in prompts
        for index in range(request.n or 1)
    ]
    prediction, audio_tokens = None, 0
    if isinstance(request, ChatRequest):
        prediction = _predicted(request, choices[0].text)
        audio_tokens = sum(message.audio_tokens for message in request.messages or ())
    rejected = 0 if prediction is None else prediction.rejected_prediction_tokens
    return Generation(
        id=("cmpl-" if legacy else "chatcmpl-") + uuid.uuid4().hex,
        created=created,
        model=model.answered_name,
        legacy=legacy,
        charge=Charge(
            input_tokens=reading.input_tokens,
            cached_tokens=reading.cached_tokens,
            output_tokens=sum(choice.output_tokens for choice in choices) + rejected,
            reasoning_tokens=sum(choice.reasoning_tokens for choice in choices),
            audio_input_tokens=audio_tokens,
            accepted_prediction_tokens=0 if prediction is None else prediction.accepted_prediction_tokens,
            rejected_prediction_tokens=rejected,
        ),
        prompts=len(prompts),
        choices=choices,
        prediction=prediction,
        filters=filters,
    )


def _predicted(request: ChatRequest, text: str) -> Charge | None:
    """Charge of predicted output: tokens at the predicted position are accepted, the others are billed as output."""
    if request.prediction is None:
        return None
    guessed, written = tokenize(request.prediction.text), tokenize(text)
    accepted = sum(ours == theirs for ours, theirs in zip(guessed, written, strict=False))
    rejected = len(guessed) - accepted
    return Charge(output_tokens=rejected, accepted_prediction_tokens=accepted, rejected_prediction_tokens=rejected)


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
    return WholeAnswer(bodies.embedding_body(embeddings, model.name, sum(counts)), Charge(input_tokens=sum(counts)))


def _embedding(text: str, dimensions: int) -> "array[float]":
    """Deterministic unit vector for a text."""
    values = array("h", shake_128(text.encode()).digest(2 * dimensions))
    length = math.sqrt(math.sumprod(values, values)) or 1.0
    return array("f", [value / length for value in values])


ROUTES = (
    Route("POST", "chat/completions", _answering(ChatRequest), on_deployment=True),
    Route("POST", "completions", _answering(CompletionRequest), on_deployment=True),
    Route("POST", "embeddings", _answering(EmbeddingRequest), on_deployment=True),
)
