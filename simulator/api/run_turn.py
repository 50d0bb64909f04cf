"""One turn of a run: the assistant's message or tool call, its charge, and its events."""

from collections.abc import Iterator

import msgspec

from simulator import errors
from simulator.answers import Charge, StreamEvent, typed_event
from simulator.api.hosted_code import TOOL, content_of, files_of_run, keep_output, step_call, tables_in
from simulator.api.threads import put_message, text_of, text_part
from simulator.collection import Object, Plain, make_id, now
from simulator.deployments import Deployment
from simulator.generation import TOKENS_PER_CHUNK, generate, read_prompt
from simulator.interpreter.analysis import Finding, find
from simulator.interpreter.functions import call_for
from simulator.interpreter.tables import Table
from simulator.store import Run, Store, Thread
from simulator.tokens import in_pieces, tokenize

MESSAGE_OVERHEAD = 3
HOSTED_WORD = "simulate_hosted_tools"  # in a prompt: the run calls its tools that Azure runs
ARGUMENTS = '{"place": "harbour"}'


class Turn:
    """A run from its start, or from submitted tool outputs, until it needs a tool or is done.

    `charge` is set once the events have been consumed.
    """

    def __init__(self, thread: Thread, run: Run, deployment: Deployment, store: Store) -> None:
        self._thread = thread
        self._run = run
        self._deployment = deployment
        self._store = store
        self.charge = Charge()

    def events(self) -> Iterator[StreamEvent]:
        """Events of the turn. Consuming them updates the run."""
        run = self._run.object
        yield typed_event("opening", "thread.run.queued", run)
        run.update(status="in_progress", started_at=run["started_at"] or now())
        yield typed_event("opening", "thread.run.in_progress", run)
        outputs = [step.object for step in self._run.steps if is_of_functions(step.object)]
        prompt = "\n".join([run["instructions"], *(text_of(message.object) for message in self._thread.messages)])
        prompt += "".join(_outputs_of(step) for step in outputs)
        overhead = MESSAGE_OVERHEAD * len(self._thread.messages)
        try:
            reading = read_prompt(prompt, overhead, self._deployment.model, self._deployment.cache, "messages")
        except errors.AzureError as refusal:
            run.update(status="failed", failed_at=now(), last_error=_last_error(refusal))
            yield typed_event("closing", "thread.run.failed", run)
            return
        read = Charge(input_tokens=reading.input_tokens, cached_tokens=reading.cached_tokens)
        functions = [tool["function"] for tool in run["tools"] if tool.get("type") == "function"]
        tables = self._tables()
        prompts = [text_of(message.object) for message in self._thread.messages if message.object["role"] == "user"]
        question = prompts[-1] if prompts and tables else ""
        needed = None if outputs else call_for(question, functions, tables)
        finding = None if outputs or needed else find(question, tables)
        if needed is not None:
            yield from self._call_tool(needed.name, needed.arguments, read)
        elif finding is not None:
            yield from self._run_code(finding, read)
        elif outputs and tables:
            answer = "The function answers: " + "".join(map(_outputs_of, outputs)).strip()
            yield from self._write(prompt, read, [text_part(answer)])
        elif functions and not outputs and run["tool_choice"] != "none":
            yield from self._call_tool(str(functions[0].get("name")), ARGUMENTS, read)
        else:
            if HOSTED_WORD in prompt:
                yield from self._call_hosted_tools()
            yield from self._write(prompt, read)
        yield StreamEvent("closing", b"event: done\ndata: [DONE]\n\n")

    def _tables(self) -> list[Table]:
        """The tables that the code of this run may read."""
        run = self._run.object
        if all(tool.get("type") != TOOL for tool in run["tools"]):
            return []
        return tables_in(files_of_run(run, self._thread, self._store))

    def _call_tool(self, name: str, arguments: str, read: Charge) -> Iterator[StreamEvent]:
        run = self._run.object
        details = {"name": name, "arguments": arguments}
        tool_call = {"id": make_id("call_"), "type": "function", "function": details}
        step = self._step("tool_calls", {"type": "tool_calls", "tool_calls": [with_output(tool_call, None)]})
        yield typed_event("opening", "thread.run.step.created", step)
        yield typed_event("opening", "thread.run.step.in_progress", step)
        written = Charge(output_tokens=len(tokenize(arguments)))
        call_delta = {"index": 0, **with_output(tool_call, None)}
        delta = {"step_details": {"type": "tool_calls", "tool_calls": [call_delta]}}
        changed = {"id": step["id"], "object": "thread.run.step.delta", "delta": delta}
        yield typed_event("content", "thread.run.step.delta", changed)
        self.charge = _sum(read, written)
        step["usage"] = _usage_of(read, written)
        run.update(
            status="requires_action",
            required_action={"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": [tool_call]}},
        )
        yield typed_event("closing", "thread.run.requires_action", run)

    def _run_code(self, finding: Finding, read: Charge) -> Iterator[StreamEvent]:
        """A step with the code, then the message with what it has found. The code's tokens are charged with it."""
        kept = {made.name: keep_output(self._store, made) for made in finding.files}
        made = step_call(finding, kept)
        step = self._step("tool_calls", {"type": "tool_calls", "tool_calls": []})
        yield typed_event("opening", "thread.run.step.created", step)
        yield typed_event("opening", "thread.run.step.in_progress", step)
        delta = {"step_details": {"type": "tool_calls", "tool_calls": [{"index": 0, **made}]}}
        changed = {"id": step["id"], "object": "thread.run.step.delta", "delta": delta}
        yield typed_event("content", "thread.run.step.delta", changed)
        step["step_details"] = {"type": "tool_calls", "tool_calls": [made]}
        code = Charge(output_tokens=len(tokenize(finding.code)))
        step.update(status="completed", completed_at=now(), usage=_usage_of(Charge(), code))
        yield typed_event("opening", "thread.run.step.completed", step)
        yield from self._write("", read, content_of(finding, kept), code)

    def _call_hosted_tools(self) -> Iterator[StreamEvent]:
        """One call of each tool that Azure runs: they are done at once, and charged beside the tokens."""
        hosted = [tool["type"] for tool in self._run.object["tools"] if tool.get("type") in _HOSTED]
        calls = [{"id": make_id("call_"), "type": kind, kind: _HOSTED[kind]} for kind in hosted]
        if calls:
            step = self._step("tool_calls", {"type": "tool_calls", "tool_calls": calls})
            yield typed_event("opening", "thread.run.step.created", step)
            step.update(status="completed", completed_at=now(), usage=_usage_of(Charge(), Charge()))
            yield typed_event("opening", "thread.run.step.completed", step)

    def _write(
        self, prompt: str, read: Charge, content: list[Object] | None = None, before: Charge | None = None
    ) -> Iterator[StreamEvent]:
        """The message: `content`, or text that is generated. `before`: what the run has written before it."""
        run = self._run.object
        limit = run["max_completion_tokens"]
        written = generate(prompt, 0, limit, self._deployment.model)
        if content is not None:
            tokens = in_pieces(text_of({"content": content}))
            written = msgspec.structs.replace(written, tokens=tokens, finish_reason="stop")
        message = put_message(self._thread, "assistant", [], run=run).object
        message.update(status="in_progress", completed_at=None)
        created = {"type": "message_creation", "message_creation": {"message_id": message["id"]}}
        step = self._step("message_creation", created)
        yield typed_event("opening", "thread.run.step.created", step)
        yield typed_event("opening", "thread.run.step.in_progress", step)
        yield typed_event("opening", "thread.message.created", message)
        yield typed_event("opening", "thread.message.in_progress", message)
        for place, part in enumerate(content[:-1] if content else ()):
            yield typed_event("content", "thread.message.delta", _message_delta(message, {"index": place, **part}))
        for start in range(0, len(written.tokens), TOKENS_PER_CHUNK):
            piece = written.tokens[start : start + TOKENS_PER_CHUNK]
            text: Object = {"value": "".join(piece)} | ({} if start else {"annotations": []})
            place = len(content) - 1 if content is not None else 0  # behind the pictures
            changed = _message_delta(message, {"index": place, "type": "text", "text": text})
            yield typed_event("content", "thread.message.delta", changed)
        message.update(status="completed", completed_at=now(), content=content or [text_part(written.text)])
        yield typed_event("opening", "thread.message.completed", message)
        spent = Charge(output_tokens=written.output_tokens, reasoning_tokens=written.reasoning_tokens)
        self.charge = _sum(read, spent)
        if before is not None:
            self.charge.charge(before)
        step.update(status="completed", completed_at=now(), usage=_usage_of(read, spent))
        yield typed_event("opening", "thread.run.step.completed", step)
        cut = written.finish_reason == "length"
        total = None
        for done in self._run.steps:
            total = _sum_usage(total, done.object["usage"])
        run.update(
            status="incomplete" if cut else "completed",
            completed_at=None if cut else now(),
            incomplete_details={"reason": "max_completion_tokens"} if cut else None,
            usage=total,
        )
        yield typed_event("closing", "thread.run.incomplete" if cut else "thread.run.completed", run)

    def _step(self, kind: str, details: Object) -> Object:
        run = self._run.object
        step: Object = {
            "id": make_id("step_"),
            "object": "thread.run.step",
            "created_at": now(),
            "run_id": run["id"],
            "assistant_id": run["assistant_id"],
            "thread_id": run["thread_id"],
            "type": kind,
            "status": "in_progress",
            "cancelled_at": None,
            "completed_at": None,
            "expires_at": None,
            "failed_at": None,
            "last_error": None,
            "metadata": {},
            "step_details": details,
            "usage": None,
        }
        self._run.steps.add(Plain(step))
        return step


