"""Collections of API objects in creation order, their pages, and timers for background work."""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from . import errors
from .content import Content

Object = dict[str, Any]
"""An API object in its JSON form; it has at least an `id`."""

MOST_PER_PAGE = 100
USUAL_PAGE = 20


class Stored(Protocol):
    """An item of a collection: an object, and anything its family stores with it."""

    @property
    def object(self) -> Object: ...


class Plain:
    """An object without further data."""

    def __init__(self, object: Object) -> None:
        self.object = object


class Kept:
    """A file: its object and its bytes."""

    def __init__(self, object: Object, content: Content) -> None:
        self.object = object
        self.content = content


class Collection[T: Stored]:
    """Objects of one kind by id. `missing` creates Azure's error for an unknown id. `keeps_all`: also those that their
    callers do not want to be stored."""

    keeps_all = False

    def __init__(self, missing: Callable[[str], errors.AzureError]) -> None:
        self.missing = missing
        self._stored: dict[str, T] = {}

    def __iter__(self) -> Iterator[T]:
        return iter(self._stored.values())

    def __contains__(self, object_id: str) -> bool:
        return object_id in self._stored

    def __len__(self) -> int:
        return len(self._stored)

    def add(self, stored: T) -> T:
        self._stored[stored.object["id"]] = stored
        return stored

    def get(self, object_id: str) -> T:
        """Raises AzureError 404."""
        if (stored := self._stored.get(object_id)) is None:
            raise self.missing(object_id)
        return stored

    def remove(self, object_id: str) -> T:
        """Raises AzureError 404."""
        stored = self.get(object_id)
        del self._stored[object_id]
        return stored

    def page(
        self,
        query: Mapping[str, str],
        *,
        order: str = "desc",
        limit: int = USUAL_PAGE,
        most: int = MOST_PER_PAGE,
        matches: Callable[[Object], bool] = lambda _: True,
    ) -> Object:
        """A page of the objects that match, as the query requests. Raises AzureError 400."""
        return page_of([stored.object for stored in self if matches(stored.object)], query, order, limit, most)


def page_of(
    objects: list[Object], query: Mapping[str, str], order: str = "desc", limit: int = USUAL_PAGE,
    most: int = MOST_PER_PAGE,
) -> Object:  # fmt: skip
    """A page of `objects`, which are in creation order. Raises AzureError 400 for an invalid query."""
    order = query.get("order", order)
    if order not in ("asc", "desc"):
        message = f"Invalid value: '{order}'. Supported values are: 'asc' and 'desc'."
        raise errors.invalid_request(message, "order", "invalid_value")
    limit = _limit(query.get("limit"), limit, most)
    rows = objects if order == "asc" else objects[::-1]
    places = {row["id"]: place for place, row in enumerate(rows)}
    start, end = 0, len(rows)
    if after := query.get("after"):
        start = _place(places, after, "after") + 1
    if before := query.get("before"):
        end = _place(places, before, "before")
    if before and not after:  # the page that ends before this object
        data, more = rows[max(0, end - limit) : end], end > limit
    else:
        data, more = rows[start : min(end, start + limit)], end - start > limit
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": more,
    }


def _limit(text: str | None, usual: int, most: int) -> int:
    if text is None:
        return usual
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise errors.invalid_request("Invalid type for 'limit': expected an integer.", "limit", "invalid_type")
    if not 1 <= int(text) <= most:
        message = f"Invalid 'limit': {text} is not between 1 and {most}."
        raise errors.invalid_request(message, "limit", "integer_out_of_range")
    return int(text)


def _place(places: Mapping[str, int], object_id: str, param: str) -> int:
    if object_id not in places:
        raise errors.invalid_request(f"Invalid '{param}': no object with id '{object_id}' found in this list.", param)
    return places[object_id]


def make_id(prefix: str) -> str:
    return prefix + secrets.token_hex(16)


def now() -> int:
    return int(time.time())


class Work:
    """Background work of a region: responses, runs, batches."""

    def __init__(self) -> None:
        self._timers: set[asyncio.TimerHandle] = set()

    def later(self, seconds: float, action: Callable[[], None]) -> asyncio.TimerHandle:
        """Call `action` after a delay. Cancel the returned handle to prevent it."""

        def act() -> None:
            self._timers.discard(timer)
            action()

        timer = asyncio.get_running_loop().call_later(seconds, act)
        self._timers.add(timer)
        return timer

    def clear(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
