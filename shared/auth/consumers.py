"""The consumers and their keys, as rows of the table `consumers`: created, found, listed, rotated, revoked.

Partition: the consumer's id. Row `policy`: name, team, products, models, networks, and limits and access as JSON, so
that a change replaces them all at once. There is a row per key, under the key's id, with the hash of its text. No key
can be read back from the table.

An identity of Entra ID has the id `entra-{tenant}-{object id}` and no keys. Its row has a name, and what operators
changed; the configuration grants the rest.
"""

import functools
import logging
from datetime import UTC, datetime
from typing import Any

import msgspec

from shared.auth import keys
from shared.auth._jwt import ENTRA, Identity
from shared.auth.client_address import networks
from shared.auth.foreign_keys import ForeignKeyIndex, Owner
from shared.azure_openai.json_body import UNREADABLE
from shared.config.document import Limits, time_zone_problem
from shared.errors import InvalidRequest, NameTaken, StoreUnavailable
from shared.storage import Properties, Row, Store, Value, names
from shared.types import ANYWHERE, Access, Consumer

_POLICY = "policy"
_NOWHERE = "::/128"

logger = logging.getLogger("tollgate.consumers")


class StoredKey(msgspec.Struct, frozen=True):
    """A key as stored. Times in seconds since 1970; 0: never."""

    id: str
    digest: str
    created: float
    expires: float = 0.0
    revoked: float = 0.0
    foreign: bool = False

    def valid_at(self, now: float) -> bool:
        return not self.revoked and (not self.expires or now < self.expires)


class Record(msgspec.Struct, frozen=True):
    """A consumer with its keys by id. `revoked`: all of it, in seconds since 1970; 0: never."""

    consumer: Consumer
    keys: dict[str, StoredKey]
    created: float
    revoked: float = 0.0

    @property
    def is_identity(self) -> bool:
        """True for an identity of Entra ID, which calls with tokens instead of keys."""
        return self.consumer.id.startswith(ENTRA)

    def active_at(self, now: float) -> bool:
        if self.is_identity:
            return not self.revoked
        return any(key.valid_at(now) for key in self.keys.values())


