"""Where objects are that calls have made: id -> backend and consumer, and every consumer's home for new ones.

Rows of the table `affinity`, and of `affinityYYYYMM` for what Azure keeps for 30 days at most, so that a month's rows
are dropped whole. Partition: two hex digits of the id's SHA-1; row: the id. What can be listed has a second row in the
partition `own-{consumer}-{kind}`. Items of responses and conversations stand in `item-{consumer}` alone. A consumer's
homes stand under `home-{consumer}`.
"""

import asyncio
import contextlib
import hashlib
import itertools
import logging
import math
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial

import msgspec

from shared.azure_openai.references import ITEMS, KINDS
from shared.config.document import Backend, Configuration
from shared.errors import StateConflict, StateNotFound, StateUnavailable, StoreUnavailable
from shared.storage import MAX_BATCH, Store, Table
from shared.types import UNBOUND, Binding, Call, Consumer, Reference

logger = logging.getLogger("tollgate.affinity")

TABLE = "affinity"
NOBODY = ""  # the consumer of an id that was adopted
_MAY_MOVE = frozenset(("response", "chat_completion"))  # few refer to them, so they may be made elsewhere in need

_MOST_KNOWN = 20_000  # objects at hand, and as many items; about 400 bytes each
_MOST_HOMES = 10_000
_WAIT = 2.5  # seconds that a call waits for the table, where the alternative is to refuse it
_AT_ONCE = 8  # objects of one call that are looked for at a time, each in up to three tables
_FIRST_PAUSE, _LONGEST_PAUSE, _TRIES = 0.1, 5.0, 100
_ABSENT_FOR = 60.0  # seconds in which an id that no backend knows is not looked for again
_DAY = 86_400.0


class Location(msgspec.Struct, frozen=True):
    """Where an object is and whose. `pending`: nobody has been charged for it yet, because its usage is not told."""

    backend: str
    consumer: str
    pending: bool = False


_Places = OrderedDict[tuple[str, str], Location]
Ask = Callable[[Backend, Reference], Awaitable[bool]]


