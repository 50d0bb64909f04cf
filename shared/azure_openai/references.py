"""Which objects of a backend a body names: responses, files, vector stores, threads and their like, by their ids. Pure.

Such an object exists in the one resource that made it. The fields are known by their names in the API; what a caller
wrote freely (metadata, schemas, arguments of tools) is not searched.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from shared.types import Reference


class Kind(msgspec.Struct, frozen=True):
    """A kind of object. `path`: where one is to be had, by its id. `brief`: it lives for 30 days at most."""

    path: str = ""
    brief: bool = False
    listed: bool = False


# Those that are told apart by their own id; others (messages, steps, items) stand below one of these in every path.
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
    "sealed": Kind(brief=True),  # an item that brings its content along, which only the backend that made it can open
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
_DESCRIBING = frozenset(("type", "role"))  # an item without either is nothing but an id
_LOOKED_UP = (("type", "reasoning"), ("type", "compaction"))  # by their ids, unless their content is sealed in them

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{4,255}")
_INSIDE_A_CONTAINER = "cfile_"  # such files are named together with their container

# What the most frequent bodies are searched for before they are taken apart. A key may be written with escapes, too.
_ANYWHERE = (b"file_id", b"previous_response_id", b'"conversation', b'"container', b"vector_store", b"assistant_id")
_FREQUENT = {"chat.completions": (b"file_id",), "responses.create": (*_ANYWHERE, b'"id"')}
_ESCAPED = re.compile(rb"\\u00[2-7]")


class _Object(list[tuple[str, Any]]):
    """A JSON object as the pairs that it was written with: of a key that stands twice, readers differ about which
    counts."""


_DECODE = json.JSONDecoder(object_pairs_hook=_Object).decode


def named(body: bytes, operation: str) -> tuple[Reference, ...]:
    """The objects that the body of a call names, each once. Raises `RecursionError` for one nested too deeply, and
    `ValueError` for one with a number of thousands of digits."""
    if operation in _FREQUENT and not (b"\\u00" in body and _ESCAPED.search(body)):
        for needle in _FREQUENT[operation]:
            if needle in body:
                break
        else:
            return ()
    return tuple(dict.fromkeys(_walk(_DECODE(body.decode("utf-8", "replace")), operation.startswith(_TAKING_ITEMS))))


def told(answer: bytes) -> tuple[Reference, ...]:
    """The objects that an answer tells of besides itself: the files of a batch, the container that a tool ran in."""
    if not any(needle in answer for needle in (*_ANYWHERE, b"thread_id", b"_file", b"eval_id", b'"file"', b"_tuned")):
        return ()
    try:
        found = dict.fromkeys(_walk(_DECODE(answer.decode("utf-8", "replace")), takes_items=False))
    except (ValueError, RecursionError):
        return ()
    return tuple(reference for reference in found if _ID.fullmatch(reference.id))


class _Item(msgspec.Struct):
    id: Any = None


_decode_items = msgspec.json.Decoder(list[_Item]).decode


def items(listed: bytes) -> list[str]:
    """The ids of the items in a list, as a response or a conversation tells them."""
    try:
        return [item.id for item in _decode_items(listed) if isinstance(item.id, str) and _ID.fullmatch(item.id)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
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
    """The item of an earlier response that an object in the input stands for, as its type tells."""
    if ("type", "item_reference") in value:
        yield from _own_id("item", value)
    elif any(looked_up in value for looked_up in _LOOKED_UP):
        sealed = any(key == "encrypted_content" and inner for key, inner in value)
        yield from _own_id("sealed" if sealed else "item", value)


def _bare_items(listed: list[Any]) -> Iterator[Reference]:
    """The items of earlier responses that stand in a list as their ids alone."""
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
