"""Threads and their messages."""

from typing import Any

import msgspec

from simulator import errors
from simulator.answers import Answer, answer_json
from simulator.api.assistants import check_generation, tool_resources
from simulator.api.response_input import check_files
from simulator.call import Call, Route
from simulator.collection import Object, Plain, make_id, now
from simulator.store import Store, Thread


class MessageRequest(msgspec.Struct, frozen=True):
    role: str = "user"
    content: str | list[Object] = ""
    attachments: list[Object] | None = None
    file_ids: list[str] | None = None
    metadata: dict[str, str] | None = None


class ThreadRequest(msgspec.Struct, frozen=True):
    messages: list[MessageRequest] | None = None
    tool_resources: Object | None = None
    metadata: dict[str, str] | None = None


class _Update(msgspec.Struct, frozen=True):
    tool_resources: Object | None = None
    metadata: dict[str, str] | None = None


def create(call: Call) -> Answer:
    return answer_json(make(call.decode(ThreadRequest), call.store).object)


def make(request: ThreadRequest, store: Store) -> Thread:
    """Raises AzureError 400 or 404."""
    thread = Thread(
        {
            "id": make_id("thread_"),
            "object": "thread",
            "created_at": now(),
            "metadata": request.metadata or {},
            "tool_resources": tool_resources(request.tool_resources, store),
        }
    )
    for message in request.messages or ():
        add_message(thread, message, store)
    return store.threads.add(thread)


def add_message(thread: Thread, request: MessageRequest, store: Store) -> Plain:
    """Raises AzureError 400 for an invalid role or content, 404 for an unknown file."""
    if request.role not in ("user", "assistant"):
        message = f"Invalid value: '{request.role}'. Supported values are: 'user' and 'assistant'."
        raise errors.invalid_request(message, "role", "invalid_value")
    if not request.content:
        raise errors.missing_parameter("content")
    for attachment in request.attachments or ():
        store.files.get(str(attachment.get("file_id")))
    for file_id in request.file_ids or ():
        store.files.get(file_id)
    content = _content(request.content)
    for part in content:
        check_files({"content": [part.get("image_file")]}, store)
    kept = put_message(thread, request.role, content, attachments=request.attachments or [], metadata=request.metadata)
    if request.file_ids is not None:
        kept.object["file_ids"] = request.file_ids
    return kept


def put_message(
    thread: Thread,
    role: str,
    content: list[Object],
    *,
    run: Object | None = None,
    attachments: list[Object] | None = None,
    metadata: dict[str, str] | None = None,
) -> Plain:
    return thread.messages.add(
        Plain(
            {
                "id": make_id("msg_"),
                "object": "thread.message",
                "created_at": now(),
                "assistant_id": run["assistant_id"] if run else None,
                "thread_id": thread.object["id"],
                "run_id": run["id"] if run else None,
                "status": "completed",
                "incomplete_details": None,
                "incomplete_at": None,
                "completed_at": now(),
                "role": role,
                "content": content,
                "attachments": attachments or [],
                "metadata": metadata or {},
            }
        )
    )


def _content(content: str | list[Object]) -> list[Object]:
    """Stored form of content parts: text becomes an object with annotations."""
    if isinstance(content, str):
        return [text_part(content)]
    return [text_part(part["text"]) if isinstance(part.get("text"), str) else part for part in content]


def text_part(text: str) -> Object:
    return {"type": "text", "text": {"value": text, "annotations": []}}


def text_of(message: Object) -> str:
    parts: list[Any] = message["content"]
    return "\n".join(part["text"]["value"] for part in parts if part["type"] == "text")


def get(call: Call) -> Answer:
    return answer_json(call.store.threads.get(call.id).object)


def update(call: Call) -> Answer:
    thread = call.store.threads.get(call.id).object
    request = call.decode(_Update)
    if request.metadata is not None:
        thread["metadata"] = request.metadata
    if request.tool_resources is not None:
        thread["tool_resources"] = tool_resources(request.tool_resources, call.store)
    return answer_json(thread)


def delete(call: Call) -> Answer:
    thread = call.store.threads.remove(call.id)
    for run in thread.runs:
        if run.cancel is not None:
            run.cancel()
    return answer_json({"id": call.id, "object": "thread.deleted", "deleted": True})


def create_message(call: Call) -> Answer:
    thread, request = call.store.threads.get(call.id), call.decode(MessageRequest)
    check_generation(call, request.file_ids, None)
    return answer_json(add_message(thread, request, call.store).object)


def list_messages(call: Call) -> Answer:
    run_id = call.query.get("run_id")
    thread = call.store.threads.get(call.id)
    return answer_json(
        thread.messages.page(call.query, matches=lambda message: run_id in (None, message["run_id"])),
    )


def get_message(call: Call) -> Answer:
    return answer_json(call.store.threads.get(call.id).messages.get(call.ids[1]).object)


def update_message(call: Call) -> Answer:
    message = call.store.threads.get(call.id).messages.get(call.ids[1]).object
    message["metadata"] = call.decode(_Update).metadata or {}
    return answer_json(message)


def delete_message(call: Call) -> Answer:
    call.store.threads.get(call.id).messages.remove(call.ids[1])
    return answer_json({"id": call.ids[1], "object": "thread.message.deleted", "deleted": True})


ROUTES = (
    Route("POST", "threads", create),
    Route("GET", "threads/{id}", get),
    Route("POST", "threads/{id}", update),
    Route("DELETE", "threads/{id}", delete),
    Route("POST", "threads/{id}/messages", create_message),
    Route("GET", "threads/{id}/messages", list_messages),
    Route("GET", "threads/{id}/messages/{id}", get_message),
    Route("POST", "threads/{id}/messages/{id}", update_message),
    Route("DELETE", "threads/{id}/messages/{id}", delete_message),
)
