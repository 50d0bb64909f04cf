"""Lists a consumer's objects, out of the lists of all backends that have some."""

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
    """An object in its backend's own JSON."""

    id: str
    created: float
    raw: msgspec.Raw


class _Query(msgspec.Struct, frozen=True):
    """The caller's query. `rest`: parameters for the backend."""

    limit: int
    after: str
    before: str
    descending: bool
    rest: tuple[tuple[str, str], ...]


def _query(call: Call) -> _Query:
    parameters = parse_qsl(call.query, keep_blank_values=True)
    values = dict(parameters)
    default = _LARGEST if call.operation.lists == "file" else _DEFAULT
    limit = values.get("limit", str(default))
    if not limit.isdecimal() or not limit.isascii() or not 1 <= int(limit[:9]) <= _LARGEST:
        raise InvalidRequest(f"limit: expected 1 to {_LARGEST}, got {limit[:20]!r}.", param="limit")
    rest = tuple((name, value) for name, value in parameters if name not in ("limit", "after", "before"))
    return _Query(int(limit), values.get("after", ""), values.get("before", ""), values.get("order") != "asc", rest)


async def listed(call: Call, own: Mapping[str, str], home: str, ask: Ask) -> bytes:
    """Return the page that the call asks for. `own`: ids of the caller's objects, each with its backend; `ask` fetches
    a page from a backend. Raises `InvalidRequest`, and `StateNotFound` if the cursor is not one of the caller's
    objects."""
    query = _query(call)
    for name, cursor in (("after", query.after), ("before", query.before)):
        if cursor and cursor not in own:
            raise StateNotFound(f"{name}: there is no object with the id {cursor[:128]!r}.", param=name)
    backends = sorted(set(own.values())) or [home]
    envelope: dict[str, Any] = {}
    objects: list[_Object] = []
    for backend in backends:
        first, more = await _of_backend(backend, call, query, own, ask, alone=len(backends) == 1)
        envelope = envelope or first
        objects += more
    if len(backends) > 1:
        objects.sort(key=lambda one: one.created, reverse=query.descending)
    page, has_more = _page(objects, query)
    edited = {"data": [one.raw for one in page], "has_more": has_more}
    edited |= {"first_id": page[0].id if page else None, "last_id": page[-1].id if page else None}
    return msgspec.json.encode({name: edited.get(name, value) for name, value in envelope.items()})


def _page(objects: list[_Object], query: _Query) -> tuple[list[_Object], bool]:
    """Cut the page between the cursors; return it, and if there is more beyond it."""
    ids = [one.id for one in objects]
    start = ids.index(query.after) + 1 if query.after in ids else 0
    end = ids.index(query.before, start) if query.before in ids[start:] else len(ids)
    between = objects[start:end]
    page = between[-query.limit :] if query.before else between[: query.limit]
    return page, len(between) > query.limit


async def _of_backend(
    backend: str, call: Call, query: _Query, own: Mapping[str, str], ask: Ask, *, alone: bool
) -> tuple[dict[str, Any], list[_Object]]:
    """Fetch pages until there are enough objects of the caller. Return the envelope of the first page, and the objects
    in the backend's order."""
    left = sum(keeper == backend for keeper in own.values())
    cursor = query.after if alone else ""
    envelope: dict[str, Any] = {}
    objects: list[_Object] = []
    for _ in range(_MOST_PAGES):
        text = urlencode([*query.rest, ("limit", str(_PAGE)), *([("after", cursor)] if cursor else [])])
        body = await ask(backend, msgspec.structs.replace(call, query=text))
        try:
            page = msgspec.json.decode(body, type=_Page)
            envelope = envelope or msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            items = [(msgspec.json.decode(raw, type=_Item), raw) for raw in page.data]
        except UNREADABLE:
            raise StateUnavailable(f"The backend {backend!r} returned a list that cannot be read.") from None
        owned = ((item, raw) for item, raw in items if item.id in own)
        objects += [_Object(item.id, item.created_at or item.created or 0, raw) for item, raw in owned]
        last = items[-1][0].id if items else ""
        more = page.has_more if page.has_more is not None else len(items) >= _PAGE
        ids = {one.id for one in objects}
        enough = alone and not query.before and len(objects) > query.limit + (query.after in ids)
        complete = (len(objects) >= left and not query.after) or (query.before != "" and query.before in ids)
        if not more or not last or last == cursor or enough or complete:
            break
        cursor = last
    return envelope, objects
