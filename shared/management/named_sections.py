"""Products and teams: entries of a section of the configuration, each with its path and ETag.

A change is an edit of that section in the newest version of the configuration, and is checked with all of it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal

from starlette.responses import Response

from shared.auth.consumers import Consumers
from shared.auth.operators import ADMINS, EVERYONE
from shared.config.callers import Product, Team
from shared.errors import (
    ConfigurationError,
    ConfigurationRefused,
    InvalidRequest,
    ResourceNotFound,
    StillNeeded,
    StoreUnavailable,
)
from shared.management.audit import Audit, Change
from shared.management.routes import (
    IF_MATCH,
    IF_NONE_MATCH,
    ManagementRequest,
    Page,
    Route,
    etag_of,
    is_forced,
    merged_patch,
    page,
)
from shared.responses.rendering import JsonResponse
from shared.storage import Store
from shared.storage.conditional import TRIES, contended, pause
from shared.types import Consumer
from shared.versions.changes import Changes
from shared.versions.live import Live
from shared.versions.rows import Version

Section = Literal["products", "teams"]

_MOST_NAMED = 5  # consumers that an error lists


Edit = Callable[[Mapping[str, Any] | None], Mapping[str, Any] | None]
"""Makes an entry of the one before. None: there is none."""


class NamedProduct(Product, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A product with the name in its path."""

    name: str = ""


