"""The location of every object that calls have made: its backend and its consumer, in memory and in a table."""

import asyncio
import copy
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Self

from shared.affinity import whole_account
from shared.affinity._homes import Homes
from shared.affinity._rows import DAY, NOBODY, Location, ObjectRows, time_limit
from shared.affinity.pending import PendingIndex, PendingWork
from shared.azure_openai.batch_lines import BatchSize
from shared.azure_openai.references import ITEMS, KINDS
from shared.concurrency import LruDict, Tasks
from shared.config.document import Backend, Configuration
from shared.errors import StateConflict, StateNotFound, StateUnavailable, StoreUnavailable
from shared.storage import Store, names
from shared.types import UNBOUND, Binding, Call, Consumer, Reference, Usage

logger = logging.getLogger("tollgate.affinity")

_MAY_MOVE = frozenset(("response", "chat_completion"))  # few refer to them, so another backend may make them in need

_CACHED = 20_000  # objects, and as many items; about 400 bytes each
_AT_ONCE = 8  # objects of one call that are read at a time, each from up to three tables
_FIRST_PAUSE, _LONGEST_PAUSE, _TRIES = 0.1, 5.0, 100
_ABSENT_FOR = 60.0  # seconds for which an id that no backend has is not asked for again
_NOTHING_PENDING: Mapping[Reference, PendingWork] = {}

type _Cache = LruDict[tuple[str, str], Location]
Ask = Callable[[Backend, Reference], Awaitable[bool]]


