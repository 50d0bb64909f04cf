"""Reads the usage of answers, whole or while their bodies pass."""

import contextlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from shared.azure_openai._answer_shapes import Answer, Choice, decode_answer, text_of, tools_called
from shared.azure_openai._empty_answers import marked
from shared.azure_openai.answers import error_code
from shared.azure_openai.json_body import UNREADABLE, JsonFields, reader, top_level
from shared.azure_openai.outline import PIECE, Outline
from shared.azure_openai.usage_objects import USAGE_TAIL, short_text, usage_at_end
from shared.errors import GatewayError, InvalidRequest
from shared.types import BATCH, Call, Usage

_UNDER_WAY = frozenset(("validating", "queued", "in_progress", "requires_action", "finalizing", "cancelling"))
IMAGE = 4160  # tokens of a generated image in the highest quality, 1024 x 1024 pixels (gpt-image-1)
UNFINISHED = _UNDER_WAY | {"cancelled", "failed", "expired"}

_SUMS = ("batches.", "threads.")  # the beginnings of operations on objects whose usage is that of many calls

_IMAGE = b'"b64_json"'
_LONGEST_OUTLINE = 1024 * 1024  # bytes


class _Unmetered(msgspec.Struct):
    """Fields of answers without a usage object: images, the duration of audio, the status of a run."""

    data: list[msgspec.Raw] = []
    duration: Any = None
    status: Any = None
    model: Any = None
    request_counts: Any = None


class _Choices(msgspec.Struct):
    choices: list[Choice] = []


class _Part(msgspec.Struct):
    text: str = ""


class _Item(msgspec.Struct):
    content: list[_Part] | None = None
    arguments: str | None = None


class _Output(msgspec.Struct):
    output: list[_Item] = []


class _Tool(msgspec.Struct):
    type: str = ""


class _Run(msgspec.Struct):
    tools: list[_Tool] = []


class _Details(msgspec.Struct):
    tool_calls: list[_Tool] = []


class _Step(msgspec.Struct):
    step_details: _Details | None = None


class _Steps(msgspec.Struct):
    data: list[_Step] = []


_read_answer = reader(Answer)
_read_run = reader(_Run)
_read_steps = reader(_Steps)
_read_unmetered = reader(_Unmetered)
_read_choices = reader(_Choices)
_read_output = reader(_Output)


def is_json_object(body: bytes) -> bool:
    """True if a body is a JSON object; a proxy's error page under status 200 is not."""
    try:
        decode_answer(body)
    except msgspec.ValidationError:
        return body.lstrip()[:1] == b"{"  # an object whose usage has another shape
    except UNREADABLE:
        return False
    return True


