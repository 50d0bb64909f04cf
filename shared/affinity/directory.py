"""The location of every object that calls have made: its backend and its consumer, in memory and in a table."""

import asyncio
import copy
import itertools
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Self

from shared.affinity import whole_account
from shared.affinity._adoption import Adoption, Ask
from shared.affinity._claims import Claims
from shared.affinity._homes import Homes
from shared.affinity._memory import LocationMemory
from shared.affinity._rows import DAY, NOBODY, Location, ObjectRows, time_limit
from shared.affinity.pending import PendingIndex
from shared.affinity.places import ListPlaces
from shared.azure_openai.batch_lines import BatchSize
from shared.concurrency import LruDict
from shared.config.document import Backend, Configuration
from shared.errors import StateConflict, StateNotFound, StateUnavailable, StoreUnavailable
from shared.storage import Store, names
from shared.types import UNBOUND, Binding, Call, Consumer, Reference

logger = logging.getLogger("tollgate.affinity")

_MAY_MOVE = frozenset(("response", "chat_completion"))  # few refer to them, so another backend may make them in need

_MOST_CHARGED = 20_000
_AT_ONCE = 8  # objects of one call that are read at a time, each from up to three tables


class ObjectDirectory:
    """One per process. `ask` asks a backend for an object."""

    def __init__(self, store: Store, configuration: Configuration, usable: Callable[[Backend], bool], ask: Ask) -> None:
        self.homes = Homes(store, configuration, usable)
        self._store = store
        self._rows = ObjectRows(store)
        self._memory = LocationMemory()
        self.claims = Claims(self._rows, PendingIndex(store), self._memory)
        self._adopts = configuration.adopt_unknown_ids
        self._adoption = Adoption(configuration.backends, ask, LruDict(1000))
        self._charged = LruDict[Reference, None](_MOST_CHARGED)  # by calls of this process

    def with_configuration(self, configuration: Configuration) -> Self:
        """This directory for another configuration, with the same memory and the same rows being written."""
        other = copy.copy(self)
        other.homes = self.homes.with_configuration(configuration)
        other._adopts = configuration.adopt_unknown_ids
        other._adoption = self._adoption.with_backends(configuration.backends)
        return other

    async def bind(self, consumer: Consumer, call: Call, model: str) -> Binding:
        """Return the backends to which a call may go because of the objects that it names or makes. `model`: its
        configured name, or "".

        Raises `StateNotFound` for an object that is unknown or another consumer's, `StateConflict` for objects of
        several backends, `StateUnavailable` if their backend is no longer configured, and what `whole_account.check`
        raises.
        """
        holders: dict[str, Reference] = {}
        locations = await self.locate(consumer, call.references)
        whole_account.check(consumer, call, locations)
        for reference, location in locations.items():
            if reference.kind != "sealed" or self.homes.serves(location.backend, model):
                holders.setdefault(location.backend, reference)
        if not holders:
            if not (call.makes or call.operation.lists) and call.model:
                return UNBOUND
            home = await self.homes.of(consumer, model, call)
            reason = f"New objects of this key are kept by its home, the backend {home!r}."
            return Binding(None if call.makes in _MAY_MOVE else frozenset((home,)), home, reason)
        if len(holders) > 1:
            where = ", ".join(f"{_named(reference)} is in {backend}" for backend, reference in holders.items())
            raise StateConflict(f"One call can use the objects of one backend only: {where}.")
        [(backend, reference)] = holders.items()
        reason = f"{_named(reference)} is kept by the backend {backend!r}."
        if not self.homes.serves(backend, ""):
            raise StateUnavailable(f"{reason} That backend is no longer in the gateway's configuration.")
        return Binding(frozenset((backend,)), backend, reason)

    async def locate(self, consumer: Consumer, references: Iterable[Reference]) -> dict[Reference, Location]:
        """Return the locations of a consumer's objects, without sealed contents that it has not received: any backend
        may be tried with those. Raises `StateNotFound` at the first object that the consumer does not have, and
        `StoreUnavailable`."""
        locations, unread, unknown = dict[Reference, Location](), list[Reference](), list[Reference]()
        for reference in references:
            location = self._memory.get(reference, consumer.id)
            if location is None:
                unread.append(reference)
            else:
                locations |= _visible(consumer, reference, location)
        if not unread:
            return locations
        async with time_limit():
            for some in itertools.batched(unread, _AT_ONCE, strict=False):
                read = await asyncio.gather(*(self._read(reference, consumer.id) for reference in some))
                for reference, location in zip(some, read, strict=True):
                    if location is None and self._adopts:
                        unknown.append(reference)
                    else:
                        locations |= _visible(consumer, reference, location)
        for some in itertools.batched(unknown, _AT_ONCE, strict=False):
            adopted = await asyncio.gather(*(self._adopt(consumer, reference) for reference in some))
            for reference, location in zip(some, adopted, strict=True):
                locations |= _visible(consumer, reference, location)
        return locations

    async def own(self, consumer: Consumer, kind: str) -> dict[str, str]:
        """Return the ids of a consumer's objects of a kind, each with its backend. Raises `StoreUnavailable`."""
        async with time_limit():
            return await self._rows.owned(consumer.id, kind)

    def places(self, consumer: Consumer, kind: str) -> ListPlaces:
        """The places at which a consumer's lists of a kind were left."""
        return ListPlaces(self._store, consumer, kind)

    def lines(self, call: Call) -> BatchSize | None:
        """Return the size of the batch that a call makes, if the gateway has seen its requests, in its body or in a
        file, which `bind` has read."""
        if (batch := call.batch) is not None:
            model, *others = dict.fromkeys(batch.models.values())
            return BatchSize(batch.bytes, batch.requests, model, tuple(others))
        files = [one for one in call.references if one.kind == "file"] if call.makes == "batch" else []
        locations = (self._memory.get(reference, NOBODY) for reference in files)
        return next((location.lines for location in locations if location is not None), None)

    async def find(self, reference: Reference) -> Location | None:
        """Return the location of an object whose usage is known; None also while the table does not answer."""
        location = self._memory.get(reference, NOBODY)
        try:
            if location is None:
                async with time_limit():
                    location = await self._read(reference, NOBODY)
        except StoreUnavailable as error:
            logger.warning("usage of %s not settled yet: %s", reference.id[:128], error)
        return location

    async def claim_charge(self, reference: Reference) -> bool:
        """Return True for the first call, on any instance, that receives the usage of an object of a version without
        the index of pending work: that call pays. While the table is away, no call does."""
        location = self._memory.get(reference, NOBODY)
        if reference in self._charged or (location is not None and not location.pending):
            return False
        self._charged[reference] = None
        try:
            if location is None:
                async with time_limit():
                    location = await self._read(reference, NOBODY)
            return location is not None and location.pending and await self._rows.claim_charge(reference)
        except StoreUnavailable as error:
            logger.warning("usage of %s left to a later call: %s", reference.id, error)
            self._charged.pop(reference, None)
            return False

    async def forget(self, consumer: Consumer, reference: Reference) -> None:
        """Delete the rows of a deleted object. The memory keeps it, so that its backend answers for it."""
        try:
            await self._rows.delete(consumer.id, reference)
        except StoreUnavailable as error:
            logger.warning("cannot delete the row of %s: %s", reference.id, error)

    async def _read(self, reference: Reference, consumer: str) -> Location | None:
        location = await self._rows.read(reference, consumer)
        if location is not None:
            self._memory.put(reference, location)
        return location

    async def _adopt(self, consumer: Consumer, reference: Reference) -> Location | None:
        if reference.kind == "realtime_call":  # no backend can be asked; calls by SIP reach the home by themselves
            return Location(await self.homes.of(consumer, ""), NOBODY)
        if (backend := await self._adoption.holder(reference)) is None:
            return None
        self.claims.record(NOBODY, backend, (reference,))
        return Location(backend, NOBODY)

    async def close(self) -> None:
        """Wait for rows being written; log those that are lost."""
        await self.claims.close()


async def drop_old(store: Store) -> None:
    """Drop the tables of months whose objects Azure has deleted. Part of the timer's job."""
    oldest = f"{names.AFFINITY}{datetime.fromtimestamp(store.now() - 62 * DAY, UTC):%Y%m}"
    for name in await store.names(f"{names.AFFINITY}2"):
        if name < oldest:
            await store.drop(name)


def _named(reference: Reference) -> str:
    """The name of an object in messages."""
    if reference.kind == "sealed":
        return f"Encrypted content (SHA-256 {reference.id.removeprefix('sealed_')[:12]}…)"
    return reference.id


def _visible(consumer: Consumer, reference: Reference, location: Location | None) -> dict[Reference, Location]:
    """Return the location if the consumer may use the object. Raises `StateNotFound`, except for sealed contents."""
    if location is not None and location.consumer in (NOBODY, consumer.id):
        return {reference: location}
    if reference.kind == "sealed":
        return {}
    kind = reference.kind.replace("_", " ")
    raise StateNotFound(f"There is no {kind} with the id {reference.id[:128]!r}.", param=f"{reference.kind}_id")
