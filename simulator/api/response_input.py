"""Input of a response: reads its items and checks every object that the items and tools refer to."""

import base64
import hmac
from collections.abc import Iterator
from typing import Any

import msgspec

from simulator import errors
from simulator.collection import Object, Plain, make_id
from simulator.store import Conversation, Store, StoredResponse

ITEM_OVERHEAD = 3
PREFIXES = {
    "message": "msg_",
    "reasoning": "rs_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "compaction": "cmp_",
    "file_search_call": "fs_",
}


class ConversationReference(msgspec.Struct, frozen=True):
    id: str


class ResponseRequest(msgspec.Struct, frozen=True):
    model: str | None = None
    input: str | list[Object] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationReference | None = None
    stream: bool | None = None
    background: bool | None = None
    store: bool | None = None
    max_output_tokens: int | None = None
    include: list[str] | None = None
    context_management: list[Object] | None = None
    tools: list[Object] | None = None
    tool_choice: Any = None
    metadata: dict[str, str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    text: Object | None = None
    reasoning: Object | None = None
    parallel_tool_calls: bool | None = None
    truncation: str | None = None
    user: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None

    @property
    def conversation_id(self) -> str | None:
        conversation = self.conversation
        return conversation.id if isinstance(conversation, ConversationReference) else conversation

    @property
    def effort(self) -> str | None:
        """The effort of reasoning, if one is given."""
        effort = (self.reasoning or {}).get("effort")
        return None if effort is None else str(effort)


def input_items(request: ResponseRequest) -> list[Object]:
    """Items of the input, each with an id. Raises AzureError 400."""
    if request.input is None:
        if request.previous_response_id or request.conversation:
            return []
        raise errors.missing_parameter("input")
    if isinstance(request.input, str):
        return [with_id({"type": "message", "role": "user", "content": request.input})]
    return [with_id(item) for item in request.input]


def with_id(item: Object) -> Object:
    """Stored form of an item: with an id, and a message's text as a content part."""
    item = {"type": "message", **item}
    if isinstance(item.get("content"), str) and item["type"] == "message":
        kind = "output_text" if item.get("role") == "assistant" else "input_text"
        item["content"] = [{"type": kind, "text": item["content"]}]
    if item["type"] == "message":
        item.setdefault("status", "completed")
    if item["type"] != "item_reference" and not isinstance(item.get("id"), str):
        item["id"] = make_id(PREFIXES.get(item["type"], "item_"))
    return item


def earlier(request: ResponseRequest, store: Store) -> list[Object]:
    """Earlier items, from the previous response or the conversation. Raises AzureError 400 or 404."""
    if request.previous_response_id and request.conversation:
        raise errors.invalid_request(
            "Mutually exclusive parameters: 'previous_response_id' and 'conversation'.", "previous_response_id"
        )
    if request.previous_response_id:
        previous = find_previous(request.previous_response_id, store)
        return [*previous.context, *previous.object["output"]]
    if (conversation_id := request.conversation_id) is not None:
        return [item.object for item in store.conversations.get(conversation_id).items]
    return []


def find_previous(response_id: str, store: Store) -> StoredResponse:
    """Raises AzureError 400."""
    if response_id not in store.responses:
        message = f"Previous response with id '{response_id}' not found."
        raise errors.invalid_request(message, "previous_response_id", "previous_response_not_found")
    previous = store.responses.get(response_id)
    if previous.object["status"] in ("queued", "in_progress"):
        message = f"Previous response with id '{response_id}' is not completed yet."
        raise errors.invalid_request(message, "previous_response_id", "previous_response_not_completed")
    return previous


def resolve(items: list[Object], before: list[Object], store: Store) -> list[Object]:
    """Items with references replaced by the items they refer to. Raises AzureError 400 or 404."""
    calls = {item.get("call_id") for item in (*before, *items) if item["type"] == "function_call"}
    resolved = []
    for item in items:
        match item["type"]:
            case "item_reference":
                item = _referred(str(item.get("id")), before, store)
            case "function_call_output" if item.get("call_id") not in calls:
                message = f"No tool call found for function call output with call_id {item.get('call_id')}."
                raise errors.invalid_request(message, "input")
            case "reasoning" | "compaction" if item.get("encrypted_content"):
                check_sealed(str(item["encrypted_content"]), store)
        check_files(item, store)
        resolved.append(item)
    return resolved


def _referred(item_id: str, before: list[Object], store: Store) -> Object:
    stored: Iterator[Object] = (
        item for response in store.responses for item in response.input_items + response.object["output"]
    )
    for item in (*before, *stored):
        if item.get("id") == item_id:
            return item
    message = f"Item with id '{item_id}' not found. Items are not persisted when `store` is set to false."
    raise errors.object_not_found(message, "input")


def check_files(item: Object, store: Store) -> None:
    """Raises AzureError 404 for a content part with an unknown file."""
    parts = item.get("content") or item.get("output")
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, dict) and isinstance(part.get("file_id"), str):
            store.files.get(part["file_id"])


def check_tools(tools: list[Object], store: Store) -> None:
    """Raises AzureError 404 for an unknown vector store, container or file."""
    for tool in tools:
        for vector_store_id in tool.get("vector_store_ids") or ():
            store.vector_stores.get(str(vector_store_id))
        match tool.get("container"):
            case str(container_id):
                store.containers.get(container_id)
            case {"file_ids": list(file_ids)}:
                for file_id in file_ids:
                    store.files.get(str(file_id))


def text_of(item: Object) -> str:
    """Text of an item, as the model reads it."""
    match item:
        case {"content": str(text)} | {"output": str(text)} | {"arguments": str(text)}:
            return text
        case {"content": list(parts)} | {"output": list(parts)}:
            return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
    return ""


def append_to(conversation: Conversation, items: list[Object]) -> None:
    for item in items:
        conversation.items.add(Plain(item))


def compaction(text: str, store: Store) -> Object:
    """The item that stands for a context."""
    return {"id": make_id("cmp_"), "type": "compaction", "encrypted_content": seal(text[:2_000], store)}


def seal(text: str, store: Store) -> str:
    """Sealed content that only this resource accepts."""
    data = text.encode("utf-8", "replace")
    return base64.urlsafe_b64encode(hmac.digest(store.secret, data, "sha256")[:16] + data).decode()


def check_sealed(sealed: str, store: Store) -> str:
    """The sealed text. Raises AzureError 400 if another resource sealed it."""
    try:
        data = base64.urlsafe_b64decode(sealed.encode())
    except ValueError:
        data = b""
    if not hmac.compare_digest(hmac.digest(store.secret, data[16:], "sha256")[:16], data[:16]):
        message = "The encrypted content could not be verified. Reason: Encrypted content could not be decrypted."
        raise errors.invalid_request(message, code="invalid_encrypted_content")
    return data[16:].decode("utf-8", "replace")