class Consumers:
    """The `consumers` table. Every method raises `StoreUnavailable` when the table does not answer."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._table = store.table(names.CONSUMERS)
        self.foreign_keys = ForeignKeyIndex(store)

    async def find(self, consumer_id: str) -> Record | None:
        """The consumer of that id, or None."""
        if not keys.is_consumer_id(consumer_id):
            return None
        return _record(consumer_id, [row async for row in self._table.scan(consumer_id)])

    async def all(self) -> list[Record]:
        """Every consumer, oldest first."""
        rows: dict[str, list[Row]] = {}
        async for row in self._table.scan_all():
            rows.setdefault(row.partition, []).append(row)
        records = [record for consumer_id, group in rows.items() if (record := _record(consumer_id, group))]
        return sorted(records, key=lambda record: record.created)

    async def create(
        self,
        name: str,
        *,
        models: frozenset[str] | None,
        limits: Limits,
        expires: float = 0.0,
        team: str = "",
        addresses: tuple[str, ...] = (),
        access: Access = ANYWHERE,
        products: tuple[str, ...] = (),
    ) -> tuple[Consumer, str]:
        """Create a consumer. Return it with the text of its first key, which cannot be shown again."""
        consumer = Consumer(
            keys.new_id(10),
            name,
            models,
            limits,
            team=team,
            addresses=addresses,
            access=access,
            products=products,
        )
        text, key = keys.make(consumer.id)
        now = self._store.now()
        policy: dict[str, Value] = {"name": name, "created": now, "limits": _as_json(limits), "team": team}
        policy["addresses"] = ",".join(addresses)
        if models is not None:
            policy["models"] = ",".join(sorted(models))
        if access != ANYWHERE:
            policy["access"] = _as_json(access)
        if products:
            policy["products"] = ",".join(products)
        await self._table.merge(consumer.id, {_POLICY: policy, key.key_id: _key_row(key, now, expires)})
        return consumer, text

    async def change_limits(self, record: Record, limits: Limits, model: str = "") -> None:
        """Replace the limits of a consumer, or its limits on one model. Effective everywhere within 60 s."""
        changed: Properties = {"limits": _as_json(limits)}
        if model:
            changed = {"model_limits": _as_json({**record.consumer.model_limits, model: limits})}
        await self._table.merge(record.consumer.id, {_POLICY: changed})

    async def change_addresses(self, record: Record, addresses: tuple[str, ...]) -> None:
        """Replace the networks that a consumer may call from. Effective everywhere within 60 s."""
        await self._table.merge(record.consumer.id, {_POLICY: {"addresses": ",".join(addresses)}})

    async def change_access(self, record: Record, access: Access) -> None:
        """Replace the regions and permissions of a consumer. Effective everywhere within 60 s."""
        await self._table.merge(record.consumer.id, {_POLICY: {"access": _as_json(access)}})

    async def rotate(self, record: Record, *, grace: float = 0.0) -> str:
        """Create a new key of an active consumer, which ends when its last key would have ended; the old ones end after
        `grace` seconds. Return the new key's text."""
        _require_keys(record)
        text, key = keys.make(record.consumer.id)
        now = self._store.now()
        valid = [old for old in record.keys.values() if old.valid_at(now)]
        expires = 0.0 if any(not old.expires for old in valid) else max(old.expires for old in valid)
        rows: dict[str, Properties] = {key.key_id: _key_row(key, now, expires)}
        for old in valid:
            ends = min(old.expires or now + grace, now + grace)
            rows[old.id] = {"expires": ends} if grace > 0 else {"revoked": now}
        await self._table.merge(record.consumer.id, rows)
        return text

    async def register(self, identity: Identity) -> None:
        """Insert the row of an identity, unless there is one."""
        row: Properties = {"name": identity.name, "created": self._store.now()}
        await self._table.put(identity.consumer_id, _POLICY, row, None)

    async def import_key(self, record: Record, digest: str, *, expires: float = 0.0) -> str:
        """Give a consumer a key that it had before, by the digest of its text (`keys.digest_to_import`). Return the
        key's id. Valid everywhere within 60 s. An import that failed halfway is completed by the next one of the key.

        Raises `InvalidRequest`, and `NameTaken` if another consumer has the key."""
        _require_keys(record)
        if not keys.is_digest(digest):
            raise InvalidRequest("digest: expected the SHA-256 of a key, 64 hexadecimal digits in lower case")
        found = await self.foreign_keys.find(digest)
        owner, etag = found if found is not None else (None, None)
        if owner is None or owner.consumer != record.consumer.id:
            if owner is not None and await self._has_key(owner, digest):
                raise NameTaken(f"The key is already one of the consumer {owner.consumer}.")
            owner = Owner(record.consumer.id, keys.new_id(4))
            if not await self.foreign_keys.claim(digest, owner, etag):
                raise StoreUnavailable("Another import of this key was faster. Import it again.")
        if owner.key not in record.keys:
            key = keys.Key(owner.consumer, owner.key, digest)
            row = {**_key_row(key, self._store.now(), expires), "foreign": True}
            await self._table.merge(owner.consumer, {owner.key: row})
        await self.foreign_keys.publish()
        return owner.key

    async def _has_key(self, owner: Owner, digest: str) -> bool:
        record = await self.find(owner.consumer)
        stored = record.keys.get(owner.key) if record is not None else None
        return stored is not None and keys.same(stored.digest, digest)

    async def revoke(self, record: Record) -> None:
        """End every key of a consumer, also one that is being made meanwhile. The rows stay, so that reports still have
        its name."""
        revoked: Properties = {"revoked": self._store.now()}
        await self._table.merge(record.consumer.id, dict.fromkeys((_POLICY, *record.keys), revoked))


