"""The index of names: each is given once, also by two operators at the same time.

Table `consumernames`: one partition, a row per name under its digest, with the id that claimed it and when. A claim is
honoured while that consumer has the name, and for a moment before, in which the consumer is being written. Consumers
without a row are older than the index: they are searched for, and honoured as well."""

import hashlib
import time
import unicodedata
from collections.abc import Callable

from shared.auth.consumers import Consumers
from shared.storage import Properties, Row, Store, conditional, names

_PARTITION = "name"
_WRITING = 30.0  # seconds in which a consumer is written after its name was claimed; more than all time budgets
_LANDING = 2.0  # seconds in which a write that the table did not confirm may still be done: the store's time budget
_KEEP_LIST = 60.0  # seconds for which the list of consumers without a row is used: only old versions make new ones


class ConsumerNames:
    """Claims names. Every method raises `StoreUnavailable`."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._consumers = Consumers(store)
        self._table = store.table(names.CONSUMER_NAMES)
        self._listed: dict[str, list[str]] = {}  # ids by name
        self._listed_at = -_KEEP_LIST

    async def claim(self, name: str, consumer_id: str) -> str | None:
        """Claim a name for a consumer that is about to be written. Return the id of another that has it, or None."""
        key = _key(name)
        for attempt in range(conditional.TRIES):
            row = await self._table.get(_PARTITION, key)
            if holder := await self._holder(name, consumer_id, row):
                return holder
            claim = _claim(consumer_id, self._store.now())
            if await self._table.put(_PARTITION, key, claim, row.etag if row else None) is not None:
                return None
            await conditional.pause(attempt)
        raise conditional.contended(f"The holder of the name {name!r}")

    async def withdraw(self, name: str, consumer_id: str) -> None:
        """Let a claim end soon, because writing its consumer failed."""
        row = await self._table.get(_PARTITION, _key(name))
        if row is not None and row.properties.get("id") == consumer_id:
            ends_soon = _claim(consumer_id, self._store.now() - _WRITING + _LANDING)
            await self._table.put(_PARTITION, row.key, ends_soon, row.etag)

    async def release(self, name: str, consumer_id: str) -> None:
        """Give up a name that a consumer had."""
        row = await self._table.get(_PARTITION, _key(name))
        if row is not None and row.properties.get("id") == consumer_id:
            await self._table.put(_PARTITION, row.key, _claim("", 0.0), row.etag)

    async def _holder(self, name: str, consumer_id: str, row: Row | None) -> str | None:
        """The id of another consumer that has the name or is about to."""
        claimed = str(row.properties.get("id", "")) if row else ""
        if row and claimed not in ("", consumer_id):
            if self._store.now() - float(row.properties.get("at", 0.0)) < _WRITING:
                return claimed
            if await self._has(claimed, name):
                return claimed
        for other in (await self._list()).get(same(name), ()):
            if other != consumer_id and await self._has(other, name):
                return other
        return None

    async def _has(self, consumer_id: str, name: str) -> bool:
        record = await self._consumers.find(consumer_id)
        return record is not None and same(record.consumer.name) == same(name)

    async def _list(self) -> dict[str, list[str]]:
        if self._clock() - self._listed_at >= _KEEP_LIST:
            ids: dict[str, list[str]] = {}
            for record in await self._consumers.all():
                ids.setdefault(same(record.consumer.name), []).append(record.consumer.id)
            self._listed, self._listed_at = ids, self._clock()
        return self._listed


def same(name: str) -> str:
    """A name as it is compared: without regard to case, width and spaces."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _claim(consumer_id: str, at: float) -> Properties:
    return {"id": consumer_id, "at": at}


def _key(name: str) -> str:
    return hashlib.sha256(same(name).encode()).hexdigest()