class ObjectDirectory:
    """One per process. `ask` finds out whether a backend has an object; `now` is the store's clock."""

    def __init__(self, store: Store, configuration: Configuration, usable: Callable[[Backend], bool], ask: Ask) -> None:
        self._store = store
        self._backends = {backend.name: backend for backend in configuration.backends}
        self._aliases = {alias: name for name, about in configuration.models.items() for alias in about.aliases}
        self._adopts = configuration.adopt_unknown_ids
        self._usable = usable
        self._ask = ask
        self._known: _Places = OrderedDict()  # by kind and id
        self._items: _Places = OrderedDict()  # by consumer and id
        self._absent: OrderedDict[Reference, float] = OrderedDict()
        self._homes: OrderedDict[str, dict[str, str]] = OrderedDict()
        self._writing: set[asyncio.Task[None]] = set()

    async def bind(self, consumer: Consumer, call: Call, model: str) -> Binding:
        """Where a call may go because of the objects that it names or makes. `model`: by its configured name, or "".

        Raises `StateNotFound` for an object that is unknown or another consumer's, `StateConflict` for objects of
        several backends, and `StateUnavailable` when their backend is gone.
        """
        holders: dict[str, Reference] = {}
        for reference, place in (await self.places(consumer, call.references)).items():
            holders.setdefault(place.backend, reference)
        if not holders:
            if not (call.makes or call.operation.lists) and call.model:
                return UNBOUND
            home = await self.home(consumer, model)
            reason = f"New objects of this key are kept by its home, the backend {home!r}."
            return Binding(None if call.makes in _MAY_MOVE else frozenset((home,)), home, reason)
        if len(holders) > 1:
            told = ", ".join(f"{reference.id} is in {backend}" for backend, reference in holders.items())
            raise StateConflict(f"One call can use the objects of one backend only: {told}.")
        [(backend, reference)] = holders.items()
        reason = f"{reference.id} is kept by the backend {backend!r}."
        if backend not in self._backends:
            raise StateUnavailable(f"{reason} That backend is no longer in the gateway's configuration.")
        return Binding(frozenset((backend,)), backend, reason)

    async def places(self, consumer: Consumer, references: Iterable[Reference]) -> dict[Reference, Location]:
        """Where these objects of this consumer's are, without the sealed items of which that is unknown: they have
        their content with them. Raises `StateNotFound` at the first that is not there, and `StoreUnavailable`."""
        places, unread, unknown = dict[Reference, Location](), list[Reference](), list[Reference]()
        for reference in references:
            place = self._recall(reference, consumer.id)
            if place is None:
                unread.append(reference)
            else:
                places |= _own(consumer, reference, place)
        if not unread:
            return places
        async with _budget():
            for some in itertools.batched(unread, _AT_ONCE, strict=False):
                read = await asyncio.gather(*(self._read(reference, consumer.id) for reference in some))
                for reference, place in zip(some, read, strict=True):
                    if place is None and self._adopts:
                        unknown.append(reference)
                    else:
                        places |= _own(consumer, reference, place)
        for some in itertools.batched(unknown, _AT_ONCE, strict=False):
            adopted = await asyncio.gather(*(self._adopt(consumer, reference) for reference in some))
            for reference, place in zip(some, adopted, strict=True):
                places |= _own(consumer, reference, place)
        return places

    async def own(self, consumer: Consumer, kind: str) -> dict[str, str]:
        """The ids of a consumer's objects of a kind, each with its backend. Raises `StoreUnavailable`."""
        partition, found = f"own-{consumer.id}-{kind}", {}
        async with _budget():
            for table in self._tables(kind):
                async for row in table.scan(partition):
                    found[row.key] = str(row.properties.get("backend", ""))
        return found

    async def home(self, consumer: Consumer, model: str) -> str:
        """The backend for a consumer's new objects beside this model ("": beside none). Once chosen it stays, as long
        as the configuration has it. Raises `StoreUnavailable`."""
        homes = self._homes.get(consumer.id)
        if homes is not None and self._serves(homes.get(model, ""), model):
            return homes[model]
        partition, key = _partition(consumer.id), f"home-{consumer.id}"
        table = self._store.table(TABLE)
        for _ in range(8):
            async with _budget():
                row = await table.get(partition, key)
            homes = _homes(row.properties.get("homes")) if row else {}
            if not self._serves(homes.get(model, ""), model):
                homes[model] = self._choose(consumer, model, homes)
                text = msgspec.json.encode(homes).decode()
                async with _budget():
                    if await table.put(partition, key, {"homes": text}, row.etag if row else None) is None:
                        continue  # another instance was first, or this write's answer was lost: read again
            self._homes[consumer.id] = homes
            if len(self._homes) > _MOST_HOMES:
                self._homes.popitem(last=False)
            return homes[model]
        raise StoreUnavailable("The home of this key's objects cannot be noted. Try again shortly.")

    def record(
        self, consumer: str, backend: str, objects: Mapping[Reference, bool], known: Iterable[Reference] = ()
    ) -> list[asyncio.Task[None]]:
        """Note whose these objects are and where; the value says whether their usage is still to be told. At once in
        this process, in the table when the tasks are done. What is `known` (the call named it) is left as it is."""
        passed_over, writing = {reference.id for reference in known}, []
        for reference, pending in objects.items():
            if reference.id in passed_over or self._recall(reference, consumer):
                continue
            place = Location(backend, consumer, pending)
            self._remember(reference, place)
            writing.append(self._start(self._persist(reference.id, self._writer(reference, place))))
        return writing

    def record_items(self, consumer: str, backend: str, ids: Iterable[str]) -> list[asyncio.Task[None]]:
        """Note likewise where these items of responses and conversations are, all in one transaction: there are many,
        and nobody else ever looks for them."""
        fresh = [item for item in ids if (consumer, item) not in self._items]
        for item in fresh:
            self._remember(Reference("item", item), Location(backend, consumer))
        table, row = self._tables("item")[0], {"backend": backend, "consumer": consumer, "kind": "item"}
        return [
            self._start(self._persist(some[0], partial(table.merge, f"item-{consumer}", dict.fromkeys(some, row))))
            for some in itertools.batched(fresh, MAX_BATCH, strict=False)
        ]

    async def claim_charge(self, reference: Reference) -> bool:
        """Whether the usage of an object is told now for the first time, anywhere: then this call is charged for it."""
        place = self._recall(reference, NOBODY)
        if place is None:
            async with _budget():
                place = await self._read(reference, NOBODY)
        if place is None or not place.pending:
            return False
        self._remember(reference, msgspec.structs.replace(place, pending=False))
        try:
            for table in self._tables(reference.kind):
                row = await table.get(_partition(reference.id), reference.id)
                while row is not None and row.properties.get("pending"):
                    properties = {**row.properties, "pending": False}
                    if await table.put(row.partition, row.key, properties, row.etag) is not None:
                        return True
                    row = await table.get(row.partition, row.key)
                if row is not None:
                    return False
        except StoreUnavailable as error:
            logger.warning("the usage of %s is counted without the table: %s", reference.id, error)
        return True

    def charge_pending(self, reference: Reference) -> bool:
        """Whether this process has noted that the object's usage is still to be told."""
        place = self._recall(reference, NOBODY)
        return place is not None and place.pending

    async def forget(self, consumer: Consumer, reference: Reference) -> None:
        """An object was deleted. This process still knows where it was, so that its backend says what became of it."""
        try:
            for table in self._tables(reference.kind):
                await table.delete(_partition(reference.id), reference.id)
                if reference.kind in KINDS and KINDS[reference.kind].listed:
                    await table.delete(f"own-{consumer.id}-{reference.kind}", reference.id)
        except StoreUnavailable as error:
            logger.warning("the row of the deleted %s stays: %s", reference.id, error)

    async def close(self) -> None:
        """Wait for the rows under way; what cannot be written is reported as lost."""
        if self._writing:
            _, left = await asyncio.wait(tuple(self._writing), timeout=10)
            for task in left:
                task.cancel()
            if left:
                logger.error("stopped with the places of %d objects unwritten: they cannot be found again", len(left))

    # --- rows ---------------------------------------------------------------------------------------------------------

    async def _read(self, reference: Reference, consumer: str) -> Location | None:
        """What the table knows of an object, or of an item of this consumer's."""
        kind, partition = reference.kind, _partition(reference.id)
        if kind in ITEMS:
            kind, partition = "item", f"item-{consumer}"
        try:
            rows = await asyncio.gather(*(table.get(partition, reference.id) for table in self._tables(kind)))
        except ValueError:  # no row can have such a key
            return None
        found = next((row.properties for row in rows if row is not None and row.properties.get("kind") == kind), None)
        if found is None:
            return None
        place = Location(str(found.get("backend", "")), str(found.get("consumer", "")), bool(found.get("pending")))
        self._remember(reference, place)
        return place

    def _writer(self, reference: Reference, place: Location) -> Callable[[], Awaitable[None]]:
        table = self._tables(reference.kind)[0]
        row: dict[str, str | bool] = {"backend": place.backend, "consumer": place.consumer, "kind": reference.kind}
        if place.pending:
            row["pending"] = True

        async def write() -> None:
            # Insert only: an id that has an owner keeps it.
            await table.put(_partition(reference.id), reference.id, row, None)
            if KINDS[reference.kind].listed and place.consumer != NOBODY:
                index = {reference.id: {"backend": place.backend}}
                await table.merge(f"own-{place.consumer}-{reference.kind}", index)

        return write

    def _start(self, writing: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(writing)
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        return task

    async def _persist(self, name: str, write: Callable[[], Awaitable[None]]) -> None:
        """Write until it is written. `name`: of the object, or of the first of several."""
        pause = _FIRST_PAUSE
        for attempt in range(_TRIES):
            try:
                await write()
                return
            except StoreUnavailable as error:
                if attempt == 0:
                    logger.warning("the place of %s waits for the table: %s", name, error)
            except ValueError as error:
                logger.error("the place of an object cannot be kept: %s", error)
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        logger.error("the place of %s is lost: the table has failed for too long", name)

    def _recall(self, reference: Reference, consumer: str) -> Location | None:
        """What this process knows of an object, or of an item of this consumer's."""
        known, key = self._shelf(reference, consumer)
        if (place := known.get(key)) is not None:
            known.move_to_end(key)
        return place

    def _remember(self, reference: Reference, place: Location) -> None:
        known, key = self._shelf(reference, place.consumer)
        known[key] = place
        known.move_to_end(key)
        while len(known) > _MOST_KNOWN:
            known.popitem(last=False)

    def _shelf(self, reference: Reference, consumer: str) -> tuple[_Places, tuple[str, str]]:
        """Apart, as in the table: backends tell items that callers have named, and an item must not stand for an
        object, or for another consumer's item."""
        if reference.kind in ITEMS:
            return self._items, (consumer, reference.id)
        return self._known, (reference.kind, reference.id)

    def _tables(self, kind: str) -> list[Table]:
        """The tables that may hold an object of this kind, the one for new rows first."""
        if not KINDS[kind].brief:
            return [self._store.table(TABLE)]
        now = self._store.now()
        months = dict.fromkeys(f"{datetime.fromtimestamp(now - age, UTC):%Y%m}" for age in (0.0, 15 * _DAY, 31 * _DAY))
        return [self._store.table(f"{TABLE}{month}") for month in months]

    # --- homes and adoption -------------------------------------------------------------------------------------------

    def _serves(self, backend: str, model: str) -> bool:
        found = self._backends.get(backend)
        return found is not None and (not model or model in found.models)

    def _choose(self, consumer: Consumer, model: str, homes: Mapping[str, str]) -> str:
        """Where the consumer has a home already, else a backend that serves as much as can be of what it may use; such
        backends get consumers by their weights, whichever instance chooses."""
        serving = [backend for backend in self._backends.values() if not model or model in backend.models]
        names = {backend.name for backend in serving}
        if homes.get("") in names:
            return homes[""]
        if known := Counter(home for home in homes.values() if home in names).most_common(1):
            return known[0][0]
        allowed = consumer.models and {self._aliases.get(name, name) for name in consumer.models}

        def rank(backend: Backend) -> tuple[bool, int, int, float]:
            useful = len(backend.models.keys() & allowed if allowed is not None else backend.models)
            draw = int.from_bytes(hashlib.sha256(f"{consumer.id} {backend.name}".encode()).digest()[:8]) / 2**64
            weighted = -math.log(max(draw, 1e-300)) / backend.weight
            return (not self._usable(backend), 0 if model else -useful, backend.priority, weighted)

        return min(serving, key=rank).name

    async def _adopt(self, consumer: Consumer, reference: Reference) -> Location | None:
        """Look for an object on all backends. Raises `StateUnavailable` when one that may have it does not answer."""
        if reference.kind == "realtime_call":  # nobody can be asked for one; by SIP they reach the backend on their own
            return Location(await self.home(consumer, ""), NOBODY)
        clock = asyncio.get_running_loop().time
        if self._absent.get(reference, 0.0) > clock() or not KINDS[reference.kind].path:
            return None
        names = list(self._backends)
        answers = await asyncio.gather(
            *(self._ask(self._backends[name], reference) for name in names), return_exceptions=True
        )
        for name, answer in zip(names, answers, strict=True):
            if answer is True:
                self.record(NOBODY, name, {reference: False})
                return Location(name, NOBODY)
        if failed := [name for name, answer in zip(names, answers, strict=True) if isinstance(answer, BaseException)]:
            raise StateUnavailable(
                f"{reference.id[:128]} is unknown here, and {', '.join(failed)} cannot be asked for it now."
            )
        self._absent[reference] = clock() + _ABSENT_FOR
        while len(self._absent) > 1000:
            self._absent.popitem(last=False)
        return None


async def drop_old(store: Store) -> None:
    """Drop the tables of months whose objects Azure has forgotten. Part of the timer's job."""
    oldest = f"{TABLE}{datetime.fromtimestamp(store.now() - 62 * _DAY, UTC):%Y%m}"
    for name in await store.names(f"{TABLE}2"):
        if name < oldest:
            await store.drop(name)


def _own(consumer: Consumer, reference: Reference, place: Location | None) -> dict[Reference, Location]:
    """What of an object's place this consumer may know. Raises `StateNotFound`."""
    if place is not None and place.consumer in (NOBODY, consumer.id):
        return {reference: place}
    if reference.kind == "sealed":
        return {}
    kind = reference.kind.replace("_", " ")
    raise StateNotFound(f"There is no {kind} with the id {reference.id[:128]!r}.", param=f"{reference.kind}_id")


def _partition(object_id: str) -> str:
    return hashlib.sha1(object_id.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()[:2]


def _homes(text: object) -> dict[str, str]:
    try:
        return msgspec.json.decode(str(text), type=dict[str, str])
    except msgspec.DecodeError:
        return {}


@contextlib.asynccontextmanager
async def _budget() -> AsyncIterator[None]:
    """The time that a call waits for the table."""
    try:
        async with asyncio.timeout(_WAIT):
            yield
    except (TimeoutError, StoreUnavailable) as error:
        logger.warning("the table of objects is out of reach: %s", error)
        raise StoreUnavailable("The store that knows where objects are is out of reach. Try again shortly.") from None
