"""The table of operations of Anthropic's API, and the routes from a method and a path to one of them. No I/O.

Clients send these calls to `/v1/…` with the header `anthropic-version`, or below `/anthropic/v1/…` as to Foundry.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

from shared.azure_openai.operations import SEGMENT, Route, not_allowed
from shared.azure_openai.references import IN_PATHS
from shared.errors import UnknownPath
from shared.types import Operation, Reference

VERSION = "anthropic-version"  # the header that all clients of the API send


def _row(method: str, name: str, path: str, **more: Any) -> Operation:
    return Operation(name=name, method=method, path=path, format="anthropic", **{"apis": ("azure", "anthropic")} | more)


_NO_BODY: dict[str, Any] = {"body": "none"}
_BATCH: dict[str, Any] = {"metered": "once", "apis": ("anthropic",)}  # Foundry resources have no batches

OPERATIONS = (
    _row("POST", "messages.create", "messages", model="body", streams=True, metered="tokens"),
    _row("POST", "messages.count_tokens", "messages/count_tokens", model="body"),
    _row("POST", "messages.batches.create", "messages/batches", **_BATCH, makes="message_batch"),
    _row("GET", "messages.batches.list", "messages/batches", **_BATCH, **_NO_BODY, lists="message_batch"),
    _row("GET", "messages.batches.get", "messages/batches/{message_batch}", **_BATCH, **_NO_BODY),
    _row(
        "DELETE",
        "messages.batches.delete",
        "messages/batches/{message_batch}",
        apis=("anthropic",),
        **_NO_BODY,
        deletes="message_batch",
    ),
    _row("POST", "messages.batches.cancel", "messages/batches/{message_batch}/cancel", **_BATCH),
    _row(
        "GET",
        "messages.batches.results",
        "messages/batches/{message_batch}/results",
        apis=("anthropic",),
        **_NO_BODY,
        free_form=True,
    ),
    _row("POST", "claude.files.create", "files", body="multipart", makes="claude_file"),
    _row("GET", "claude.files.list", "files", **_NO_BODY, lists="claude_file"),
    _row("GET", "claude.files.get", "files/{claude_file}", **_NO_BODY),
    _row("GET", "claude.files.content", "files/{claude_file}/content", **_NO_BODY, free_form=True),
    _row("DELETE", "claude.files.delete", "files/{claude_file}", **_NO_BODY, deletes="claude_file"),
    _row("GET", "claude.models.list", "models", **_NO_BODY, local=True),
    _row("GET", "claude.models.get", "models/{model}", **_NO_BODY, local=True),
)

_PREFIX = re.compile(r"/(?:anthropic/)?v1/", re.IGNORECASE | re.ASCII)
_LONGEST_PATH = 500  # characters
_ROWS = [
    (row, re.compile(re.sub(r"\{(\w+)\}", rf"(?P<\1>{SEGMENT})", row.path), re.IGNORECASE | re.ASCII))
    for row in OPERATIONS
]


def is_messages_path(path: str, headers: Mapping[str, str]) -> bool:
    """True for a path of Anthropic's API. Paths that OpenAI's has, too, are Anthropic's if its header is there."""
    return VERSION in headers or path.startswith(("/anthropic/", "/v1/messages"))


def match(method: str, path: str) -> Route:
    """The route of a path. Raises `UnknownPath` (404) and `MethodNotAllowed` (405)."""
    if len(path) > _LONGEST_PATH:
        raise _unknown(path)
    return _match(method, path)


@functools.lru_cache(maxsize=256)
def _match(method: str, path: str) -> Route:
    lookup_method, prefix = "GET" if method == "HEAD" else method, _PREFIX.match(path)
    if prefix is None:
        raise _unknown(path)
    rest = path[prefix.end() :].removesuffix("/")
    fitting = [(row, matched) for row, pattern in _ROWS if (matched := pattern.fullmatch(rest))]
    # A fixed word wins over an id, as in messages/batches.
    fewest = min((len(matched.groupdict()) for _, matched in fitting), default=0)
    fitting = [(row, matched) for row, matched in fitting if len(matched.groupdict()) == fewest]
    for operation, matched in fitting:
        if lookup_method == operation.method:
            ids = matched.groupdict()
            named = tuple(Reference(kind, text) for kind, text in ids.items() if kind in IN_PATHS)
            return Route("anthropic", operation, operation.path.format_map(ids), ids.get("model"), named)
    if fitting:
        raise not_allowed(method, path, [operation for operation, _ in fitting])
    raise _unknown(path)


def _unknown(path: str) -> UnknownPath:
    return UnknownPath(
        f"{path[:200]} is not a path of Anthropic's API that this gateway serves. Use /v1/messages, "
        "/v1/messages/count_tokens, /v1/messages/batches, /v1/files or /v1/models; the same below /anthropic. Leave "
        "out the header anthropic-version in calls of OpenAI's API."
    )
