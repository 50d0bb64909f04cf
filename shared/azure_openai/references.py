"""Finds the objects of a backend that a body names by id: responses, files, vector stores, threads and others. Pure.

Such an object exists in one resource only, the one that created it. `reference_paths` has the paths at which bodies
name objects. Free-form parts of a body (metadata, schemas, arguments of tools) are not searched.
"""

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from shared.azure_openai.json_body import UNREADABLE
from shared.azure_openai.outline import Outline, sealed_name
from shared.azure_openai.reference_paths import ANSWERS, CONTENT, RAREST, REQUESTS, Shape
from shared.config.document import Format
from shared.errors import InvalidRequest
from shared.types import Reference


class Kind(msgspec.Struct, frozen=True):
    """A kind of object. `path`: that of its GET operation, `{}` being the id. `brief`: it lives for 30 days at most.
    `listed`: a list shows all of the resource. `format`: the API that has it."""

    path: str = ""
    brief: bool = False
    listed: bool = False
    format: Format = "openai"


# The kinds with an id that is unique by itself; messages, steps and items stand below one of them in every path.
KINDS = {
    "response": Kind("responses/{}", brief=True),
    "chat_completion": Kind("chat/completions/{}", brief=True, listed=True),
    "run": Kind(brief=True),
    "upload": Kind(brief=True),
    "container": Kind("containers/{}", brief=True, listed=True),
    "conversation": Kind("conversations/{}"),
    "file": Kind("files/{}", listed=True),
    "batch": Kind("batches/{}", listed=True),
    "vector_store": Kind("vector_stores/{}", listed=True),
    "assistant": Kind("assistants/{}", listed=True),
    "thread": Kind("threads/{}"),
    "fine_tuning_job": Kind("fine_tuning/jobs/{}", listed=True),
    "checkpoint": Kind("fine_tuning/checkpoints/{}/permissions"),
    "eval": Kind("evals/{}", listed=True),
    "realtime_call": Kind(brief=True),
    "audio": Kind(brief=True),  # an answer of chat completions, for an hour
    "claude_container": Kind(brief=True, format="anthropic"),  # in which Anthropic's models run code
    "claude_file": Kind("files/{}", listed=True, format="anthropic"),
    "message_batch": Kind("messages/batches/{}", brief=True, listed=True, format="anthropic"),  # results: 29 days
    "claude_message": Kind(brief=True, format="anthropic"),  # an answer with the conversation behind it
    "item": Kind(brief=True),  # of a response or a conversation
    "sealed": Kind(brief=True),  # content that only the backend that made it can open, by its digest
}

LISTED = frozenset(name for name, kind in KINDS.items() if kind.listed)
ITEMS = frozenset(("item", "sealed"))
# A run in a path is found by its thread, an item by its conversation.
IN_PATHS = frozenset(KINDS) - ITEMS - {"run", "audio", "claude_container", "claude_message"}

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{4,255}")
_INSIDE_A_CONTAINER = "cfile_"  # such files are named together with their container
_ESCAPED = re.compile(rb"\\u00[2-7]")  # a key may be written with escapes, too


_LARGE_ANSWER = 256 * 1024  # bytes from which on an answer is read by its outline: lists have many objects
_MOST_SEALED = 16  # contents of one body, the last ones: their backend has opened the earlier ones
_BROUGHT = "brought"  # the kind of an item that has its content with it: not an object of the backend, whatever its id


def in_request(
    body: bytes, operation: str, outline: Outline | None = None
) -> tuple[tuple[Reference, ...], frozenset[str]]:
    """Return the objects that the body of a call names, each once, with the last of the sealed contents in it; and the
    ids of the items and contents that it has whole. `outline`: that of a large body.

    Raises `InvalidRequest` (400) for a key that stands twice, `RecursionError` for a body that is nested too deeply,
    and `ValueError` for one with a number of thousands of digits.
    """
    shape = REQUESTS.get(operation)
    if shape is None or (outline is None and not (_keys(operation).search(body) or _ESCAPED.search(body))):
        return (), frozenset()
    walked = walk(decode(body) if outline is None else decode_text(outline.take()), shape)
    read = dict.fromkeys(walked if outline is not None else map(_by_digest, walked))
    sealed = [reference for reference in read if reference.kind == "sealed"]
    named = [reference for reference in read if reference.kind not in (_BROUGHT, "sealed")]
    brought = frozenset(reference.id for reference in read if reference.kind in (_BROUGHT, "sealed"))
    return (*named, *sealed[-_MOST_SEALED:]), brought


