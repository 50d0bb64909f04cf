"""The parts of a call for which a backend uses an identity or a secret that is not the caller's: its resource's managed
identity, or a connection that an operator has stored there. Pure.

The paths are those of Azure's reference and of the Foundry SDK. What brings the caller's own credentials stays allowed.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from shared.azure_openai import references
from shared.azure_openai.outline import LARGE, Outline
from shared.types import Call

# Ways in which a source of data is reached with what the caller brings. Any other is the resource's, or unknown.
_BROUGHT = frozenset(
    {
        *("api_key", "access_token", "connection_string"),
        *("key_and_key_id", "encoded_api_key", "username_and_password"),
    }
)
# Tools of Foundry that reach their service by the project's identity or by a connection of the project.
_TOOLS_OF_PROJECTS = re.compile(
    r"azure_ai_search|azure_function|bing_|sharepoint_|fabric_|microsoft_fabric|browser_automation|a2a|memory_search"
    r"|work_iq|connected_agent|deep_research|toolbox"
)
_CONNECTIONS = frozenset({"project_connection_id", "index_connection_id", "connection_id", "connection"})
_OWN_TOOLS = frozenset({"function", "custom"})  # which the caller runs: what stands below is a schema
# A word without which `input` brings no tools, written with escapes perhaps.
_BRINGS_TOOLS = re.compile(rb'"additional_tools"|\\u00(?:5f|6[1-9a-f]|7[0-9a])', re.IGNORECASE)

type _Look = Callable[[Any], Iterator[str]]


def used(call: Call) -> str:
    """The path of the first such part, "" if there is none. Raises `InvalidRequest` for a part that cannot be read."""
    looks = _LOOKS.get(call.operation.name, {})
    for key, place in call.values.items():
        if (look := looks.get(key.lower())) is not None and (place.stop - place.start) > len(b"null"):
            raw = call.body[place]
            if key.lower() == "input" and not _BRINGS_TOOLS.search(raw):
                continue
            try:
                subpath = next(look(_decoded(raw)), None)
            except (RecursionError, ValueError) as error:
                raise references.too_complex(error) from None
            if subpath is not None:
                return key + subpath
    return ""


def _decoded(raw: bytes) -> Any:
    return references.decode(raw if len(raw) <= LARGE else Outline.of(raw, 16 * LARGE).take().encode())


def _anything(value: Any) -> Iterator[str]:
    if value:
        yield ""


def _sources(value: Any) -> Iterator[str]:
    for path, source in _each(value):
        parameters = _fields(_fields(source).get("parameters"))
        if not _is_brought(parameters):
            yield f"{path}.parameters.authentication"
        vectors = _fields(parameters.get("embedding_dependency"))
        if (vectors.get("type") == "endpoint" or "authentication" in vectors) and not _is_brought(vectors):
            yield f"{path}.parameters.embedding_dependency.authentication"


def _is_brought(fields: Mapping[str, Any]) -> bool:
    kind = _fields(fields.get("authentication")).get("type")
    return isinstance(kind, str) and kind.lower() in _BROUGHT


def _tools(value: Any) -> Iterator[str]:
    for path, tool in _each(value):
        fields = _fields(tool)
        kind = str(fields.get("type")).lower()
        if kind == "namespace":
            yield from (f"{path}.tools{subpath}" for subpath in _tools(fields.get("tools")))
        elif kind not in _OWN_TOOLS and _uses_what_is_stored(kind, fields):
            yield path


def _uses_what_is_stored(kind: str, fields: Mapping[str, Any]) -> bool:
    if _TOOLS_OF_PROJECTS.match(kind):
        return True
    if kind == "openapi":
        auth = _fields(_fields(fields.get("openapi")).get("auth"))
        return auth.get("type") != "anonymous"
    if kind == "mcp" and fields.get("connector_id") and not fields.get("authorization"):
        return True
    return _names_a_connection(fields)


def _names_a_connection(value: Any) -> bool:
    """True if a connection of the project stands anywhere in a tool that a backend runs."""
    if isinstance(value, list):
        return any(map(_names_a_connection, value))
    fields = _fields(value)
    return any(key in _CONNECTIONS and inner for key, inner in fields.items()) or any(
        map(_names_a_connection, fields.values())
    )


def _below(looks: Mapping[str, _Look]) -> _Look:
    """Look at the fields of an object, or of each object in a list."""

    def look(value: Any) -> Iterator[str]:
        for path, one in _each(value) if isinstance(value, list) else [("", value)]:
            for key, inner in _fields(one).items():
                if (below := looks.get(key)) is not None:
                    yield from (f"{path}.{key}{subpath}" for subpath in below(inner))

    return look


def _each(value: Any) -> Iterator[tuple[str, Any]]:
    """The elements of a list with their paths; a single object counts as one."""
    for index, one in enumerate(value if isinstance(value, list) else [value]):
        yield f"[{index}]", one


def _fields(value: Any) -> dict[str, Any]:
    """The fields of an object with their keys in lower case, as backends may read them; of anything else, none."""
    return references.lowered(value) if isinstance(value, dict) else {}


_WITH_TOOLS: dict[str, _Look] = {"tools": _tools}
_RESPONSE: dict[str, _Look] = {
    **_WITH_TOOLS,
    "input": _below(_WITH_TOOLS),
    "agent": _anything,  # of a project, with its own tools
    "agent_reference": _anything,
}
_SESSION: dict[str, _Look] = {"session": _below(_WITH_TOOLS), "response": _below(_WITH_TOOLS), **_RESPONSE}
_ITEMS: dict[str, _Look] = {"items": _below(_WITH_TOOLS)}

_LOOKS: dict[str, Mapping[str, _Look]] = {
    "chat.completions": {"data_sources": _sources},
    **dict.fromkeys(("responses.create", "responses.compact", "responses.input_tokens"), _RESPONSE),
    **dict.fromkeys(("conversations.create", "conversations.items.create"), _ITEMS),
    "responses": _RESPONSE,  # of the events on a WebSocket, as the next
    "realtime": _SESSION,
    **dict.fromkeys(("realtime.client_secrets", "realtime.calls.create"), _SESSION),
    **dict.fromkeys(("realtime.sessions", "realtimeapi.sessions", "realtime.calls.accept"), _WITH_TOOLS),
    **dict.fromkeys(("assistants.create", "assistants.update", "threads.create_and_run"), _WITH_TOOLS),
    "threads.runs.create": _WITH_TOOLS,
    "evals.runs.create": {"data_source": _below({"sampling_params": _below(_WITH_TOOLS)})},
    "files.import": {"content_url": _anything},
    "batches.create": {"input_blob": _anything, "output_folder": _anything},
    "fine_tuning.jobs.create": {"integrations": _anything},
}
