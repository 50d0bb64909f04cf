"""The rows of consumers: conditional writes, and rows of earlier and later versions of the gateway."""

import msgspec

from shared.auth import keys
from shared.auth.consumers import Consumers
from shared.config.limits import Limits
from shared.storage import Properties, names
from tests.harness.consumer_changes import change
from tests.harness.consumers import create_consumer
from tests.harness.memory_store import MemoryStore, MemoryTable

NOW = 1_000_000.0


def store() -> MemoryStore:
    return MemoryStore(lambda: NOW)


async def rows_of_version_0_1(
    tables: MemoryStore, consumer_id: str, *, expires: float = 0.0, revoked: float = 0.0
) -> str:
    """A consumer as the first version wrote it: expiry and revocation stand in each key."""
    text, key = keys.make(consumer_id)
    policy: Properties = {
        "name": "old",
        "created": 1.0,
        "limits": "{}",
        "team": "",
        "addresses": "",
        "models": "gpt-4o",
    }
    stored: Properties = {"digest": key.digest, "created": 1.0, "expires": expires, "revoked": revoked}
    ended: Properties = {**stored, "expires": 500.0}  # replaced long ago
    rows = {"policy": {**policy, **({"revoked": revoked} if revoked else {})}, key.key_id: stored, "aaaa": ended}
    await tables.table(names.CONSUMERS).merge(consumer_id, rows)
    return text


async def test_a_consumer_of_the_first_version_ends_with_its_last_key_and_can_be_extended() -> None:
    tables = store()
    consumers = Consumers(tables)
    await rows_of_version_0_1(tables, "old0000000", expires=NOW + 10)
    version = await consumers.read("old0000000")
    assert version is not None
    record = version.record
    assert (record.expires, record.state_at(NOW), record.state_at(NOW + 11)) == (NOW + 10, "active", "expired")
    await consumers.write(record.changed(record.consumer, NOW + 100, 0.0), version)
    extended = await consumers.find("old0000000")
    assert extended is not None
    assert sorted(key.expires for key in extended.keys.values()) == [500.0, NOW + 100]  # the replaced one stays ended


async def test_a_consumer_that_the_first_version_revoked_is_restored_with_its_keys() -> None:
    tables = store()
    consumers = Consumers(tables)
    await rows_of_version_0_1(tables, "old0000000", revoked=NOW - 10)
    record = await consumers.find("old0000000")
    assert record is not None
    assert record.state_at(NOW) == "revoked"
    await change(consumers, "old0000000", revoked=0.0)
    record = await consumers.find("old0000000")
    assert record is not None
    assert [key.valid_at(NOW) for key in record.keys.values()].count(True) == 1


async def test_a_change_keeps_what_a_later_version_stored_and_drops_what_it_took_away() -> None:
    tables = store()
    consumers = Consumers(tables)
    await rows_of_version_0_1(tables, "old0000000")
    await tables.table(names.CONSUMERS).merge("old0000000", {"policy": {"colour": "red"}})
    await change(consumers, "old0000000", models=None, limits=Limits(tokens_per_minute=5))
    row = await tables.table(names.CONSUMERS).get("old0000000", "policy")
    assert row is not None
    assert row.properties["colour"] == "red"
    record = await consumers.find("old0000000")
    assert record is not None
    assert (record.consumer.models, record.consumer.limits) == (None, Limits(tokens_per_minute=5))


async def test_of_two_changes_of_one_version_the_second_is_not_made() -> None:
    tables = store()
    consumers = Consumers(tables)
    made, _ = await create_consumer(consumers, "one", models=None, limits=Limits())
    version = await consumers.read(made.id)
    assert version is not None
    first, second = (
        version.record.changed(msgspec.structs.replace(made, team=team), 0.0, 0.0) for team in ("first", "second")
    )
    assert await consumers.write(first, version) is not None
    assert await consumers.write(second, version) is None
    assert await consumers.delete(version) is None
    record = await consumers.find(made.id)
    assert record is not None
    assert record.consumer.team == "first"


class OvertakenTable(MemoryTable):
    """The answer to the first replacement is lost, and the client sends it again after another writer."""

    overtaken = False

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        written = await super().put(partition, key, properties, etag)
        if etag is None or written is None or OvertakenTable.overtaken:
            return written
        OvertakenTable.overtaken = True
        await change(Consumers(self._store), partition, team="another's")
        return await super().put(partition, key, properties, etag)


class OvertakenStore(MemoryStore):
    def table(self, name: str) -> MemoryTable:
        return OvertakenTable(self, name)


async def test_a_write_whose_answer_was_lost_counts_also_if_another_wrote_after_it() -> None:
    tables = OvertakenStore(lambda: NOW)
    consumers = Consumers(tables)
    made, _ = await create_consumer(consumers, "one", models=None, limits=Limits())
    version = await consumers.read(made.id)
    assert version is not None
    written = await consumers.write(
        version.record.changed(msgspec.structs.replace(made, name="ours"), 0.0, 0.0), version
    )
    assert OvertakenTable.overtaken
    assert written is not None
    newest = await consumers.read(made.id)
    assert newest is not None
    assert (newest.record.consumer.name, newest.record.consumer.team) == ("ours", "another's")
    assert written.etag != newest.etag
