"""Lists a consumer's objects, out of the lists of all backends that have some."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

import msgspec

from shared.affinity.places import Cursor, ListPlaces, Place, is_token
from shared.anthropic.batch_requests import with_own_address
from shared.azure_openai.json_body import UNREADABLE
from shared.errors import InvalidRequest, StateNotFound, StateUnavailable
from shared.types import Call

_MOST_PAGES = 20  # of all backends for one call
_SECONDS = 10.0  # after which one call asks for no further page
_PAGE_CURSOR = "page_"  # the beginning of a cursor of Anthropic's files; ours has the id of the last one behind it

Ask = Callable[[str, Call], Awaitable[bytes]]


class _Words(msgspec.Struct, frozen=True):
    """The words of an API. `after`, `before`: its cursors; `page`: objects asked for at a time; `default` and
    `largest`: of a limit."""

    after: str
    before: str
    page: int
    default: int
    largest: int


_OPENAI = _Words("after", "before", 100, 20, 10_000)
_ANTHROPIC = _Words("after_id", "before_id", 1000, 20, 1000)
_FILES = msgspec.structs.replace(_OPENAI, default=10_000)


class _Item(msgspec.Struct):
    id: str = ""
    created_at: int | float | str | None = None
    created: int | float | None = None

    @property
    def moment(self) -> float:
        """Its creation, in seconds since 1970; 0: unknown."""
        if isinstance(self.created_at, str):
            try:
                return datetime.fromisoformat(self.created_at).timestamp()
            except (ValueError, OverflowError):
                return 0.0
        return self.created_at or self.created or 0.0


class _Page(msgspec.Struct):
    data: list[msgspec.Raw] = []
    has_more: bool | None = None
    next_page: str | None = None


class _Object(msgspec.Struct, frozen=True):
    """An object in its backend's own JSON."""

    id: str
    created: float
    raw: msgspec.Raw


class _Query(msgspec.Struct, frozen=True):
    """The caller's query. `rest`: parameters for the backend. `ids`: those that it asks for; None: any."""

    words: _Words
    limit: int
    after: str
    before: str
    descending: bool
    rest: tuple[tuple[str, str], ...]
    ids: frozenset[str] | None = None


def _words(call: Call) -> _Words:
    if call.operation.format == "anthropic":
        return _ANTHROPIC
    return _FILES if call.operation.lists == "file" else _OPENAI


def _query(call: Call) -> _Query:
    words, parameters = _words(call), parse_qsl(call.query, keep_blank_values=True)
    values = dict(parameters)
    limit = values.get("limit", str(words.default))
    if not limit.isdecimal() or not limit.isascii() or len(limit) > 9 or not 1 <= int(limit) <= words.largest:
        raise InvalidRequest(f"limit: expected 1 to {words.largest}, got {limit[:20]!r}.", param="limit")
    ours = {"limit", words.after, words.before}
    after, ids = values.get(words.after, ""), None
    if call.operation.format == "anthropic":
        ours |= {"page", "ids", "ids[]"}
        after = after or values.get("page", "").removeprefix(_PAGE_CURSOR)
        named = frozenset(value for name, value in parameters if name in ("ids", "ids[]"))
        ids = named or None
    rest = tuple((name, value) for name, value in parameters if name not in ours)
    return _Query(words, int(limit), after, values.get(words.before, ""), values.get("order") != "asc", rest, ids)


class _Walk(NamedTuple):
    """The way through one backend's list. `objects`: the caller's, in the backend's order; `left_at`: where it goes on;
    None: as much as is needed was seen."""

    envelope: dict[str, Any]
    objects: list[_Object]
    left_at: Cursor | None


