"""Whose turn it is among the backends of a pool, shared by all instances without anyone waiting for it.

Tickets come in blocks of 64 from one counter row per pool (table `rotation`). A block's tickets start at the place that
its number says, because 64 is often a multiple of the number of backends: without that, every new instance would start
with the same backend. Until the first block has come, and whenever the table does not answer, the tickets are the
process's own.
"""

import asyncio
import logging
import random
from collections.abc import Sequence

import msgspec

from shared.errors import StoreUnavailable
from shared.storage import Table

logger = logging.getLogger("tollgate.rotation")

TABLE = "rotation"
BLOCK = 64
_FETCH_BELOW = 24  # tickets left when the next block is asked for
_TRIES = 6
_PAUSE_AFTER_FAILURE = 2.0  # seconds


def smooth_order(weights: Sequence[int]) -> list[int]:
    """One round of smooth weighted rotation: every index as often as its weight, as evenly spread as can be.

    >>> smooth_order([3, 1])
    [0, 0, 1, 0]
    """
    current, total, order = [0] * len(weights), sum(weights), []
    for _ in range(total):
        current = [have + weight for have, weight in zip(current, weights, strict=True)]
        chosen = max(range(len(weights)), key=current.__getitem__)
        current[chosen] -= total
        order.append(chosen)
    return order


class _Pool(msgspec.Struct):
    """A pool's block in use and the one that follows, by their numbers."""

    block: int
    used: int = 0
    following: int | None = None
    fetching: bool = False
    retry_at: float = 0.0


class Rotation:
    """Tickets per pool. Reads and writes the table in the background only."""

    def __init__(self, table: Table, rng: random.Random) -> None:
        self._table = table
        self._rng = rng
        self._pools: dict[str, _Pool] = {}
        self._last: dict[str, tuple[int, str | None]] = {}  # the block taken last, and the row's ETag since then
        self._claimed: dict[str, tuple[int, float]] = {}  # this process's last block, and how many others take
        self._tasks: set[asyncio.Task[None]] = set()

    def ticket(self, pool: str, length: int) -> int:
        """The next ticket of a pool, to be taken modulo the length of its round. Never waits."""
        state = self._pools.get(pool)
        if state is None:
            state = self._pools[pool] = _Pool(self._rng.getrandbits(16))
        if state.used >= BLOCK:
            last = state.block + state.used - 1
            # Without the table: go on counting where the block ended, which keeps the turns even in this process.
            state.block = last + 1 if state.following is None else state.following
            state.used = int(length > 1 and (state.block - last) % length == 0)  # not the same backend twice in a row
            state.following = None
        ticket = state.block + state.used
        state.used += 1
        if BLOCK - state.used < _FETCH_BELOW and state.following is None and not state.fetching:
            self._fetch_ahead(pool, state)
        return ticket

    def instances(self, pool: str) -> float:
        """About how many instances serve the pool: so many blocks are taken for one of this process's."""
        return self._claimed.get(pool, (0, 1.0))[1]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _fetch_ahead(self, pool: str, state: _Pool) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < state.retry_at:
            return
        state.fetching = True
        task = loop.create_task(self._fetch(pool, state))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fetch(self, pool: str, state: _Pool) -> None:
        try:
            state.following = await self._claim(pool)
            previous, instances = self._claimed.get(pool, (state.following - 1, 1.0))
            self._claimed[pool] = (state.following, (instances + max(1, state.following - previous)) / 2)
        except StoreUnavailable as error:
            state.retry_at = asyncio.get_running_loop().time() + _PAUSE_AFTER_FAILURE
            logger.warning("rotation of %s goes on without the table: %s", pool, error)
        finally:
            state.fetching = False

    async def _claim(self, pool: str) -> int:
        """The number of a block that nobody else has. A write whose answer was lost only skips a number."""
        for attempt in range(_TRIES):
            # Who was the last to take one knows the row, so a lone instance never reads it.
            block, etag = self._last.pop(pool) if pool in self._last else await self._read(pool)
            if (written := await self._table.put(pool, "0", {"block": block + 1}, etag)) is not None:
                self._last[pool] = (block + 1, written)
                return block + 1
            await asyncio.sleep(self._rng.random() * 0.01 * 2**attempt)
        raise StoreUnavailable(f"the counter of {pool} is too busy")

    async def _read(self, pool: str) -> tuple[int, str | None]:
        row = await self._table.get(pool, "0")
        return (int(row.properties["block"]), row.etag) if row else (-1, None)
