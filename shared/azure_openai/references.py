"""Finds the objects of a backend that a body names by id: responses, files, vector stores, threads and others. Pure.

Such an object exists in one resource only, the one that created it. The fields are those of the API; free-form parts of
a body (metadata, schemas, arguments of tools) are not searched.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from shared.azure_openai.json_body import UNREADABLE
from shared.types import Reference


class Kind(msgspec.Struct, frozen=True):
    """A kind of object. `path`: that of its GET operation, `{}` being the id. `brief`: it lives for 30 days at most."""

    path: str = ""
    brief: bool = False
    listed: bool = False


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
    "item": Kind(brief=True),  # of a response or a conversation
    "sealed": Kind(brief=True),  # an item with its content, which only the backend that created it can decrypt
}

LISTED = frozenset(name for name, kind in KINDS.items() if kind.listed)
ITEMS = frozenset(("item", "sealed"))
IN_PATHS = frozenset(KINDS) - ITEMS - {"run"}  # a run is found by its thread, an item in a path by its conversation

_FIELDS = {
    "previous_response_id": "response",
    "response_id": "response",
    "conversation": "conversation",
    "conversation_id": "conversation",
    "file_id": "file",
    "file_ids": "file",
    "input_file_id": "file",
    "output_file_id": "file",
    "error_file_id": "file",
    "training_file": "file",
    "validation_file": "file",
    "result_files": "file",
    "vector_store_id": "vector_store",
    "vector_store_ids": "vector_store",
    "container": "container",
    "container_id": "container",
    "assistant_id": "assistant",
    "thread_id": "thread",
    "eval_id": "eval",
    "fine_tuned_model": "checkpoint",
    "fine_tuned_model_checkpoint": "checkpoint",
}
_FREE = frozenset(("metadata", "attributes", "filters", "parameters", "schema", "item_schema", "arguments"))

_SOURCE, _FILE = ("type", "file_id"), ("object", "file")  # as in the sources of evals, and in a completed upload

_TAKING_ITEMS = ("responses.", "conversations.")  # the operations whose bodies have items of earlier answers
_LISTS_OF_ITEMS = frozenset(("input", "items"))
_DESCRIBING = frozenset(("type", "role"))  # an item with neither is only an id
_LOOKED_UP = (("type", "reasoning"), ("type", "compaction"))  # by their ids, unless they hold their content, sealed

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{4,255}")
_INSIDE_A_CONTAINER = "cfile_"  # such files are named together with their container

# Strings without which the most frequent bodies need not be parsed. A key may be written with escapes, too.
_ANYWHERE = (b"file_id", b"previous_response_id", b'"conversation', b'"container', b"vector_store", b"assistant_id")
_FREQUENT = {"chat.completions": (b"file_id",), "responses.create": (*_ANYWHERE, b'"id"')}
_ESCAPED = re.compile(rb"\\u00[2-7]")


class _Object(list[tuple[str, Any]]):
    """A JSON object as its pairs: readers differ about which of two equal keys counts."""


_DECODE = json.JSONDecoder(object_pairs_hook=_Object).decode


def in_body(body: bytes, operation: str) -> tuple[Reference, ...]:
    """The objects that the body of a call names, each once. Raises `RecursionError` if it is nested too deeply, and
    `ValueError` if a number has thousands of digits."""
    if operation in _FREQUENT and not (b"\\u00" in body and _ESCAPED.search(body)):
        for needle in _FREQUENT[operation]:
            if needle in body:
                break
        else:
            return ()
    return tuple(dict.fromkeys(_walk(_DECODE(body.decode("utf-8", "replace")), operation.startswith(_TAKING_ITEMS))))


def in_answer(answer: bytes) -> tuple[Reference, ...]:
    """The other objects that an answer names: the files of a batch, the container of a tool."""
    if not any(needle in answer for needle in (*_ANYWHERE, b"thread_id", b"_file", b"eval_id", b'"file"', b"_tuned")):
        return ()
    try:
        references = dict.fromkeys(_walk(_DECODE(answer.decode("utf-8", "replace")), takes_items=False))
    except (ValueError, RecursionError):
        return ()
    return tuple(reference for reference in references if _ID.fullmatch(reference.id))


class _Item(msgspec.Struct):
    id: Any = None


_decode_items = msgspec.json.Decoder(list[_Item]).decode


def items(listed: bytes) -> list[str]:
    """The ids of the items in a list of a response or a conversation."""
    try:
        return [item.id for item in _decode_items(listed) if isinstance(item.id, str) and _ID.fullmatch(item.id)]
    except UNREADABLE:
        return []


def _walk(value: Any, takes_items: bool) -> Iterator[Reference]:
    if isinstance(value, _Object):
        if takes_items:
            yield from _item(value)
        for key, inner in value:
            if key in _FREE:
                continue
            if takes_items and key in _LISTS_OF_ITEMS and isinstance(inner, list):
                yield from _bare_items(inner)
            if (kind := _FIELDS.get(key)) is None:
                if key == "id" and isinstance(inner, str) and (_SOURCE in value or _FILE in value):
                    yield Reference("file", inner)
                yield from _walk(inner, takes_items)
            else:
                yield from _ids(kind, inner, takes_items)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner, takes_items)


def _item(value: _Object) -> Iterator[Reference]:
    """The item of an earlier response that an object in the input refers to, by its type."""
    if ("type", "item_reference") in value:
        yield from _own_id("item", value)
    elif any(looked_up in value for looked_up in _LOOKED_UP):
        sealed = any(key == "encrypted_content" and inner for key, inner in value)
        yield from _own_id("sealed" if sealed else "item", value)


def _bare_items(listed: list[Any]) -> Iterator[Reference]:
    """The items of earlier responses that a list names by their ids alone."""
    for one in listed:
        if isinstance(one, _Object) and not any(key in _DESCRIBING and inner for key, inner in one):
            yield from _own_id("item", one)


def _own_id(kind: str, value: _Object) -> Iterator[Reference]:
    yield from (Reference(kind, inner) for key, inner in value if key == "id" and isinstance(inner, str))


def _ids(kind: str, value: Any, takes_items: bool) -> Iterator[Reference]:
    """The ids in a field that names objects of a kind: one, several, or in an object that has an `id`."""
    if isinstance(value, str):
        if value and not value.startswith(_INSIDE_A_CONTAINER):
            yield Reference(kind, value)
    elif isinstance(value, _Object):
        if kind in ("conversation", "container"):
            yield from _own_id(kind, value)
        yield from _walk(value, takes_items)
    elif isinstance(value, list):
        for inner in value:
            yield from _ids(kind, inner, takes_items)
