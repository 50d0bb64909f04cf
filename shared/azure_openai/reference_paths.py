"""The exact paths at which bodies of the API name objects: of requests in `REQUESTS`, of answers in `ANSWERS`.

A shape has the keys of a JSON object, in lower case. Its value is the kind of object that a string there names, the
shape of an object there, or both. A list stands for each of its elements, and `*` for every key. Other places are free:
metadata, arguments and schemas of tools. The paths are those of the official client's types and of Azure's reference.
"""

from typing import Any

Shape = dict[str, Any]  # str | Shape | tuple[str, Shape] by key

_FILE: Shape = {"file_id": "file"}
_FILES: Shape = {"file_ids": "file"}

# Responses: the kind `item` is decided by the whole item, see `CONTENT`.

_SEALED: Shape = {"encrypted_content": "sealed"}
_PART: Shape = {**_FILE, **_SEALED, "annotations": {**_FILE, "container_id": "container"}}
_RUNTIME: Shape = {"container_id": "container", "file_ids": "file"}
_TOOL: Shape = {
    "vector_store_ids": "vector_store",
    "container": ("container", _FILES),
    "environment": _RUNTIME,
    "input_image_mask": _FILE,
}
_ITEM: Shape = {
    "id": "item",
    **_SEALED,
    "approval_request_id": "item",
    "content": _PART,
    "output": _PART,
    "results": _FILE,
    "container_id": "container",
    "environment": _RUNTIME,
    "tools": _TOOL,
}
_CONVERSATION = ("conversation", {"id": "conversation"})
_PROMPT: Shape = {"variables": {"*": _FILE}}
_RESPONSE: Shape = {
    "previous_response_id": "response",
    "conversation": _CONVERSATION,
    "input": _ITEM,
    "tools": _TOOL,
    "prompt": _PROMPT,
    "prompt_cache_options": {"comparison_response_id": "response"},
}
_REALTIME: Shape = {"prompt": _PROMPT}

# The keys of which one, given and not empty, says that an item of a type has its content with it. Any other item with
# an id is nothing but that id, and the backend looks it up.
CONTENT: dict[str, tuple[str, ...]] = {
    "message": ("content",),
    "agent_message": ("content",),
    "additional_tools": ("tools",),
    "apply_patch_call": ("operation",),
    "apply_patch_call_output": ("call_id",),
    "code_interpreter_call": ("code", "outputs"),
    "compaction": ("encrypted_content",),
    "computer_call": ("call_id",),
    "computer_call_output": ("call_id",),
    "configuration_update": ("reasoning", "text"),
    "custom_tool_call": ("name",),
    "custom_tool_call_output": ("call_id",),
    "file_search_call": ("results",),
    "function_call": ("name",),
    "function_call_output": ("call_id", "output"),
    "image_generation_call": ("result",),
    "local_shell_call": ("action",),
    "local_shell_call_output": ("output",),
    "mcp_approval_request": ("name",),
    "mcp_approval_response": ("approval_request_id",),
    "mcp_call": ("name",),
    "mcp_list_tools": ("tools",),
    "multi_agent_call": ("call_id",),
    "multi_agent_call_output": ("call_id",),
    "program": ("code", "fingerprint"),
    "program_output": ("call_id",),
    "reasoning": ("encrypted_content",),
    "shell_call": ("action",),
    "shell_call_output": ("call_id",),
    "tool_search_call": ("arguments",),
    "tool_search_output": ("tools",),
    "web_search_call": ("action",),
}

# Assistants. Their first version, which dated API versions still have, put `file_ids` beside the tools.

_RESOURCES: Shape = {
    "code_interpreter": _FILES,
    "file_search": {"vector_store_ids": "vector_store", "vector_stores": _FILES},
}
_ASSISTANT: Shape = {"tool_resources": _RESOURCES, **_FILES}
_MESSAGE: Shape = {
    "attachments": _FILE,
    "content": {"image_file": _FILE, "text": {"annotations": {"file_path": _FILE, "file_citation": _FILE}}},
    **_FILES,
}
_THREAD: Shape = {"messages": _MESSAGE, "tool_resources": _RESOURCES}

