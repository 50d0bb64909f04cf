"""The vocabulary of the management API: a path with its method and who may use it, and a request for one."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl

import msgspec
from starlette.responses import Response

from shared.auth.operators import READERS, Operator, Role
from shared.azure_openai.json_body import UNREADABLE
from shared.errors import InvalidRequest
from shared.types import Consumer

# `operator`: whoever has the management key or a role. `caller`: a caller's own key, about itself. `probe`: an
# operator, or a probe from the same machine.
Access = Literal["anyone", "probe", "caller", "operator"]
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

DEFAULT_PAGE, LARGEST_PAGE = 100, 1000


class ManagementRequest(msgspec.Struct, frozen=True):
    """`parameters` come from the path, `query` from behind it; `headers` have lower-case names. `caller` is set where
    a caller's own key opened the path, `operator` where an operator did. `address`: the client's."""

    parameters: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str] = {}
    body: bytes = b""
    caller: Consumer | None = None
    operator: Operator | None = None
    address: str = ""
    request_id: str = ""

    @property
    def actor(self) -> Operator:
        """The operator, on a path that only operators may use."""
        assert self.operator is not None
        return self.operator

    @property
    def if_match(self) -> str | None:
        """The ETag that the resource must still have; None: any, or none was given."""
        etag = self.headers.get("if-match", "").strip()
        return etag if etag and etag != "*" else None

    def object(self) -> dict[str, Any]:
        """The body, which must be a JSON object. Raises `InvalidRequest`."""
        try:
            return msgspec.json.decode(self.body, type=dict[str, Any])
        except UNREADABLE as error:
            raise InvalidRequest(f"The body is not a JSON object: {error}"[:300]) from None


class Route(NamedTuple):
    """`{name}` is one segment of any value. `roles`: the operators who may use it; one of them suffices."""

    method: Method
    pattern: str
    access: Access
    handler: Callable[[ManagementRequest], Awaitable[Response]]
    roles: frozenset[Role] = READERS


def parameters(query: str) -> dict[str, str]:
    """The parameters of a query. Raises `InvalidRequest` for one that stands there twice."""
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in found:
            raise InvalidRequest(f"The query has the parameter {name[:64]!r} twice.", param=name[:64])
        found[name] = value
    return found


def refuse_unknown(query: Mapping[str, str], *known: str) -> None:
    """Raise `InvalidRequest` for a parameter that a path does not know."""
    for name in query:
        if name not in known:
            expected = ", ".join(known) or "none"
            raise InvalidRequest(f"{name[:64]!r} is not a parameter here; expected: {expected}.", param=name[:64])


def page[T](items: Sequence[T], query: Mapping[str, str], key: Callable[[T], str]) -> tuple[Sequence[T], str | None]:
    """A page of sorted items, and the value of `after` for the next one, None at the end. `limit` and `after` are
    parameters of the query; `after` is the key of the last item that was seen, which may be gone meanwhile."""
    limit, after = page_size(query), query.get("after", "")
    start = next((i for i, item in enumerate(items) if key(item) > after), len(items)) if after else 0
    shown = items[start : start + limit]
    return shown, key(shown[-1]) if shown and start + limit < len(items) else None


def page_size(query: Mapping[str, str]) -> int:
    """The parameter `limit`. Raises `InvalidRequest`."""
    text = query.get("limit", str(DEFAULT_PAGE))
    if not (text.isascii() and text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= LARGEST_PAGE):
        raise InvalidRequest(f"limit: expected a number from 1 to {LARGEST_PAGE}, got {text[:64]!r}.", param="limit")
    return int(text)


def time_of(query: Mapping[str, str], name: str, default: float) -> float:
    """A time of the query in seconds since 1970; UTC if it names no zone. Raises `InvalidRequest`."""
    text = query.get(name)
    if text is None:
        return default
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        message = f"{name}: expected a time in RFC 3339 such as 2026-11-29T08:00:00Z, got {text[:64]!r}."
        raise InvalidRequest(message, param=name) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def is_forced(query: Mapping[str, str]) -> bool:
    """The parameter `force`. Raises `InvalidRequest`."""
    if (force := query.get("force", "false")) not in ("true", "false"):
        raise InvalidRequest(f"force: expected true or false, got {force[:64]!r}.", param="force")
    return force == "true"
