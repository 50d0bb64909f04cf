"""Keys that callers had before: found by their digest, without a read for every guess."""

import asyncio

import msgspec
import pytest

from shared.auth import keys
from shared.auth.authenticator import Authenticator
from shared.auth.consumer_rows import Record
from shared.auth.consumers import Consumers
from shared.auth.foreign_keys import ForeignKeyIndex
from shared.config.limits import Limits
from shared.errors import InvalidApiKey, InvalidRequest, NameTaken, StoreUnavailable
from shared.storage import Row
from shared.types import Consumer
from tests.harness.consumer_changes import change
from tests.harness.consumers import create_consumer
from tests.harness.memory_store import MemoryStore, MemoryTable

APIM = "0123456789abcdef0123456789abcde7"  # as API Management makes them
OTHER = "fedcba98765432100123456789abcde7"


class Store(MemoryStore):
    """A store whose reads are counted by table, and which can be out of reach."""

    def __init__(self) -> None:
        self.time = 1_000_000.0
        super().__init__(lambda: self.time)
        self.reads: dict[str, int] = {}
        self.is_dead = False

    def table(self, name: str) -> MemoryTable:
        table = super().table(name)
        get, scan = table.get, table.scan

        def count() -> None:
            if self.is_dead:
                raise StoreUnavailable("dead")
            self.reads[name] = self.reads.get(name, 0) + 1

        async def counted_get(partition: str, key: str) -> Row | None:
            count()
            return await get(partition, key)

        async def counted_scan(partition: str, first: str = "", end: str = ""):  # type: ignore[no-untyped-def]
            count()
            async for row in scan(partition, first, end):
                yield row

        table.get, table.scan = counted_get, counted_scan  # type: ignore[method-assign]
        return table


class House:
    def __init__(self) -> None:
        self.store = Store()
        self.consumers = Consumers(self.store)
        self.authenticator = self.instance()

    def instance(self) -> Authenticator:
        """Another process on the same store."""
        return Authenticator(Consumers(self.store), self.store.now, self.store.now)

    async def consumer(self, name: str = "team") -> Record:
        consumer, _ = await create_consumer(self.consumers, name, models=None, limits=Limits())
        record = await self.consumers.find(consumer.id)
        assert record is not None
        return record

    async def who(self, key: str, header: str = "api-key") -> Consumer:
        return await self.authenticator.authenticate({header: key})

    async def refused(self, key: str) -> str:
        with pytest.raises(InvalidApiKey) as refusal:
            await self.who(key)
        return refusal.value.message

    async def later(self, seconds: float) -> None:
        self.store.time += seconds
        for _ in range(5):
            await asyncio.sleep(0)


async def imported(house: House, record: Record, text: str = APIM) -> str:
    _, key = await house.consumers.import_key(record, keys.digest_to_import(text))
    return key.id


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {APIM}"},
        {"api-key": APIM},
        {"ocp-apim-subscription-key": APIM},
        {"authorization": "Bearer something-else-of-the-client", "ocp-apim-subscription-key": APIM},
        {"authorization": "Basic YTpi", "ocp-apim-subscription-key": f"{APIM};product=gold"},
    ],
)
async def test_a_key_of_api_management_works_unchanged_in_every_header(headers: dict[str, str]) -> None:
    house = House()
    record = await house.consumer()
    await imported(house, record)
    caller = await house.authenticator.authenticate(headers)
    assert caller.id == record.consumer.id
    assert caller.product == ("gold" if "gold" in str(headers) else "")


async def test_a_foreign_key_is_cached_like_others() -> None:
    house = House()
    await imported(house, await house.consumer())
    await house.who(APIM)
    reads = dict(house.store.reads)
    for _ in range(50):
        await house.who(APIM)
    assert house.store.reads == reads


async def test_without_any_foreign_key_a_text_of_unknown_form_costs_no_read() -> None:
    house = House()
    for number in range(100):
        assert "start with tg_" in await house.refused(f"sk-guess-{number:030}")
    assert house.store.reads == {"foreignkeys": 1}
    await house.later(10.0)
    for number in range(100):
        await house.refused(f"sk-guess-{number:031}")
    await house.later(0.0)
    assert house.store.reads == {"foreignkeys": 2}  # in the background: an import may have been first


async def test_guessing_reads_neither_consumers_nor_more_than_one_row_in_two_seconds() -> None:
    house = House()
    await imported(house, await house.consumer())
    await house.who(APIM)
    before = dict(house.store.reads)
    for step in range(10):
        for number in range(100):
            await house.refused(f"sk-guess-{step:03}-{number:030}")
        await house.later(1.0)
    assert house.store.reads["consumers"] == before["consumers"]
    assert house.store.reads["foreignkeys"] <= before["foreignkeys"] + 5
    assert len(house.authenticator._foreign_keys._owners) == 1


async def test_short_texts_are_no_foreign_keys() -> None:
    house = House()
    record = await house.consumer()
    digest = keys.digest_to_import(APIM)
    for text in (APIM[:19], "x" * 300, APIM.replace("0", " "), "tg_0123456789_abcd_" + "0" * 38, "ü" * 30):
        assert keys.foreign_digest(text) is None
        with pytest.raises(ValueError, match="expected a key"):
            keys.digest_to_import(text)
    with pytest.raises(ValueError, match="fewer than 8 different characters"):
        keys.digest_to_import("abcabc" * 6)
    for wrong in ("", digest[:-1], digest.upper(), digest + "0", APIM):
        with pytest.raises(InvalidRequest, match="SHA-256"):
            await house.consumers.import_key(record, wrong)


