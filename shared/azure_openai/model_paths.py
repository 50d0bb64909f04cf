"""The exact paths at which a body names models, besides the field that chooses the deployment (`Operation.model_at`).

The shapes are those of `reference_paths`. Operations whose model is `hidden` are not in the table: keys that may use
some models only are refused there.
"""

import re
from collections.abc import Mapping

from shared.azure_openai import references
from shared.azure_openai.outline import Outline
from shared.azure_openai.reference_paths import Shape

_MODEL: Shape = {"model": "model"}
_TOOL: Shape = {**_MODEL, "svg": _MODEL}  # image generation
_RESPONSE: Shape = {"tools": _TOOL, "input": {"tools": _TOOL}, "moderation": _MODEL}
_SESSION: Shape = {
    **_MODEL,
    "audio": {"input": {"transcription": _MODEL}},
    "input_audio_transcription": _MODEL,
}

# Anthropic's: an advisor is a tool that another model answers, which a turn may bring as well; `fallbacks` as a text
# leaves the choice to the backend.
_BROUGHT: Shape = {"tool": {"definition": _MODEL}}
_MESSAGES: Shape = {
    "tools": _MODEL,
    "fallbacks": ("model", _MODEL),
    "messages": {"content": {**_BROUGHT, "tool_changes": _BROUGHT}},
}

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


_KEYS = re.compile(rb'"(?:model|deployment_name)"|\\u00[2-7]', re.IGNORECASE)  # without which a value names none


def in_request(
    body: bytes, values: Mapping[str, slice], operation: str, outline: Outline | None = None
) -> tuple[str, ...]:
    """The models that a body names at the paths of the table, each once. `values`: the places of its top-level values;
    `outline`: that of a large body. Raises `InvalidRequest`."""
    shape = MODELS.get(operation, {})
    places = {key.lower(): place for key, place in values.items() if key.lower() in shape}
    candidates = {
        key: place
        for key, place in places.items()
        if not isinstance(shape[key], Mapping) or _KEYS.search(body, place.start, place.stop)
    }
    if not candidates:
        return ()
    below = {key: shape[key] for key in candidates}
    try:
        if outline is not None:
            walked = list(references.walk(references.decode_text(outline.text()), below))
        else:
            walked = [
                one
                for key, place in candidates.items()
                for one in references.walk({key: references.decode(body[place])}, {key: below[key]})
            ]
    except (RecursionError, ValueError) as error:
        raise references.too_complex(error) from None
    return tuple(dict.fromkeys(reference.id for reference in walked if reference.kind == "model"))
