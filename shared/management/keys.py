"""The keys of consumers: listed, made, rotated and revoked, by operators and by the callers who hold them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.responses import Response

from shared.auth import keys
from shared.auth.consumer_rows import Record, StoredKey
from shared.auth.consumers import Consumers
from shared.auth.operators import EVERYONE, OWNERS
from shared.errors import InvalidRequest, RateLimitExceeded, StateNotFound
from shared.management._consumer_fields import KeyView, key_view
from shared.management.audit import Audit, Change
from shared.management.consumers import manageable, visible
from shared.management.routes import ManagementRequest, Page, Route, checked, page
from shared.responses.rendering import JsonResponse
from shared.storage import Store

_MOST_KEYS = 90  # of a consumer: a transaction of the table has 100 rows
_KEEP_ENDED = 30 * 86_400.0  # seconds for which ended keys are listed, if there are not too many
_OWN_ROTATION = 10.0  # seconds between two rotations by a caller: a loop must not fill the table


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Hours for which the old key still works."""

    overlap_hours: Annotated[float, Meta(ge=0, le=24 * 90)] = 24.0


class Making(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`sha256`: the hash, in hexadecimal digits, of a key that the caller had before; without it the key is a new
    one."""

    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None


class NewKey(KeyView, frozen=True, kw_only=True):
    """A key that has just been made. `key`: its text, shown only here; null if the caller has it."""

    key: str | None


class OwnKey(KeyView, frozen=True, kw_only=True):
    """The key that a caller uses. `consumer`: its owner's id; `name`: its owner's name."""

    consumer: str
    name: str


class KeyRoutes:
    """The paths below `/gateway/consumers/{consumer}/keys`, and `/gateway/keys/me`."""

    def __init__(self, store: Store, audit: Audit) -> None:
        self._store = store
        self._audit = audit
        self._consumers = Consumers(store)

    def routes(self) -> Sequence[Route]:
        many, one, mine = "/gateway/consumers/{consumer}/keys", "{key}", "/gateway/keys/me"
        rotating: dict[str, Any] = {"takes": Rotation, "gives": NewKey, "status": 201}
        query = ("limit", "after")
        return (
            Route("GET", many, "operator", self._list, EVERYONE, gives=Page[KeyView], query=query),
            Route("POST", many, "operator", self._make, OWNERS, takes=Making, gives=NewKey, status=201),
            Route("GET", f"{many}/{one}", "operator", self._read, EVERYONE, gives=KeyView),
            Route("DELETE", f"{many}/{one}", "operator", self._revoke, OWNERS, status=204),
            Route("POST", f"{many}/{one}/rotate", "operator", self._rotate, OWNERS, **rotating),
            Route("GET", mine, "caller", self._own, gives=OwnKey),
            Route("POST", f"{mine}/rotate", "caller", self._rotate_own, **rotating),
        )

    async def _list(self, request: ManagementRequest) -> Response:
        """List the keys of a consumer, without their secrets."""
        _, record = await visible(self._consumers, request)
        now = self._store.now()
        stored_keys = [record.keys[key_id] for key_id in sorted(record.keys)]
        return JsonResponse(page(stored_keys, request.query, lambda key: key.id, lambda key: key_view(key, now)))

    async def _read(self, request: ManagementRequest) -> Response:
        """Read about a key."""
        _, record = await visible(self._consumers, request)
        return JsonResponse(key_view(self._key(record, request.parameters["key"]), self._store.now()))

    async def _make(self, request: ManagementRequest) -> Response:
        """Make another key of a consumer, or import one that its caller had before."""
        digest = checked(_body(request), Making).sha256
        _, record = await manageable(self._consumers, request)
        if digest is not None:
            if any(key.foreign and keys.same(key.digest, digest) for key in record.keys.values()):
                _, key = await self._consumers.import_key(record, digest)  # may have failed halfway before
                return self._answer(key, None)
            return await self._add(request, "key.import", record, lambda: self._consumers.import_key(record, digest))
        return await self._add(request, "key.create", record, lambda: self._consumers.add_key(record))

    async def _rotate(self, request: ManagementRequest) -> Response:
        """Replace a key. The old one works for `overlap_hours` more."""
        rotation = checked(_body(request), Rotation)
        _, record = await manageable(self._consumers, request)
        return await self._replace(request, record, self._key(record, request.parameters["key"]), rotation)

    async def _revoke(self, request: ManagementRequest) -> Response:
        """Revoke a key for good."""
        _, record = await manageable(self._consumers, request)
        key = self._key(record, request.parameters["key"])
        if not key.revoked or key.revoked == record.revoked:
            change = Change(request, "key.revoke", f"{record.consumer.id}/{key.id}", self._view(key), None)
            await self._audit.perform(change, partial(self._consumers.revoke_key, record, key.id))
        return Response(status_code=204)

    async def _own(self, request: ManagementRequest) -> Response:
        """Read about the key that the request is sent with."""
        record, key = await self._presented(request)
        fields = msgspec.structs.asdict(key_view(key, self._store.now()))
        return JsonResponse(OwnKey(**fields, consumer=record.consumer.id, name=record.consumer.name))

    async def _rotate_own(self, request: ManagementRequest) -> Response:
        """Replace the key that the request is sent with. It works for `overlap_hours` more."""
        rotation = checked(_body(request), Rotation)
        record, key = await self._presented(request)
        made = (record.keys[old.successor].created for old in record.keys.values() if old.successor in record.keys)
        if (wait := max(made, default=0.0) + _OWN_ROTATION - self._store.now()) > 0:
            raise RateLimitExceeded(f"A caller may replace its key once in {_OWN_ROTATION:.0f} s.", wait)
        successor = record.keys.get(key.successor)
        if successor is not None and successor.valid_at(self._store.now()):  # else a key that leaked would never end
            message = (
                f"The key {key.id} has been replaced by {successor.id}. Ask the gateway's operator if you lack it."
            )
            raise InvalidRequest(message, code="key_not_valid")
        return await self._replace(request, record, key, rotation)

    async def _replace(
        self, request: ManagementRequest, record: Record, key: StoredKey, rotation: Rotation
    ) -> Response:
        if not key.valid_at(self._store.now()):
            message = f"The key {key.id} is revoked or expired for good. Create another one: POST …/keys."
            raise InvalidRequest(message, code="key_not_valid")
        seconds = rotation.overlap_hours * 3600
        return await self._add(
            request, "key.rotate", record, lambda: self._consumers.rotate(record, key.id, overlap=seconds), key
        )

    async def _add(
        self,
        request: ManagementRequest,
        action: str,
        record: Record,
        write: Callable[[], Awaitable[tuple[str | None, StoredKey]]],
        before: StoredKey | None = None,
    ) -> Response:
        """Write a new key, and answer with it."""
        now = self._store.now()
        kept = await self._consumers.drop_keys(record, now, now - _KEEP_ENDED, _MOST_KEYS - 1)
        if kept >= _MOST_KEYS:
            raise InvalidRequest(f"A consumer has at most {_MOST_KEYS} keys: revoke one first.", code="too_many_keys")
        of = f"{record.consumer.id}/{before.id}" if before else record.consumer.id
        change = Change(request, action, of, self._view(before) if before else None, None)
        text, key = await self._audit.perform(change, write, lambda made: self._view(made[1]))
        return self._answer(key, text)

    def _answer(self, key: StoredKey, text: str | None) -> Response:
        fields = msgspec.structs.asdict(key_view(key, self._store.now()))
        return JsonResponse(NewKey(**fields, key=text), 201)

    def _key(self, record: Record, key_id: str) -> StoredKey:
        if key_id not in record.keys:
            raise StateNotFound(f"The consumer {record.consumer.id} has no key {key_id[:64]!r}.")
        return record.keys[key_id]

    async def _presented(self, request: ManagementRequest) -> tuple[Record, StoredKey]:
        """The key that the caller has sent. It was checked before, and the table may know more by now."""
        caller = request.consumer
        record = await self._consumers.find(caller.id)
        sent = _digests(request.headers)
        for key in record.keys.values() if record is not None else ():
            if any(keys.same(key.digest, digest) for digest in sent):
                assert record is not None
                return record, key
        raise StateNotFound("This request was sent without a key of this gateway, or its key is gone.")

    def _view(self, key: StoredKey) -> Any:
        return msgspec.to_builtins(key_view(key, self._store.now()))


def _body(request: ManagementRequest) -> dict[str, Any]:
    return request.object() if request.body else {}


def _digests(headers: Mapping[str, str]) -> list[str]:
    """The digests of the texts in the headers that may be keys."""
    texts = [headers.get(name, "") for name in ("authorization", "api-key", "ocp-apim-subscription-key")]
    texts = [text.strip().rpartition(" ")[2].partition(";")[0].strip() for text in texts]
    digests = [key.digest if (key := keys.parse(text)) else keys.foreign_digest(text) for text in texts]
    return [digest for digest in digests if digest is not None]
