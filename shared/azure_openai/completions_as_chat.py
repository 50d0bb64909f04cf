"""Legacy completions for models that only chat: the request as a chat, and the chat's answer as a completion. Pure.

A prompt in ChatML (`<|im_start|>user\\nHi<|im_end|>`) becomes its messages, any other one message of the user.
"""

import re
from typing import Any

import msgspec

from shared.azure_openai import event_stream
from shared.azure_openai.json_body import UNREADABLE
from shared.azure_openai.operations import OPERATIONS
from shared.azure_openai.requests import with_body
from shared.errors import InvalidRequest
from shared.types import Call

_CHAT = next(operation for operation in OPERATIONS if operation.name == "chat.completions")
_START, _END = "<|im_start|>", "<|im_end|>"
_SPEAKER = re.compile(r"(\w{1,40})(?:[ \t]+name=(.*))?")  # the first line of a turn
_MOST_TURNS = 2048  # messages of a chat
_ROLES = ("system", "developer", "user", "assistant")
_NO_BOUND = b"null"
_NULL = msgspec.Raw(b"null")
_decode, _encode = msgspec.json.decode, msgspec.json.encode
_Fields = dict[str, msgspec.Raw]
_OTHER_SHAPES = (LookupError, TypeError, AttributeError, ValueError, OverflowError)  # of an answer that is not a chat's


def translated(call: Call) -> "tuple[Call, Rendering]":
    """The chat that stands for a call of completions, and how its answer is rendered. Raises `InvalidRequest` for what
    a chat cannot do."""
    try:
        return _translated(call)
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.") from None
    except UNREADABLE:
        raise InvalidRequest("The body has a text or a number that cannot be read.") from None


def _translated(call: Call) -> "tuple[Call, Rendering]":
    fields = msgspec.json.decode(call.body, type=dict[str, msgspec.Raw])
    prompt = _prompt(fields.pop("prompt", None))
    echo = bool(_value(fields, "echo", bool, "true or false"))
    _refuse_what_a_chat_lacks(fields)
    new: dict[str, Any] = {"messages": messages(prompt), **_logprobs(fields, echo=echo)}
    if (stop := _stop(_value(fields, "stop", str | list[str], "a text or a list of texts"))) is not None:
        new["stop"] = stop
    if bytes(most := fields.pop("max_tokens", msgspec.Raw(_NO_BOUND))) != _NO_BOUND:
        new["max_tokens" if call.surface == "dated" else "max_completion_tokens"] = most
    fields.pop("store", None)  # a completion leaves no object
    chat = msgspec.structs.replace(call, operation=_CHAT, path=_CHAT.path, makes="", edits={}, usage_injected=False)
    return with_body(chat, msgspec.json.encode(fields | new)), Rendering(prompt if echo else "")


def messages(prompt: str) -> list[dict[str, str]]:
    """The messages of a prompt. Raises `InvalidRequest` for ChatML that cannot be read or has no message. It names no
    text of the prompt, because refusals are on record. Takes time in proportion to the prompt."""
    if _START not in prompt:
        return [{"role": "user", "content": prompt}]
    chat: list[dict[str, str]] = []
    before, *turns = prompt.split(_START, _MOST_TURNS + 1)
    if len(turns) > _MOST_TURNS:
        raise _wrong(f"expected at most {_MOST_TURNS} turns of ChatML.", "prompt")
    if before.strip():
        chat.append({"role": "user", "content": before.strip("\n")})
    for number, turn in enumerate(turns, 1):
        first, feed, rest = turn.partition("\n")
        if not feed and turn is turns[-1] and first.strip() == "assistant":
            break  # it only says whose turn it is
        speaker = _SPEAKER.fullmatch(first) if feed else None
        if speaker is None:
            raise _wrong(f"expected a role and a line feed after {_START} number {number}.", "prompt")
        role, name = speaker[1], (speaker[2] or "").strip()
        if role not in _ROLES:
            raise _wrong(f"expected one of {', '.join(_ROLES)} as the role after {_START} number {number}.", "prompt")
        content, end, _ = rest.partition(_END)
        content = content.removesuffix("\n") if end else content
        chat.append({"role": role, "content": content} | ({"name": name} if name else {}))
    if chat and chat[-1]["role"] == "assistant" and not chat[-1]["content"].strip():
        chat.pop()  # it only says whose turn it is
    if not chat:
        raise _wrong(
            "its ChatML has no message: expected <|im_start|>user, a new line, the text and <|im_end|>.", "prompt"
        )
    return chat


