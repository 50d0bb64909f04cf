"""Claims the objects of answers for their consumers, in the background: writes their rows until that succeeds."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any

from shared.affinity._memory import LocationMemory
from shared.affinity._rows import NOBODY, Location, ObjectRows
from shared.affinity.pending import PendingIndex, PendingWork
from shared.azure_openai.batch_lines import BatchSize
from shared.concurrency import Tasks
from shared.errors import StoreUnavailable
from shared.types import Reference, Usage

logger = logging.getLogger("tollgate.affinity")

_FIRST_PAUSE, _LONGEST_PAUSE, _TRIES = 0.1, 5.0, 100
_NOTHING_PENDING: Mapping[Reference, PendingWork] = {}


class Claims:
    """One per process."""

    def __init__(self, rows: ObjectRows, pending: PendingIndex, memory: LocationMemory) -> None:
        self._rows = rows
        self._pending = pending
        self._memory = memory
        self._writing = Tasks()
        self._under_way: dict[tuple[Reference, str], asyncio.Task[None]] = {}  # by object and consumer

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
            if (owned := self._memory.get(reference, consumer)) is not None:
                _alert_of_foreign(reference, location, owned)
                continue
            if (reference, consumer) not in self._under_way:
                task = self._writing.start(_retry(reference.id, partial(self._claim, reference, location, work)))
                self._under_way[reference, consumer] = task
                task.add_done_callback(partial(self._end, (reference, consumer)))
            writing.append(self._under_way[reference, consumer])
        return writing

    async def _claim(self, reference: Reference, location: Location, work: PendingWork | None) -> None:
        if work is None:
            owned = await self._rows.write(reference, location)
        else:  # at the same time, since the answer waits for both
            owned, inserted = await asyncio.gather(self._rows.write(reference, location), self._pending.insert(work))
            if inserted and owned.consumer != location.consumer:
                await self._pending.withdraw(work)
        _alert_of_foreign(reference, location, owned)
        self._memory.put(reference, owned)

    def _end(self, claim: tuple[Reference, str], _: asyncio.Task[None]) -> None:
        del self._under_way[claim]

    def record_items(self, consumer: str, backend: str, ids: Iterable[str]) -> list[asyncio.Task[None]]:
        """Record items of responses and conversations, and sealed contents, likewise. There are many, and only their
        consumer needs them."""
        new = [item for item in ids if not self._memory.has_item(consumer, item)]

        async def write() -> None:
            await self._rows.write_items(consumer, backend, new)
            for item in new:
                self._memory.put(Reference("item", item), Location(backend, consumer))

        return [self._writing.start(_retry(new[0], write))] if new else []

    def charge(self, claim: Coroutine[Any, Any, Usage]) -> asyncio.Task[Usage]:
        """Claim a charge, also when the caller leaves: the claim bars all other calls."""
        return self._writing.start(claim)

    async def close(self) -> None:
        """Wait for rows being written; log those that are lost."""
        if lost := await self._writing.finish(10):
            logger.error("shut down before %d objects were recorded: callers cannot use them again", lost)


def _alert_of_foreign(reference: Reference, claimed: Location, owned: Location) -> None:
    """Log an answer that names an object of another consumer: no backend should give one."""
    if claimed.consumer != NOBODY and owned.consumer not in (claimed.consumer, NOBODY):
        logger.error(
            "ALERT backend %s returned %s %s to consumer %s, but another consumer owns it, on %s: not recorded",
            claimed.backend,
            reference.kind.replace("_", " "),
            reference.id[:128],
            claimed.consumer,
            owned.backend,
        )


async def _retry(name: str, write: Callable[[], Awaitable[None]]) -> None:
    """Write until it succeeds. `name`: the id of the object, or of the first of several."""
    pause = _FIRST_PAUSE
    for attempt in range(_TRIES):
        try:
            await write()
            return
        except StoreUnavailable as error:
            if attempt == 0:
                logger.warning("location of %s not recorded yet: %s", name, error)
        except ValueError as error:
            logger.error("cannot record the location of an object: %s", error)
            return
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    logger.error("location of %s lost: the table has failed for too long", name)
