"""The rows of requests for access: table `accessrequests`, partition `requests`, a row per consumer.

All requests of a consumer are in one row, so that a conditional write holds their bounds and decides each once."""

from collections.abc import AsyncIterator, Sequence

import msgspec

from shared.auth import keys
from shared.errors import InvalidRequest, ResourceNotFound, StoreUnavailable
from shared.management._access_requests import AccessRequest
from shared.management.routes import rfc3339
from shared.storage import Properties, Row, Store, names
from shared.storage.conditional import update

_PARTITION = "requests"
_MOST_OPEN = 3  # of a consumer
_MOST_KEPT = 12  # of a consumer: a property of the table holds 32,000 characters


class AccessTable:
    """The requests of all consumers. Raises `StoreUnavailable`."""

    def __init__(self, store: Store) -> None:
        self._table = store.table(names.ACCESS_REQUESTS)

    async def all(self) -> AsyncIterator[AccessRequest]:
        async for row in self._table.scan(_PARTITION):
            for one in _requests(row):
                yield one

    async def of(self, consumer: str) -> Sequence[AccessRequest]:
        """The requests of a consumer, oldest first."""
        return _requests(await self._table.get(_PARTITION, consumer))

    async def find(self, request_id: str) -> AccessRequest:
        """Raises `ResourceNotFound`."""
        consumer, _, number = request_id.rpartition(".")
        requests = await self.of(consumer) if keys.is_consumer_id(consumer) else ()
        for one in requests:
            if str(one.number) == number:
                return one
        raise missing(request_id)

    async def check(self, new: AccessRequest) -> None:
        """Raise `InvalidRequest` if the consumer has too many requests, or has asked for the same."""
        _require_room(new, await self.of(new.consumer))

    async def add(self, new: AccessRequest) -> AccessRequest:
        """Write a new request. Raises `InvalidRequest` if the consumer has too many, or has asked for the same."""
        written: list[AccessRequest] = []

        def added(row: Row | None) -> Properties:
            kept = _requests(row)
            if done := [one for one in kept if one.mark == new.mark]:  # the write whose answer was lost
                written[:] = done
                return dict(row.properties) if row is not None else {}
            _require_room(new, kept)
            number = int(row.properties.get("last", 0)) + 1 if row is not None else 1
            written[:] = [msgspec.structs.replace(new, number=number)]
            return _properties(number, [*_room_for_one(kept), *written])

        await update(self._table, _PARTITION, new.consumer, added)
        return written[0]

    async def replace(self, old: AccessRequest, new: AccessRequest) -> AccessRequest | None:
        """Write a request in place of what was read. None: another writer was faster."""
        won = False

        def replaced(row: Row | None) -> Properties | None:
            nonlocal won
            kept = _requests(row)
            won = new in kept or old in kept
            if row is None or old not in kept:
                return None
            return _properties(int(row.properties.get("last", 0)), [new if one == old else one for one in kept])

        try:
            await update(self._table, _PARTITION, old.consumer, replaced)
        except StoreUnavailable:
            if new not in await self.of(old.consumer):  # else only the answer was lost
                raise
        return new if won else None


def missing(request_id: str) -> ResourceNotFound:
    return ResourceNotFound(
        f"There is no request for access {request_id[:120]!r}; GET /gateway/requests-for-access lists them."
    )


def _require_room(new: AccessRequest, kept: Sequence[AccessRequest]) -> None:
    pending = [one for one in kept if one.state in ("open", "approving")]
    same = [one for one in pending if (one.product, one.limits) == (new.product, new.limits)]
    if same:
        message = f"You asked for {new.wish} on {rfc3339(same[0].asked)}, which is not decided yet."
        raise InvalidRequest(message, code="already_asked")
    if len(pending) >= _MOST_OPEN:
        message = f"You have {_MOST_OPEN} requests that are not decided yet. Wait for their decisions."
        raise InvalidRequest(message, code="too_many_open_requests")


def _room_for_one(kept: Sequence[AccessRequest]) -> list[AccessRequest]:
    """The requests without the oldest ones that are decided, so that one more fits."""
    decided = [one for one in kept if one.state in ("approved", "declined")]
    gone = {one.number for one in decided[: max(0, len(kept) + 1 - _MOST_KEPT)]}
    return [one for one in kept if one.number not in gone]


def _requests(row: Row | None) -> list[AccessRequest]:
    return [] if row is None else msgspec.json.decode(str(row.properties["requests"]), type=list[AccessRequest])


def _properties(last: int, requests: list[AccessRequest]) -> Properties:
    return {"last": last, "requests": msgspec.json.encode(requests).decode()}
