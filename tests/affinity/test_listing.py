"""Lists of a consumer's objects among very many of others: bounded for each call, and complete over several."""

import json
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest

from shared.affinity import listing
from shared.affinity.places import ListPlaces
from shared.errors import InvalidRequest, StateNotFound
from shared.types import Call, Consumer
from tests.harness.calls import call
from tests.harness.memory_store import MemoryStore

ANN, BOB = Consumer("ann", "ann"), Consumer("bob", "bob")
LISTS = call("GET", "/v1/vector_stores")


class Resource:
    """The objects of all callers in one resource, newest first, as its list gives them. `asked`: the pages so far."""

    def __init__(self, **ids: list[str]) -> None:
        self._ids = ids
        self.asked = 0

    async def ask(self, backend: str, page: Call) -> bytes:
        self.asked += 1
        query, ids = parse_qs(page.query), self._ids[backend]
        after, limit = query.get("after", [""])[0], int(query["limit"][0])
        first = ids.index(after) + 1 if after else 0
        data = [{"id": one, "created_at": 10_000 - int(one.rpartition("-")[2])} for one in ids[first : first + limit]]
        more = first + limit < len(ids)
        return json.dumps({"object": "list", "data": data, "has_more": more, "first_id": "", "last_id": ""}).encode()


class Lister:
    """A caller that goes on after each page's `last_id`. `pages`: what it has received."""

    def __init__(self, resource: Resource, own: dict[str, str], **query: Any) -> None:
        self._resource = resource
        self._own = own
        self._query = "".join(f"&{name}={value}" for name, value in query.items())
        self.places = ListPlaces(MemoryStore(), ANN, "vector_store")
        self.pages: list[dict[str, Any]] = []

    async def page(self, after: str | None) -> dict[str, Any]:
        asked = self._resource.asked
        query = (f"&after={after}" if after else "") + self._query
        lists = msgspec.structs.replace(LISTS, query=query.removeprefix("&"))
        page: dict[str, Any] = json.loads(await listing.listed(lists, self._own, "a", self._resource.ask, self.places))
        assert self._resource.asked - asked <= 20
        self.pages.append(page)
        return page

    async def all(self) -> list[str]:
        """The ids of all pages."""
        page = await self.page(None)
        while page["has_more"]:
            assert len(self.pages) < 100
            page = await self.page(page["last_id"])
        return [one["id"] for page in self.pages for one in page["data"]]


def foreign(first: int, end: int) -> list[str]:
    return [f"vs_foreign-{number}" for number in range(first, end)]


def scattered(*places: int, size: int = 5000, name: str = "own") -> tuple[list[str], list[str]]:
    """So many objects, and those at these places, which are the caller's."""
    ids, own = foreign(0, size), [f"vs_{name}-{place}" for place in places]
    for place, one in zip(places, own, strict=True):
        ids[place] = one
    return ids, own


async def test_a_list_among_thousands_of_others_is_complete_in_bounded_calls() -> None:
    ids, own = scattered(5, 2100, 2101, 4990)
    lister = Lister(Resource(a=ids), dict.fromkeys(own, "a"))
    assert await lister.all() == own
    assert len(lister.pages) == 3
    assert [page["has_more"] for page in lister.pages] == [True, True, False]
    assert "foreign" not in json.dumps(lister.pages)


async def test_objects_that_are_gone_do_not_keep_a_call_searching() -> None:
    ids, own = scattered(3)
    lister = Lister(Resource(a=ids), dict.fromkeys([*own, "vs_expired-1", "vs_expired-2"], "a"))
    first = await lister.page(None)
    assert ([one["id"] for one in first["data"]], first["has_more"]) == (own, True)
    again = await lister.page(own[0])  # as clients do that go on after the last object
    assert (again["data"], again["has_more"], again["first_id"]) == ([], True, None)
    assert "foreign" not in json.dumps(lister.pages)


@pytest.mark.parametrize("limit", ["0", "10001", "1e3", "-1", "9" * 5000, "000000001" + "0" * 5000, "\u0661", ""])
async def test_a_limit_of_any_length_that_is_none_is_refused(limit: str) -> None:
    with pytest.raises(InvalidRequest, match="limit: expected 1 to"):
        await Lister(Resource(a=[]), {}, limit=limit).page(None)


async def test_small_pages_go_on_after_objects_of_the_caller() -> None:
    ids, own = scattered(*range(10, 60))
    lister = Lister(Resource(a=ids), dict.fromkeys(own, "a"), limit=20)
    assert await lister.all() == own
    assert [page["last_id"] for page in lister.pages[:2]] == [own[19], own[39]]


async def test_a_list_of_several_resources_goes_on_in_each() -> None:
    (of_a, own_a), (of_b, own_b) = scattered(7, 1500, 4000), scattered(8, 1501, 3000, name="too")
    own = dict.fromkeys(own_a, "a") | dict.fromkeys(own_b, "b")
    lister = Lister(Resource(a=of_a, b=of_b), own)
    assert sorted(await lister.all()) == sorted([*own_a, *own_b])
    assert "foreign" not in json.dumps(lister.pages)
    after = Lister(Resource(a=of_a, b=of_b), own)
    page = await after.page(own_a[2])  # which is further down than one call looks
    while not page["data"] and page["has_more"]:
        page = await after.page(page["last_id"])
    assert page["data"] == []  # the last one of all


async def test_a_slow_resource_ends_a_call_by_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_SECONDS", 0.0)
    ids, own = scattered(250, size=400)
    resource = Resource(a=ids)
    lister = Lister(resource, dict.fromkeys([*own, "vs_expired-1"], "a"))
    assert await lister.all() == own
    assert len(lister.pages) == resource.asked == 4


async def test_a_cursor_is_its_callers_alone() -> None:
    store, (ids, own) = MemoryStore(), scattered(2500)
    resource, owned = Resource(a=ids), dict.fromkeys(own, "a")
    places = ListPlaces(store, ANN, "vector_store")
    token = json.loads(await listing.listed(LISTS, owned, "a", resource.ask, places))["last_id"]
    for others in (ListPlaces(store, BOB, "vector_store"), ListPlaces(store, ANN, "file")):
        for cursor in (token, "next_", "next_/", f"next_{'f' * 25}", ids[1]):
            asked = msgspec.structs.replace(LISTS, query=f"after={cursor}")
            with pytest.raises(StateNotFound):
                await listing.listed(asked, owned, "a", resource.ask, others)
    asked = msgspec.structs.replace(LISTS, query=f"after={token}")
    assert own[0].encode() in await listing.listed(asked, owned, "a", resource.ask, places)
