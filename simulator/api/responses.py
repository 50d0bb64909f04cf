"""Responses: create, get, delete, cancel, list input items, compact, count input tokens."""

import time

import msgspec

from simulator import errors
from simulator.answers import Answer, Charge, StreamedAnswer, answer_json
from simulator.api.response_code import Coded, run_code, within
from simulator.api.response_events import ResponseEvent, code_tokens, events_of, replay, stream_of
from simulator.api.response_input import (
    ITEM_OVERHEAD,
    ResponseRequest,
    append_to,
    check_tools,
    compaction,
    earlier,
    input_items,
    resolve,
    seal,
    text_of,
)
from simulator.call import Call, Route
from simulator.collection import Object, make_id, now, page_of
from simulator.deployments import Deployment
from simulator.generation import GeneratedChoice, Reading, directive, generate, read_prompt
from simulator.model_rules import check_response
from simulator.store import StoredResponse
from simulator.tokens import in_pieces, measure

BACKGROUND_SECONDS = 0.3
TOOL_WORD = "simulate_tool_call"
RECALL_WORD = "simulate_recall"


def create(call: Call) -> Answer:
    request = call.decode(ResponseRequest)
    call.entry.stream = bool(request.stream)
    deployment = call.deployments.find(request.model)
    items = input_items(request)
    _check(request)
    before = earlier(request, call.store)
    items = resolve(items, before, call.store)
    check_tools(request.tools or [], call.store)
    call.deployments.admit(deployment, len(call.body) // 4 + (request.max_output_tokens or 0))
    if deployment.model.kind not in ("chat", "reasoning"):
        raise errors.operation_not_supported("responses", deployment.model.name)
    check_response(deployment.model, msgspec.structs.asdict(request), request.effort)
    stored, tokens, charge = _answer(request, deployment, items, before, call)
    if request.background:
        return _in_background(call, request, stored, tokens, charge)
    _keep(call, request, stored)
    if request.stream:
        events = events_of(stored.object, tokens, charge)
        return StreamedAnswer(stream_of(events), charge.opening, typed=True)
    return answer_json(stored.object, charge)


def _check(request: ResponseRequest) -> None:
    if request.max_output_tokens is not None and request.max_output_tokens < 16:
        message = "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16."
        raise errors.invalid_request(message, "max_output_tokens", "integer_below_min_value")
    if request.background and request.store is False:
        raise errors.invalid_request("Background mode requires 'store' to be true.", "background")


def _answer(
    request: ResponseRequest, deployment: Deployment, items: list[Object], before: list[Object], call: Call
) -> tuple[StoredResponse, list[str], Charge]:
    """The finished response, the tokens of its text or arguments, and its charge."""
    model = deployment.model
    context = before + items
    text = "\n".join([request.instructions or "", *map(text_of, context)])
    reading = read_prompt(text, ITEM_OVERHEAD * len(context), model, deployment.cache, "input")
    last = text_of(items[-1]) if items else ""
    written = generate(text, 0, request.max_output_tokens, model, directions=last, effort=request.effort)
    if RECALL_WORD in last:
        written = msgspec.structs.replace(written, tokens=in_pieces(_recalled(context)), finish_reason="stop")
    coded = run_code(request, items, before, call.store) if request.tools else None
    if coded is not None:
        coded, written = within(coded, written, request.max_output_tokens)
    output, tokens = _output(request, written, last, call, coded)
    if _is_compacted(request, reading):
        output.insert(0, compaction(text, call.store))
    charge = Charge(
        input_tokens=reading.input_tokens,
        cached_tokens=reading.cached_tokens,
        output_tokens=len(tokens) + written.reasoning_tokens + code_tokens(output),
        reasoning_tokens=written.reasoning_tokens,
    )
    response = _response(request, model.answered_name, output, reading, charge, written.finish_reason)
    return StoredResponse(response, items, context), tokens, charge


def _is_compacted(request: ResponseRequest, reading: Reading) -> bool:
    thresholds = [one.get("compact_threshold") for one in request.context_management or ()]
    return any(isinstance(most, int) and reading.input_tokens > most for most in thresholds)


def _recalled(context: list[Object]) -> str:
    """All user messages of the chain, so that a test can see them."""
    return " | ".join(text_of(item) for item in context if item.get("role") == "user")


def _output(
    request: ResponseRequest, written: GeneratedChoice, last: str, call: Call, coded: Coded | None
) -> tuple[list[Object], list[str]]:
    output: list[Object] = []
    if written.reasoning_tokens:
        reasoning: Object = {"id": make_id("rs_"), "type": "reasoning", "summary": []}
        if "reasoning.encrypted_content" in (request.include or ()):
            reasoning["encrypted_content"] = seal(make_id("thought "), call.store)
        output.append(reasoning)
    if coded is not None and coded.function is not None:
        output.append(_function_call(coded.function.name, coded.function.arguments))
        return output, in_pieces(coded.function.arguments)
    if coded is not None and coded.item is not None:
        output.append(coded.item)
    functions = [tool for tool in request.tools or () if tool.get("type") == "function"]
    if coded is None and functions and (TOOL_WORD in last or request.tool_choice == "required"):
        arguments = '{"place": "harbour"}'
        output.append(_function_call(str(functions[0].get("name")), arguments))
        return output, in_pieces(arguments)
    if written.tokens or not output:
        annotations = coded.annotations if coded is not None else []
        part = {"type": "output_text", "text": written.text, "annotations": annotations, "logprobs": []}
        message = {"id": make_id("msg_"), "type": "message", "status": "completed", "role": "assistant"}
        output.append({**message, "content": [part]})
    return output, written.tokens


def _function_call(name: str, arguments: str) -> Object:
    call: Object = {"id": make_id("fc_"), "type": "function_call", "status": "completed"}
    return {**call, "name": name, "call_id": make_id("call_"), "arguments": arguments}


def _response(
    request: ResponseRequest, model: str, output: list[Object], reading: Reading, charge: Charge, finish: str
) -> Object:
    cut = finish == "length"
    return {
        "id": make_id("resp_"),
        "object": "response",
        "created_at": now(),
        "status": "incomplete" if cut else "completed",
        "background": bool(request.background),
        "completed_at": None if cut else now(),
        "content_filters": None,
        "conversation": {"id": request.conversation_id} if request.conversation else None,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": None,
        "model": model,
        "output": output,
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": request.reasoning or {"effort": None, "summary": None},
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": request.store is not False,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": request.text or {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": request.tool_choice or "auto",
        "tools": request.tools or [],
        "top_logprobs": 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": request.truncation or "disabled",
        "usage": usage_of(charge),
        "user": request.user,
        "metadata": request.metadata or {},
    }


def usage_of(charge: Charge) -> Object:
    return {
        "input_tokens": charge.input_tokens,
        "input_tokens_details": {"cached_tokens": charge.cached_tokens},
        "output_tokens": charge.output_tokens,
        "output_tokens_details": {"reasoning_tokens": charge.reasoning_tokens},
        "total_tokens": charge.input_tokens + charge.output_tokens,
    }


def _keep(call: Call, request: ResponseRequest, stored: StoredResponse) -> None:
    if request.store is not False or call.store.responses.keeps_all:
        call.store.responses.add(stored)
    if (conversation_id := request.conversation_id) is not None:
        append_to(call.store.conversations.get(conversation_id), stored.input_items + stored.object["output"])


def _in_background(
    call: Call, request: ResponseRequest, stored: StoredResponse, tokens: list[str], charge: Charge
) -> Answer:
    """Store the response now; finish and charge it after a delay, or the input's `simulate_seconds=N`."""
    final = stored.object
    delay = directive("\n".join(map(text_of, stored.input_items)), "seconds")
    seconds = BACKGROUND_SECONDS if delay is None else float(delay)
    stored.events = events_of(final, tokens, charge)
    stored.done = time.time() + seconds
    pending: Object = {
        "status": "queued",
        "output": [],
        "usage": None,
        "incomplete_details": None,
        "completed_at": None,
    }
    stored.object = {**final, **pending}

    def finish() -> None:
        stored.cancel = None
        stored.object = {**final, "completed_at": now() if final["completed_at"] else None}
        call.charge_late(charge)
        if (conversation_id := request.conversation_id) is not None:
            append_to(call.store.conversations.get(conversation_id), stored.input_items + final["output"])

    timer = call.store.work.later(seconds, finish)

    def cancel() -> None:
        timer.cancel()
        stored.cancel = None
        stored.done = 0.0
        stored.object = {**stored.object, "status": "cancelled"}
        ending: Object = {"type": "response.cancelled", "sequence_number": 3, "response": stored.object}
        stored.events = [*stored.events[:3], ResponseEvent("closing", ending)]
        call.charge_late(charge.opening)

    stored.cancel = cancel
    call.store.responses.add(stored)
    if request.stream:
        return StreamedAnswer(replay(stored, -1), typed=True)
    return answer_json(stored.object)


def get(call: Call) -> Answer:
    stored = call.store.responses.get(call.id)
    if stored.cancel is not None and stored.object["status"] == "queued":
        stored.object = {**stored.object, "status": "in_progress"}
    if call.query.get("stream", "").lower() != "true":
        return answer_json(stored.object)
    call.entry.stream = True
    if not stored.events:
        message = "This response cannot be streamed because it was not created with background=true."
        raise errors.invalid_request(message, "stream")
    after = call.query.get("starting_after", "-1")
    if not after.lstrip("-").isdigit():
        raise errors.invalid_request("Invalid type for 'starting_after': expected an integer.", "starting_after")
    return StreamedAnswer(replay(stored, max(-1, int(after))), typed=True)


def delete(call: Call) -> Answer:
    stored = call.store.responses.remove(call.id)
    if stored.cancel is not None:
        stored.cancel()
    return answer_json({"id": call.id, "object": "response.deleted", "deleted": True})


def cancel(call: Call) -> Answer:
    stored = call.store.responses.get(call.id)
    if not stored.object["background"]:
        raise errors.invalid_request("Only responses created with background=true can be cancelled.")
    if stored.cancel is not None:
        stored.cancel()
    return answer_json(stored.object)


def list_input_items(call: Call) -> Answer:
    return answer_json(page_of(call.store.responses.get(call.id).input_items, call.query))


def compact(call: Call) -> Answer:
    request = call.decode(ResponseRequest)
    deployment = call.deployment(request.model, len(call.body) // 4)
    before = earlier(request, call.store)
    context = before + resolve(input_items(request), before, call.store)
    text = "\n".join(map(text_of, context))
    reading = read_prompt(text, ITEM_OVERHEAD * len(context), deployment.model, deployment.cache, "input")
    charge = Charge(input_tokens=reading.input_tokens, cached_tokens=reading.cached_tokens, output_tokens=16)
    users = [item for item in context if item.get("role") == "user"]
    return answer_json(
        {
            "id": make_id("resp_"),
            "object": "response.compaction",
            "created_at": now(),
            "output": [*users, compaction(text, call.store)],
            "usage": usage_of(charge),
        },
        charge,
    )


def count_input_tokens(call: Call) -> Answer:
    request = call.decode(ResponseRequest)
    call.deployments.find(request.model)
    before = earlier(request, call.store)
    context = before + resolve(input_items(request), before, call.store)
    text = "\n".join([request.instructions or "", *map(text_of, context)])
    count = measure(text).tokens + ITEM_OVERHEAD * len(context)
    return answer_json({"object": "response.input_tokens", "input_tokens": count})


ROUTES = (
    Route("POST", "responses", create),
    Route("POST", "responses/compact", compact),
    Route("POST", "responses/input_tokens", count_input_tokens),
    Route("GET", "responses/{id}", get),
    Route("DELETE", "responses/{id}", delete),
    Route("POST", "responses/{id}/cancel", cancel),
    Route("GET", "responses/{id}/input_items", list_input_items),
)
