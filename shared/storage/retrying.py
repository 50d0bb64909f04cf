"""A store that retries failed operations, for background work with hundreds of them.

A `put` that is retried after its answer was lost returns None, as after a conflict, which its caller handles anyway.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from shared.errors import StoreUnavailable
from shared.storage import Row, Store, Table

_TRIES = 7
_FIRST_PAUSE = 0.05  # seconds, doubled each time: three seconds in total


class RetryingStore:
    def __init__(self, store: Store) -> None:
        self._store = store
        self.now, self.close = store.now, store.close
        self.names, self.drop = _retried(store.names), _retried(store.drop)

    def table(self, name: str) -> "RetryingTable":
        return RetryingTable(self._store.table(name))


class RetryingTable:
    def __init__(self, table: Table) -> None:
        self._table = table
        self.get, self.put = _retried(table.get), _retried(table.put)
        self.merge, self.delete = _retried(table.merge), _retried(table.delete)

    def scan(self, partition: str, first: str = "", end: str = "") -> AsyncIterator[Row]:
        return _resumed(lambda _: self._table.scan(partition, first, end), "")

    def scan_all(self, after: str = "") -> AsyncIterator[Row]:
        return _resumed(self._table.scan_all, after)


def _retried[**P, T](operation: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    async def retried(*args: P.args, **kwargs: P.kwargs) -> T:
        for number in range(_TRIES - 1):
            try:
                return await operation(*args, **kwargs)
            except StoreUnavailable:
                await asyncio.sleep(_FIRST_PAUSE * 2**number)
        return await operation(*args, **kwargs)

    return retried


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
