"""The consumers: created, read, changed, revoked, restored and deleted, each by a conditional write of its row."""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
from starlette.responses import Response

from shared.auth import keys
from shared.auth.consumer_names import ConsumerNames, same
from shared.auth.consumer_rows import Record, StoredKey, Version, is_identity
from shared.auth.consumers import Consumers
from shared.auth.operators import EVERYONE, OWNERS
from shared.config.document import Configuration
from shared.errors import ConsumerNotFound, InvalidRequest, NameTaken, StoreUnavailable
from shared.management._consumer_fields import ConsumerView, Fields, FirstFields, NewConsumer, view, whole
from shared.management._consumer_policy import Rules
from shared.management.audit import Audit, Change
from shared.management.routes import IF_MATCH, IF_NONE_MATCH, ManagementRequest, Page, Route, checked, page
from shared.responses.rendering import JsonResponse
from shared.storage import Store
from shared.storage.conditional import contended, pause

_FILTERS = ("name", "team", "model", "state")
_TRIES = 30  # of a change that other operators overtake


Edit = Callable[[Rules, Record | None], Record]
"""Makes a consumer's new record of its old one, by the rules for the operator."""


class ConsumerRoutes:
    """The paths of `/gateway/consumers` and `/gateway/consumers/{consumer}`."""

    def __init__(self, store: Store, configuration: Callable[[], Configuration], audit: Audit) -> None:
        self._store = store
        self._configuration = configuration
        self._audit = audit
        self._consumers = Consumers(store)
        self._names = ConsumerNames(store)

    def routes(self) -> Sequence[Route]:
        many, one = "/gateway/consumers", "/gateway/consumers/{consumer}"
        filters = (*_FILTERS, "limit", "after")
        changing: dict[str, Any] = {"gives": ConsumerView, "headers": IF_MATCH}
        replacing: dict[str, Any] = {**changing, "headers": {**IF_MATCH, **IF_NONE_MATCH}, "takes": Fields}
        return (
            Route("GET", many, "operator", self._list, EVERYONE, gives=Page[ConsumerView], query=filters),
            Route("POST", many, "operator", self._create, OWNERS, takes=FirstFields, gives=NewConsumer, status=201),
            Route("GET", one, "operator", self._read, EVERYONE, gives=ConsumerView),
            Route("PUT", one, "operator", self._replace, OWNERS, **replacing),
            Route("PATCH", one, "operator", self._patch, OWNERS, takes=dict[str, Any], **changing),
            Route("DELETE", one, "operator", self._delete, OWNERS, headers=IF_MATCH, status=204),
        )

    async def _list(self, request: ManagementRequest) -> Response:
        """List the consumers that all filters match, by id. `name`: a part of it; `model`: one that they may use."""
        query = request.query
        now = self._store.now()
        if query.get("state", "active") not in ("active", "revoked", "expired"):
            raise InvalidRequest.of("state", "active, revoked or expired", query["state"])
        part = query.get("name", "")
        if len(part) > 128:
            raise InvalidRequest.of("name", "a part of a name, 128 characters at most", part)
        part = same(part)
        records = [
            record
            for record in await self._consumers.all()
            if request.actor.sees(record.consumer.team)
            and part in same(record.consumer.name)
            and query.get("team", record.consumer.team) == record.consumer.team
            and query.get("state", record.state_at(now)) == record.state_at(now)
            and ("model" not in query or record.consumer.models is None or query["model"] in record.consumer.models)
        ]
        records.sort(key=lambda record: record.consumer.id)
        return JsonResponse(page(records, query, lambda record: record.consumer.id, lambda record: view(record, now)))

    async def _read(self, request: ManagementRequest) -> Response:
        """Read a consumer."""
        version, record = await visible(self._consumers, request)
        return self._answer(version, record)

    async def _create(self, request: ManagementRequest) -> Response:
        """Create a consumer with a first key, which is shown only here."""
        fields = checked(request.object(), FirstFields)
        consumer_id = fields.id or keys.new_id(10)
        if is_identity(consumer_id):
            message = f"id: {consumer_id} is an identity of Entra ID, which calls with tokens: it has no keys."
            raise InvalidRequest(message, param="id")
        version = await self._consumers.read(consumer_id)
        # A deleted consumer's objects and usage are those of its id, so another team gets neither.
        if version is not None and not (version.deleted and request.actor.manages(version.record.consumer.team)):
            raise NameTaken(f"id: expected a new id; {consumer_id} is taken.", param="id", code="id_taken")
        text, key = keys.make(consumer_id)
        record = self._rules(request).apply(fields, consumer_id, None)
        first = StoredKey(key.key_id, key.digest, record.created, record.expires)
        record = msgspec.structs.replace(record, keys={first.id: first})
        written = await self._write(request, version, record)
        if written is None:
            raise NameTaken(f"id: another operator has just taken {consumer_id}.", param="id", code="id_taken")
        return self._answer(written, record, 201, text)

    async def _replace(self, request: ManagementRequest) -> Response:
        """Create a consumer with this id, without a key, or replace all fields of it."""
        consumer_id = request.parameters["consumer"]
        if not keys.is_consumer_id(consumer_id):
            message = f"id: expected 1 to 80 of a-z, 0-9 and -, not starting with -; got {consumer_id!r}."
            raise InvalidRequest(message[:200], param="id")
        fields = whole(request.object(), consumer_id)
        return await self.change(request, lambda rules, old: rules.apply(fields, consumer_id, old), creates=True)

    async def _patch(self, request: ManagementRequest) -> Response:
        """Change fields of a consumer by a JSON merge patch: null takes a field back to its default."""
        patch = request.object()

        def edit(rules: Rules, old: Record | None) -> Record:
            assert old is not None
            return rules.patch(old, patch)

        return await self.change(request, edit)

    async def _delete(self, request: ManagementRequest) -> Response:
        """Delete a consumer with its keys. Its usage stays, under its name."""
        for attempt in range(_TRIES):
            version, record = await manageable(self._consumers, request)
            request.require_match(version.etag)
            before = self._view(record)
            change = Change(request, "consumer.delete", record.consumer.id, before, None)
            if await self._audit.perform(change, partial(self._consumers.delete, version)) is not None:
                await self._release(record)
                return Response(status_code=204)
            await pause(attempt)
        raise contended("The consumer", _TRIES)

    async def change(self, request: ManagementRequest, edit: Edit, *, creates: bool = False) -> Response:
        """Write an edit of the newest version of the path's consumer, again if another operator was faster."""
        for attempt in range(_TRIES):
            version, old = await self._current(request, creates=creates)
            request.require_match(version.etag if version and old else None)
            record = edit(self._rules(request), old)
            if version is not None and record == old:
                return self._answer(version, record)
            written = await self._write(request, version, record)
            if written is not None:
                return self._answer(written, record, 200 if old else 201)
            await pause(attempt)
        raise contended("The consumer", _TRIES)

    async def _current(self, request: ManagementRequest, *, creates: bool) -> tuple[Version | None, Record | None]:
        """The version in the table, and its record if it is not deleted. Raises `ConsumerNotFound`."""
        if not creates:
            return await manageable(self._consumers, request)
        version = await self._consumers.read(request.parameters["consumer"])
        if version is not None:
            _require(request, version)
        return version, None if version is None or version.deleted else version.record

    async def _write(self, request: ManagementRequest, version: Version | None, record: Record) -> Version | None:
        """Claim the name and write the record. None: another writer was faster."""
        consumer, old = record.consumer, version.record if version and not version.deleted else None
        claims = old is None or same(old.consumer.name) != same(consumer.name)
        if claims and (holder := await self._names.claim(consumer.name, consumer.id)):
            raise await self._taken(request, consumer.name, holder)
        action, before = ("consumer.update", self._view(old)) if old else ("consumer.create", None)
        change = Change(request, action, consumer.id, before, self._view(record))
        try:
            written = await self._audit.perform(change, partial(self._consumers.write, record, version))
        except StoreUnavailable:
            if claims:
                with contextlib.suppress(StoreUnavailable):
                    await self._names.withdraw(consumer.name, consumer.id)
            raise
        if written is not None and claims and old is not None:
            await self._release(old)
        return written

    async def _release(self, old: Record) -> None:
        """Free the name that a consumer had. If that fails, the next one who claims it finds it free."""
        with contextlib.suppress(StoreUnavailable):
            await self._names.release(old.consumer.name, old.consumer.id)

    async def _taken(self, request: ManagementRequest, name: str, holder: str) -> NameTaken:
        record = await self._consumers.find(holder)
        seen = record is not None and request.actor.sees(record.consumer.team)
        return NameTaken(f"name: expected a new name, but {holder if seen else 'another'} has {name!r}.", param="name")

    def _rules(self, request: ManagementRequest) -> Rules:
        return Rules(self._configuration, request.actor, self._store.now())

    def _view(self, record: Record) -> Any:
        return msgspec.to_builtins(view(record, self._store.now()))

    def _answer(self, version: Version, record: Record, status: int = 200, key: str = "") -> Response:
        body: Any = view(record, self._store.now())
        if key:
            body = NewConsumer(**msgspec.structs.asdict(body), key=key)
        headers = {"etag": version.etag}
        if status == 201:
            headers["location"] = f"/gateway/consumers/{record.consumer.id}"
        return JsonResponse(body, status, headers)


async def visible(consumers: Consumers, request: ManagementRequest) -> tuple[Version, Record]:
    """The consumer of the path. Raises `ConsumerNotFound`: one of another's team is not there for a team's owner."""
    consumer_id = request.parameters["consumer"]
    version = await consumers.read(consumer_id) if keys.is_consumer_id(consumer_id) else None
    if version is None or version.deleted or not request.actor.sees(version.record.consumer.team):
        raise unknown(request)
    return version, version.record


async def manageable(consumers: Consumers, request: ManagementRequest) -> tuple[Version, Record]:
    """The consumer of the path, to be changed. Raises `ConsumerNotFound`, and `RoleRequired` for one that the operator
    may only read."""
    version, record = await visible(consumers, request)
    _require(request, version)
    return version, record


def _require(request: ManagementRequest, version: Version) -> None:
    team = version.record.consumer.team
    if not request.actor.sees(team):
        raise unknown(request)
    request.actor.require_team(team)


def unknown(request: ManagementRequest) -> ConsumerNotFound:
    return ConsumerNotFound(f"There is no consumer with the id {request.parameters['consumer'][:80]!r}.")
