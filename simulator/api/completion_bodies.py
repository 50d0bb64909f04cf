"""Response bodies of chats, completions and embeddings, and the events of their streams.

Azure writes the keys of chat and completion bodies alphabetically; the fields below are in that order.
"""

from collections.abc import Iterator

import msgspec

from simulator.answers import DONE, Charge, StreamEvent, data_event, encode_json
from simulator.generation import TOKENS_PER_CHUNK, GeneratedChoice

_SAFE = {"filtered": False, "severity": "safe"}
_SAFE_CONTENT = msgspec.Raw(
    msgspec.json.encode({"hate": _SAFE, "self_harm": _SAFE, "sexual": _SAFE, "violence": _SAFE})
)
_NO_RESULTS = msgspec.Raw(b"{}")
_FINGERPRINT = "fp_simulator"

Unset = msgspec.UnsetType


class Generation(msgspec.Struct, frozen=True):
    """Content of an answer, streamed or not. `prediction`: the part of `charge` caused by predicted output. `filters`:
    it has the results of Azure's content filters."""

    id: str
    created: int
    model: str
    legacy: bool
    charge: Charge
    prompts: int
    choices: list[GeneratedChoice]
    prediction: Charge | None = None
    filters: bool = True


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    accepted_prediction_tokens: int
    audio_tokens: int
    reasoning_tokens: int
    rejected_prediction_tokens: int


class PromptTokensDetails(msgspec.Struct, frozen=True):
    audio_tokens: int
    cached_tokens: int


class Usage(msgspec.Struct, frozen=True):
    completion_tokens: int
    completion_tokens_details: CompletionTokensDetails
    prompt_tokens: int
    prompt_tokens_details: PromptTokensDetails
    total_tokens: int


class AssistantMessage(msgspec.Struct, frozen=True):
    annotations: list[str]
    content: str
    refusal: None = None
    role: str = "assistant"


class Delta(msgspec.Struct, frozen=True):
    content: str | Unset = msgspec.UNSET
    refusal: Unset | None = msgspec.UNSET
    role: str | Unset = msgspec.UNSET


class Choice(msgspec.Struct, frozen=True):
    """`message` and `delta` belong to a chat, `text` to a completion."""

    content_filter_results: msgspec.Raw | Unset = msgspec.UNSET
    delta: Delta | Unset = msgspec.UNSET
    finish_reason: str | None = None
    index: int = 0
    logprobs: None = None
    message: AssistantMessage | Unset = msgspec.UNSET
    text: str | Unset = msgspec.UNSET


class PromptFilterResult(msgspec.Struct, frozen=True):
    prompt_index: int
    content_filter_results: msgspec.Raw


class Completion(msgspec.Struct, frozen=True):
    """A whole answer or a chunk of one, for chats and completions."""

    choices: list[Choice]
    created: int
    id: str
    model: str
    object: str
    prompt_filter_results: list[PromptFilterResult] | Unset = msgspec.UNSET
    system_fingerprint: str | Unset = msgspec.UNSET
    usage: Usage | Unset | None = msgspec.UNSET


class EmbeddingData(msgspec.Struct, frozen=True):
    object: str
    index: int
    embedding: list[float] | str


class EmbeddingUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct, frozen=True):
    object: str
    data: list[EmbeddingData]
    model: str
    usage: EmbeddingUsage


def completion_body(generation: Generation) -> bytes:
    choices = []
    for index, generated in enumerate(generation.choices):
        text = "".join(generated.tokens)
        content = {"text": text} if generation.legacy else {"message": AssistantMessage([], text)}
        choices.append(
            msgspec.structs.replace(
                Choice(_results(generation, _SAFE_CONTENT), finish_reason=generated.finish_reason, index=index),
                **content,
            )
        )
    return encode_json(
        Completion(
            choices=choices,
            created=generation.created,
            id=generation.id,
            model=generation.model,
            object="text_completion" if generation.legacy else "chat.completion",
            prompt_filter_results=_prompt_filter_results(generation),
            system_fingerprint=_FINGERPRINT,
            usage=_usage(generation.charge),
        )
    )


