"""The rows of a consumer in the table `consumers`, and what they say. Pure.

Partition: the consumer's id. Row `policy`: name, team, products, models, networks, end and revocation, and limits and
access as JSON, so that a change replaces them all at once. There is a row per key, under the key's id, with the hash
of its text. No key can be read back from the table.

An identity of Entra ID has the id `entra-{tenant}-{object id}` and no keys. Its row has a name, and what operators
changed; the configuration grants the rest.
"""

import functools
import hashlib
import logging
from typing import Any, Literal

import msgspec

from shared.auth._jwt import ENTRA
from shared.auth.client_address import networks
from shared.azure_openai.json_body import UNREADABLE
from shared.config.limits import Limits, time_zone_problem
from shared.storage import Properties, Row, Value
from shared.types import ANYWHERE, Access, Consumer

POLICY = "policy"
_NOWHERE = "::/128"

logger = logging.getLogger("tollgate.consumers")


def is_identity(consumer_id: str) -> bool:
    """True for an identity of Entra ID, which calls with tokens instead of keys."""
    return consumer_id.startswith(ENTRA)


class StoredKey(msgspec.Struct, frozen=True):
    """A key as stored. Times in seconds since 1970; 0: never. `foreign`: the caller had it before. `successor`: the key
    that replaces it."""

    id: str
    digest: str
    created: float
    expires: float = 0.0
    revoked: float = 0.0
    foreign: bool = False
    successor: str = ""

    def valid_at(self, now: float) -> bool:
        return not self.revoked and not _over(self.expires, now)


State = Literal["active", "revoked", "expired"]


class Record(msgspec.Struct, frozen=True):
    """A consumer with its keys by id. Its end and its revocation are the keys', too."""

    consumer: Consumer
    keys: dict[str, StoredKey] = {}
    created: float = 0.0
    expires: float = 0.0
    revoked: float = 0.0

    @property
    def is_identity(self) -> bool:
        return is_identity(self.consumer.id)

    def state_at(self, now: float) -> State:
        if self.revoked:
            return "revoked"
        return "expired" if _over(self.expires, now) else "active"

    def changed(self, consumer: Consumer, expires: float, revoked: float) -> "Record":
        """This record with other values. Keys that would have ended with it do so again; keys that were ended one by
        one stay ended."""
        followed = [
            msgspec.structs.replace(
                key,
                expires=expires if key.expires == self.expires else key.expires,
                revoked=revoked if key.revoked == self.revoked else key.revoked,
            )
            for key in self.keys.values()
        ]
        own = {key.id: _within(key, expires, revoked) for key in followed}
        return Record(consumer, own, self.created, expires, revoked)


class Version(msgspec.Struct, frozen=True):
    """A consumer as it was read, to be changed. `deleted`: only its name is left, for reports."""

    record: Record
    policy: Row

    @property
    def deleted(self) -> bool:
        return bool(self.policy.properties.get("deleted"))

    @property
    def etag(self) -> str:
        """The ETag of policy and keys together."""
        keys_now = msgspec.json.encode(self.record.keys, order="sorted")
        return f'"{hashlib.sha256(self.policy.etag.encode() + keys_now).hexdigest()[:32]}"'


def _as_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _over(end: float, now: float) -> bool:
    return bool(end) and end <= now


def opens_more(key: StoredKey, old: StoredKey | None) -> bool:
    later = old is not None and old.expires and (not key.expires or key.expires > old.expires)
    return old is None or bool(later) or (bool(old.revoked) and not key.revoked)


def key_row(key: StoredKey) -> Properties:
    row: Properties = msgspec.to_builtins(key)
    return {name: value for name, value in row.items() if name != "id"}


def policy_row(record: Record) -> Properties:
    """The row of a policy. Old versions of the gateway read all of it but `expires`."""
    consumer = record.consumer
    policy: dict[str, Value] = {
        **{"name": consumer.name, "team": consumer.team, "addresses": ",".join(consumer.addresses)},
        **{"limits": _as_json(consumer.limits), "model_limits": _as_json(consumer.model_limits)},
        **{"created": record.created, "expires": record.expires, "revoked": record.revoked},
        **{"access": _as_json(consumer.access), "products": ",".join(consumer.products)},
    }
    if consumer.models is not None:
        policy["models"] = ",".join(sorted(consumer.models))
    return policy


def _access(consumer_id: str, text: str) -> Access:
    """A policy's access. An unreadable one allows nothing: a mistake must not lift a restriction."""
    if text == "{}":
        return ANYWHERE
    try:
        return msgspec.json.decode(text, type=Access)
    except msgspec.DecodeError as error:
        logger.error("invalid access in the policy of %s: all its calls are rejected: %s", consumer_id, error)
        return Access(regions=frozenset())


def version_of(consumer_id: str, rows: list[Row]) -> Version | None:
    row = next((row for row in rows if row.key == POLICY), None)
    if row is None:
        return None
    policy = row.properties
    models, addresses = policy.get("models"), str(policy.get("addresses", ""))
    consumer = Consumer(
        id=consumer_id,
        name=str(policy.get("name", consumer_id)),
        models=frozenset(str(models).split(",")) if models is not None else None,
        limits=_limits(consumer_id, str(policy.get("limits", "{}"))),
        team=str(policy.get("team", "")),
        model_limits=_model_limits(consumer_id, str(policy.get("model_limits", "{}"))),
        addresses=_networks(consumer_id, addresses) if addresses else (),
        access=_access(consumer_id, str(policy.get("access", "{}"))),
        products=tuple(filter(None, str(policy.get("products", "")).split(","))),
    )
    stored = [
        msgspec.convert({"id": row.key, **row.properties}, StoredKey, strict=False)
        for row in rows
        if "digest" in row.properties
    ]
    expires, revoked = _expires(policy, stored), float(policy.get("revoked", 0.0))
    own = {key.id: _within(key, expires, revoked) for key in stored}
    return Version(Record(consumer, own, float(policy.get("created", 0.0)), expires, revoked), row)


def _expires(policy: Properties, stored: list[StoredKey]) -> float:
    """The end of a consumer. Versions up to 0.1 wrote it into its keys alone."""
    if "expires" in policy:
        return float(policy["expires"])
    whole = policy.get("revoked", 0.0)
    ends = [key.expires for key in stored if key.revoked in (0.0, whole)] or [key.expires for key in stored]
    return max(ends, default=0.0) if all(ends) else 0.0


def _within(key: StoredKey, expires: float, revoked: float) -> StoredKey:
    """A key, which ends with its consumer at the latest."""
    ends = min(filter(None, (key.expires, expires)), default=0.0)
    return msgspec.structs.replace(key, expires=ends, revoked=key.revoked or revoked)


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