_IMAGE: Shape = {"images": _FILE, "image": _FILE, "mask": _FILE}  # in JSON; a form has the pictures themselves

# Messages of Anthropic's API. Results of tools and documents hold blocks in turn, those of code another level of them.

_CLAUDE_FILE: Shape = {"file_id": "claude_file"}


def _block(levels: int) -> Shape:
    below = _block(levels - 1) if levels else {}
    return {**_CLAUDE_FILE, "source": {**_CLAUDE_FILE, "content": below}, "content": below}


_BLOCK = _block(4)  # a result of a tool, a document in it, its blocks, their sources: one more than the API has
_CLAUDE_CONTAINER: Shape = {"container": ("claude_container", {"id": "claude_container"})}
_EARLIER: Shape = {"previous_message_id": "claude_message"}
_MESSAGES: Shape = {
    "messages": {"content": _BLOCK},
    "system": _BLOCK,
    "thread": _EARLIER,
    "diagnostics": _EARLIER,
    **_CLAUDE_CONTAINER,
}

REQUESTS: dict[str, Shape] = {
    "messages.create": _MESSAGES,
    "messages.count_tokens": _MESSAGES,
    "chat.completions": {"messages": {"content": {"file": _FILE}, "audio": {"id": "audio"}}},
    "responses.create": _RESPONSE,
    "responses.compact": _RESPONSE,
    "responses.input_tokens": _RESPONSE,
    "conversations.create": {"items": _ITEM},
    "conversations.items.create": {"items": _ITEM},
    "batches.create": {"input_file_id": "file"},
    "vector_stores.create": _FILES,
    "vector_stores.files.create": _FILE,
    "vector_stores.file_batches.create": {**_FILES, "files": _FILE},
    "containers.create": _FILES,
    "containers.files.create": _FILE,
    "images.generations": _IMAGE,
    "images.edits": _IMAGE,
    "images.variations": _IMAGE,
    "fine_tuning.jobs.create": {"training_file": "file", "validation_file": "file"},
    "evals.runs.create": {
        "data_source": {
            "source": {"id": "file"},
            "input_messages": {"template": {"content": _PART}},
            "sampling_params": {"tools": _TOOL},
        }
    },
    "realtime.client_secrets": {"session": _REALTIME},
    "realtime.sessions": _REALTIME,
    "realtimeapi.sessions": _REALTIME,
    "realtime.calls.create": _REALTIME,  # of the session beside the offer
    "realtime.calls.accept": _REALTIME,
    "realtime": {"session": _REALTIME, "response": _REALTIME},  # of the events on a WebSocket
    "assistants.create": _ASSISTANT,
    "assistants.update": _ASSISTANT,
    "threads.create": _THREAD,
    "threads.update": _THREAD,
    "threads.create_and_run": {"assistant_id": "assistant", "thread": _THREAD, "tool_resources": _RESOURCES},
    "threads.messages.create": _MESSAGE,
    "threads.messages.update": _MESSAGE,
    "threads.runs.create": {"assistant_id": "assistant", "additional_messages": _MESSAGE},
}

# Each of an operation's paths has one of these keys: bodies without any are not taken apart. Where nothing is said, it
# is the last key of each path.
RAREST: dict[str, tuple[str, ...]] = {
    "chat.completions": ("file_id", "audio"),
    **dict.fromkeys(("messages.create", "messages.count_tokens"), ("file_id", "container", "previous_message_id")),
}

# Answers also name the objects that the backend made besides the requested one.

