"""The prompt of a message: its text in blocks, and what a prompt cache has read and written of it."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from simulator.collection import Object
from simulator.tokens import CACHE_MINIMUM, PromptCache, measure

OVERHEAD = 3  # tokens of each message
IMAGE_TOKENS = 85


class MessageRequest(msgspec.Struct, frozen=True):
    model: str | None = None
    messages: list[Object] | None = None
    max_tokens: int | None = None
    system: str | list[Object] | None = None
    tools: list[Object] | None = None
    tool_choice: Object | None = None
    thinking: Object | None = None
    container: str | Object | None = None
    stream: bool | None = None
    metadata: Object | None = None
    inference_geo: str | None = None

    def tool(self, kind: str) -> bool:
        """True if it has a tool that the backend runs, of this kind."""
        return any(str(tool.get("type", "")).startswith(kind) for tool in self.tools or ())

    @property
    def functions(self) -> list[Object]:
        """The tools that the caller runs."""
        return [tool for tool in self.tools or () if "input_schema" in tool]

    @property
    def last(self) -> str:
        """The text of the last turn."""
        return "\n".join(block.text for block in _blocks((self.messages or [{}])[-1].get("content")))


class Block(msgspec.Struct, frozen=True):
    """`kept`: the time for which the prompt up to here is to be kept, as the caller marked it; "": not at all."""

    text: str
    kept: Literal["", "5m", "1h"] = ""


class Prompt(msgspec.Struct, frozen=True):
    """`tokens`: all of it; of these `read` from the cache, `written` to it for five minutes, and for an hour."""

    text: str
    tokens: int
    read: int
    written: int
    written_1h: int


def blocks_of(request: MessageRequest) -> list[Block]:
    """The prompt in the order in which caches take it: tools, system, messages."""
    tools = [Block(json.dumps(tool, sort_keys=True), _kept(tool)) for tool in request.tools or ()]
    turns = [block for message in request.messages or () for block in _blocks(message.get("content"))]
    return [*tools, *_blocks(request.system), *turns]


def read(request: MessageRequest, cache: PromptCache) -> Prompt:
    """Read a prompt through the cache, which finds the longest beginning that it has, and keeps what is marked."""
    blocks = blocks_of(request)
    text, beginning, places = "\n".join(block.text for block in blocks), "", []
    for block in blocks:
        beginning += block.text + "\n"
        places.append((block.kept, measure(beginning).tokens, hash(beginning)))
    last = max((place for place, (kept, _, _) in enumerate(places) if kept), default=-1)
    marked = [place for place in places[: last + 1] if place[1] >= CACHE_MINIMUM]
    hit = max((tokens for _, tokens, prefix in marked if cache.has(prefix)), default=0)
    hour = max([hit, *(tokens for kept, tokens, _ in marked if kept == "1h")])
    end = max([hour, *(tokens for kept, tokens, _ in marked if kept)])
    for kept, _, prefix in marked:
        if kept:
            cache.mark(prefix)
    tokens = measure(text).tokens + OVERHEAD * len(request.messages or ()) + IMAGE_TOKENS * text.count(_IMAGE)
    return Prompt(text, tokens, hit, end - hour, hour - hit)


_IMAGE = "\N{FRAME WITH PICTURE}"


def _blocks(content: Any) -> Iterator[Block]:
    if isinstance(content, str):
        yield Block(content)
    for block in content if isinstance(content, list) else ():
        match block.get("type"):
            case "tool_use" | "server_tool_use":
                text = json.dumps(block.get("input"))
            case "tool_result":
                text = "\n".join(inner.text for inner in _blocks(block.get("content")))
            case "image":
                text = _IMAGE
            case _:
                text = str(block.get("text") or block.get("thinking") or "")
        yield Block(text, _kept(block))


def _kept(block: Object) -> Literal["", "5m", "1h"]:
    control = block.get("cache_control")
    if not isinstance(control, dict):
        return ""
    return "1h" if control.get("ttl") == "1h" else "5m"
