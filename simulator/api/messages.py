"""Messages of Anthropic's API, as a Foundry resource and Anthropic itself serve them: create and count tokens."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from simulator import errors, messages_errors
from simulator.answers import Answer, Charge, EventKind, StreamedAnswer, StreamEvent, answer_json, typed_event
from simulator.api.message_input import MessageRequest, Prompt, blocks_of, read
from simulator.call import Call, Route
from simulator.collection import Object, Plain, make_id, now
from simulator.deployments import Deployment
from simulator.generation import REASONING_TOKENS, TOKENS_PER_CHUNK, directive, generate
from simulator.tokens import PromptCache, tokenize

TOOL_WORD = "simulate_tool_call"
_REQUIRED = ("model", "messages", "max_tokens")
_TOOL_INPUT = {"place": "harbour"}


class _Written(msgspec.Struct, frozen=True):
    """A message: its blocks, the pieces in which each is streamed, and why it ended."""

    blocks: list[Object]
    pieces: list[list[str]]
    stop_reason: str
    thought: int  # tokens


def create(call: Call) -> Answer:
    request = _decoded(call, _REQUIRED)
    deployment = _deployment(call, request)
    call.deployments.admit(deployment, len(call.body) // 4 + (request.max_tokens or 0))
    prompt = read(request, deployment.cache)
    if prompt.tokens > deployment.model.context_window:
        raise messages_errors.prompt_too_long(prompt.tokens, deployment.model.context_window)
    written = _write(request, prompt, deployment)
    searches = _searches(request)
    charge = Charge(
        input_tokens=prompt.tokens,
        cached_tokens=prompt.read,
        cache_write_tokens=prompt.written,
        cache_write_1h_tokens=prompt.written_1h,
        output_tokens=sum(map(len, written.pieces)) + written.thought,
        reasoning_tokens=written.thought,
        web_searches=searches,
    )
    message = {
        "id": make_id("msg_"),
        "type": "message",
        "role": "assistant",
        "model": deployment.model.answered_name,
        "content": written.blocks,
        "stop_reason": written.stop_reason,
        "stop_sequence": None,
        "usage": {**usage_of(charge), "inference_geo": request.inference_geo or "global"},
    }
    _check_files(call, request)
    if (container := _container(call, request)) is not None:
        message["container"] = container
    if request.stream:
        call.entry.stream = True
        return StreamedAnswer(_events(message, written, charge), charge.opening, typed=True)
    return answer_json(message, charge)


def count_tokens(call: Call) -> Answer:
    request = _decoded(call, _REQUIRED[:2])
    _deployment(call, request)
    return answer_json({"input_tokens": read(request, PromptCache()).tokens})


def _decoded(call: Call, required: tuple[str, ...]) -> MessageRequest:
    if not call.body:
        raise errors.not_json()
    request = call.decode(MessageRequest)
    for name in required:
        if getattr(request, name) is None:
            raise messages_errors.required(name)
    if "simulate_content_filter" in "".join(block.text for block in blocks_of(request)):
        raise errors.invalid_request("Output blocked by content filtering policy")
    return request


def _deployment(call: Call, request: MessageRequest) -> Deployment:
    deployment = call.deployments.find(request.model)
    if deployment.model.kind != "messages":
        raise errors.operation_not_supported("messages", deployment.model.name)
    return deployment


def _searches(request: MessageRequest) -> int:
    return (directive(request.last, "web_searches") or 0) if request.tool("web_search_") else 0


def _container(call: Call, request: MessageRequest) -> Object | None:
    """The container in which code runs: the one that the request names, or a new one."""
    named = request.container.get("id") if isinstance(request.container, dict) else request.container
    if named is not None:
        return call.store.claude_containers.get(str(named)).object
    if not request.tool("code_execution_"):
        return None
    expires = datetime.fromtimestamp(now() + 3600, UTC).isoformat()
    return call.store.claude_containers.add(Plain({"id": make_id("container_"), "expires_at": expires})).object


def _check_files(call: Call, request: MessageRequest) -> None:
    """Raise AzureError 404 for a file that this region does not have."""
    for message in request.messages or ():
        content = message.get("content")
        for block in content if isinstance(content, list) else ():
            source = block.get("source")
            named = block.get("file_id") or (source.get("file_id") if isinstance(source, dict) else None)
            if named is not None:
                call.store.claude_files.get(str(named))


def _write(request: MessageRequest, prompt: Prompt, deployment: Deployment) -> _Written:
    thinks = (request.thinking or {}).get("type") in ("enabled", "adaptive")
    most = request.max_tokens or 0
    thought = min(REASONING_TOKENS, most) if thinks else 0
    text = generate(prompt.text, 0, most - thought, deployment.model, directions=request.last)
    blocks: list[Object] = []
    pieces: list[list[str]] = []
    if thinks:
        blocks.append({"type": "thinking", "thinking": "North, then.", "signature": make_id("")})
        pieces.append([])
    for number in range(_searches(request)):
        blocks += _search(number)
        pieces += [[], []]
    forced = (request.tool_choice or {}).get("type") in ("any", "tool")
    if request.functions and (forced or TOOL_WORD in request.last):
        name = (request.tool_choice or {}).get("name") or request.functions[0]["name"]
        blocks.append({"type": "tool_use", "id": make_id("toolu_"), "name": name, "input": _TOOL_INPUT})
        return _Written(blocks, [*pieces, tokenize(json.dumps(_TOOL_INPUT))], "tool_use", thought)
    blocks.append({"type": "text", "text": text.text})
    stop = "end_turn" if text.finish_reason == "stop" else "max_tokens"
    return _Written(blocks, [*pieces, text.tokens], stop, thought)


def _search(number: int) -> list[Object]:
    used = {"type": "server_tool_use", "id": make_id("srvtoolu_"), "name": "web_search", "input": {"query": "tides"}}
    result = {"type": "web_search_result", "url": f"https://example.com/{number}", "title": "Tides", "page_age": None}
    result["encrypted_content"] = make_id("")
    return [used, {"type": "web_search_tool_result", "tool_use_id": used["id"], "content": [result]}]


def usage_of(charge: Charge) -> Object:
    """The usage object of a message."""
    written = charge.cache_write_tokens + charge.cache_write_1h_tokens
    return {
        "input_tokens": charge.input_tokens - charge.cached_tokens - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": charge.cached_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": charge.cache_write_tokens,
            "ephemeral_1h_input_tokens": charge.cache_write_1h_tokens,
        },
        "output_tokens": charge.output_tokens,
        "output_tokens_details": {"thinking_tokens": charge.reasoning_tokens},
        "server_tool_use": {"web_search_requests": charge.web_searches, "web_fetch_requests": 0},
        "service_tier": "standard",
    }


def _events(message: Object, written: _Written, charge: Charge) -> Iterator[StreamEvent]:
    begun = {**message, "content": [], "stop_reason": None, "usage": {**message["usage"], "output_tokens": 1}}
    begun["usage"].pop("output_tokens_details")
    yield typed_event("opening", "message_start", {"type": "message_start", "message": begun})
    left = written.thought
    for index, (block, pieces) in enumerate(zip(written.blocks, written.pieces, strict=True)):
        kind: EventKind = "content" if block["type"].endswith("_result") else "opening"
        start = {"type": "content_block_start", "index": index, "content_block": _opened(block)}
        yield typed_event(kind, "content_block_start", start)
        if index == 0:
            yield typed_event("opening", "ping", {"type": "ping"})
        for delta, tokens in _deltas(block, pieces):
            cost, left = Charge(output_tokens=tokens + left, reasoning_tokens=left), 0
            event = {"type": "content_block_delta", "index": index, "delta": delta}
            yield typed_event("content", "content_block_delta", event, cost)
        yield typed_event("opening", "content_block_stop", {"type": "content_block_stop", "index": index})
    unseen = Charge(output_tokens=left, reasoning_tokens=left) if left else None
    ended = {name: message[name] for name in ("stop_reason", "stop_sequence", "container") if name in message}
    usage = {name: message["usage"][name] for name in _IN_DELTA}
    yield typed_event("closing", "message_delta", {"type": "message_delta", "delta": ended, "usage": usage}, unseen)
    yield typed_event("closing", "message_stop", {"type": "message_stop"})


_IN_DELTA = (
    *("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"),
    *("output_tokens", "output_tokens_details", "server_tool_use"),
)


def _opened(block: Object) -> Object:
    match block["type"]:
        case "text":
            return {"type": "text", "text": ""}
        case "thinking":
            return {"type": "thinking", "thinking": "", "signature": ""}
        case "tool_use" | "server_tool_use":
            return {**block, "input": {}}
    return block


def _deltas(block: Object, pieces: list[str]) -> Iterator[tuple[Any, int]]:
    """The deltas of a block, with the tokens of each."""
    match block["type"]:
        case "thinking":
            yield {"type": "thinking_delta", "thinking": block["thinking"]}, 0
            yield {"type": "signature_delta", "signature": block["signature"]}, 0
        case "server_tool_use":
            yield {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}, 0
        case "tool_use":
            yield {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}, len(pieces)
        case "text":
            for start in range(0, len(pieces), TOKENS_PER_CHUNK):
                some = pieces[start : start + TOKENS_PER_CHUNK]
                yield {"type": "text_delta", "text": "".join(some)}, len(some)


ROUTES = (
    Route("POST", "anthropic/messages", create),
    Route("POST", "anthropic/messages/count_tokens", count_tokens),
)
