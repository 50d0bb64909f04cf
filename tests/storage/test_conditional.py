import asyncio

from shared.errors import StoreUnavailable
from shared.storage import Properties, Row
from shared.storage.conditional import update
from tests.harness.memory_store import MemoryStore, MemoryTable


class Interleaved(MemoryTable):
    """A table whose writes let other writers run first."""

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        await asyncio.sleep(0)
        return await super().put(partition, key, properties, etag)


def incremented(row: Row | None) -> Properties:
    return {"n": int(row.properties["n"]) + 1 if row else 1}


async def test_writers_at_the_same_time_lose_no_change() -> None:
    table = Interleaved(MemoryStore(), "numbers")
    await asyncio.gather(*(update(table, "p", "k", incremented, tries=50) for _ in range(20)))
    row = await table.get("p", "k")
    assert row is not None
    assert row.properties == {"n": 20}


async def test_a_change_that_returns_none_writes_nothing() -> None:
    table = MemoryStore().table("numbers")
    assert await update(table, "p", "k", lambda row: None) is None
    assert await table.get("p", "k") is None
    assert await update(table, "p", "k", incremented) == {"n": 1}


async def test_a_writer_that_always_loses_gives_up_with_the_name_of_the_row() -> None:
    table = Interleaved(MemoryStore(), "numbers")
    outcomes = await asyncio.gather(
        *(update(table, "p", "k", incremented, tries=1) for _ in range(3)), return_exceptions=True
    )
    assert outcomes[0] == {"n": 1}
    for lost in outcomes[1:]:
        assert isinstance(lost, StoreUnavailable)
        assert "The row p/k changed during each of" in str(lost)