def in_answer(answer: bytes, operation: str) -> tuple[Reference, ...]:
    """Return the other objects that an answer, or an event of one, names: the files of a batch, the container of a
    tool, sealed content. Of a large one that is hardly text, none: it would take seconds."""
    shape = ANSWERS.get(operation)
    if shape is None or not _keys_of_answer(operation).search(answer):
        return ()
    try:
        if len(answer) > _LARGE_ANSWER:
            references = dict.fromkeys(walk(decode_text(Outline.of(answer, _LARGE_ANSWER).take()), shape))
        else:
            references = dict.fromkeys(map(_by_digest, walk(decode(answer), shape)))
    except (ValueError, RecursionError, InvalidRequest):
        return ()
    return tuple(reference for reference in references if _ID.fullmatch(reference.id))


def _by_digest(reference: Reference) -> Reference:
    return Reference("sealed", sealed_name(reference.id)) if reference.kind == "sealed" else reference


class _Item(msgspec.Struct):
    id: Any = None


_decode_items = msgspec.json.Decoder(list[_Item]).decode


def items(listed: bytes) -> list[str]:
    """Return the ids of the items in a list of a response or a conversation."""
    try:
        return [item.id for item in _decode_items(listed) if isinstance(item.id, str) and _ID.fullmatch(item.id)]
    except UNREADABLE:
        return []


@functools.cache
def _keys(operation: str) -> re.Pattern[bytes]:
    """The keys without which a body of this operation names nothing."""
    return _any_of(RAREST.get(operation) or _last_keys(REQUESTS[operation]))


@functools.cache
def _keys_of_answer(operation: str) -> re.Pattern[bytes]:
    return _any_of(_last_keys(ANSWERS[operation]))


def _any_of(keys: Iterable[str]) -> re.Pattern[bytes]:
    return re.compile(f'"(?:{"|".join(sorted(set(keys)))})"'.encode(), re.I)


def _last_keys(shape: Shape) -> Iterator[str]:
    for key, place in shape.items():
        kind, inner = _kind_and_shape(place)
        if kind:
            yield key
        yield from _last_keys(inner)


def _kind_and_shape(place: Any) -> tuple[str, Shape]:
    if isinstance(place, tuple):
        kind, shape = place
        return kind, shape
    return (place, {}) if isinstance(place, str) else ("", place)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Readers differ about which of two values counts, so no key may stand twice."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise InvalidRequest("The body has a duplicate key in one object: leave one out.")
    return made


_DECODE = json.JSONDecoder(object_pairs_hook=_object).decode


def decode(body: bytes) -> Any:
    """A JSON value. Raises `InvalidRequest` for a key that stands twice, `RecursionError` and `ValueError`."""
    return _DECODE(body.decode("utf-8-sig", "replace"))


def decode_text(text: str) -> Any:
    """The same of a text, as that of an outline."""
    return _DECODE(text)


def too_complex(error: RecursionError | ValueError, name: str = "The body") -> InvalidRequest:
    """The error of a request whose JSON cannot be decoded by Python, or walked through."""
    excess = "is nested too deeply" if isinstance(error, RecursionError) else "has a number with too many digits"
    return InvalidRequest(f"{name} {excess}.")


def walk(value: Any, shape: Shape) -> Iterator[Reference]:
    """The references in an object of this shape, or in each of a list. Backends may read keys in any case."""
    for one in value if isinstance(value, list) else (value,):
        if not isinstance(one, dict):
            continue
        fields = one if "*" in shape else lowered(one)
        for key, inner in fields.items():
            place = shape.get(key, shape.get("*"))
            if place is None:
                continue
            kind, below = _kind_and_shape(place)
            if kind == "item" and key == "id":
                kind = _kind_of_item(fields)
            if kind:
                yield from _ids(kind, inner)
            if below:
                yield from walk(inner, below)


def lowered(value: dict[str, Any]) -> dict[str, Any]:
    """The fields of an object with their keys in lower case. Raises `InvalidRequest` for a key in two cases."""
    fields = {key.lower(): inner for key, inner in value.items()}
    if len(fields) < len(value):
        raise InvalidRequest("The body has two keys in one object that differ in case only: leave one out.")
    return fields


def _kind_of_item(item: Mapping[str, Any]) -> str:
    """The kind of object that the id of an item names."""
    type_ = item.get("type") or ("message" if item.get("role") else "")
    if not isinstance(type_, str):
        return "item"
    return _BROUGHT if any(item.get(key) for key in CONTENT.get(type_, ())) else "item"


def _ids(kind: str, value: Any) -> Iterator[Reference]:
    for one in value if isinstance(value, list) else (value,):
        if isinstance(one, str) and one and not one.startswith(_INSIDE_A_CONTAINER):
            yield Reference(kind, one)
