"""What a region remembers of its callers: objects by kind, in the order they were made, and what is still under way."""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from . import errors
from .content import Content

Object = dict[str, Any]
"""An object of the API as its JSON says it; it has at least an `id`."""

MOST_PER_PAGE = 100
USUAL_PAGE = 20


class Stored(Protocol):
    """What a collection holds: an object, and whatever else its family keeps with it."""

    @property
    def object(self) -> Object: ...


class Plain:
    """An object with nothing beside it."""

    def __init__(self, object: Object) -> None:
        self.object = object


class Kept:
    """A file: its object and its bytes."""

    def __init__(self, object: Object, content: Content) -> None:
        self.object = object
        self.content = content


class Collection[T: Stored]:
    """Objects of one kind by their id. `missing` says in Azure's words that there is none of an id."""

    def __init__(self, missing: Callable[[str], errors.AzureError]) -> None:
        self._missing = missing
        self._stored: dict[str, T] = {}

    def __iter__(self) -> Iterator[T]:
        return iter(self._stored.values())

    def __contains__(self, given: str) -> bool:
        return given in self._stored

    def __len__(self) -> int:
        return len(self._stored)

    def add(self, stored: T) -> T:
        self._stored[stored.object["id"]] = stored
        return stored

    def get(self, given: str) -> T:
        """Raises AzureError 404."""
        if (found := self._stored.get(given)) is None:
            raise self._missing(given)
        return found

    def remove(self, given: str) -> T:
        """Raises AzureError 404."""
        found = self.get(given)
        del self._stored[given]
        return found

    def page(
        self,
        query: Mapping[str, str],
        *,
        order: str = "desc",
        limit: int = USUAL_PAGE,
        most: int = MOST_PER_PAGE,
        wanted: Callable[[Object], bool] = lambda _: True,
    ) -> Object:
        """The part of the list that the query asks for."""
        return page_of([stored.object for stored in self if wanted(stored.object)], query, order, limit, most)


def page_of(
    objects: list[Object], query: Mapping[str, str], order: str = "desc", limit: int = USUAL_PAGE,
    most: int = MOST_PER_PAGE,
) -> Object:  # fmt: skip
    """A page of `objects`, which come in the order they were made. Raises AzureError 400 for a query of nonsense."""
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
    if before and not after:  # the page that ends there
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


def _limit(given: str | None, usual: int, most: int) -> int:
    if given is None:
        return usual
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        raise errors.invalid_request("Invalid type for 'limit': expected an integer.", "limit", "invalid_type")
    if not 1 <= int(given) <= most:
        message = f"Invalid 'limit': {given} is not within 1 and {most}."
        raise errors.invalid_request(message, "limit", "integer_out_of_range")
    return int(given)


def _place(places: Mapping[str, int], given: str, param: str) -> int:
    if given not in places:
        raise errors.invalid_request(f"Invalid '{param}': no object with id '{given}' found in this list.", param)
    return places[given]


def make_id(prefix: str) -> str:
    return prefix + secrets.token_hex(16)


def now() -> int:
    return int(time.time())


class Work:
    """What a region does after it has answered: background responses, runs, batches."""

    def __init__(self) -> None:
        self._timers: set[asyncio.TimerHandle] = set()

    def later(self, seconds: float, action: Callable[[], None]) -> asyncio.TimerHandle:
        """Calls `action` after a while, unless the handle it returns is cancelled before."""

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
