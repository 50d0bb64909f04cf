"""The consumers and their keys in the table `consumers`: found, listed, changed, rotated, deleted.

`consumer_rows.py` says what stands in the rows. Every change of a policy is a conditional write.
"""

import secrets

import msgspec

from shared.auth import keys
from shared.auth._jwt import Identity
from shared.auth.consumer_rows import POLICY, Record, StoredKey, Version, key_row, opens_more, policy_row, version_of
from shared.auth.foreign_keys import ForeignKeyIndex, Owner
from shared.errors import InvalidRequest, NameTaken, StoreUnavailable
from shared.storage import Properties, Row, Store, Value, names
from shared.types import Consumer

_MARKS, _KEEP_MARKS = "writes", 32


class Consumers:
    """The `consumers` table. Every method raises `StoreUnavailable` when the table does not answer."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._table = store.table(names.CONSUMERS)
        self.foreign_keys = ForeignKeyIndex(store)

    async def find(self, consumer_id: str) -> Record | None:
        """The consumer of that id, or None."""
        version = await self.read(consumer_id)
        return version.record if version and not version.deleted else None

    async def read(self, consumer_id: str) -> Version | None:
        """The consumer of that id, also a deleted one, or None."""
        if not keys.is_consumer_id(consumer_id):
            return None
        return version_of(consumer_id, [row async for row in self._table.scan(consumer_id)])

    async def all(self) -> list[Record]:
        """Every consumer, oldest first."""
        records = [version.record for version in await self.versions() if not version.deleted]
        return sorted(records, key=lambda record: record.created)

    async def names(self) -> dict[str, str]:
        """The names of all consumers by id, for reports: also of those that were deleted."""
        return {version.record.consumer.id: version.record.consumer.name for version in await self.versions()}

    async def versions(self) -> list[Version]:
        """Every consumer by id, also the deleted ones."""
        rows: dict[str, list[Row]] = {}
        async for row in self._table.scan_all():
            rows.setdefault(row.partition, []).append(row)
        return [version for consumer_id, group in rows.items() if (version := version_of(consumer_id, group))]

    async def write(self, record: Record, old: Version | None = None) -> Version | None:
        """Insert a consumer with its keys, or replace this version of one. Return the new version, None if another
        writer was faster.

        Keys that open more are written first: without a policy, or with the old one, they do not yet. That others open
        less follows from the policy."""
        consumer_id = record.consumer.id
        if old is not None and old.deleted:
            await self._drop_keys(old.record)
        old_keys = old.record.keys if old is not None and not old.deleted else {}
        opening = [key for key in record.keys.values() if opens_more(key, old_keys.get(key.id))]
        await self._table.merge(consumer_id, {key.id: key_row(key) for key in opening})
        stored = {} if old is None or old.deleted else old.policy.properties
        kept = {name: value for name, value in stored.items() if name != "models"}  # what newer versions store
        return await self._put(record, {**kept, **policy_row(record)}, old)

    async def delete(self, old: Version) -> Version | None:
        """Delete this version of a consumer, except its name. Return what is left, None if another writer was
        faster."""
        now = self._store.now()
        left: dict[str, Value] = {"revoked": old.record.revoked or now, "deleted": now}
        version = await self._put(old.record, {**old.policy.properties, **left}, old)
        if version is not None:
            await self._drop_keys(old.record)
        return version

    async def add_key(self, record: Record) -> tuple[str, StoredKey]:
        """Create another key, which ends with its consumer. Return its text, which cannot be shown again."""
        text, key = self._new_key(record)
        await self._table.merge(record.consumer.id, {key.id: key_row(key)})
        return text, key

    async def rotate(self, record: Record, key_id: str, *, overlap: float = 0.0) -> tuple[str, StoredKey]:
        """Replace a valid key: it, and those that were replaced before, end after `overlap` seconds. The new one ends
        with its consumer, or with the key that it replaces if that one has an end. Return its text."""
        text, key = self._new_key(record)
        own_end = record.keys[key_id].expires if not record.keys[key_id].successor else 0.0
        if own_end and not 0 < key.expires < own_end:
            key = msgspec.structs.replace(key, expires=own_end)
        now = key.created
        rows: dict[str, Properties] = {key.id: key_row(key)}
        for old in record.keys.values():
            if old.valid_at(now) and (old.id == key_id or old.successor):
                ends = min(old.expires or now + overlap, now + overlap)
                end: dict[str, Value] = {"expires": ends} if overlap > 0 else {"revoked": now}
                rows[old.id] = {**end, "successor": key.id}
        await self._table.merge(record.consumer.id, rows)
        return text, key

    async def register(self, identity: Identity) -> None:
        """Insert the row of an identity, unless there is one."""
        row: Properties = {"name": identity.name, "created": self._store.now()}
        if await self._table.put(identity.consumer_id, POLICY, row, None) is None:
            version = await self.read(identity.consumer_id)
            if version is not None and version.deleted:
                consumer = Consumer(identity.consumer_id, identity.name)
                await self.write(Record(consumer, {}, self._store.now()), version)

    async def import_key(self, record: Record, digest: str) -> tuple[None, StoredKey]:
        """Give a consumer a key that it had before, by the digest of its text (`keys.digest_to_import`). Return the
        key, without its text. Valid everywhere within 60 s. An import that failed halfway is completed by the next one
        of the key.

        Raises `InvalidRequest`, and `NameTaken` if another consumer has the key."""
        _require_keys(record)
        if not keys.is_digest(digest):
            raise InvalidRequest("digest: expected the SHA-256 of a key, 64 hexadecimal digits in lower case")
        owner, etag = await self.foreign_keys.find(digest) or (None, None)
        if owner is None or owner.consumer != record.consumer.id:
            if owner is not None and await self._has_key(owner, digest):
                raise NameTaken(f"The key already belongs to the consumer {owner.consumer}.")
            owner = Owner(record.consumer.id, keys.new_id(4))
            if not await self.foreign_keys.claim(digest, owner, etag):
                raise StoreUnavailable("This key was imported twice at the same time. Import it again.")
        key = record.keys.get(owner.key)
        if key is None:
            key = StoredKey(owner.key, digest, self._store.now(), record.expires, foreign=True)
            await self._table.merge(owner.consumer, {owner.key: key_row(key)})
        await self.foreign_keys.publish()
        return None, key

    async def _has_key(self, owner: Owner, digest: str) -> bool:
        record = await self.find(owner.consumer)
        stored = record.keys.get(owner.key) if record is not None else None
        return stored is not None and keys.same(stored.digest, digest)

    async def revoke_key(self, record: Record, key_id: str) -> float:
        """End one key for good. Return when it ended."""
        now = self._store.now()
        await self._table.merge(record.consumer.id, {key_id: {"revoked": now}})
        return now

    async def drop_keys(self, record: Record, now: float, ended_before: float, most: int) -> int:
        """Delete the keys that ended before a time, and the oldest ended ones beyond so many keys. Return the number of
        those that are left."""
        left = len(record.keys)
        ended = [(key.revoked or key.expires, key.id) for key in record.keys.values() if not key.valid_at(now)]
        for end, key_id in sorted(ended):
            if end < ended_before or left > most:
                await self._drop_key(record, key_id)
                left -= 1
        return left

    async def _drop_keys(self, record: Record) -> None:
        for key_id in record.keys:
            await self._drop_key(record, key_id)

    async def _drop_key(self, record: Record, key_id: str) -> None:
        """Delete a key, and its row in the index if the caller had it before: every process has that in memory."""
        key = record.keys[key_id]
        if key.foreign:
            await self.foreign_keys.release(key.digest, Owner(record.consumer.id, key_id))
        await self._table.delete(record.consumer.id, key_id)

    def _new_key(self, record: Record) -> tuple[str, StoredKey]:
        _require_keys(record)
        text, key = keys.make(record.consumer.id)
        while key.key_id in record.keys:
            text, key = keys.make(record.consumer.id)
        return text, StoredKey(key.key_id, key.digest, self._store.now(), record.expires)

    async def _put(self, record: Record, properties: Properties, old: Version | None) -> Version | None:
        """Write the policy of a consumer. A write whose answer was lost is recognised by its mark, also if others wrote
        after it: the row keeps the last marks."""
        consumer_id, mark = record.consumer.id, secrets.token_hex(4)
        marks = str(old.policy.properties.get(_MARKS, "")).split(",") if old else []
        properties = {**properties, _MARKS: ",".join([*marks, mark][-_KEEP_MARKS:])}
        failure: StoreUnavailable | None = None
        try:
            etag = await self._table.put(consumer_id, POLICY, properties, old.policy.etag if old else None)
        except StoreUnavailable as error:
            etag, failure = None, error
        if etag is None:
            row = await self._table.get(consumer_id, POLICY)
            newest_marks = str(row.properties.get(_MARKS, "")).split(",") if row is not None else []
            if row is None or mark not in newest_marks:
                if failure is not None:
                    raise failure
                return None
            etag = row.etag if newest_marks[-1] == mark else mark  # of a version that is over, and so matches nothing
        return Version(record, Row(consumer_id, POLICY, dict(properties), etag))


def _require_keys(record: Record) -> None:
    if record.is_identity:
        raise InvalidRequest(
            f"{record.consumer.name} is an identity of Entra ID, which calls with tokens: it has no keys."
        )
