"""Names are given once: also to two operators at once, after a crash, and beside consumers from before the index."""

import asyncio

import pytest

from shared.auth.consumer_names import ConsumerNames
from shared.auth.consumers import Consumers
from shared.config.limits import Limits
from tests.harness.consumer_changes import change
from tests.harness.consumers import create_consumer
from tests.harness.memory_store import MemoryStore


class House:
    """A table, and the operators' processes, each with an index of its own."""

    def __init__(self) -> None:
        self.time = 1_000_000.0
        self.store = MemoryStore(lambda: self.time)
        self.consumers = Consumers(self.store)

    def index(self) -> ConsumerNames:
        return ConsumerNames(self.store, lambda: self.time)

    async def made(self, name: str) -> str:
        consumer, _ = await create_consumer(self.consumers, name, models=None, limits=Limits())
        return consumer.id


@pytest.fixture
def house() -> House:
    return House()


async def test_of_many_claims_at_once_one_wins(house: House) -> None:
    holders = await asyncio.gather(*(house.index().claim("team", f"id-{number}") for number in range(20)))
    assert holders.count(None) == 1
    winner = f"id-{holders.index(None)}"
    assert {holder for holder in holders if holder} == {winner}


async def test_a_claim_ends_if_its_consumer_was_never_written(house: House) -> None:
    assert await house.index().claim("team", "crashed") is None
    assert await house.index().claim("Team", "next") == "crashed"
    house.time += 31
    assert await house.index().claim("Team", "next") is None


async def test_a_claim_that_was_withdrawn_ends_soon(house: House) -> None:
    assert await house.index().claim("team", "failed") is None
    await house.index().withdraw("team", "failed")
    assert await house.index().claim("team", "next") == "failed"  # the write may still land
    house.time += 2.1
    assert await house.index().claim("team", "next") is None


async def test_a_name_is_kept_for_as_long_as_its_consumer_has_it(house: House) -> None:
    consumer_id = await house.made("team")
    assert await house.index().claim("team", consumer_id) is None
    house.time += 10_000
    assert await house.index().claim(" TEAM", "next") == consumer_id
    await change(house.consumers, consumer_id, name="renamed")  # by a version that knows no index
    assert await house.index().claim("team", "next") is None


async def test_a_released_name_is_free_at_once_but_only_its_holder_releases_it(house: House) -> None:
    assert await house.index().claim("team", "first") is None
    await house.index().release("team", "another")
    assert await house.index().claim("team", "next") == "first"
    await house.index().release("team", "first")
    assert await house.index().claim("team", "next") is None


async def test_the_name_of_a_consumer_without_a_row_is_taken_too(house: House) -> None:
    consumer_id = await house.made("Old Team")
    index = house.index()
    assert await index.claim("old  team", "next") == consumer_id
    assert await index.claim("old team", consumer_id) is None  # its own
    late = await house.made("late")
    house.time += 61  # an old version made it, and the list is a minute old at most
    assert await index.claim("late", "next") == late


async def test_the_name_of_a_deleted_consumer_is_free(house: House) -> None:
    consumer_id = await house.made("team")
    version = await house.consumers.read(consumer_id)
    assert version is not None
    await house.consumers.delete(version)
    assert await house.index().claim("team", "next") is None
    assert (await house.consumers.names())[consumer_id] == "team"