def completion_events(generation: Generation, include_usage: bool) -> Iterator[StreamEvent]:
    """Events in Azure's order: filter results, roles, content, finish reasons, usage if requested, [DONE]."""
    usage: Unset | None = None if include_usage else msgspec.UNSET
    opening = Completion([], 0, "", "", "", prompt_filter_results=_prompt_filter_results(generation), usage=usage)
    if generation.filters:
        yield data_event("opening", opening)
    if not generation.legacy:
        for index in range(len(generation.choices)):
            role = Choice(
                _results(generation, _NO_RESULTS), delta=Delta(content="", refusal=None, role="assistant"), index=index
            )
            yield data_event("opening", _chunk(generation, [role], usage))
    yield from _content_events(generation, usage)
    if generation.prediction is not None:
        yield StreamEvent("closing", b"", generation.prediction)
    for index, generated in enumerate(generation.choices):
        finish = _text_choice(generation, None, index, generated.finish_reason)
        unseen = 0 if generated.tokens else generated.reasoning_tokens
        charge = Charge(output_tokens=unseen, reasoning_tokens=unseen) if unseen else None
        yield data_event("closing", _chunk(generation, [finish], usage), charge)
    if include_usage:
        yield data_event("closing", _chunk(generation, [], _usage(generation.charge)))
    yield StreamEvent("closing", DONE)


def embedding_body(embeddings: list[list[float] | str], model: str, input_tokens: int) -> bytes:
    data = [EmbeddingData("embedding", index, embedding) for index, embedding in enumerate(embeddings)]
    return encode_json(EmbeddingList("list", data, model, EmbeddingUsage(input_tokens, input_tokens)))


def _content_events(generation: Generation, usage: Unset | None) -> Iterator[StreamEvent]:
    """Chunks of all choices in turn. The first chunk of a choice is charged for its reasoning."""
    longest = max(len(generated.tokens) for generated in generation.choices)
    for start in range(0, longest, TOKENS_PER_CHUNK):
        for index, generated in enumerate(generation.choices):
            tokens = generated.tokens[start : start + TOKENS_PER_CHUNK]
            if tokens:
                choice = _text_choice(generation, "".join(tokens), index, None)
                reasoning = generated.reasoning_tokens if start == 0 else 0
                charge = Charge(output_tokens=len(tokens) + reasoning, reasoning_tokens=reasoning)
                yield data_event("content", _chunk(generation, [choice], usage), charge)


def _text_choice(generation: Generation, text: str | None, index: int, finish_reason: str | None) -> Choice:
    results = _results(generation, _SAFE_CONTENT if text is not None else _NO_RESULTS)
    if generation.legacy:
        return Choice(results, finish_reason=finish_reason, index=index, text=text or "")
    delta = Delta() if text is None else Delta(content=text)
    return Choice(results, delta=delta, finish_reason=finish_reason, index=index)


def _chunk(generation: Generation, choices: list[Choice], usage: Usage | Unset | None) -> Completion:
    return Completion(
        choices=choices,
        created=generation.created,
        id=generation.id,
        model=generation.model,
        object="text_completion" if generation.legacy else "chat.completion.chunk",
        system_fingerprint=_FINGERPRINT,
        usage=usage,
    )


def _results(generation: Generation, results: msgspec.Raw) -> msgspec.Raw | Unset:
    return results if generation.filters else msgspec.UNSET


def _prompt_filter_results(generation: Generation) -> list[PromptFilterResult] | Unset:
    if not generation.filters:
        return msgspec.UNSET
    return [PromptFilterResult(index, _SAFE_CONTENT) for index in range(generation.prompts)]


def _usage(charge: Charge) -> Usage:
    return Usage(
        completion_tokens=charge.output_tokens,
        completion_tokens_details=CompletionTokensDetails(
            charge.accepted_prediction_tokens,
            charge.audio_output_tokens,
            charge.reasoning_tokens,
            charge.rejected_prediction_tokens,
        ),
        prompt_tokens=charge.input_tokens,
        prompt_tokens_details=PromptTokensDetails(charge.audio_input_tokens, charge.cached_tokens),
        total_tokens=charge.input_tokens + charge.output_tokens,
    )
