"""Tables in memory, with Table Storage's semantics, for tests."""

import time
from collections.abc import AsyncIterator, Callable, Mapping

from shared.storage import Properties, Row, Value
from shared.storage._rules import check_key, check_properties, check_rows, check_table_name

_Version = tuple[dict[str, Value], str]
_Rows = dict[str, dict[str, _Version]]  # partition -> row key -> version


class MemoryStore:
    """All tables of one process. `clock` gives seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.now = clock
        self._tables: dict[str, _Rows] = {}
        self._versions = 0

    def table(self, name: str) -> "MemoryTable":
        check_table_name(name)
        return MemoryTable(self, name)

    async def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self._tables if name.startswith(prefix))

    async def drop(self, name: str) -> None:
        self._tables.pop(name, None)

    async def close(self) -> None:
        pass

    def rows(self, name: str) -> _Rows:
        return self._tables.get(name, {})

    def rows_to_write(self, name: str) -> _Rows:
        return self._tables.setdefault(name, {})

    def new_etag(self) -> str:
        self._versions += 1
        return f'W/"{self._versions}"'


class MemoryTable:
    """A view of one table. The store holds the rows, so all views of a name share them."""

    def __init__(self, store: MemoryStore, name: str) -> None:
        self._store = store
        self._name = name

    async def get(self, partition: str, key: str) -> Row | None:
        check_key(partition)
        check_key(key)
        return self._row(partition, key)

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        check_rows(partition, {key: properties})
        old = self._store.rows(self._name).get(partition, {}).get(key)
        if (old[1] if old else None) != etag:
            return None
        return self._write(partition, key, dict(properties))

    async def merge(self, partition: str, rows: Mapping[str, Properties]) -> None:
        check_rows(partition, rows)
        old = self._store.rows(self._name).get(partition, {})
        merged = {key: {**old[key][0], **rows[key]} if key in old else dict(rows[key]) for key in rows}
        for properties in merged.values():
            check_properties(properties)
        for key, properties in merged.items():
            self._write(partition, key, properties)

    async def delete(self, partition: str, key: str) -> None:
        check_key(partition)
        check_key(key)
        rows = self._store.rows(self._name).get(partition)
        if rows and rows.pop(key, None) and not rows:
            del self._store.rows(self._name)[partition]

    async def scan(self, partition: str, first: str = "", end: str = "") -> AsyncIterator[Row]:
        check_key(partition)
        for key in sorted(self._store.rows(self._name).get(partition, {}), key=_order):
            within = _order(key) >= _order(first) and (not end or _order(key) < _order(end))
            if within and (row := self._row(partition, key)):
                yield row

    async def scan_all(self, after: str = "") -> AsyncIterator[Row]:
        for partition in sorted(self._store.rows(self._name), key=_order):
            if _order(partition) > _order(after):
                async for row in self.scan(partition):
                    yield row

    def _row(self, partition: str, key: str) -> Row | None:
        version = self._store.rows(self._name).get(partition, {}).get(key)
        return version and Row(partition, key, dict(version[0]), version[1])

    def _write(self, partition: str, key: str, properties: dict[str, Value]) -> str:
        etag = self._store.new_etag()
        self._store.rows_to_write(self._name).setdefault(partition, {})[key] = (properties, etag)
        return etag


def _order(key: str) -> bytes:
    """A key's place in Table Storage's order, which is by UTF-16 units instead of code points."""
    return key.encode("utf-16-be")
