"""The parts of a call that could leave the region or data zone that a key is limited to: tools and sources of data that
the backend calls for it, and models that the gateway cannot see. Pure; asked for calls of such keys only.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from shared.azure_openai import references
from shared.types import Access, Call

# Tools that run where the deployment runs, or at the caller. Any other may send the conversation elsewhere: web search,
# MCP servers and connectors, and what will come.
_STAYING = frozenset(
    {
        *("function", "custom", "namespace", "tool_search", "apply_patch", "local_shell"),
        *("computer", "computer_use", "computer_use_preview"),
        *("file_search", "retrieval", "code_interpreter", "image_generation"),
    }
)
_STAYING_OF_CLAUDE = ("custom", "bash_", "text_editor_", "computer_", "memory_", "tool_search_tool_")
_ELSEWHERE = {
    "mcp_servers": "these servers are elsewhere",
    "web_search_options": "it searches the web",
    "data_sources": "the gateway cannot see where that data is",
}
_FAMILIES = ("responses", "realtime", "realtimeapi")  # of operations with stored prompts, which have tools of their own
_SESSIONS = ("session", "response")  # fields whose `prompt` is a stored one, too
_GEOGRAPHY = "inference_geo"  # of Anthropic's API: where the model runs
_MAY_LEAVE = re.compile(
    rb'"(tools|prompt|network_policy|web_search_options|data_sources|mcp_servers|inference_geo|definition)"|\\u00[2-7]',
    re.IGNORECASE,
)


def is_unseen(call: Call) -> bool:
    """True if the call generates with a model that the gateway cannot see: that of a file, a job or an assistant."""
    operation = call.operation
    return operation.model == "hidden" or (operation.model == "optional" and not call.model)


def leaving(call: Call, access: Access) -> tuple[str, str] | None:
    """The path of the first part of a body that may leave the place of the deployment, and the reason; None: there is
    none. `access`: of the caller. Raises `InvalidRequest` for a body that is nested too deeply."""
    body = call.body
    if not call.values or not _MAY_LEAVE.search(body):
        return None
    fields = {key.lower(): place for key, place in call.values.items()}
    if _GEOGRAPHY in fields and body[fields[_GEOGRAPHY]] not in _geographies(access):
        return _GEOGRAPHY, "the model may run in another place than its deployment"
    for name, reason in _ELSEWHERE.items():
        if name in fields and body[fields[name]] not in (b"null", b"[]"):
            return name, reason
    of_tool = _of_claudes_tool if call.operation.format == "anthropic" else _of_tool
    prompts = call.operation.family in _FAMILIES
    try:
        for key, place in fields.items():
            value = references.decode(body[place])
            if (finding := next(_in(value, _Place(key, key), of_tool, prompts=prompts), None)) is not None:
                return finding[0].path(), finding[1]
    except (RecursionError, ValueError) as error:
        raise references.too_complex(error) from None
    return None


def _geographies(access: Access) -> frozenset[bytes]:
    """The values of `inference_geo` that keep a call where it must stay, as JSON."""
    zones = access.data_zones if access.regions is None and access.data_zones is not None else frozenset[str]()
    return frozenset((b"null", *(f'"{zone}"'.encode() for zone in zones)))


class _Place(NamedTuple):
    """A place in a body. `key`: in lower case, "" for an item of a list; `text`: the last part of its path. The path is
    put together for what is found alone: keys may be long and their items many."""

    key: str
    text: str
    above: "_Place | None" = None

    def path(self) -> str:
        parts, place = [], self
        while place.above is not None:
            parts.append(place.text)
            place = place.above
        return "".join([place.text, *reversed(parts)])

    def is_in(self, *keys: str) -> bool:
        """True for a place right below one with such a key, at the top of the body."""
        return self.above is not None and self.above.above is None and self.above.key in keys


def _in(
    value: Any, place: _Place, of_tool: Callable[[dict[str, Any]], str], *, prompts: bool
) -> Iterator[tuple[_Place, str]]:
    """The parts of a value, and of all below it, that may leave. `prompts`: a prompt may be a stored one."""
    if isinstance(value, dict):
        if prompts and place.key == "prompt" and (place.above is None or place.is_in(*_SESSIONS)):
            yield place, "the gateway cannot see the tools of a stored prompt"
        if place.key == "network_policy" and _lowered(value).get("type") != "disabled":
            yield place, "its containers reach the network"
        if place.key == "definition" and _defines_a_tool(place, of_tool) and (reason := of_tool(value)):
            yield place, reason
        for key, inner in value.items():
            if isinstance(inner, dict | list):
                yield from _in(inner, _Place(key.lower(), f".{key}", place), of_tool, prompts=prompts)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            if not isinstance(item, dict | list):
                continue
            below = _Place("", f"[{i}]", place)
            if place.key == "tools" and isinstance(item, dict) and (reason := of_tool(item)):
                yield below, reason
            yield from _in(item, below, of_tool, prompts=prompts)


def _defines_a_tool(place: _Place, of_tool: Callable[[dict[str, Any]], str]) -> bool:
    """True for a tool of Claude's that a turn brings along."""
    return of_tool is _of_claudes_tool and place.above is not None and place.above.key == "tool"


def _of_tool(tool: dict[str, Any]) -> str:
    """The reason why a tool may leave; "": it stays."""
    fields = _lowered(tool)
    kind = fields.get("type")
    if kind == "shell":
        environment = fields.get("environment")
        local = isinstance(environment, dict) and _lowered(environment).get("type") == "local"
        return "" if local else "its container may reach the network"
    return "" if kind in _STAYING else f"the tool {str(kind)[:40]!r} calls other services"


def _of_claudes_tool(tool: dict[str, Any]) -> str:
    """The same for a tool of Anthropic's API: the caller runs those without a type, and some with one."""
    kind = _lowered(tool).get("type")
    stays = kind is None or (isinstance(kind, str) and kind.startswith(_STAYING_OF_CLAUDE))
    return "" if stays else f"the tool {str(kind)[:40]!r} calls other services"


def _lowered(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with their keys in lower case: backends may read them in any."""
    return {key.lower(): value for key, value in fields.items()}