class NamedTeam(Team, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A team with the name in its path."""

    name: str = ""


_SCHEMAS: dict[Section, tuple[Any, Any]] = {  # an entry, and a page of entries
    "products": (NamedProduct, Page[NamedProduct]),
    "teams": (NamedTeam, Page[NamedTeam]),
}
_USED_BY: dict[Section, Callable[[Consumer, str], bool]] = {
    "products": lambda consumer, name: name in consumer.products,
    "teams": lambda consumer, name: consumer.team == name,
}


class _Overtaken(Exception):
    """Another operator was faster."""


class NamedSectionRoutes:
    """The paths below `/gateway/products` or `/gateway/teams`."""

    def __init__(self, section: Section, store: Store, live: Live, changes: Changes, audit: Audit) -> None:
        self._section = section
        self._kind = section.removesuffix("s")
        self._consumers = Consumers(store)
        self._live = live
        self._changes = changes
        self._audit = audit

    def routes(self) -> Sequence[Route]:
        at, one = f"/gateway/{self._section}", f"/gateway/{self._section}/{{name}}"
        schema, pages = _SCHEMAS[self._section]
        return (
            Route("GET", at, "operator", self._list, EVERYONE, gives=pages, query=("limit", "after")),
            Route("GET", one, "operator", self._show, EVERYONE, gives=schema),
            Route(
                "PUT", one, "operator", self._put, ADMINS, takes=schema, gives=schema, headers=IF_MATCH | IF_NONE_MATCH
            ),
            Route("PATCH", one, "operator", self._patch, ADMINS, takes=dict[str, Any], gives=schema, headers=IF_MATCH),
            Route("DELETE", one, "operator", self._delete, ADMINS, query=("force",), headers=IF_MATCH, status=204),
        )

    async def _list(self, request: ManagementRequest) -> Response:
        """List the entries that the operator may see, by name."""
        entries = await self._entries()
        names = sorted(name for name in entries if self._sees(request, name))
        return JsonResponse(page(names, request.query, str, lambda name: _named_entry(name, entries[name])))

    async def _show(self, request: ManagementRequest) -> Response:
        """Show one entry."""
        name = request.parameters["name"]
        entry = (await self._entries()).get(name)
        if entry is None or not self._sees(request, name):
            raise self._missing(name)
        return _answer(name, entry)

    async def _put(self, request: ManagementRequest) -> Response:
        """Create or replace one entry."""
        name, entry = _named(request)
        before, _ = await self._change(request, lambda before: entry)
        return _answer(name, entry, 201 if before is None else 200)

    async def _patch(self, request: ManagementRequest) -> Response:
        """Change fields of one entry by a JSON merge patch: null takes a field back to its default."""
        name, patch = _named(request)

        def edit(before: Mapping[str, Any] | None) -> Mapping[str, Any]:
            if before is None:
                raise self._missing(name)
            return dict(merged_patch(before, patch))

        _, after = await self._change(request, edit)
        return _answer(name, after or {})

    async def _delete(self, request: ManagementRequest) -> Response:
        """Delete one entry."""
        name = request.parameters["name"]
        forced = is_forced(request.query)
        entry = (await self._entries()).get(name)
        if entry is None:
            raise self._missing(name)
        request.require_match(etag_of(entry))
        if not forced:
            await self._refuse_if_used(name)
        await self._change(request, lambda before: None)
        return Response(status_code=204)

    async def _refuse_if_used(self, name: str) -> None:
        """Raise `StillNeeded` if consumers have an entry."""
        used_by = _USED_BY[self._section]
        users = [record.consumer.name for record in await self._consumers.all() if used_by(record.consumer, name)]
        if users:
            more = f" and {len(users) - _MOST_NAMED} more" if len(users) > _MOST_NAMED else ""
            raise StillNeeded(
                f"The {self._kind} {name!r} has consumers: {', '.join(users[:_MOST_NAMED])}{more}. Change them first, "
                "or repeat the request with force=true."
            )

    async def _change(
        self, request: ManagementRequest, edit: Edit
    ) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
        """Replace an entry by its edit; None: delete it. Return the one before and the one after."""
        name = request.parameters["name"]
        for attempt in range(TRIES):
            before = (await self._entries()).get(name)
            request.require_match(etag_of(before) if before is not None else None)
            after = edit(before)
            if before is None and after is None:
                raise self._missing(name)
            if before == after:
                return before, after
            verb = "delete" if after is None else "create" if before is None else "update"
            change = Change(request, f"{self._kind}.{verb}", name, before, after)
            write = partial(self._write, name, before, after, request.actor.name, f"{verb} {self._kind} {name}")
            if await self._audit.perform(change, write) is not None:
                with suppress(StoreUnavailable):
                    await self._live.look()
                return before, after
            await pause(attempt)
        raise contended(f"The {self._kind} {name!r}")

    async def _write(
        self, name: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, by: str, note: str
    ) -> Version | None:
        """Write the change of one entry; return None if it is not what it was `before` any more."""

        def changed(section: Any) -> dict[str, Any]:
            entries = dict(section or {})
            if entries.get(name) != before:
                raise _Overtaken
            rest = {other: entry for other, entry in entries.items() if other != name}
            return rest if after is None else rest | {name: after}

        try:
            return await self._changes.edit(self._section, changed, by, note)
        except _Overtaken:
            return None
        except ConfigurationError as error:
            raise ConfigurationRefused(error) from None

    async def _entries(self) -> dict[str, dict[str, Any]]:
        """The section in the newest version of the configuration."""
        return await self._changes.section(self._section) or {}

    def _sees(self, request: ManagementRequest, name: str) -> bool:
        return self._section == "products" or request.actor.sees(name)

    def _missing(self, name: str) -> ResourceNotFound:
        return ResourceNotFound(
            f"There is no {self._kind} {name[:64]!r} in the section `{self._section}` of the configuration; "
            f"GET /gateway/{self._section} lists them."
        )


def _named(request: ManagementRequest) -> tuple[str, dict[str, Any]]:
    """The name in the path, and the body without it. Raises `InvalidRequest` for another name."""
    name, body = request.parameters["name"], request.object()
    if body.pop("name", name) != name:
        raise InvalidRequest(f"name: expected {name!r}, as in the path, or no name.", param="name")
    return name, body


def _answer(name: str, entry: Mapping[str, Any], status: int = 200) -> Response:
    return JsonResponse(_named_entry(name, entry), status, {"etag": etag_of(entry)})


def _named_entry(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, **entry}