class ObjectDirectory:
    """One per process. `ask` asks a backend for an object."""

    def __init__(self, store: Store, configuration: Configuration, usable: Callable[[Backend], bool], ask: Ask) -> None:
        self.homes = Homes(store, configuration, usable)
        self._rows = ObjectRows(store)
        self._pending = PendingIndex(store)
        self._backends = {backend.name: backend for backend in configuration.backends}
        self._adopts = configuration.adopt_unknown_ids
        self._ask = ask
        # Apart, as in the table: backends report items whose ids callers have chosen, and such an item must not pass
        # for an object or for another consumer's item.
        self._objects: _Cache = LruDict(_CACHED)  # by kind and id
        self._items: _Cache = LruDict(_CACHED)  # by consumer and id
        self._absent = LruDict[Reference, float](1000)
        self._claimed = LruDict[Reference, None](_CACHED)  # by calls of this process
        self._writing = Tasks()
        self._claims: dict[tuple[Reference, str], tuple[Location, asyncio.Task[None]]] = {}  # rows being inserted

    def with_configuration(self, configuration: Configuration) -> Self:
        """This directory for another configuration, with the same memory and the same rows being written."""
        other = copy.copy(self)
        other.homes = self.homes.with_configuration(configuration)
        other._backends = {backend.name: backend for backend in configuration.backends}
        other._adopts = configuration.adopt_unknown_ids
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
            home = await self.homes.of(consumer, model)
            reason = f"New objects of this key are kept by its home, the backend {home!r}."
            return Binding(None if call.makes in _MAY_MOVE else frozenset((home,)), home, reason)
        if len(holders) > 1:
            where = ", ".join(f"{_named(reference)} is in {backend}" for backend, reference in holders.items())
            raise StateConflict(f"One call can use the objects of one backend only: {where}.")
        [(backend, reference)] = holders.items()
        reason = f"{_named(reference)} is kept by the backend {backend!r}."
        if backend not in self._backends:
            raise StateUnavailable(f"{reason} That backend is no longer in the gateway's configuration.")
        return Binding(frozenset((backend,)), backend, reason)

    async def locate(self, consumer: Consumer, references: Iterable[Reference]) -> dict[Reference, Location]:
        """Return the locations of a consumer's objects, without sealed contents that it has not received: any backend
        may be tried with those. Raises `StateNotFound` at the first object that the consumer does not have, and
        `StoreUnavailable`."""
        locations, unread, unknown = dict[Reference, Location](), list[Reference](), list[Reference]()
        for reference in references:
            location = self._cached(reference, consumer.id)
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

    def record(
        self,
        consumer: str,
        backend: str,
        objects: Iterable[Reference],
        *,
        works: Mapping[Reference, PendingWork] = _NOTHING_PENDING,
        lines: BatchSize | None = None,
    ) -> list[asyncio.Task[None]]:
        """Record the owner and the backend of objects. `works`: those whose usage is still to come. `lines`: see
        `Location`.

        The object is the consumer's, in memory too, once its row is inserted: when the task is done. One that has an
        owner keeps it.
        """
        writing = []
        for reference in objects:
            work = works.get(reference)
            location = Location(
                backend, consumer, checked=lines is not None, lines=lines, pending_in=work.partition if work else ""
            )
            if (owned := self._cached(reference, consumer)) is not None:
                _alert_of_foreign(reference, location, owned)
                continue
            if (reference, consumer) not in self._claims:
                task = self._writing.start(_retry(reference.id, partial(self._claim, reference, location, work)))
                self._claims[reference, consumer] = location, task
                task.add_done_callback(partial(self._end_claim, (reference, consumer)))
            writing.append(self._claims[reference, consumer][1])
        return writing

    async def _claim(self, reference: Reference, location: Location, work: PendingWork | None) -> None:
        if work is None:
            owned = await self._rows.write(reference, location)
        else:  # at the same time, since the answer waits for both
            owned, inserted = await asyncio.gather(self._rows.write(reference, location), self._pending.insert(work))
            if inserted and owned.consumer != location.consumer:
                await self._pending.withdraw(work)
        _alert_of_foreign(reference, location, owned)
        self._cache(reference, owned)

    def _end_claim(self, claim: tuple[Reference, str], _: asyncio.Task[None]) -> None:
        del self._claims[claim]

    def record_items(self, consumer: str, backend: str, ids: Iterable[str]) -> list[asyncio.Task[None]]:
        """Record items of responses and conversations, and sealed contents, likewise. There are many, and only their
        consumer needs them."""
        new = [item for item in ids if (consumer, item) not in self._items]

        async def write() -> None:
            await self._rows.write_items(consumer, backend, new)
            for item in new:
                self._cache(Reference("item", item), Location(backend, consumer))

        return [self._writing.start(_retry(new[0], write))] if new else []

    def lines(self, call: Call) -> BatchSize | None:
        """Return the size of the batch that a call makes, if the gateway has seen its file. `bind` has read that."""
        files = [one for one in call.references if one.kind == "file"] if call.makes == "batch" else []
        locations = (self._cached(reference, NOBODY) for reference in files)
        return next((location.lines for location in locations if location is not None), None)

    async def find(self, reference: Reference) -> Location | None:
        """Return the location of an object whose usage is known; None also while the table does not answer."""
        location = self._cached(reference, NOBODY)
        try:
            if location is None:
                async with time_limit():
                    location = await self._read(reference, NOBODY)
        except StoreUnavailable as error:
            logger.warning("the usage of %s is settled later: %s", reference.id[:128], error)
        return location

    def finish_before_closing(self, task: asyncio.Task[Usage]) -> None:
        """Let the process end only when a claim has: it bars all other calls."""
        self._writing.start(_ended(task))

    async def claim_charge(self, reference: Reference) -> bool:
        """Return True for the first call, on any instance, that receives the usage of an object of a version without
        the index of pending work: that call pays. While the table is away, no call does."""
        location = self._cached(reference, NOBODY)
        if reference in self._claimed or (location is not None and not location.pending):
            return False
        self._claimed[reference] = None
        try:
            if location is None:
                async with time_limit():
                    location = await self._read(reference, NOBODY)
            return location is not None and location.pending and await self._rows.claim_charge(reference)
        except StoreUnavailable as error:
            logger.warning("the usage of %s is charged to a later call: %s", reference.id, error)
            self._claimed.pop(reference, None)
            return False

    async def forget(self, consumer: Consumer, reference: Reference) -> None:
        """Delete the rows of a deleted object. The memory keeps it, so that its backend answers for it."""
        try:
            await self._rows.delete(consumer.id, reference)
        except StoreUnavailable as error:
            logger.warning("the row of the deleted %s stays: %s", reference.id, error)

    async def close(self) -> None:
        """Wait for rows being written; log those that are lost."""
        if lost := await self._writing.finish(10):
            logger.error("stopped before %d objects were recorded: callers cannot use them again", lost)

    # --- memory and rows ----------------------------------------------------------------------------------------------

    def _cached(self, reference: Reference, consumer: str) -> Location | None:
        cache, key = self._cache_of(reference, consumer)
        if (location := cache.get(key)) is not None:
            cache.move_to_end(key)
        return location

    def _cache(self, reference: Reference, location: Location) -> None:
        cache, key = self._cache_of(reference, location.consumer)
        cache[key] = location

    def _cache_of(self, reference: Reference, consumer: str) -> tuple[_Cache, tuple[str, str]]:
        if reference.kind in ITEMS:
            return self._items, (consumer, reference.id)
        return self._objects, (reference.kind, reference.id)

    async def _read(self, reference: Reference, consumer: str) -> Location | None:
        location = await self._rows.read(reference, consumer)
        if location is not None:
            self._cache(reference, location)
        return location

    # --- adoption -----------------------------------------------------------------------------------------------------

    async def _adopt(self, consumer: Consumer, reference: Reference) -> Location | None:
        """Ask all backends for an object. Raises `StateUnavailable` if one that may have it does not answer."""
        if reference.kind == "realtime_call":  # no backend can be asked; calls by SIP reach the home by themselves
            return Location(await self.homes.of(consumer, ""), NOBODY)
        clock = asyncio.get_running_loop().time
        if self._absent.get(reference, 0.0) > clock() or not KINDS[reference.kind].path:
            return None
        asked = (self._ask(backend, reference) for backend in self._backends.values())
        answers = dict(zip(self._backends, await asyncio.gather(*asked, return_exceptions=True), strict=True))
        for name, answer in answers.items():
            if answer is True:
                self.record(NOBODY, name, (reference,))
                return Location(name, NOBODY)
        if silent := [name for name, answer in answers.items() if isinstance(answer, BaseException)]:
            raise StateUnavailable(
                f"The gateway has no record of {reference.id[:128]}, and cannot ask {', '.join(silent)} for it now."
            )
        self._absent[reference] = clock() + _ABSENT_FOR
        return None


