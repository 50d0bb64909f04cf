"""The vocabulary of the management API: a path with its method and who may use it, and a request for one."""

import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl

import msgspec
import msgspec.inspect
from starlette.responses import Response

from shared.auth.operators import READERS, Operator, Role
from shared.azure_openai.json_body import UNREADABLE
from shared.errors import ChangedMeanwhile, InvalidRequest
from shared.types import Consumer

# `operator`: a holder of the management key or of a role. `caller`: a caller's own key, about itself. `probe`: an
# operator, or a probe from the same machine.
Access = Literal["anyone", "probe", "caller", "operator"]
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

DEFAULT_PAGE, LARGEST_PAGE = 100, 1000
IF_MATCH = {"If-Match": "The ETag that it must still have; else 412."}
IF_NONE_MATCH = {"If-None-Match": "`*`: create, and replace nothing; else 412."}
_DEEPEST = 40  # levels of a body


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

    @property
    def consumer(self) -> Consumer:
        """The caller, on a path about the one who asks."""
        assert self.caller is not None
        return self.caller

    def require_match(self, etag: str | None) -> None:
        """Raise `ChangedMeanwhile` unless the resource has an ETag that the request demands. None: it does not
        exist."""
        if etag is not None and self.headers.get("if-none-match", "").strip() == "*":
            raise ChangedMeanwhile("It already exists, but If-None-Match: * was sent.", etag)
        etags = [part.strip() for part in self.headers.get("if-match", "").split(",")]
        if etags != [""] and (etag is None or not {"*", etag} & {*etags}):
            now = f"the current ETag is {etag}" if etag else "it does not exist"
            raise ChangedMeanwhile(f"If-Match does not match: {now}. Read it again.", etag or "")

    def object(self) -> dict[str, Any]:
        """The body, which must be a JSON object. Raises `InvalidRequest`."""
        try:
            value = msgspec.json.decode(self.body, type=dict[str, Any])
        except UNREADABLE as error:
            raise InvalidRequest(f"The body is not a JSON object: {error}"[:300]) from None
        level: list[Any] = [value]
        for _ in range(_DEEPEST):
            level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
            level = [inner for inner in level if isinstance(inner, dict | list)]
        if level:  # what handlers do with it is recursive
            raise InvalidRequest(f"The body is nested more than {_DEEPEST} levels deep.")
        return value


class Route(NamedTuple):
    """`{name}` is one segment of any value. `roles`: the operators who may use it; one of them suffices.

    For the OpenAPI document: `summary`, by default the first sentence of the handler's docstring; `takes` and `gives`,
    the types of the bodies; `query`, the names of the parameters; `headers`, those of the request with what they mean;
    `status` of the answer; `streams`: it is a stream of server-sent events."""

    method: Method
    pattern: str
    access: Access
    handler: Callable[[ManagementRequest], Awaitable[Response]]
    roles: frozenset[Role] = READERS
    summary: str = ""
    takes: Any = None
    gives: Any = None
    query: tuple[str, ...] = ()
    headers: Mapping[str, str] = {}
    status: int = 200
    streams: bool = False

    async def answer(self, request: ManagementRequest) -> Response:
        """Answer a request. Raises `InvalidRequest` for an unknown parameter, but on paths of anyone."""
        if self.access in ("caller", "operator"):
            refuse_unknown(request.query, *self.query)
        return await self.handler(request)


class Paths:
    """Routes by path and method."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._paths: dict[str, dict[str, Route]] = {}
        # Patterns without parameters come first, because a fixed name goes before them.
        for route in sorted(routes, key=lambda route: route.pattern.count("{")):
            self._paths.setdefault(route.pattern, {})[route.method] = route
        self._exact = frozenset(("/gateway/", *(p for p in self._paths if not p.startswith("/gateway/"))))
        self._names = frozenset(pattern.split("/")[2] for pattern in self._paths if pattern.startswith("/gateway/"))

    def owns(self, path: str) -> bool:
        """True for the paths of the routes, and for others that begin like one: these get a 404 of this API's."""
        return path in self._exact or (path.startswith("/gateway/") and path.split("/", 3)[2] in self._names)

    def find(self, path: str) -> tuple[Mapping[str, Route], dict[str, str]]:
        """The routes of a path by method, and its parameters; no routes if there is no such path."""
        segments = path.removesuffix("/").split("/")
        for pattern, methods in self._paths.items():
            parts = pattern.split("/")
            if len(parts) == len(segments) and all(
                part == segment or (part.startswith("{") and segment)
                for part, segment in zip(parts, segments, strict=True)
            ):
                pairs = zip(parts, segments, strict=True)
                return methods, {part[1:-1]: segment for part, segment in pairs if part.startswith("{")}
        return {}, {}


