"""Backends that operators have taken out of service for a time: rows of the table `control`, partition `drains`.

Every instance that serves reads them every 4 s at most, in the background. A drain ends by itself. With the table out
of reach, what was read last holds.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

import msgspec

from shared.concurrency import Tasks
from shared.errors import StoreUnavailable
from shared.storage import Row, Store, names

PARTITION = "drains"
_READ_EVERY = 4.0  # seconds
_PATIENCE = 0.5  # seconds that a start waits
_NONE: frozenset[str] = frozenset()

logger = logging.getLogger("tollgate.drains")


class Drain(msgspec.Struct, frozen=True):
    """A drain. Times in seconds since 1970, by the store's clock. `until` 0: the backend was restored."""

    until: float
    reason: str = ""
    by: str = ""
    at: float = 0.0


class Drains:
    """The drains as this process knows them. `clock` is monotonic."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._table = store.table(names.CONTROL)
        self._now = store.now
        self._clock = clock
        self._next_read = 0.0
        self._known: dict[str, Drain] = {}
        self._current = _NONE
        self._ends = 0.0  # the next end of a current one
        self._tasks = Tasks(shared=True)

    async def begin(self) -> None:
        """Read the rows before the first call, if the table answers soon."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await self._read_again()

    def current(self) -> frozenset[str]:
        """The backends that are out of service. Starts to read the rows again, if the last reading was long ago."""
        now = self._clock()
        if now >= self._next_read:
            self._next_read = now + _READ_EVERY
            self._tasks.start(self._read_again())
        if self._current and self._now() >= self._ends:
            self._keep(self._known)
        return self._current

    async def read(self) -> dict[str, Drain]:
        """Read the drains that are in force, by backend. Raises `StoreUnavailable`."""
        self._next_read = self._clock() + _READ_EVERY
        self._keep({row.key: drain_of(row) async for row in self._table.scan(PARTITION)})
        return self._known

    async def close(self) -> None:
        await self._tasks.close()

    def _keep(self, drains: dict[str, Drain]) -> None:
        now = self._now()
        self._known = {name: drain for name, drain in drains.items() if drain.until > now}
        self._current = frozenset(self._known)
        self._ends = min((drain.until for drain in self._known.values()), default=0.0)

    async def _read_again(self) -> None:
        try:
            await self.read()
        except StoreUnavailable as error:
            logger.warning("cannot read the drains; keeping the last ones: %s", error)


def drain_of(row: Row) -> Drain:
    return msgspec.convert(row.properties, Drain, strict=False)
