"""A store that reports the time of each operation, for telemetry."""

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager

from shared.storage import Properties, Row, Store, Table

Report = Callable[[str, float, str], None]
"""Receives an operation's name, its seconds, and the type of the error that it raised, or ""."""


class TimedStore:
    """Another store, with a report of every operation on its tables."""

    def __init__(self, store: Store, report: Report) -> None:
        self._store = store
        self._report = report
        self.now = store.now
        self.names = store.names
        self.drop = store.drop
        self.close = store.close

    def table(self, name: str) -> "TimedTable":
        return TimedTable(self._store.table(name), self._report)


class TimedTable:
    def __init__(self, table: Table, report: Report) -> None:
        self._table = table
        self._report = report

    async def get(self, partition: str, key: str) -> Row | None:
        with self._timed("get"):
            return await self._table.get(partition, key)

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        with self._timed("put"):
            return await self._table.put(partition, key, properties, etag)

    async def merge(self, partition: str, rows: Mapping[str, Properties]) -> None:
        with self._timed("merge"):
            await self._table.merge(partition, rows)

    async def delete(self, partition: str, key: str) -> None:
        with self._timed("delete"):
            await self._table.delete(partition, key)

    # Scans are not timed: their time depends on the reader.

    def scan(self, partition: str) -> AsyncIterator[Row]:
        return self._table.scan(partition)

    def scan_all(self, after: str = "") -> AsyncIterator[Row]:
        return self._table.scan_all(after)

    @contextmanager
    def _timed(self, operation: str) -> Iterator[None]:
        started, error = time.monotonic(), ""
        try:
            yield
        except BaseException as raised:
            error = type(raised).__name__
            raise
        finally:
            self._report(operation, time.monotonic() - started, error)
