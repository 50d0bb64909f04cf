import asyncio

import pytest

from shared.errors import StoreUnavailable
from shared.storage import Properties, Row, conditional
from shared.storage.conditional import update
from tests.harness.memory_store import MemoryStore, MemoryTable


class Interleaved(MemoryTable):
    """A table whose writes let other writers run first."""

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        await asyncio.sleep(0)
        return await super().put(partition, key, properties, etag)


class Overtaken(MemoryTable):
    """A table to which another writer always writes first."""

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        row = await self.get(partition, key)
        await super().put(partition, key, incremented(row), row.etag if row is not None else None)
        return await super().put(partition, key, properties, etag)


def incremented(row: Row | None) -> Properties:
    return {"n": int(row.properties["n"]) + 1 if row else 1}


async def test_writers_at_the_same_time_lose_no_change() -> None:
    table = Interleaved(MemoryStore(), "numbers")
    await asyncio.gather(*(update(table, "p", "k", incremented) for _ in range(20)))
    row = await table.get("p", "k")
    assert row is not None
    assert row.properties == {"n": 20}


async def test_a_change_that_returns_none_writes_nothing() -> None:
    table = MemoryStore().table("numbers")
    assert await update(table, "p", "k", lambda row: None) is None
    assert await table.get("p", "k") is None
    assert await update(table, "p", "k", incremented) == {"n": 1}


async def test_a_writer_that_always_loses_gives_up_with_the_name_of_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditional, "_PAUSE", 0.0)
    table = Overtaken(MemoryStore(), "numbers")
    with pytest.raises(StoreUnavailable, match="The row p/k changed during each of 8 attempts"):
        await update(table, "p", "k", incremented)
