"""The index of foreign keys, which callers had before the gateway: the consumer of each, by the digest of the key.

The table `foreignkeys` has a row per key in the partition `keys`, and a row whose version changes with every import.
Each process keeps the whole index in memory, and reads it again when the version has changed. A key that is not in it
is refused from memory, so guessing costs the table one read in two seconds at most.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable

import msgspec

from shared.auth._freshness import RECHECK_AFTER, REFRESH_AFTER, STALE_AFTER, WAIT_WITH_FALLBACK, WAIT_WITHOUT
from shared.concurrency import SingleFlight
from shared.errors import StoreUnavailable
from shared.storage import Row, Store, names

logger = logging.getLogger("tollgate.authentication")

_KEYS, _VERSION = "keys", "version"


class Owner(msgspec.Struct, frozen=True):
    """The consumer that a foreign key belongs to, and the id of the key there."""

    consumer: str
    key: str


class ForeignKeyIndex:
    """The table. Every method raises `StoreUnavailable` when it does not answer."""

    def __init__(self, store: Store) -> None:
        self._table = store.table(names.FOREIGN_KEYS)

    async def version(self) -> str:
        """The version of the index; "" if it has never had a key."""
        row = await self._table.get(_VERSION, _VERSION)
        return str(row.properties.get("version", "")) if row is not None else ""

    async def all(self) -> dict[str, Owner]:
        """The owners by digest."""
        return {row.key: _owner(row) async for row in self._table.scan(_KEYS)}

    async def find(self, digest: str) -> tuple[Owner, str] | None:
        """The owner of a key, and the ETag of its row."""
        row = await self._table.get(_KEYS, digest)
        return None if row is None else (_owner(row), row.etag)

    async def claim(self, digest: str, owner: Owner, etag: str | None) -> bool:
        """Name the owner of a key, unless its row has changed since. `etag` None: there was no row."""
        row = {"consumer": owner.consumer, "key": owner.key}
        return await self._table.put(_KEYS, digest, row, etag) is not None

    async def release(self, digest: str, owner: Owner) -> None:
        """Forget a key of this owner, before the key itself is deleted: until then nobody else can claim it."""
        entry = await self.find(digest)
        if entry is not None and entry[0] == owner:
            await self._table.delete(_KEYS, digest)

    async def publish(self) -> None:
        """Have every process read the index again."""
        await self._table.merge(_VERSION, {_VERSION: {"version": secrets.token_hex(8)}})


class ForeignKeys:
    """The index in memory. `clock` is monotonic."""

    def __init__(self, index: ForeignKeyIndex, clock: Callable[[], float]) -> None:
        self._index = index
        self._clock = clock
        self._owners: dict[str, Owner] = {}
        self._version: str | None = None  # None: never read
        self._read_at = self._retry_at = float("-inf")
        self._reads: SingleFlight[str, None] = SingleFlight()
        self.close = self._reads.close

    async def find(self, digest: str) -> Owner | None:
        """The owner of a key, or None. Raises `StoreUnavailable` if the index could not be read yet."""
        now, owner = self._clock(), self._owners.get(digest)
        age = now - self._read_at
        if now < self._retry_at:
            if self._version is None:
                raise _unavailable()
        elif age >= STALE_AFTER:
            await self._wait(WAIT_WITHOUT if self._version is None else WAIT_WITH_FALLBACK)
        elif age >= (RECHECK_AFTER if owner is None else REFRESH_AFTER):
            self._reads.start("", self._read)
        return self._owners.get(digest)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._reads.run("", self._read)
        except (TimeoutError, StoreUnavailable):
            self._retry_at = self._clock() + RECHECK_AFTER
            if self._version is None:
                raise _unavailable() from None

    async def _read(self) -> None:
        started = self._clock()
        try:
            version = await self._index.version()
            if version != self._version:
                self._owners = await self._index.all() if version else {}
                self._version = version
        except StoreUnavailable as error:
            logger.warning("cannot read the index of foreign keys: %s", error)
            self._retry_at = self._clock() + RECHECK_AFTER
            raise
        self._read_at = started


def _unavailable() -> StoreUnavailable:
    return StoreUnavailable("The store of the keys is out of reach. Try again shortly.")


def _owner(row: Row) -> Owner:
    return Owner(str(row.properties.get("consumer", "")), str(row.properties.get("key", "")))
