"""Events of a response's stream, in order and with sequence numbers."""

from collections.abc import Iterator
from typing import Any

import msgspec

from simulator.answers import Charge, EventKind, StreamEvent, typed_event
from simulator.collection import Object
from simulator.generation import TOKENS_PER_CHUNK
from simulator.store import StoredResponse
from simulator.tokens import tokenize


class ResponseEvent(msgspec.Struct, frozen=True):
    kind: EventKind
    content: Object
    charge: Charge | None = None

    @property
    def type(self) -> str:
        return str(self.content["type"])


def events_of(response: Object, tokens: list[str], charge: Charge) -> list[ResponseEvent]:
    """All events of a finished response. `tokens` are those of its text or arguments."""
    made: list[ResponseEvent] = []

    def say(kind: EventKind, type_: str, cost: Charge | None = None, **content: Any) -> None:
        made.append(ResponseEvent(kind, {"type": type_, "sequence_number": len(made), **content}, cost))

    begun = {**response, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    begun["completed_at"] = None
    queued = {**begun, "status": "queued"} if response["background"] else begun
    say("opening", "response.created", response=queued)
    if response["background"]:
        say("opening", "response.queued", response=queued)
    say("opening", "response.in_progress", response=begun)
    for index, item in enumerate(response["output"]):
        _say_item(say, index, item, tokens, charge.reasoning_tokens)
    ending = {"completed": "response.completed", "incomplete": "response.incomplete"}[response["status"]]
    # Without visible output, reasoning is charged with the last event.
    unseen = 0 if tokens else charge.output_tokens
    say("closing", ending, Charge(output_tokens=unseen, reasoning_tokens=unseen), response=response)
    return made


def _say_item(say: Any, index: int, item: Object, tokens: list[str], reasoning_tokens: int) -> None:
    place = {"item_id": item["id"], "output_index": index}
    match item["type"]:
        case "message":
            part = {**place, "content_index": 0}
            text = item["content"][0]["text"]
            empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            say("opening", "response.output_item.added", output_index=index, item=_begun(item, content=[]))
            say("opening", "response.content_part.added", **part, part=empty)
            for delta, cost in _deltas(tokens, reasoning_tokens):
                say("content", "response.output_text.delta", cost, **part, delta=delta, logprobs=[])
            for number, annotation in enumerate(item["content"][0]["annotations"]):
                added = {"annotation_index": number, "annotation": annotation}
                say("content", "response.output_text.annotation.added", **part, **added)
            say("opening", "response.output_text.done", **part, text=text, logprobs=[])
            say("opening", "response.content_part.done", **part, part=item["content"][0])
        case "code_interpreter_call":
            _say_code(say, place, item)
        case "function_call":
            say("opening", "response.output_item.added", output_index=index, item=_begun(item, arguments=""))
            for delta, cost in _deltas(tokens, reasoning_tokens):
                say("content", "response.function_call_arguments.delta", cost, **place, delta=delta)
            done = {**place, "name": item["name"], "arguments": item["arguments"]}
            say("opening", "response.function_call_arguments.done", **done)
        case "reasoning" | "compaction" if sealed := item.get("encrypted_content"):
            begun = {**item, "encrypted_content": sealed[: len(sealed) // 2]}
            say("opening", "response.output_item.added", output_index=index, item=begun)
        case _:
            say("opening", "response.output_item.added", output_index=index, item=item)
    say("opening", "response.output_item.done", output_index=index, item=item)


def _say_code(say: Any, place: Object, item: Object) -> None:
    say("opening", "response.output_item.added", output_index=place["output_index"], item=_begun(item, code=""))
    say("opening", "response.code_interpreter_call.in_progress", **place)
    for line in item["code"].splitlines(keepends=True):
        cost = Charge(output_tokens=len(tokenize(line)))
        say("content", "response.code_interpreter_call_code.delta", cost, **place, delta=line)
    say("opening", "response.code_interpreter_call_code.done", **place, code=item["code"])
    say("opening", "response.code_interpreter_call.interpreting", **place)
    say("opening", "response.code_interpreter_call.completed", **place)


def code_tokens(output: list[Object]) -> int:
    """The tokens of the code that a model has written beside its answer."""
    codes = (item["code"] for item in output if item["type"] == "code_interpreter_call")
    return sum(len(tokenize(line)) for code in codes for line in code.splitlines(keepends=True))


def _begun(item: Object, **empty: Any) -> Object:
    return {**item, "status": "in_progress", **empty}


def _deltas(tokens: list[str], reasoning_tokens: int) -> Iterator[tuple[str, Charge]]:
    for start in range(0, len(tokens), TOKENS_PER_CHUNK):
        piece = tokens[start : start + TOKENS_PER_CHUNK]
        reasoning = 0 if start else reasoning_tokens
        yield "".join(piece), Charge(output_tokens=len(piece) + reasoning, reasoning_tokens=reasoning)


def stream_of(events: list[ResponseEvent]) -> Iterator[StreamEvent]:
    for event in events:
        yield typed_event(event.kind, event.type, event.content, event.charge)


def replay(stored: StoredResponse, after: int) -> Iterator[StreamEvent]:
    """Events after a sequence number. The last one is sent once the response is done or cancelled."""
    index = after + 1
    while index < len(stored.events):
        if stored.events[index].kind == "closing":
            yield StreamEvent("opening", b"", not_before=stored.done)
        event = stored.events[-1] if index >= len(stored.events) else stored.events[index]
        yield typed_event(event.kind, event.type, event.content)
        index += 1
