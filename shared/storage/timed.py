"""A store that reports the time of each operation, for telemetry."""

import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from shared.storage import Store, Table

Report = Callable[[str, float, str], None]
"""Receives an operation's name, its seconds, and the type of the error that it raised, or ""."""


class TimedStore:
    def __init__(self, store: Store, report: Report) -> None:
        self._store = store
        self._report = report
        self.now, self.names, self.drop, self.close = store.now, store.names, store.drop, store.close

    def table(self, name: str) -> "TimedTable":
        return TimedTable(self._store.table(name), self._report)


class TimedTable:
    """Scans are not timed: their time depends on the reader."""

    def __init__(self, table: Table, report: Report) -> None:
        self.get = _timed(table.get, "get", report)
        self.put = _timed(table.put, "put", report)
        self.merge = _timed(table.merge, "merge", report)
        self.delete = _timed(table.delete, "delete", report)
        self.scan, self.scan_all = table.scan, table.scan_all


def _timed[**P, T](
    operation: Callable[P, Awaitable[T]], name: str, report: Report
) -> Callable[P, Coroutine[Any, Any, T]]:
    async def timed(*args: P.args, **kwargs: P.kwargs) -> T:
        started, error = time.monotonic(), ""
        try:
            return await operation(*args, **kwargs)
        except BaseException as raised:
            error = type(raised).__name__
            raise
        finally:
            report(name, time.monotonic() - started, error)

    return timed
