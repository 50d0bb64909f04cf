"""What the gateway remembers between requests: rows under an ETag, as Azure Table Storage keeps them.

One Protocol with two implementations that pass the same contract test (`tests/storage/test_stores.py`): `memory.py`,
and `tables.py` for Azure Table Storage. The rooms that remember something (authentication, ledger, roll-up, rotation)
say in their own words what their rows mean; here are only the five things a table can do.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

import msgspec

Value = str | int | float | bool
Properties = Mapping[str, Value]

MAX_BATCH = 100  # rows in one transaction, Table Storage's own bound


class Row(msgspec.Struct, frozen=True):
    """A row as it was read. `etag` names this version of it."""

    partition: str
    key: str
    properties: dict[str, Value]
    etag: str


class Table(Protocol):
    """A table of rows. Every method raises `StoreUnavailable` when the store does not answer within its time budget,
    refuses, or answers nonsense; a table that does not exist yet reads as empty and is made by the first write.

    Partition and row keys are at most 512 characters without `/ \\ # ?` and control characters (`ValueError`).
    """

    async def get(self, partition: str, key: str) -> Row | None:
        """The row, or None."""
        ...

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        """Write the whole row if nobody else was first: insert when `etag` is None, else replace if it still has it.

        The new ETag; None when somebody was first (re-read: a write whose answer was lost looks the same)."""
        ...

    async def merge(self, partition: str, rows: Mapping[str, Properties]) -> None:
        """Insert or merge up to `MAX_BATCH` rows (key -> properties) in one transaction, all or none. Idempotent."""
        ...

    async def delete(self, partition: str, key: str) -> None:
        """Remove the row, whatever its version; one that is not there is no error."""
        ...

    def scan(self, partition: str) -> AsyncIterator[Row]:
        """The partition's rows in order of their keys. Not a snapshot: rows written meanwhile may or may not show."""
        ...

    def scan_all(self, after: str = "") -> AsyncIterator[Row]:
        """Every row of the table whose partition is greater than `after`, in order of partition and key."""
        ...


class Store(Protocol):
    """All tables of one storage account."""

    def table(self, name: str) -> Table:
        """The table of that name, made when first written to."""
        ...

    async def names(self, prefix: str) -> list[str]:
        """Names of the tables that exist and begin with `prefix`, sorted."""
        ...

    async def drop(self, name: str) -> None:
        """Remove a table with all its rows."""
        ...

    def now(self) -> float:
        """Seconds since 1970 by the store's clock (the `Date` of its answers), which all instances share."""
        ...

    async def close(self) -> None: ...
