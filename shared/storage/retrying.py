"""A store that retries failed operations, for background work with hundreds of them.

A `put` that is retried after its answer was lost returns None, as after a conflict, which its caller handles anyway.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from shared.errors import StoreUnavailable
from shared.storage import Properties, Row, Store, Table

_TRIES = 7
_FIRST_PAUSE = 0.05  # seconds, doubled each time: three seconds in total


class RetryingStore:
    """Another store, with retries."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.now = store.now
        self.close = store.close

    def table(self, name: str) -> "RetryingTable":
        return RetryingTable(self._store.table(name))

    async def names(self, prefix: str) -> list[str]:
        return await _retried(lambda: self._store.names(prefix))

    async def drop(self, name: str) -> None:
        await _retried(lambda: self._store.drop(name))


class RetryingTable:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def get(self, partition: str, key: str) -> Row | None:
        return await _retried(lambda: self._table.get(partition, key))

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        return await _retried(lambda: self._table.put(partition, key, properties, etag))

    async def merge(self, partition: str, rows: Mapping[str, Properties]) -> None:
        await _retried(lambda: self._table.merge(partition, rows))

    async def delete(self, partition: str, key: str) -> None:
        await _retried(lambda: self._table.delete(partition, key))

    async def scan(self, partition: str) -> AsyncIterator[Row]:
        async for row in _resumed(lambda _: self._table.scan(partition), ""):
            yield row

    async def scan_all(self, after: str = "") -> AsyncIterator[Row]:
        async for row in _resumed(self._table.scan_all, after):
            yield row


async def _retried[T](operation: Callable[[], Awaitable[T]]) -> T:
    for number in range(_TRIES - 1):
        try:
            return await operation()
        except StoreUnavailable:
            await asyncio.sleep(_FIRST_PAUSE * 2**number)
    return await operation()


async def _resumed(scan: Callable[[str], AsyncIterator[Row]], after: str) -> AsyncIterator[Row]:
    """A scan that continues after the last row it yielded. Every row resets the number of tries."""
    failures = 0
    last: Row | None = None  # that was yielded
    while True:
        skip_to = last
        try:
            async for row in scan(after):
                if skip_to is not None and _place(row) <= _place(skip_to):
                    continue
                if last is not None and row.partition != last.partition:
                    after = last.partition
                failures, last, skip_to = 0, row, None
                yield row
            return
        except StoreUnavailable:
            failures += 1
            if failures == _TRIES:
                raise
            await asyncio.sleep(_FIRST_PAUSE * 2 ** (failures - 1))


def _place(row: Row) -> tuple[bytes, bytes]:
    """A row's place in Table Storage's order, which is by UTF-16 units instead of code points."""
    return row.partition.encode("utf-16-be"), row.key.encode("utf-16-be")