class _Bound:
    """The pages that one call may ask each of so many backends for, and their time. Each is asked for one at least."""

    def __init__(self, backends: int) -> None:
        self.pages = max(1, _MOST_PAGES // max(1, backends))
        self._until = asyncio.get_running_loop().time() + _SECONDS

    @property
    def is_over(self) -> bool:
        return asyncio.get_running_loop().time() >= self._until


async def listed(call: Call, own: Mapping[str, str], home: str, ask: Ask, places: ListPlaces) -> bytes:
    """Return the page that the call asks for. `own`: ids of the caller's objects, each with its backend; `ask` fetches
    a page from a backend. Among too many objects of others the page ends early: `has_more` is true, and `last_id` goes
    on from there. Raises `InvalidRequest`, and `StateNotFound` if the cursor is not one of the caller's objects."""
    query = _query(call)
    start = await _start(call, query, own, home, places)
    query = msgspec.structs.replace(query, after=start.after)
    if query.ids is not None:
        own = {name: keeper for name, keeper in own.items() if name in query.ids}
    bound, envelope, objects, left_at = _Bound(len(start.at)), dict[str, Any](), list[_Object](), dict[str, Cursor]()
    for backend in sorted(start.at):
        walk = await _of_backend(backend, call, query, start.at, own, ask, bound)
        envelope = envelope or walk.envelope
        objects += walk.objects
        if walk.left_at is not None:
            left_at[backend] = walk.left_at
    if len(start.at) > 1:
        objects.sort(key=lambda one: one.created, reverse=query.descending)
    ids = {one.id for one in objects}
    sought = query.after if query.after not in ids else ""
    page, has_more = ([], False) if sought or (left_at and query.before not in {"", *ids}) else _page(objects, query)
    last_id = page[-1].id if page else None
    if left_at and not has_more:
        has_more, last_id = True, await places.keep(Place(left_at, sought))
    return _edited(query, envelope, page, last_id, has_more=has_more)


async def _start(call: Call, query: _Query, own: Mapping[str, str], home: str, places: ListPlaces) -> Place:
    """Return the place from which a list goes on. Raises `StateNotFound` for a cursor that is not the caller's."""
    if is_token(query.after) and (place := await places.find(query.after)) is not None:
        return place
    for name, cursor in ((query.words.after, query.after), (query.words.before, query.before)):
        if cursor and cursor not in own:
            raise StateNotFound(f"{name}: there is no object with the id {cursor[:128]!r}.", param=name)
    backends = sorted({keeper for name, keeper in own.items() if query.ids is None or name in query.ids}) or [home]
    # A backend goes on after an object, except in lists of files whose cursor says which page follows.
    if len(backends) == 1 and call.operation.lists != "claude_file":
        return Place({backends[0]: (query.words.after, query.after)})
    return Place(dict.fromkeys(backends, (query.words.after, "")), query.after)


def _edited(
    query: _Query, envelope: Mapping[str, Any], page: list[_Object], last_id: str | None, *, has_more: bool
) -> bytes:
    """The page in the backend's envelope."""
    edited: dict[str, Any] = {"data": [one.raw for one in page], "has_more": has_more}
    edited |= {"first_id": page[0].id if page else None, "last_id": last_id}
    if query.words is _ANTHROPIC:  # its clients of earlier versions read other cursors than those of later ones
        edited["data"] = [msgspec.Raw(with_own_address(bytes(one.raw))) for one in page]
        following = f"{_PAGE_CURSOR}{last_id}" if last_id and has_more else None
        return msgspec.json.encode(edited | ({"next_page": following} if "next_page" in envelope else {}))
    return msgspec.json.encode({name: edited.get(name, value) for name, value in envelope.items()})


def _page(objects: list[_Object], query: _Query) -> tuple[list[_Object], bool]:
    """Cut the page between the cursors; return it, and if there is more beyond it."""
    ids = [one.id for one in objects]
    start = ids.index(query.after) + 1 if query.after in ids else 0
    end = ids.index(query.before, start) if query.before in ids[start:] else len(ids)
    between = objects[start:end]
    limit = max(1, len(between)) if query.ids is not None else query.limit
    page = between[-limit:] if query.before else between[:limit]
    return page, len(between) > limit


async def _of_backend(
    backend: str,
    call: Call,
    query: _Query,
    places: Mapping[str, Cursor],
    own: Mapping[str, str],
    ask: Ask,
    bound: _Bound,
) -> _Walk:
    """Fetch pages until there are enough objects of the caller, or more pages than one call may ask for."""
    left = sum(keeper == backend for keeper in own.values())
    cursor, alone = places[backend], len(places) == 1
    envelope: dict[str, Any] = {}
    objects: list[_Object] = []
    for number in range(1, bound.pages + 1):
        text = urlencode([*query.rest, ("limit", str(query.words.page)), *([cursor] if cursor[1] else [])])
        body = await ask(backend, msgspec.structs.replace(call, query=text))
        try:
            page = msgspec.json.decode(body, type=_Page)
            envelope = envelope or msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            items = [(msgspec.json.decode(raw, type=_Item), raw) for raw in page.data]
        except UNREADABLE:
            raise StateUnavailable(f"The backend {backend!r} returned a list that cannot be read.") from None
        owned = ((item, raw) for item, raw in items if item.id in own)
        objects += [_Object(item.id, item.moment, raw) for item, raw in owned]
        more = page.has_more if page.has_more is not None else len(items) >= query.words.page
        following = (query.words.after, items[-1][0].id if items and more else "")
        if "next_page" in envelope:
            following = ("page", page.next_page or "")
        ids = {one.id for one in objects}
        enough = alone and not query.before and len(objects) > query.limit + (query.after in ids)
        complete = len(objects) >= left or (query.before != "" and query.before in ids)
        if not following[1] or following == cursor or enough or complete:
            break
        cursor = following
        if bound.is_over or number == bound.pages:
            return _Walk(envelope, objects, cursor)
    return _Walk(envelope, objects, None)
