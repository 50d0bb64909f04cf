"""What a request is aimed at: surface, operation and deployment, read from its method, path and api-version."""

import re
from collections.abc import Iterable
from typing import Literal

import msgspec

from . import errors
from .requests import OPERATIONS

_DATED_VERSION = re.compile(r"^\d{4}-\d{2}-\d{2}(-preview)?$")
_V1_VERSIONS = (None, "v1", "preview", "latest")

# What HTTP, tracing, Azure's and OpenAI's own clients send is not "custom"; the rest counts towards Azure's limit.
_USUAL_HEADERS = frozenset((
    "host", "user-agent", "authorization", "api-key", "connection", "keep-alive", "transfer-encoding", "te", "trailer",
    "upgrade", "expect", "date", "via", "cache-control", "pragma", "cookie", "origin", "referer", "forwarded",
    "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-ms-client-request-id", "request-id", "traceparent",
    "tracestate", "baggage",
))  # fmt: skip
_USUAL_PREFIXES = ("accept", "content-", "if-", "sec-", "x-stainless-", "openai-")


class Target(msgspec.Struct, frozen=True):
    """`deployment` is None on the v1 surface, where the body names it; `model` is that of `models/{id}`."""

    surface: Literal["v1", "dated"]
    operation: str
    deployment: str | None = None
    model: str | None = None


def find_target(method: str, path: str) -> Target | None:
    """None where Azure's API management knows no operation of this method and path."""
    match path.split("/"):
        case ["", "openai", "deployments", deployment, *operation]:
            target = Target("dated", "/".join(operation), deployment=deployment)
        case ["", "openai", "v1", "models", *model] if len(model) <= 1:
            target = Target("v1", "models", model=model[0] if model else None)
        case ["", "openai", "models", *model] if len(model) <= 1:
            target = Target("dated", "models", model=model[0] if model else None)
        case ["", "openai", "v1", *operation]:
            target = Target("v1", "/".join(operation))
        case _:
            return None
    if target.operation == "models":
        return target if method == "GET" and target.deployment is None else None
    return target if method == "POST" and target.operation in OPERATIONS else None


def check_api_version(target: Target, api_version: str | None) -> None:
    """Raises AzureError: the dated surface cannot do without a version, v1 knows no dates."""
    if target.surface == "v1":
        if api_version not in _V1_VERSIONS:
            raise errors.api_version_not_supported()
    elif api_version is None or not _DATED_VERSION.match(api_version):
        raise errors.resource_not_found()


def count_custom_headers(names: Iterable[str]) -> int:
    """`names` in lower case."""
    return sum(name not in _USUAL_HEADERS and not name.startswith(_USUAL_PREFIXES) for name in names)