class Rendering:
    """Renders the answers to one call. `prefix`: the prompt, if the caller wants to have it back before the text."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._written: dict[int, int] = {}  # characters so far, by choice
        self._begun = b""

    def whole(self, body: bytes) -> bytes:
        """A chat's answer as a completion; an error as it is."""
        return _rendered(body, self._completion)

    def feed(self, piece: bytes) -> bytes:
        """The events that are whole, as a completion's."""
        events, self._begun = event_stream.split(self._begun + piece)
        return b"".join(map(self._event, events))

    def finish(self) -> bytes:
        """The rest of a stream that has broken off."""
        rest, self._begun = self._begun, b""
        return rest

    def _event(self, event: bytes) -> bytes:
        data = event_stream.payload(event)
        if not data.startswith(b"{"):
            return event
        rendered = _rendered(data, self._chunk)
        return event if rendered is data else b"data: " + rendered + b"\n\n" if rendered else b""

    def _completion(self, answer: dict[str, Any], choices: list[msgspec.Raw]) -> dict[str, Any]:
        return answer | {"choices": [msgspec.Raw(_encode(self._choice(choice, "message"))) for choice in choices]}

    def _chunk(self, chunk: dict[str, Any], choices: list[msgspec.Raw]) -> dict[str, Any] | None:
        """A chunk; None for one that says nothing in a completion, such as the role of the speaker."""
        rendered = [self._choice(choice, "delta") for choice in choices]
        has_content = any(one["text"] or one["finish_reason"] or one["logprobs"] for one in rendered)
        if not has_content and not (not rendered and _decode(chunk.get("usage", _NULL))):
            return None
        return chunk | {"choices": rendered}

    def _choice(self, raw: msgspec.Raw, place: str) -> dict[str, Any]:
        fields = _decode(raw, type=_Fields)
        logprobs = fields.pop("logprobs", _NULL)
        choice = {name: _decode(value) for name, value in fields.items()}
        message, index = choice.get(place) or {}, choice.get("index", 0)
        text = message.get("content") or message.get("refusal") or ""
        start = self._written.get(index)
        if start is None:
            start, text = 0, self._prefix + text
        self._written[index] = start + len(text)
        kept = {name: value for name, value in choice.items() if name not in (place, "finish_reason", "text")}
        finish_reason = choice.get("finish_reason")
        return {"text": text, **kept, "logprobs": _legacy_logprobs(logprobs, start), "finish_reason": finish_reason}


def _rendered(data: bytes, render: Any) -> bytes:
    """The same object if it is not an answer of a chat; empty if nothing is left of it."""
    try:
        answer = _decode(data, type=_Fields)
        choices = _decode(answer["choices"], type=list[msgspec.Raw])
        identity = str(_decode(answer.get("id", _NULL)) or "")
        head: dict[str, Any] = answer | {"id": identity.removeprefix("chat"), "object": "text_completion"}
        rendered = render(head, choices)
        return b"" if rendered is None else _encode(rendered)
    except (*UNREADABLE, *_OTHER_SHAPES):
        return data


def _legacy_logprobs(raw: msgspec.Raw, start: int) -> dict[str, list[Any]] | None:
    """Token by token: parsed as a whole, the probabilities would take ten times their bytes."""
    logprobs = _decode(raw, type=_Fields | None)
    content = _decode((logprobs or {}).get("content", _NULL), type=list[msgspec.Raw] | None)
    if not content:
        return None
    legacy: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for one in map(_decode, content):
        likely = {top["token"]: top["logprob"] for top in one.get("top_logprobs") or ()}
        legacy["tokens"].append(one["token"])
        legacy["token_logprobs"].append(one["logprob"])
        legacy["top_logprobs"].append(msgspec.Raw(_encode(likely)) if likely else likely)
        legacy["text_offset"].append(start)
        start += len(one["token"])
    return legacy


# --- the request ------------------------------------------------------------------------------------------------------


def _prompt(raw: msgspec.Raw | None) -> str:
    value = msgspec.json.decode(raw) if raw is not None else None
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        raise _wrong("expected one text: this is a chat model, and a chat has one prompt.", "prompt")
    if isinstance(value, list) and value:
        raise _wrong("expected a text, not tokens: those of this chat model are different.", "prompt")
    raise _wrong("expected a text that is not empty.", "prompt")


def _value(fields: dict[str, msgspec.Raw], name: str, kind: Any, expected: str) -> Any:
    """Take an optional field out."""
    if (raw := fields.pop(name, None)) is None:
        return None
    try:
        return msgspec.json.decode(raw, type=kind | None)
    except msgspec.ValidationError:
        raise _wrong(f"expected {expected}.", name) from None


def _refuse_what_a_chat_lacks(fields: dict[str, msgspec.Raw]) -> None:
    if _value(fields, "suffix", str, "a text"):
        raise _wrong("not supported: this is a chat model, which cannot insert text.", "suffix")
    best_of, n = _value(fields, "best_of", int, "an integer"), msgspec.json.decode(fields.get("n", b"null"))
    if best_of is not None and best_of != (n or 1):
        raise _wrong("expected the same as `n`: a chat model returns all that it generates.", "best_of")


def _logprobs(fields: dict[str, msgspec.Raw], *, echo: bool) -> dict[str, Any]:
    count = _value(fields, "logprobs", int, "an integer")
    if count is None:
        return {}
    if echo:
        raise _wrong("not supported with `echo`: a chat has no probabilities of its prompt.", "logprobs")
    return {"logprobs": True, "top_logprobs": count}


def _stop(value: str | list[str] | None) -> list[str] | None:
    """The ends of an answer beside those of ChatML, which a chat ends with by itself; None: there are none."""
    ends = [value] if isinstance(value, str) else value or []
    return [one for one in ends if one not in (_START, _END)] or None


def _wrong(problem: str, param: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: {problem}", param=param)
