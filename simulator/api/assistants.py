"""Assistants: create, list, get, update, delete."""

from typing import Any

import msgspec

from simulator import errors
from simulator.answers import Answer, answer_json
from simulator.api import vector_stores
from simulator.call import Call, Route
from simulator.collection import Object, Plain, make_id, now
from simulator.store import Store

UPDATED = (
    "name",
    "description",
    "instructions",
    "tools",
    "tool_resources",
    "metadata",
    "temperature",
    "top_p",
    "response_format",
)

FIRST_WITH_RESOURCES = "2024-05"  # version of the API


class AssistantRequest(msgspec.Struct, frozen=True):
    model: str | None = None
    name: str | None = None
    description: str | None = None
    instructions: str | None = None
    tools: list[Object] | None = None
    tool_resources: Object | None = None
    file_ids: list[str] | None = None
    metadata: dict[str, str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    response_format: Any = None


def create(call: Call) -> Answer:
    request = call.decode(AssistantRequest)
    check_generation(call, request.file_ids, request.tool_resources)
    deployment = call.deployments.find(request.model)
    if deployment.model.kind not in ("chat", "reasoning"):
        raise errors.operation_not_supported("assistants", deployment.model.name)
    assistant = Plain(
        {
            "id": make_id("asst_"),
            "object": "assistant",
            "created_at": now(),
            "name": request.name,
            "description": request.description,
            "model": request.model,
            "instructions": request.instructions,
            "tools": request.tools or [],
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "temperature": 1.0 if request.temperature is None else request.temperature,
            "reasoning_effort": None,
            **resources(call, request.file_ids, request.tool_resources),
            "metadata": request.metadata or {},
            "response_format": request.response_format or "auto",
        }
    )
    return answer_json(call.store.assistants.add(assistant).object)


def has_resources(call: Call) -> bool:
    """False for the first assistants, whose files are named by `file_ids` in place of `tool_resources`."""
    return call.dated_version is None or call.dated_version >= FIRST_WITH_RESOURCES


def check_generation(call: Call, file_ids: list[str] | None, by_tool: Object | None) -> None:
    """Refuse the way of the other generation to name files. Raises AzureError 400."""
    name = "file_ids" if has_resources(call) else "tool_resources"
    if (file_ids if has_resources(call) else by_tool) is not None:
        raise errors.invalid_request(f"Unknown parameter: '{name}'.", name, "unknown_parameter")


def resources(call: Call, file_ids: list[str] | None, by_tool: Object | None) -> Object:
    """The files of an assistant, a thread or a message, in the words of the API's version. Raises AzureError 404."""
    if has_resources(call):
        return {"tool_resources": tool_resources(by_tool, call.store)}
    for file_id in file_ids or ():
        call.store.files.get(file_id)
    return {"file_ids": file_ids or []}


def tool_resources(by_tool: Object | None, store: Store) -> Object:
    """Stored form of the resources. Creates vector stores that are given inline. Raises AzureError 404."""
    by_tool = by_tool or {}
    kept: Object = {}
    if interpreter := by_tool.get("code_interpreter"):
        file_ids = interpreter.get("file_ids") or []
        for file_id in file_ids:
            store.files.get(str(file_id))
        kept["code_interpreter"] = {"file_ids": file_ids}
    if search := by_tool.get("file_search"):
        ids = [str(store_id) for store_id in search.get("vector_store_ids") or ()]
        for vector_store_id in ids:
            store.vector_stores.get(vector_store_id)
        inline = [vector_stores.make(store, one.get("file_ids") or []) for one in search.get("vector_stores") or ()]
        kept["file_search"] = {"vector_store_ids": ids + [made.object["id"] for made in inline]}
    return kept


def list_all(call: Call) -> Answer:
    return answer_json(call.store.assistants.page(call.query))


def get(call: Call) -> Answer:
    return answer_json(call.store.assistants.get(call.id).object)


def update(call: Call) -> Answer:
    assistant = call.store.assistants.get(call.id).object
    request = call.decode(AssistantRequest)
    check_generation(call, request.file_ids, request.tool_resources)
    if request.file_ids is not None:
        assistant |= resources(call, request.file_ids, None)
    if request.model is not None:
        assistant["model"] = call.deployments.find(request.model).name
    for name in UPDATED:
        if (value := getattr(request, name)) is not None:
            assistant[name] = tool_resources(value, call.store) if name == "tool_resources" else value
    return answer_json(assistant)


def delete(call: Call) -> Answer:
    call.store.assistants.remove(call.id)
    return answer_json({"id": call.id, "object": "assistant.deleted", "deleted": True})


ROUTES = (
    Route("POST", "assistants", create),
    Route("GET", "assistants", list_all),
    Route("GET", "assistants/{id}", get),
    Route("POST", "assistants/{id}", update),
    Route("DELETE", "assistants/{id}", delete),
)
