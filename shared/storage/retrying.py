"""A store whose operations are tried again when it fails: for work in the background that takes hundreds of them.

Nothing changes for who looks: a `put` that is tried again after its answer was lost is refused, as if somebody had been
faster, and that has to be reckoned with anyway.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from shared.errors import StoreUnavailable
from shared.storage import Properties, Row, Store, Table

_TRIES = 7
_FIRST_PAUSE = 0.05  # seconds, doubled each time: three seconds in all


class RetryingStore:
    """Another store, with patience."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.now = store.now
        self.close = store.close

    def table(self, name: str) -> "PatientTable":
        return PatientTable(self._store.table(name))

    async def names(self, prefix: str) -> list[str]:
        return await _patiently(lambda: self._store.names(prefix))

    async def drop(self, name: str) -> None:
        await _patiently(lambda: self._store.drop(name))


class PatientTable:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def get(self, partition: str, key: str) -> Row | None:
        return await _patiently(lambda: self._table.get(partition, key))

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        return await _patiently(lambda: self._table.put(partition, key, properties, etag))

    async def merge(self, partition: str, rows: Mapping[str, Properties]) -> None:
        await _patiently(lambda: self._table.merge(partition, rows))

    async def delete(self, partition: str, key: str) -> None:
        await _patiently(lambda: self._table.delete(partition, key))

    async def scan(self, partition: str) -> AsyncIterator[Row]:
        async for row in _resumed(lambda _: self._table.scan(partition), ""):
            yield row

    async def scan_all(self, after: str = "") -> AsyncIterator[Row]:
        async for row in _resumed(self._table.scan_all, after):
            yield row


async def _patiently[T](operation: Callable[[], Awaitable[T]]) -> T:
    for number in range(_TRIES - 1):
        try:
            return await operation()
        except StoreUnavailable:
            await asyncio.sleep(_FIRST_PAUSE * 2**number)
    return await operation()


async def _resumed(scan: Callable[[str], AsyncIterator[Row]], after: str) -> AsyncIterator[Row]:
    """A scan that goes on behind the last row that it gave. The tries begin anew with every row."""
    failures = 0
    last: Row | None = None  # that was given
    while True:
        given = last
        try:
            async for row in scan(after):
                if given is not None and _place(row) <= _place(given):
                    continue
                if last is not None and row.partition != last.partition:
                    after = last.partition
                failures, last, given = 0, row, None
                yield row
            return
        except StoreUnavailable:
            failures += 1
            if failures == _TRIES:
                raise
            await asyncio.sleep(_FIRST_PAUSE * 2 ** (failures - 1))


def _place(row: Row) -> tuple[bytes, bytes]:
    """Table Storage compares keys by their UTF-16 units, Python by code points."""
    return row.partition.encode("utf-16-be"), row.key.encode("utf-16-be")