async def test_another_process_accepts_an_imported_key_within_a_minute_and_at_once_after_a_pause() -> None:
    house = House()
    record = await house.consumer()
    await house.refused(APIM)
    await imported(house, record)
    await house.refused(APIM)  # as just read
    await house.later(2.0)
    await house.refused(APIM)  # and reads again
    await house.later(0.0)
    assert (await house.who(APIM)).id == record.consumer.id
    await imported(house, record, OTHER)
    await house.later(3600.0)
    assert (await house.who(OTHER)).id == record.consumer.id


async def test_a_foreign_key_is_listed_expires_and_is_revoked_with_its_consumer() -> None:
    house = House()
    record = await house.consumer()
    key_id = await imported(house, msgspec.structs.replace(record, expires=house.store.time + 100))
    listed = await house.consumers.find(record.consumer.id)
    assert listed is not None
    assert listed.keys[key_id].foreign
    assert len(listed.keys) == 2
    assert APIM not in str(house.store._tables)
    await house.who(APIM)
    await house.later(101.0)
    assert "expired" in await house.refused(APIM)
    await imported(house, record, OTHER)
    await house.later(60.0)
    await house.who(OTHER)
    await change(house.consumers, record.consumer.id, revoked=house.store.time)
    await house.later(60.0)
    assert "revoked" in await house.refused(OTHER)


async def test_a_rotation_replaces_a_foreign_key_by_one_of_the_gateway() -> None:
    house = House()
    record = await house.consumer()
    foreign = await imported(house, record)
    record = await house.consumers.find(record.consumer.id) or record
    new, _ = await house.consumers.rotate(record, foreign, overlap=100.0)
    assert await house.who(APIM) == await house.who(new)
    await house.later(101.0)
    await house.refused(APIM)
    assert (await house.who(new)).id == record.consumer.id


async def test_a_key_belongs_to_one_consumer_and_importing_it_again_changes_nothing() -> None:
    house = House()
    first, second = await house.consumer("first"), await house.consumer("second")
    key_id = await imported(house, first)
    again = await house.consumers.find(first.consumer.id)
    assert again is not None
    assert await imported(house, again) == key_id
    with pytest.raises(NameTaken, match=first.consumer.id):
        await imported(house, second)
    assert (await house.who(APIM)).name == "first"


async def test_an_import_that_failed_halfway_is_completed_by_the_next() -> None:
    house = House()
    record = await house.consumer()
    merge = house.consumers._table.merge

    async def failing(partition: str, rows: object) -> None:
        raise StoreUnavailable("halfway")

    house.consumers._table.merge = failing  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        await imported(house, record)
    house.consumers._table.merge = merge  # type: ignore[method-assign]
    await house.refused(APIM)
    await imported(house, record)
    await house.later(60.0)
    assert (await house.who(APIM)).id == record.consumer.id
    assert len(await ForeignKeyIndex(house.store).all()) == 1


async def test_a_key_of_a_consumer_that_is_gone_can_be_imported_for_another() -> None:
    house = House()
    first, second = await house.consumer("first"), await house.consumer("second")
    key_id = await imported(house, first)
    await house.store.table("consumers").delete(first.consumer.id, key_id)
    await imported(house, second)
    assert (await house.who(APIM)).name == "second"


async def test_the_index_forgets_a_key_with_its_row() -> None:
    """Or an owner of a team, who imports and revokes again and again, would fill it."""
    house = House()
    first, second = await house.consumer("first"), await house.consumer("second")
    for number in range(5):
        record = await house.consumers.find(first.consumer.id)
        assert record is not None
        await house.consumers.drop_keys(record, house.store.time, 0.0, 2)
        key_id = await imported(house, record, f"a-key-of-twenty-or-more-{number}")
        await house.consumers.revoke_key(record, key_id)
        await house.later(1.0)
    index = ForeignKeyIndex(house.store)
    assert len(await index.all()) == 2
    await imported(house, second, "a-key-of-twenty-or-more-0")
    version = await house.consumers.read(first.consumer.id)
    assert version is not None
    await house.consumers.delete(version)
    assert [owner.consumer for owner in (await index.all()).values()] == [second.consumer.id]


async def test_a_key_that_another_consumer_has_meanwhile_stays_in_the_index() -> None:
    house = House()
    first, second = await house.consumer("first"), await house.consumer("second")
    key_id = await imported(house, first)
    late = await house.consumers.read(first.consumer.id)
    await house.store.table("consumers").delete(first.consumer.id, key_id)
    await imported(house, second)
    assert late is not None
    await house.consumers.delete(late)
    assert (await house.who(APIM)).name == "second"


async def test_with_the_store_out_of_reach_known_keys_work_and_before_the_first_read_all_get_503() -> None:
    house = House()
    await imported(house, await house.consumer())
    await house.who(APIM)
    house.store.is_dead = True
    for _ in range(5):
        await house.later(40.0)
        assert (await house.who(APIM)).name == "team"
    other = house.instance()
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await other.authenticate({"api-key": APIM})
    house.store.is_dead = False
    await house.later(2.0)
    assert (await other.authenticate({"api-key": APIM})).name == "team"
    assert (await house.instance().authenticate({"api-key": APIM})).name == "team"
