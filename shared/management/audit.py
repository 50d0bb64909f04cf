"""The audit trail: every change that an operator made, with who, when, what, from where, before and after.

Monthly tables `auditYYYYMM`, one partition, newest row first. A row is written before the change, and says afterwards
that it is done: no change goes without a record, and one whose end is unknown is shown as `begun`."""

import logging
import math
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from starlette.responses import Response

from shared.config import masking
from shared.errors import GatewayError
from shared.management import _answers as answers
from shared.management.routes import ManagementRequest, Route, page_size, time_of
from shared.responses.rendering import JsonResponse
from shared.storage import Properties, Row, Store, names

KEEP_MONTHS = 25
_PARTITION = "audit"
_LONGEST = 16_000  # characters of a value as JSON; the table takes 32,000 in a property
_FILTERS = ("actor", "action", "kind", "object", "since", "until", "after", "limit")

logger = logging.getLogger("tollgate.audit")


class Change(NamedTuple):
    """A change of one object that a request asks for. `action`: `consumer.create`, `key.rotate`, `configuration.apply`
    and the like; `object`: its id. `before` and `after` hold no secret; None: it was not there, or is not there any
    more."""

    request: ManagementRequest
    action: str
    object: str
    before: Any
    after: Any


class Audit:
    """Writes and reads the trail. Raises `StoreUnavailable`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def perform[T](
        self, change: Change, write: Callable[[], Awaitable[T]], after: Callable[[T], Any] | None = None
    ) -> T:
        """Record a change and make it. `write` returns None if another writer was faster: then nothing was changed, and
        the record goes. Its errors mark the record as failed. `after`: returns the state after the change, where it
        depends on what was written."""
        now = self._store.now()
        key = f"{names.newest_first(now)}-{secrets.token_hex(4)}"
        table = self._store.table(_month(now))
        await table.merge(_PARTITION, {key: _properties(change, now)})
        try:
            written = await write()
        except GatewayError as error:
            # A change that the table did not confirm may be done nevertheless: the record stays as it is.
            if error.status < 500:
                await self._close(key, now, "failed")
            raise
        if written is None:
            await table.delete(_PARTITION, key)
        else:
            await self._close(key, now, "done", **({"after": _text(after(written))} if after is not None else {}))
        return written

    async def _close(self, key: str, now: float, state: str, **more: str) -> None:
        try:
            await self._store.table(_month(now)).merge(_PARTITION, {key: {"state": state, **more}})
        except GatewayError as error:
            logger.warning("audit record %s was not completed: %s", key, error.message)

    async def rows(self) -> AsyncIterator[Row]:
        """Every record, newest first."""
        for name in reversed(await self._store.names(names.AUDIT)):
            async for row in self._store.table(name).scan(_PARTITION):
                yield row

    async def drop_old(self) -> None:
        """Drop the months that are older than `KEEP_MONTHS`."""
        today = datetime.fromtimestamp(self._store.now(), UTC)
        month = today.year * 12 + today.month - 1 - KEEP_MONTHS
        oldest = f"{names.AUDIT}{month // 12:04d}{month % 12 + 1:02d}"
        for name in await self._store.names(names.AUDIT):
            if name < oldest:
                await self._store.drop(name)


class AuditRoutes:
    """`GET /gateway/audit`: the trail, filtered and in pages."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    def routes(self) -> Sequence[Route]:
        return (Route("GET", "/gateway/audit", "operator", self._list, gives=answers.AuditTrail, query=_FILTERS),)

    async def _list(self, request: ManagementRequest) -> Response:
        """List the changes of operators, newest first. `object`: with what is below it; `kind`: such as `team`."""
        query = request.query
        since, until = time_of(query, "since", 0.0), time_of(query, "until", math.inf)
        limit, after = page_size(query), query.get("after", "")
        filters = {name: query[name] for name in ("actor", "action") if name in query}
        rows: list[Row] = []
        async for row in self._audit.rows():
            at = float(row.properties.get("at", 0))
            if at < since or len(rows) > limit:
                break
            if row.key > after and at < until and filters.items() <= row.properties.items() and _is_of(row, query):
                rows.append(row)
        page = rows[:limit]
        return JsonResponse(
            {"data": [_entry(row) for row in page], "after": page[-1].key if len(rows) > limit else None}
        )


def _is_of(row: Row, query: Mapping[str, str]) -> bool:
    """True for a change of the object in the query, or of what is below it, such as a key of a consumer, and of the
    kind there, such as `team`."""
    changed, action = str(row.properties.get("object", "")), str(row.properties.get("action", ""))
    target = query.get("object", changed)
    matches = changed == target or changed.startswith(f"{target}/")
    return matches and action.startswith(f"{query['kind']}." if "kind" in query else "")


def _month(now: float) -> str:
    return f"{names.AUDIT}{datetime.fromtimestamp(now, UTC):%Y%m}"


def _properties(change: Change, now: float) -> Properties:
    request, action, changed, before, after = change
    actor = request.actor.name if request.caller is None else f"consumer:{request.caller.id}"
    whose = {"actor": actor, "address": request.address, "request": request.request_id}
    values = {"before": _text(before), "after": _text(after)}
    return {**whose, "action": action, "object": changed, "at": now, "state": "begun", **values}


def _text(value: Any) -> str:
    text = msgspec.json.encode(masking.masked(value)).decode()
    return text if len(text) <= _LONGEST else msgspec.json.encode({"too_large_to_keep": len(text)}).decode()


def _entry(row: Row) -> dict[str, Any]:
    values = row.properties
    columns = ("actor", "address", "action", "object", "request", "state")
    entry: dict[str, Any] = {name: str(values.get(name, "")) for name in columns}
    entry["at"] = datetime.fromtimestamp(float(values.get("at", 0)), UTC).isoformat(timespec="milliseconds")
    # Rows of older versions have URLs in full.
    kept = {name: msgspec.json.decode(str(values.get(name, "null"))) for name in ("before", "after")}
    return {**entry, **masking.masked(kept)}
