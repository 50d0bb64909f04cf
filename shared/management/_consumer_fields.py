"""A consumer and its keys as operators write and read them. Pure."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from shared.auth.consumer_rows import Record, State, StoredKey
from shared.config.limits import Limits
from shared.errors import InvalidRequest
from shared.management.routes import checked, rfc3339

Names = Annotated[list[str], Meta(min_length=1, max_length=200)]
_READ_ONLY = ("id", "created", "keys")


class Fields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A consumer as operators write it. `products`: its subscriptions, the default first. `models`, `regions`,
    `data_zones` null: all. `expires`: RFC 3339, null: never. `state` `expired` follows from `expires`: written, it
    means `active`."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    team: Annotated[str, Meta(max_length=128)] = ""
    products: Annotated[list[str], Meta(max_length=60)] = []
    models: Names | None = None
    limits: Limits = Limits()
    model_limits: Annotated[dict[str, Limits], Meta(max_length=60)] = {}
    addresses: Annotated[list[str], Meta(max_length=200)] = []
    regions: Names | None = None
    data_zones: Names | None = None
    pin: bool = False
    explain: bool = False
    whole_account: bool = False
    expires: str | None = None
    state: State = "active"


class FirstFields(Fields, frozen=True, kw_only=True):
    """A consumer to be created. `id`: a new one, by default a random one."""

    id: Annotated[str, Meta(pattern="^[0-9a-z][0-9a-z-]{0,79}$")] | None = None


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A key without its secret. `revoked` and `expires` are times, null: never. `foreign`: its caller had it
    before. `successor`: the id of the key that replaces it, or ""."""

    id: str
    created: str | None
    expires: str | None
    revoked: str | None
    state: State
    foreign: bool
    successor: str


class ConsumerView(Fields, frozen=True, kw_only=True):
    """A consumer as operators read it."""

    id: str
    created: str | None
    keys: list[KeyView]


class NewConsumer(ConsumerView, frozen=True, kw_only=True):
    """A consumer that has just been created. `key`: the text of its first key, shown only here."""

    key: str


def key_view(key: StoredKey, now: float) -> KeyView:
    state: State = "revoked" if key.revoked else "active" if key.valid_at(now) else "expired"
    times = {"created": rfc3339(key.created), "expires": rfc3339(key.expires), "revoked": rfc3339(key.revoked)}
    return KeyView(id=key.id, state=state, foreign=key.foreign, successor=key.successor, **times)


def view(record: Record, now: float) -> ConsumerView:
    consumer, access = record.consumer, record.consumer.access
    return ConsumerView(
        id=consumer.id,
        name=consumer.name,
        team=consumer.team,
        products=list(consumer.products),
        models=_listed(consumer.models),
        limits=consumer.limits,
        model_limits=consumer.model_limits,
        addresses=list(consumer.addresses),
        regions=_listed(access.regions),
        data_zones=_listed(access.data_zones),
        pin=access.pin,
        explain=access.explain,
        whole_account=access.whole_account,
        expires=rfc3339(record.expires),
        state=record.state_at(now),
        created=rfc3339(record.created),
        keys=[key_view(key, now) for key in sorted(record.keys.values(), key=lambda key: (key.created, key.id))],
    )


def whole(body: Mapping[str, Any], consumer_id: str) -> Fields:
    """The fields in a body that replaces a consumer. What is only read is ignored, as long as the id is the consumer's.
    Raises `InvalidRequest`."""
    if body.get("id", consumer_id) != consumer_id:
        raise InvalidRequest(f"id: expected {consumer_id!r}, as in the path: an id cannot change.", param="id")
    return checked({name: value for name, value in body.items() if name not in _READ_ONLY}, Fields)


def _listed(names: frozenset[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)