def checked[T](value: Any, schema: type[T]) -> T:
    """A value of a body as this type. Raises `InvalidRequest`, which names the place of a mistake."""
    try:
        return msgspec.convert(value, schema)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        place = place.rstrip("`").lstrip(".")
        if unknown := _UNKNOWN.fullmatch(problem):
            problem, place = f"Unknown field{_expected(schema, place)}", f"{place}.{unknown[1]}".lstrip(".")
        message = f"{place}: {problem}." if place else f"{problem}."
        raise InvalidRequest(message[:1000], param=place[:200] or None) from None


def merged_patch(target: Any, patch: Any) -> Any:
    """A value of a resource after a JSON merge patch (RFC 7386)."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merged_patch(merged.get(name), value)
    return merged


_UNKNOWN = re.compile("Object contains unknown field `(.*)`", re.DOTALL)


def _expected(schema: Any, place: str) -> str:
    """The fields that the object at this place may have, as the end of a sentence."""
    kind = msgspec.inspect.type_info(schema)
    for part in filter(None, place.replace("[...]", ".[...]").split(".")):
        kind = kind.value_type if isinstance(kind, msgspec.inspect.DictType) else _field(kind, part)
    names = [field.encode_name for field in getattr(kind, "fields", ())]
    return f"; expected: {', '.join(names)}" if names else ""


def _field(kind: Any, name: str) -> Any:
    return next((field.type for field in getattr(kind, "fields", ()) if field.encode_name == name), None)


def parameters(query: str) -> dict[str, str]:
    """The parameters of a query. Raises `InvalidRequest` for one that stands there twice."""
    values: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in values:
            raise InvalidRequest(f"The query has the parameter {name[:64]!r} twice.", param=name[:64])
        values[name] = value
    return values


def refuse_unknown(query: Mapping[str, str], *known: str) -> None:
    """Raise `InvalidRequest` for a parameter that a path does not know."""
    for name in query:
        if name not in known:
            expected = ", ".join(known) or "none"
            raise InvalidRequest(f"{name[:64]!r} is not a parameter here; expected: {expected}.", param=name[:64])


class Page[T](msgspec.Struct, frozen=True, kw_only=True):
    """A page of a list. `after`: the parameter of the next page's request, null at the end."""

    data: list[T]
    after: str | None


def page[T](
    items: Sequence[T], query: Mapping[str, str], key: Callable[[T], str], show: Callable[[T], Any]
) -> Page[Any]:
    """A page of sorted items as `show` makes them. `limit` and `after` are parameters of the query; `after` is the key
    of the last item that was seen, which may be gone meanwhile."""
    limit, after = page_size(query), query.get("after", "")
    start = next((i for i, item in enumerate(items) if key(item) > after), len(items)) if after else 0
    piece = items[start : start + limit]
    following = key(piece[-1]) if piece and start + limit < len(items) else None
    return Page(data=[show(item) for item in piece], after=following)


def etag_of(value: Any) -> str:
    """A digest of a resource, whatever the order of its keys."""
    return f'"{hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:16]}"'


def page_size(query: Mapping[str, str]) -> int:
    """The parameter `limit`. Raises `InvalidRequest`."""
    text = query.get("limit", str(DEFAULT_PAGE))
    if not (text.isascii() and text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= LARGEST_PAGE):
        raise InvalidRequest.of("limit", f"a number from 1 to {LARGEST_PAGE}", text)
    return int(text)


def rfc3339(seconds: float) -> str | None:
    """A time in UTC; None for 0, which means never."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else None


def time_of(query: Mapping[str, str], name: str, default: float) -> float:
    """A time of the query in seconds since 1970; UTC if it names no zone. Raises `InvalidRequest`."""
    text = query.get(name)
    if text is None:
        return default
    try:
        moment = datetime.fromisoformat(text)
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        rfc3339(seconds)
    except (ValueError, OverflowError):  # in UTC, it may be before the year 1 or after 9999
        raise InvalidRequest.of(name, "a time in RFC 3339 such as 2026-11-29T08:00:00Z", text) from None
    return seconds


def is_forced(query: Mapping[str, str]) -> bool:
    """The parameter `force`. Raises `InvalidRequest`."""
    return choice(query, "force", ("false", "true")) == "true"


def printable(field: str, text: object, most: int) -> str:
    """A text in one line, of at most so many characters. Raises `InvalidRequest`."""
    if not isinstance(text, str) or len(text) > most or not text.isprintable():
        raise InvalidRequest.of(field, f"at most {most} printable characters", text)
    return text


def choice[T: str](query: Mapping[str, str], name: str, values: Sequence[T]) -> T:
    """A parameter that has one of these values, by default the first. Raises `InvalidRequest`."""
    text = query.get(name, values[0])
    for value in values:
        if value == text:
            return value
    raise InvalidRequest.of(name, f"one of {', '.join(values)}", text)
