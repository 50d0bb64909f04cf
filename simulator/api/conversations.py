"""Conversations and their items."""

import msgspec

from simulator import errors
from simulator.answers import Answer, answer_json
from simulator.api.response_input import append_to, check_files, with_id
from simulator.call import Call, Route
from simulator.collection import Object, make_id, now
from simulator.store import Conversation, Store

MOST_ITEMS = 20


class _Create(msgspec.Struct, frozen=True):
    items: list[Object] | None = None
    metadata: dict[str, str] | None = None


def create(call: Call) -> Answer:
    request = call.decode(_Create)
    items = _checked(request.items or [], call.store)
    conversation = Conversation(
        {
            "id": make_id("conv_"),
            "object": "conversation",
            "created_at": now(),
            "metadata": request.metadata or {},
        }
    )
    append_to(conversation, items)
    return answer_json(call.store.conversations.add(conversation).object)


def get(call: Call) -> Answer:
    return answer_json(call.store.conversations.get(call.id).object)


def update(call: Call) -> Answer:
    conversation = call.store.conversations.get(call.id).object
    conversation["metadata"] = call.decode(_Create).metadata or {}
    return answer_json(conversation)


def delete(call: Call) -> Answer:
    call.store.conversations.remove(call.id)
    return answer_json({"id": call.id, "object": "conversation.deleted", "deleted": True})


def add_items(call: Call) -> Answer:
    conversation = call.store.conversations.get(call.id)
    items = _checked(call.decode(_Create).items or [], call.store)
    if not items:
        raise errors.missing_parameter("items")
    append_to(conversation, items)
    page = {"data": items, "first_id": items[0]["id"], "last_id": items[-1]["id"], "has_more": False}
    return answer_json({"object": "list", **page})


def list_items(call: Call) -> Answer:
    return answer_json(call.store.conversations.get(call.id).items.page(call.query))


def get_item(call: Call) -> Answer:
    return answer_json(call.store.conversations.get(call.id).items.get(call.ids[1]).object)


def delete_item(call: Call) -> Answer:
    conversation = call.store.conversations.get(call.id)
    conversation.items.remove(call.ids[1])
    return answer_json(conversation.object)


def _checked(items: list[Object], store: Store) -> list[Object]:
    """The items with ids. Raises AzureError 400 or 404."""
    if len(items) > MOST_ITEMS:
        message = f"Invalid 'items': array too long. Expected at most {MOST_ITEMS} items."
        raise errors.invalid_request(message, "items", "array_above_max_length")
    for item in items:
        check_files(item, store)
    return [with_id(item) for item in items]


ROUTES = (
    Route("POST", "conversations", create),
    Route("GET", "conversations/{id}", get),
    Route("POST", "conversations/{id}", update),
    Route("DELETE", "conversations/{id}", delete),
    Route("POST", "conversations/{id}/items", add_items),
    Route("GET", "conversations/{id}/items", list_items),
    Route("GET", "conversations/{id}/items/{id}", get_item),
    Route("DELETE", "conversations/{id}/items/{id}", delete_item),
)