async def drop_old(store: Store) -> None:
    """Drop the tables of months whose objects Azure has deleted. Part of the timer's job."""
    oldest = f"{names.AFFINITY}{datetime.fromtimestamp(store.now() - 62 * DAY, UTC):%Y%m}"
    for name in await store.names(f"{names.AFFINITY}2"):
        if name < oldest:
            await store.drop(name)


def _alert_of_foreign(reference: Reference, claimed: Location, owned: Location) -> None:
    """Log an answer that names an object of another consumer: no backend should give one."""
    if claimed.consumer != NOBODY and owned.consumer not in (claimed.consumer, NOBODY):
        logger.error(
            "ALERT the backend %s names %s %s to the consumer %s, but it is another's, on %s: nothing is recorded",
            claimed.backend,
            reference.kind.replace("_", " "),
            reference.id[:128],
            claimed.consumer,
            owned.backend,
        )


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


async def _ended(task: asyncio.Task[Usage]) -> None:
    await asyncio.wait((task,))


async def _retry(name: str, write: Callable[[], Awaitable[None]]) -> None:
    """Write until it succeeds. `name`: the id of the object, or of the first of several."""
    pause = _FIRST_PAUSE
    for attempt in range(_TRIES):
        try:
            await write()
            return
        except StoreUnavailable as error:
            if attempt == 0:
                logger.warning("the location of %s is not recorded yet: %s", name, error)
        except ValueError as error:
            logger.error("the location of an object cannot be recorded: %s", error)
            return
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    logger.error("the location of %s is lost: the table has failed for too long", name)