def when(seconds: float) -> str:
    """A time as people read it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M") if seconds else ""


def _as_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _require_keys(record: Record) -> None:
    if record.is_identity:
        raise InvalidRequest(
            f"{record.consumer.name} is an identity of Entra ID, which calls with tokens: it has no keys."
        )


def _key_row(key: keys.Key, created: float, expires: float) -> Properties:
    return {"digest": key.digest, "created": created, "expires": expires, "revoked": 0.0}


def _access(consumer_id: str, text: str) -> Access:
    """A policy's access. An unreadable one allows nothing: a mistake must not lift a restriction."""
    if text == "{}":
        return ANYWHERE
    try:
        return msgspec.json.decode(text, type=Access)
    except msgspec.DecodeError as error:
        logger.error("unreadable access in the policy of %s, which may call nothing: %s", consumer_id, error)
        return Access(regions=frozenset())


def _record(consumer_id: str, rows: list[Row]) -> Record | None:
    policy = next((row.properties for row in rows if row.key == _POLICY), None)
    if policy is None:
        return None
    models, addresses = policy.get("models"), str(policy.get("addresses", ""))
    whole = {"revoked": policy["revoked"]} if policy.get("revoked") else {}
    stored = {
        row.key: msgspec.convert({"id": row.key, **row.properties, **whole}, StoredKey, strict=False)
        for row in rows
        if "digest" in row.properties
    }
    return Record(
        consumer=Consumer(
            id=consumer_id,
            name=str(policy.get("name", consumer_id)),
            models=frozenset(str(models).split(",")) if models is not None else None,
            limits=_limits(consumer_id, str(policy.get("limits", "{}"))),
            team=str(policy.get("team", "")),
            model_limits=_model_limits(consumer_id, str(policy.get("model_limits", "{}"))),
            addresses=_networks(consumer_id, addresses) if addresses else (),
            access=_access(consumer_id, str(policy.get("access", "{}"))),
            products=tuple(filter(None, str(policy.get("products", "")).split(","))),
        ),
        keys=stored,
        created=float(policy.get("created", 0.0)),
        revoked=float(policy.get("revoked", 0.0)),
    )


@functools.lru_cache(maxsize=4096)  # one line in the log for each, not one every 30 s
def _limits(consumer_id: str, text: str) -> Limits:
    """A policy's limits. Limits that this version of the gateway does not know are logged and ignored; the others
    apply."""
    return _supported(consumer_id, _decoded(consumer_id, text))


@functools.lru_cache(maxsize=4096)
def _model_limits(consumer_id: str, text: str) -> dict[str, Limits]:
    return {model: _supported(f"{consumer_id} on {model}", own) for model, own in _decoded(consumer_id, text).items()}


def _decoded(whose: str, text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except UNREADABLE:
        logger.error("the limits in the policy of %s are not a JSON object: the configuration's defaults apply", whose)
        return {}


def _supported(whose: str, values: object) -> Limits:
    supported = {}
    for name, value in values.items() if isinstance(values, dict) else ():
        try:
            problem = time_zone_problem(msgspec.convert({name: value}, Limits))
        except msgspec.ValidationError as error:
            problem = str(error)
        if problem:
            logger.error("ignoring a limit in the policy of %s: %s: %s", whose, name[:64], problem)
        else:
            supported[name] = value
    return msgspec.convert(supported, Limits)


@functools.lru_cache(maxsize=4096)
def _networks(whose: str, text: str) -> tuple[str, ...]:
    """A policy's networks. An unreadable one matches no address."""
    allowed: list[str] = []
    for part in text.split(","):
        try:
            allowed += networks((part,))
        except ValueError as error:
            logger.error("a network in the policy of %s matches no address: %s", whose, error)
            allowed.append(_NOWHERE)
    return tuple(allowed)
