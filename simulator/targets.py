"""Surface, operation and deployment of a request, from its method, path and api-version."""

import re
from collections.abc import Iterable
from typing import Literal

import msgspec

from . import errors
from .api.routes import find_route
from .call import Route

_DATED_VERSION = re.compile(r"^\d{4}-\d{2}-\d{2}(-preview)?$")
_V1 = "/openai/v1/"
_OPENAI = "/v1/"
_DEPLOYMENTS = "/openai/deployments/"
_DATED = "/openai/"
_ANTHROPIC = "/anthropic/v1/"  # of a Foundry resource
_V1_VERSIONS = (None, "v1", "preview", "latest")

# Headers of HTTP, tracing and the Azure and OpenAI clients; all others count towards Azure's limit on custom headers.
_USUAL_HEADERS = frozenset((
    "host", "user-agent", "authorization", "api-key", "connection", "keep-alive", "transfer-encoding", "te", "trailer",
    "upgrade", "expect", "date", "via", "cache-control", "pragma", "cookie", "origin", "referer", "forwarded",
    "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-ms-client-request-id", "request-id", "traceparent",
    "tracestate", "baggage",
))  # fmt: skip
_USUAL_PREFIXES = ("accept", "content-", "if-", "sec-", "x-stainless-", "openai-", "anthropic-")


Surface = Literal["v1", "dated", "anthropic"]


class Target(msgspec.Struct, frozen=True):
    """`deployment` comes from the path; `ids` are the segments matched by `{id}`."""

    surface: Surface
    route: Route
    deployment: str | None = None
    ids: tuple[str, ...] = ()


def find_target(method: str, path: str) -> Target | None:
    """The target of a method and path; None if Azure has no such operation."""
    surface: Surface = "dated"
    deployment = None
    if path.startswith(_ANTHROPIC):
        target = _find_message_target(method, path.removeprefix(_ANTHROPIC))
        return None if target is None or target.route.anthropic_alone else target
    elif path.startswith(_V1):
        surface, rest = "v1", path[len(_V1) :]
    elif path.startswith(_DEPLOYMENTS):
        deployment, _, rest = path[len(_DEPLOYMENTS) :].partition("/")
    elif path.startswith(_DATED):
        rest = path[len(_DATED) :]
    else:
        return None
    match = find_route(method, rest)
    if match is None or match[0].path.startswith("anthropic/"):
        return None
    route, ids = match
    if surface == "dated" and route.on_deployment != (deployment is not None):
        return None
    return Target(surface, route, deployment, ids)


def find_openai_target(method: str, path: str) -> Target | None:
    """The same at OpenAI, whose paths have no deployment and no version."""
    if not path.startswith(_OPENAI):
        return None
    match = find_route(method, path.removeprefix(_OPENAI))
    unknown = match is None or match[0].azure_alone or match[0].path.startswith("anthropic/")
    return None if match is None or unknown else Target("v1", match[0], None, match[1])


def find_anthropic_target(method: str, path: str) -> Target | None:
    """The same at Anthropic."""
    return _find_message_target(method, path.removeprefix(_OPENAI)) if path.startswith(_OPENAI) else None


def _find_message_target(method: str, path: str) -> Target | None:
    match = find_route(method, f"anthropic/{path}")
    return None if match is None else Target("anthropic", match[0], None, match[1])


def check_api_version(target: Target, api_version: str | None) -> None:
    """Raises AzureError: the dated surface requires a version, v1 rejects dated ones."""
    if target.surface == "anthropic":
        return
    if target.surface == "v1":
        if api_version not in _V1_VERSIONS:
            raise errors.api_version_not_supported()
    elif api_version is None or not _DATED_VERSION.match(api_version):
        raise errors.resource_not_found()


def count_custom_headers(names: Iterable[str]) -> int:
    """Count custom headers; `names` are in lower case."""
    return sum(name not in _USUAL_HEADERS and not name.startswith(_USUAL_PREFIXES) for name in names)
