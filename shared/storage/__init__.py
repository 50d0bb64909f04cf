"""State that outlives a request: tables of rows with ETags, as Azure Table Storage has them.

`tables.py` (Azure Table Storage) and the tests' store in memory implement the Protocols and pass the same contract test
(`tests/storage/test_stores.py`). The meaning of rows is left to the packages that own them.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

import msgspec

Value = str | int | float | bool
Properties = Mapping[str, Value]

MAX_BATCH = 100  # rows per transaction, by Table Storage's own limit


class Row(msgspec.Struct, frozen=True):
    """A row as it was read. `etag` identifies its version."""

    partition: str
    key: str
    properties: dict[str, Value]
    etag: str


class Table(Protocol):
    """A table of rows. Every method raises `StoreUnavailable` if the store fails or exceeds its time budget. A table
    that does not exist reads as empty, and the first write creates it. Partition and row keys are at most 512
    characters without `/ \\ # ?` and control characters (`ValueError`)."""

    async def get(self, partition: str, key: str) -> Row | None:
        """Return the row, or None."""

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        """Write the whole row: insert it if `etag` is None, otherwise replace the version with this ETag. Return the
        new ETag, or None on a conflict with another writer. A write whose answer was lost looks the same, so read the
        row again."""

    async def merge(self, partition: str, rows: Mapping[str, Properties]) -> None:
        """Insert or merge up to `MAX_BATCH` rows (key -> properties) in one transaction, all or none. Idempotent.
        Raises `RowsRefused` for content that the store does not take."""

    async def delete(self, partition: str, key: str) -> None:
        """Delete the row in any version, if it exists."""

    def scan(self, partition: str, first: str = "", end: str = "") -> AsyncIterator[Row]:
        """Yield the rows of a partition by key: those from the key `first` on, and before the key `end`, unless it is
        "". Not a snapshot: rows written meanwhile may or may not appear."""

    def scan_all(self, after: str = "") -> AsyncIterator[Row]:
        """Yield all rows with a partition greater than `after`, by partition and key."""


class Store(Protocol):
    """All tables of one storage account."""

    def table(self, name: str) -> Table:
        """Return a table, which the first write creates."""

    async def names(self, prefix: str) -> list[str]:
        """Return the names of existing tables with this prefix, sorted."""

    async def drop(self, name: str) -> None:
        """Delete a table with all its rows."""

    def now(self) -> float:
        """Return seconds since 1970 by the store's clock (the `Date` header), which all instances share."""

    async def close(self) -> None: ...
