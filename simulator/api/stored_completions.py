"""Stored chat completions: list, get, update, delete, and list their messages."""

import msgspec

from simulator import errors
from simulator.answers import Answer, answer_json
from simulator.api.completion_bodies import Generation, completion_body
from simulator.call import Call, Route, decode_json
from simulator.collection import Collection, Object, page_of
from simulator.store import StoredCompletion


class _Original(msgspec.Struct, frozen=True):
    messages: list[Object] = []
    metadata: dict[str, str] | None = None


class _Update(msgspec.Struct, frozen=True):
    metadata: dict[str, str] | None = None


def keep(completions: Collection[StoredCompletion], generation: Generation, body: bytes) -> None:
    original = decode_json(body, _Original)
    completion: Object = msgspec.json.decode(completion_body(generation))
    completion["metadata"] = original.metadata or {}
    messages = [{"id": f"{generation.id}-{place}", **message} for place, message in enumerate(original.messages)]
    completions.add(StoredCompletion(completion, messages))


def list_all(call: Call) -> Answer:
    filters = {
        name.removeprefix("metadata[").removesuffix("]"): value
        for name, value in call.query.items()
        if name.startswith("metadata[")
    }
    model = call.query.get("model")

    def matches(completion: Object) -> bool:
        metadata = completion["metadata"]
        return model in (None, completion["model"]) and all(metadata.get(key) == filters[key] for key in filters)

    return answer_json(call.store.completions.page(call.query, order="asc", matches=matches))


def get(call: Call) -> Answer:
    return answer_json(call.store.completions.get(call.id).object)


def update(call: Call) -> Answer:
    stored = call.store.completions.get(call.id)
    metadata = call.decode(_Update).metadata
    if metadata is None:
        raise errors.missing_parameter("metadata")
    stored.object["metadata"] = metadata
    return answer_json(stored.object)


def delete(call: Call) -> Answer:
    call.store.completions.remove(call.id)
    return answer_json({"object": "chat.completion.deleted", "id": call.id, "deleted": True})


def messages(call: Call) -> Answer:
    return answer_json(page_of(call.store.completions.get(call.id).messages, call.query, "asc"))


ROUTES = (
    Route("GET", "chat/completions", list_all),
    Route("GET", "chat/completions/{id}", get),
    Route("POST", "chat/completions/{id}", update),
    Route("DELETE", "chat/completions/{id}", delete),
    Route("GET", "chat/completions/{id}/messages", messages),
)