_MADE_ITEM: Shape = {
    "container_id": "container",
    "content": {"annotations": {"container_id": "container"}},
    "environment": {"container_id": "container"},
}
_MADE_RESPONSE: Shape = {
    "output": {**_MADE_ITEM, **_SEALED, "content": {**_MADE_ITEM["content"], **_SEALED}},
}
_MADE_IN_EVENT: Shape = {"response": _MADE_RESPONSE, "item": _MADE_RESPONSE["output"]}
_MADE_ITEMS: Shape = {**_MADE_ITEM, "data": _MADE_ITEM}  # without sealed content, which callers bring as well
_MADE_BATCH: Shape = {"output_file_id": "file", "error_file_id": "file"}
_MADE_JOB: Shape = {"result_files": "file", "fine_tuned_model": "checkpoint"}
_MADE_BY_CODE: Shape = {"code_interpreter": {"outputs": {"image": _FILE}}}
_MADE_MESSAGE: Shape = {
    "content": {"image_file": _FILE, "text": {"annotations": {"file_path": _FILE}}},
    "attachments": _FILE,
}
_MADE_STEP: Shape = {"step_details": {"tool_calls": _MADE_BY_CODE}}
_MADE_RESOURCES: Shape = {"tool_resources": {"file_search": {"vector_store_ids": "vector_store"}}}
_MADE_AUDIO: Shape = {"audio": {"id": "audio"}}


def _each(shape: Shape, *operations: str) -> dict[str, Shape]:
    return dict.fromkeys(operations, shape)


def _and_listed(shape: Shape) -> Shape:
    return {**shape, "data": shape}


_RUN_EVENTS: Shape = {  # of a streamed run: itself, its thread, steps and messages
    "thread_id": "thread",
    **_MADE_RESOURCES,
    **_MADE_MESSAGE,
    **_MADE_STEP,
}

_MADE_BLOCK: Shape = {"content": {"content": {"file_id": "claude_file"}}}  # results of code, not of callers' servers
_MADE_MESSAGES: Shape = {"content": _MADE_BLOCK, **_CLAUDE_CONTAINER}
_MADE_MESSAGE_OF_CALL: Shape = {"id": "claude_message", **_MADE_MESSAGES}

ANSWERS: dict[str, Shape] = {
    "messages.create": {
        **_MADE_MESSAGE_OF_CALL,
        "message": _MADE_MESSAGE_OF_CALL,
        "content_block": _MADE_BLOCK,
        "delta": _CLAUDE_CONTAINER,
    },
    "messages.batches.results": {"result": {"message": _MADE_MESSAGES}},  # of each line
    "chat.completions": {"choices": {"message": _MADE_AUDIO, "delta": _MADE_AUDIO}},
    **_each({**_MADE_RESPONSE, **_MADE_IN_EVENT}, "responses.create", "responses.get"),
    **_each(_MADE_RESPONSE, "responses.compact", "responses.cancel"),
    **_each(_MADE_ITEMS, "conversations.items.create", "conversations.items.list", "conversations.items.get"),
    **_each(_and_listed(_MADE_BATCH), "batches.create", "batches.list", "batches.get", "batches.cancel"),
    "uploads.complete": {"file": {"id": "file"}},
    **_each(_and_listed(_MADE_JOB), "fine_tuning.jobs.create", "fine_tuning.jobs.list", "fine_tuning.jobs.get"),
    **_each(_MADE_JOB, "fine_tuning.jobs.cancel", "fine_tuning.jobs.pause", "fine_tuning.jobs.resume"),
    "fine_tuning.jobs.checkpoints.list": {"data": {"fine_tuned_model_checkpoint": "checkpoint"}},
    **_each(_MADE_RESOURCES, "assistants.create", "assistants.update", "assistants.get"),
    **_each(_MADE_RESOURCES, "threads.create", "threads.update", "threads.get"),
    **_each(_RUN_EVENTS, "threads.create_and_run", "threads.runs.create", "threads.runs.submit_tool_outputs"),
    **_each(_and_listed(_MADE_STEP), "threads.runs.steps.list", "threads.runs.steps.get"),
    **_each(_and_listed(_MADE_MESSAGE), "threads.messages.create", "threads.messages.list", "threads.messages.get"),
}