_HOSTED: dict[str, Object] = {"code_interpreter": {"input": "print(1)", "outputs": []}, "file_search": {"results": []}}


def _message_delta(message: Object, part: Object) -> Object:
    return {"id": message["id"], "object": "thread.message.delta", "delta": {"content": [part]}}


def is_of_functions(step: Object) -> bool:
    """True for a step with calls of functions, whose outputs the caller submits."""
    details: Object = step["step_details"]
    return step["type"] == "tool_calls" and all(call["type"] == "function" for call in details["tool_calls"])


def _sum(read: Charge, written: Charge) -> Charge:
    return Charge(
        input_tokens=read.input_tokens,
        cached_tokens=read.cached_tokens,
        output_tokens=written.output_tokens,
        reasoning_tokens=written.reasoning_tokens,
    )


def _last_error(refusal: errors.AzureError) -> Object:
    error = msgspec.json.decode(refusal.body)["error"]
    return {"code": "invalid_prompt", "message": error["message"]}


def with_output(tool_call: Object, output: str | None) -> Object:
    return {**tool_call, "function": {**tool_call["function"], "output": output}}


def _outputs_of(step: Object) -> str:
    calls: list[Object] = step["step_details"]["tool_calls"]
    return "".join(f"\n{call['function']['output']}" for call in calls)


def _usage_of(read: Charge, written: Charge) -> Object:
    return {
        "prompt_tokens": read.input_tokens,
        "completion_tokens": written.output_tokens,
        "total_tokens": read.input_tokens + written.output_tokens,
        "prompt_token_details": {"cached_tokens": read.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": written.reasoning_tokens},
    }


def _sum_usage(before: Object | None, more: Object) -> Object:
    if before is None:
        return more
    return {
        name: _sum_usage(before[name], amount) if isinstance(amount, dict) else before[name] + amount
        for name, amount in more.items()
    }
