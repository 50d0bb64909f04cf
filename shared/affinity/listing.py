"""Lists of objects as one consumer may see them: its own only, across the pages of every backend that keeps some."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec

from shared.azure_openai.json_body import UNREADABLE
from shared.errors import InvalidRequest, StateNotFound, StateUnavailable
from shared.types import Call

_PAGE = 100  # objects asked for at a time
_MOST_PAGES = 200
_DEFAULT, _LARGEST = 20, 10_000

Ask = Callable[[str, Call], Awaitable[bytes]]


class _Item(msgspec.Struct):
    id: str = ""
    created_at: int | float | None = None
    created: int | float | None = None


class _Page(msgspec.Struct):
    data: list[msgspec.Raw] = []
    has_more: bool | None = None


class _Object(msgspec.Struct, frozen=True):
    """An object of the caller's, as its backend wrote it."""

    id: str
    created: float
    raw: msgspec.Raw


class Wanted(msgspec.Struct, frozen=True):
    """What the caller asked for. `rest`: parameters that are the backend's to understand."""

    limit: int
    after: str
    before: str
    descending: bool
    rest: tuple[tuple[str, str], ...]


def wanted(call: Call) -> Wanted:
    """Raises `InvalidRequest`."""
    parameters = parse_qsl(call.query, keep_blank_values=True)
    given = dict(parameters)
    default = _LARGEST if call.operation.lists == "file" else _DEFAULT
    limit = given.get("limit", str(default))
    if not limit.isdecimal() or not limit.isascii() or not 1 <= int(limit[:9]) <= _LARGEST:
        raise InvalidRequest(f"limit: expected 1 to {_LARGEST}, got {limit[:20]!r}.", param="limit")
    rest = tuple((name, value) for name, value in parameters if name not in ("limit", "after", "before"))
    return Wanted(int(limit), given.get("after", ""), given.get("before", ""), given.get("order") != "asc", rest)


async def listed(call: Call, own: Mapping[str, str], home: str, ask: Ask) -> bytes:
    """The page that the call asks for. `own`: ids of the caller's objects, each with its backend; `ask` gets a page
    from a backend. Raises `StateNotFound` for a cursor that is none of the caller's objects."""
    want = wanted(call)
    for name, cursor in (("after", want.after), ("before", want.before)):
        if cursor and cursor not in own:
            raise StateNotFound(f"{name}: there is no object with the id {cursor[:128]!r}.", param=name)
    backends = sorted(set(own.values())) or [home]
    envelope: dict[str, Any] = {}
    found: list[_Object] = []
    for backend in backends:
        first, objects = await _of(backend, call, want, own, ask, alone=len(backends) == 1)
        envelope = envelope or first
        found += objects
    if len(backends) > 1:
        found.sort(key=lambda one: one.created, reverse=want.descending)
    ids = [one.id for one in found]
    if want.after in ids:
        found = found[ids.index(want.after) + 1 :]
    if want.before:
        earlier = [one.id for one in found]
        found = found[: earlier.index(want.before)] if want.before in earlier else found
        page, more = found[-want.limit :], len(found) > want.limit
    else:
        page, more = found[: want.limit], len(found) > want.limit
    edited = {"data": [one.raw for one in page], "has_more": more}
    edited |= {"first_id": page[0].id if page else None, "last_id": page[-1].id if page else None}
    return msgspec.json.encode({name: edited.get(name, value) for name, value in envelope.items()})


async def _of(
    backend: str, call: Call, want: Wanted, own: Mapping[str, str], ask: Ask, *, alone: bool
) -> tuple[dict[str, Any], list[_Object]]:
    """The envelope of a backend's first page, and the caller's objects there in its order, as many as are needed."""
    left = sum(keeper == backend for keeper in own.values())
    cursor = want.after if alone else ""
    envelope: dict[str, Any] = {}
    found: list[_Object] = []
    for _ in range(_MOST_PAGES):
        query = urlencode([*want.rest, ("limit", str(_PAGE)), *([("after", cursor)] if cursor else [])])
        body = await ask(backend, msgspec.structs.replace(call, query=query))
        try:
            page = msgspec.json.decode(body, type=_Page)
            envelope = envelope or msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            items = [(msgspec.json.decode(raw, type=_Item), raw) for raw in page.data]
        except UNREADABLE:
            raise StateUnavailable(f"The backend {backend!r} answered with a list that cannot be read.") from None
        found += [_Object(item.id, item.created_at or item.created or 0, raw) for item, raw in items if item.id in own]
        last = items[-1][0].id if items else ""
        more = page.has_more if page.has_more is not None else len(items) >= _PAGE
        enough = alone and not want.before and len(found) > want.limit + (want.after in {one.id for one in found})
        if not more or not last or last == cursor or enough or (len(found) >= left and not want.after):
            return envelope, found
        if want.before and want.before in {one.id for one in found}:
            return envelope, found
        cursor = last
    return envelope, found
