"""The exact paths at which a body names models, besides the field that chooses the deployment (`Operation.model_at`).

The shapes are those of `reference_paths`. Operations whose model is `hidden` are not in the table: keys that may use
some models only are refused there.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from shared.azure_openai import references
from shared.azure_openai.reference_paths import Shape
from shared.errors import InvalidRequest
from shared.types import Call

_MODEL: Shape = {"model": "model"}
_TOOL: Shape = {**_MODEL, "svg": _MODEL}  # image generation
_RESPONSE: Shape = {"tools": _TOOL, "input": {"tools": _TOOL}, "moderation": _MODEL}
_SESSION: Shape = {
    **_MODEL,
    "audio": {"input": {"transcription": _MODEL}},
    "input_audio_transcription": _MODEL,
}

# Anthropic's: an advisor is a tool that another model answers; `fallbacks` as a text leaves the choice to the backend.
_MESSAGES: Shape = {"tools": _MODEL, "fallbacks": ("model", _MODEL)}

MODELS: dict[str, Shape] = {
    "messages.create": _MESSAGES,
    "messages.count_tokens": _MESSAGES,
    "chat.completions": {
        "moderation": _MODEL,
        "data_sources": {"parameters": {"embedding_dependency": {"deployment_name": "model"}}},
    },
    "responses.create": _RESPONSE,
    "responses.compact": _RESPONSE,
    "responses.input_tokens": _RESPONSE,
    "conversations.create": {"items": {"tools": _TOOL}},
    "conversations.items.create": {"items": {"tools": _TOOL}},
    "images.generations": {"svg": _MODEL},
    "images.edits": {"svg": _MODEL},
    "realtime.client_secrets": {"session": _SESSION},
    "realtime.sessions": _SESSION,
    "realtimeapi.sessions": _SESSION,
    "realtime.transcription_sessions": _SESSION,
    "realtimeapi.transcription_sessions": _SESSION,
    "realtime.calls.create": {"session": _SESSION},
    "realtime.calls.accept": _SESSION,
    "realtime": {"session": _SESSION},  # of the events on a WebSocket
}


def named(call: Call) -> tuple[str, ...]:
    """Return the models that the body of a call, or the requests of its batch, name at the paths of the table. Raises
    `InvalidRequest`."""
    if call.batch is not None:
        return call.batch.others
    return named_in(call.body, call.values, call.operation.name)


def named_in(body: bytes, values: Mapping[str, slice], operation: str) -> tuple[str, ...]:
    """The same of the body of an operation, with the places of its top-level values."""
    try:
        return tuple(dict.fromkeys(_named(body, values, MODELS.get(operation, {}))))
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.") from None
    except ValueError:
        raise InvalidRequest("The body has a number of too many digits.") from None


def _named(body: bytes, values: Mapping[str, slice], shape: Shape) -> Iterator[Any]:
    for key, place in values.items():
        if (below := shape.get(key.lower())) is not None:
            value = references.decode(body[place])
            yield from (one.id for one in references.walk({key: value}, {key.lower(): below}))
