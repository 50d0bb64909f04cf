"""Runs of an assistant on a thread, and their steps. A run may wait for tool outputs."""

from typing import Any

import msgspec

from simulator import errors
from simulator.answers import Answer, StreamedAnswer, StreamEvent, answer_json, typed_event
from simulator.api.assistants import tool_resources
from simulator.api.run_turn import Turn, with_output
from simulator.api.threads import MessageRequest, ThreadRequest, add_message
from simulator.api.threads import make as make_thread
from simulator.call import Call, Route
from simulator.collection import Object, make_id, now
from simulator.deployments import Deployment
from simulator.generation import work_seconds
from simulator.store import Run, Thread

RUN_SECONDS = 0.1
_ENDED = ("completed", "failed", "cancelled", "expired", "incomplete")


class RunRequest(msgspec.Struct, frozen=True):
    assistant_id: str | None = None
    model: str | None = None
    instructions: str | None = None
    additional_instructions: str | None = None
    additional_messages: list[MessageRequest] | None = None
    tools: list[Object] | None = None
    tool_choice: Any = None
    max_prompt_tokens: int | None = None
    max_completion_tokens: int | None = None
    metadata: dict[str, str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    response_format: Any = None
    truncation_strategy: Object | None = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    thread: ThreadRequest | None = None
    tool_resources: Object | None = None


class _ToolOutput(msgspec.Struct, frozen=True):
    tool_call_id: str
    output: str = ""


class _ToolOutputs(msgspec.Struct, frozen=True):
    tool_outputs: list[_ToolOutput] = []
    stream: bool | None = None


class _Update(msgspec.Struct, frozen=True):
    metadata: dict[str, str] | None = None


def create(call: Call) -> Answer:
    thread = call.store.threads.get(call.id)
    return _begin(call, thread, call.decode(RunRequest))


def create_with_thread(call: Call) -> Answer:
    request = call.decode(RunRequest)
    tool_resources(request.tool_resources, call.store)
    return _begin(call, None, request)


def _begin(call: Call, thread: Thread | None, request: RunRequest) -> Answer:
    call.entry.stream = bool(request.stream)
    if request.assistant_id is None:
        raise errors.missing_parameter("assistant_id")
    assistant = call.store.assistants.get(request.assistant_id).object
    deployment = call.deployment(request.model or assistant["model"], len(call.body) // 4)
    active = next((run for run in thread.runs if run.object["status"] not in _ENDED), None) if thread else None
    if active is not None and thread is not None:
        message = f"Thread {thread.object['id']} already has an active run {active.object['id']}."
        raise errors.invalid_request(message)
    made = thread is None
    thread = thread or make_thread(request.thread or ThreadRequest(), call.store)
    for additional in request.additional_messages or ():
        add_message(thread, additional, call.store)
    run = thread.runs.add(Run(_run(request, assistant, deployment, thread)))
    opening = [typed_event("opening", "thread.created", thread.object)] if made else []
    opening.append(typed_event("opening", "thread.run.created", run.object))
    return _proceed(call, thread, run, deployment, bool(request.stream), opening)


def _run(request: RunRequest, assistant: Object, deployment: Deployment, thread: Thread) -> Object:
    instructions = [request.instructions or assistant["instructions"], request.additional_instructions]
    return {
        "id": make_id("run_"),
        "object": "thread.run",
        "created_at": now(),
        "assistant_id": assistant["id"],
        "thread_id": thread.object["id"],
        "status": "queued",
        "started_at": None,
        "expires_at": now() + 600,
        "cancelled_at": None,
        "failed_at": None,
        "completed_at": None,
        "required_action": None,
        "last_error": None,
        "model": deployment.name,
        "instructions": "\n".join(text for text in instructions if text),
        "tools": request.tools if request.tools is not None else assistant["tools"],
        "tool_resources": {},
        "metadata": request.metadata or {},
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "max_completion_tokens": request.max_completion_tokens,
        "max_prompt_tokens": request.max_prompt_tokens,
        "truncation_strategy": request.truncation_strategy or {"type": "auto", "last_messages": None},
        "incomplete_details": None,
        "usage": None,
        "response_format": request.response_format or "auto",
        "tool_choice": request.tool_choice or "auto",
        "parallel_tool_calls": request.parallel_tool_calls is not False,
    }


def _proceed(
    call: Call, thread: Thread, run: Run, deployment: Deployment, stream: bool, opening: list[StreamEvent]
) -> Answer:
    """Run the next turn: at once if it is streamed, otherwise after a delay."""
    turn = Turn(thread, run, deployment, call.store)
    if stream:
        # A run continues if its client disconnects, so all of it is done and charged before the stream begins.
        events = [*opening, *turn.events()]
        return StreamedAnswer(iter(events), turn.charge, typed=True)

    def finish() -> None:
        run.cancel = None
        for _ in turn.events():
            pass
        call.charge_late(turn.charge)

    timer = call.store.work.later(work_seconds(run.object["metadata"], RUN_SECONDS), finish)
    run.cancel = timer.cancel
    return answer_json(run.object)


def submit_tool_outputs(call: Call) -> Answer:
    thread, run = _find(call)
    request = call.decode(_ToolOutputs)
    call.entry.stream = bool(request.stream)
    if run.object["status"] != "requires_action":
        message = f'Runs in status "{run.object["status"]}" do not accept tool outputs.'
        raise errors.invalid_request(message)
    step = list(run.steps)[-1].object
    outputs = {result.tool_call_id: result.output for result in request.tool_outputs}
    expected = [tool_call["id"] for tool_call in step["step_details"]["tool_calls"]]
    if set(expected) != set(outputs):
        message = f"Expected tool outputs for call_ids {expected}, got {list(outputs)}"
        raise errors.invalid_request(message)
    deployment = call.deployment(run.object["model"], len(call.body) // 4)
    details = step["step_details"]
    details["tool_calls"] = [with_output(tool_call, outputs[tool_call["id"]]) for tool_call in details["tool_calls"]]
    step.update(status="completed", completed_at=now())
    run.object.update(status="queued", required_action=None)
    opening = [typed_event("opening", "thread.run.step.completed", step)]
    return _proceed(call, thread, run, deployment, bool(request.stream), opening)


def list_all(call: Call) -> Answer:
    return answer_json(call.store.threads.get(call.id).runs.page(call.query))


def get(call: Call) -> Answer:
    _, run = _find(call)
    return answer_json(run.object)


def update(call: Call) -> Answer:
    _, run = _find(call)
    run.object["metadata"] = call.decode(_Update).metadata or {}
    return answer_json(run.object)


def cancel(call: Call) -> Answer:
    _, run = _find(call)
    if run.object["status"] in _ENDED:
        raise errors.invalid_request(f"Cannot cancel run with status '{run.object['status']}'.")
    if run.cancel is not None:
        run.cancel()
        run.cancel = None
    run.object.update(status="cancelled", cancelled_at=now(), required_action=None)
    return answer_json(run.object)


def list_steps(call: Call) -> Answer:
    _, run = _find(call)
    return answer_json(run.steps.page(call.query))


def get_step(call: Call) -> Answer:
    _, run = _find(call)
    return answer_json(run.steps.get(call.ids[2]).object)


def _find(call: Call) -> tuple[Thread, Run]:
    thread = call.store.threads.get(call.id)
    return thread, thread.runs.get(call.ids[1])


ROUTES = (
    Route("POST", "threads/runs", create_with_thread),
    Route("POST", "threads/{id}/runs", create),
    Route("GET", "threads/{id}/runs", list_all),
    Route("GET", "threads/{id}/runs/{id}", get),
    Route("POST", "threads/{id}/runs/{id}", update),
    Route("POST", "threads/{id}/runs/{id}/cancel", cancel),
    Route("POST", "threads/{id}/runs/{id}/submit_tool_outputs", submit_tool_outputs),
    Route("GET", "threads/{id}/runs/{id}/steps", list_steps),
    Route("GET", "threads/{id}/runs/{id}/steps/{id}", get_step),
)
