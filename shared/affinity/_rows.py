"""Rows of objects: where each is, and whose.

The table `affinity` holds them, and `affinityYYYYMM` those that Azure keeps for 30 days at most, so that a month's rows
are dropped whole. Partition: two hex digits of the id's SHA-1; row: the id. An object that can be listed has a second
row in the partition `own-{consumer}-{kind}`. Items of responses and conversations have only one, in `item-{consumer}`.
"""

import asyncio
import contextlib
import hashlib
import itertools
import logging
import secrets
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime

import msgspec

from shared.azure_openai.batch_lines import BatchSize
from shared.azure_openai.json_body import UNREADABLE
from shared.azure_openai.references import ITEMS, KINDS
from shared.errors import StoreUnavailable
from shared.storage import MAX_BATCH, Properties, Row, Store, Table, names
from shared.storage.conditional import update
from shared.types import Reference

logger = logging.getLogger("tollgate.affinity")

NOBODY = ""  # the consumer of an adopted object
DAY = 86_400.0  # seconds
_WAIT = 2.5  # seconds that a call waits for the table, where the alternative is to refuse it


class Location(msgspec.Struct, frozen=True):
    """The backend and the consumer of an object.

    `checked`: it is a file whose lines, as those of a batch, name no object; `lines`: their size, None if it is not
    known. `pending_in`: the partition of its row in the index of pending work; "": it has none. `pending`: it is of a
    version without that index, and the call pays that receives its usage first."""

    backend: str
    consumer: str
    pending: bool = False
    checked: bool = False
    lines: BatchSize | None = None
    pending_in: str = ""


class ObjectRows:
    """The tables of objects. Methods raise `StoreUnavailable`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def read(self, reference: Reference, consumer: str) -> Location | None:
        """Return the location of an object, or of an item of this consumer."""
        kind, partition = reference.kind, partition_of(reference.id)
        if kind in ITEMS:
            kind, partition = "item", f"item-{consumer}"
        try:
            rows = await asyncio.gather(*(table.get(partition, reference.id) for table in self._tables(kind)))
        except ValueError:  # no row can have such a key
            return None
        for row in reversed(rows):  # the oldest is its maker's
            if row is not None and row.properties.get("kind") == kind:
                return _location(row)
        return None

    async def write(self, reference: Reference, location: Location) -> Location:
        """Insert the rows of an object, unless it has an owner. Return its location, with the owner that it has."""
        (table, *older), kind, partition = self._tables(reference.kind), reference.kind, partition_of(reference.id)
        row: dict[str, str | bool] = {"backend": location.backend, "consumer": location.consumer, "kind": kind}
        if location.checked:
            row["checked"] = True
        if location.lines is not None:
            row["lines"] = msgspec.json.encode(location.lines).decode()
        if location.pending_in:
            row["pending_in"] = location.pending_in
        inserted, earlier = await asyncio.gather(
            table.put(partition, reference.id, row, None),
            asyncio.gather(*(one.get(partition, reference.id) for one in older)),
        )
        rows = [one for one in reversed(earlier) if one is not None]
        if not rows and inserted is None and (own := await table.get(partition, reference.id)) is not None:
            rows = [own]
        if rows and (owned := _location(rows[0])).consumer != location.consumer:
            return owned
        if KINDS[kind].listed and location.consumer != NOBODY:
            await table.merge(f"own-{location.consumer}-{kind}", {reference.id: {"backend": location.backend}})
        return location

    async def write_items(self, consumer: str, backend: str, ids: Iterable[str]) -> None:
        """Write the rows of items, in as few transactions as possible."""
        row = {"backend": backend, "consumer": consumer, "kind": "item"}
        for some in itertools.batched(ids, MAX_BATCH, strict=False):
            await self._tables("item")[0].merge(f"item-{consumer}", dict.fromkeys(some, row))

    async def owned(self, consumer: str, kind: str) -> dict[str, str]:
        """Return the ids of a consumer's objects of a kind, each with its backend."""
        partition = f"own-{consumer}-{kind}"
        return {
            row.key: str(row.properties.get("backend", ""))
            for table in self._tables(kind)
            async for row in table.scan(partition)
        }

    async def claim_charge(self, reference: Reference) -> bool:
        """Mark an object as paid. Return False if it was paid already, True also if it has no row.

        `payer` names this claim, so that it is recognised in the row if the answer to its write was lost."""
        rows: list[Row] = []
        payer = secrets.token_urlsafe(9)

        def claim(row: Row | None) -> Properties | None:
            if row is None:
                return None
            rows.append(row)
            return {**row.properties, "pending": False, "payer": payer} if row.properties.get("pending") else None

        for table in reversed(self._tables(reference.kind)):
            if await update(table, partition_of(reference.id), reference.id, claim) is not None:
                return True
            if rows:
                return rows[-1].properties.get("payer") == payer
        return True

    async def delete(self, consumer: str, reference: Reference) -> None:
        for table in self._tables(reference.kind):
            await table.delete(partition_of(reference.id), reference.id)
            if reference.kind in KINDS and KINDS[reference.kind].listed:
                await table.delete(f"own-{consumer}-{reference.kind}", reference.id)

    def _tables(self, kind: str) -> list[Table]:
        """The tables that may hold an object of this kind, first the one for new rows."""
        if not KINDS[kind].brief:
            return [self._store.table(names.AFFINITY)]
        now = self._store.now()
        months = dict.fromkeys(f"{datetime.fromtimestamp(now - age, UTC):%Y%m}" for age in (0.0, 15 * DAY, 31 * DAY))
        return [self._store.table(f"{names.AFFINITY}{month}") for month in months]


def _location(row: Row) -> Location:
    about = row.properties
    return Location(
        str(about.get("backend", "")),
        str(about.get("consumer", "")),
        pending=bool(about.get("pending")),
        checked=bool(about.get("checked")),
        lines=_lines(about.get("lines")),
        pending_in=str(about.get("pending_in", "")),
    )


def _lines(text: object) -> BatchSize | None:
    try:
        return msgspec.json.decode(str(text), type=BatchSize)
    except UNREADABLE:
        return None


def partition_of(row_id: str) -> str:
    return hashlib.sha1(row_id.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()[:2]


@contextlib.asynccontextmanager
async def time_limit() -> AsyncIterator[None]:
    """Bound the time that a call waits for the table. Raises `StoreUnavailable` for the caller."""
    try:
        async with asyncio.timeout(_WAIT):
            yield
    except (TimeoutError, StoreUnavailable) as error:
        logger.warning("the table of objects does not answer: %s", error)
        raise StoreUnavailable("The store of object locations is unavailable. Try again shortly.") from None