def usage_in_answer(call: Call, status: int, body: bytes) -> Usage:
    """The usage that a whole answer reports. It is an estimate if a model's answer reports none or cannot be read, and
    for a prompt that the content filter refused: Azure charges it and reports no usage."""
    metered = call.operation.metered
    if metered == "none":
        return Usage()
    if status >= 300:
        refused = status == 400 and metered in ("tokens", "input") and error_code(body) == "content_filter"
        return Usage(input_tokens=call.input_estimate, estimated=True) if refused else Usage()
    answer = _read_answer(body)
    needed = metered in ("images", "audio", "once") or answer.usage is None
    unmetered = _read_unmetered(body) if needed else _Unmetered()
    images = len(unmetered.data) if metered == "images" else 0
    if metered == "once" and unmetered.status in _UNDER_WAY:
        return Usage()  # a usage reported so far is not final
    if answer.usage is not None:
        tier = BATCH if call.operation.name.startswith("batches.") else answer.service_tier
        usage = answer.usage.value(answer.model, tier, images, tools_called(body))
        summed = metered == "once" and call.operation.name.startswith(_SUMS)
        return msgspec.structs.replace(usage, summed=True) if summed else marked(usage, body)
    model = short_text(unmetered.model)
    match metered:
        case "images":
            return Usage(images=images, model=model)
        case "audio":
            return Usage(seconds=_seconds(unmetered.duration), model=model)
        case "speech":
            return Usage(characters=spoken_characters(call))
        case "once":
            return Usage()
    if unmetered.status in UNFINISHED:
        return Usage()
    estimate = Usage(input_tokens=call.input_estimate, output_tokens=_characters_in(body) // 4, estimated=True)
    return msgspec.structs.replace(estimate, **tools_called(body))


def is_under_way(body: bytes) -> bool:
    """True for an object whose usage is not final."""
    return _read_unmetered(body).status in _UNDER_WAY


def status_of(body: bytes) -> str:
    """The status of an object."""
    return short_text(_read_unmetered(body).status)


def output_in(body: bytes) -> int:
    """An estimate of the tokens of the text in a response's output."""
    items = _read_output(body).output
    texts = (len(item.arguments or "") + sum(len(part.text) for part in item.content or ()) for item in items)
    return sum(texts) // 4


def completed_share(body: bytes) -> float:
    """The share of a batch's requests that were completed, 0 to 1; 0 if it is unknown."""
    counts = _read_unmetered(body).request_counts
    total, completed = (counts.get(name) if isinstance(counts, dict) else None for name in ("total", "completed"))
    if not (isinstance(total, int) and isinstance(completed, int) and total > 0):
        return 0.0
    return min(1.0, max(0.0, completed / total))


def tools_of_run(body: bytes) -> frozenset[str]:
    """The types of the tools that a run may call."""
    return frozenset(tool.type for tool in _read_run(body).tools)


def tools_in_steps(body: bytes) -> Mapping[str, int]:
    """The charged calls of tools in the steps of a run, by the field of `Usage`: each search of files, and one session
    of the code interpreter, which a run keeps."""
    steps = _read_steps(body).data
    called = Counter(call.type for step in steps if step.step_details for call in step.step_details.tool_calls)
    counts = {"file_searches": called["file_search"], "code_sessions": min(1, called["code_interpreter"])}
    return {field: count for field, count in counts.items() if count}


def reported_usage(body: bytes) -> Usage | None:
    """The usage in a body, if it reports one."""
    answer = _read_answer(body)
    return None if answer.usage is None else answer.usage.value(answer.model, answer.service_tier)


def unanswered(call: Call) -> Usage:
    """The usage that a backend charges for a call that it has read but not answered: at least the prompt."""
    match call.operation.metered:
        case "tokens" | "input" | "images":
            return Usage(input_tokens=call.input_estimate, estimated=True)
        case "speech":
            return Usage(characters=spoken_characters(call))
    return Usage()


def spoken_characters(call: Call) -> int:
    """The length of the text that a call wants spoken, in characters; 0 if it cannot be read."""
    try:
        return len(JsonFields(call.body, call.values or top_level(call.body)).get("input", str, "text") or "")
    except GatewayError:
        return 0


def _seconds(duration: object) -> float:
    """The duration of audio, which older API versions report as text."""
    try:
        seconds = float(duration) if isinstance(duration, int | float | str) else 0.0
    except ValueError:
        return 0.0
    return seconds if 0 <= seconds < 1e7 else 0.0


def _characters_in(body: bytes) -> int:
    return sum(len(text_of(piece)) for choice in _read_choices(body).choices for piece in choice.pieces())


class BodyMeter:
    """Meters one body that is too large to be kept, or that is not JSON. Its usage stands near its end. Of generated
    tokens the outline is kept as well, for what stands elsewhere: the model, the service tier, the calls of tools."""

    def __init__(self, call: Call, status: int, head: bytes) -> None:
        self._call = call
        self._status = status
        self._tail = b""
        self._images = 0
        self._outline = Outline() if call.operation.metered == "tokens" and status < 300 else None
        self.feed(head)

    def feed(self, chunk: bytes) -> bytes:
        """The chunk itself, once it is metered."""
        self._images += (self._tail[1 - len(_IMAGE) :] + chunk).count(_IMAGE)
        self._tail = (self._tail + chunk[-USAGE_TAIL:])[-USAGE_TAIL:]
        for start in range(0, len(chunk), PIECE):
            self._extend_outline(chunk[start : start + PIECE])
        return chunk

    def _extend_outline(self, piece: bytes) -> None:
        if self._outline is None:
            return
        try:
            self._outline.feed(piece)
        except InvalidRequest:  # it has too many values
            self._outline = None
        else:
            if self._outline.size > _LONGEST_OUTLINE:
                self._outline = None

    def usage(self) -> Usage:
        """The usage at the end of the bytes so far, else an estimate."""
        metered = self._call.operation.metered
        images = self._images if metered == "images" else 0
        if metered == "none" or self._status >= 300:
            return Usage()
        if self._outline is not None:
            outline = self._outline.text().encode()
            with contextlib.suppress(*UNREADABLE):  # it has not ended
                decode_answer(outline)
                return usage_in_answer(self._call, self._status, outline)
        if (usage := usage_at_end(self._tail)) is not None:
            return usage.value(images=images)
        if metered == "speech":
            return Usage(characters=spoken_characters(self._call))
        if metered in ("tokens", "input"):
            return Usage(input_tokens=self._call.input_estimate, estimated=True)
        return Usage(images=images)
