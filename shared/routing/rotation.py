"""Weighted round robin across instances, from counter blocks claimed in the background.

Tickets come in blocks of 64 from one counter row per pool (table `rotation`). A block's tickets start at the place of
its number, because 64 is often a multiple of the number of backends: otherwise every new instance would start with the
same backend. Until the first block has come, and while the table does not answer, a process draws its own tickets.
"""

import asyncio
import logging
import random
from collections.abc import Sequence

import msgspec

from shared.concurrency import Tasks
from shared.errors import StoreUnavailable
from shared.storage import Properties, Row, Table, conditional

logger = logging.getLogger("tollgate.rotation")

BLOCK = 64
_FETCH_BELOW = 24  # tickets left when the next block is claimed
_PAUSE_AFTER_FAILURE = 2.0  # seconds


def smooth_order(weights: Sequence[int]) -> list[int]:
    """One round of smooth weighted rotation: every index as often as its weight, spread evenly.

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
    """A pool's block in use and the following one, by their numbers."""

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
        self._claimed: dict[str, tuple[int, float]] = {}  # this process's last block, and the instances that claim some
        self._tasks = Tasks(shared=True)

    def ticket(self, pool: str, length: int) -> int:
        """The next ticket of a pool, to be used modulo the length of its round. Never waits."""
        state = self._pools.get(pool)
        if state is None:
            state = self._pools[pool] = _Pool(self._rng.getrandbits(16))
        if state.used >= BLOCK:
            last = state.block + state.used - 1
            # Without the table, continue where the block ended: this keeps the turns even in this process.
            state.block = last + 1 if state.following is None else state.following
            state.used = int(length > 1 and (state.block - last) % length == 0)  # not the same backend twice in a row
            state.following = None
        ticket = state.block + state.used
        state.used += 1
        if BLOCK - state.used < _FETCH_BELOW and state.following is None and not state.fetching:
            self._fetch_ahead(pool, state)
        return ticket

    def instances(self, pool: str) -> float:
        """The approximate number of instances that serve the pool: the blocks claimed by all per block claimed here."""
        return self._claimed.get(pool, (0, 1.0))[1]

    async def close(self) -> None:
        await self._tasks.close()

    def _fetch_ahead(self, pool: str, state: _Pool) -> None:
        if asyncio.get_running_loop().time() >= state.retry_at:
            state.fetching = True
            self._tasks.start(self._fetch(pool, state))

    async def _fetch(self, pool: str, state: _Pool) -> None:
        try:
            state.following = await self._claim(pool)
            previous, instances = self._claimed.get(pool, (state.following - 1, 1.0))
            self._claimed[pool] = (state.following, (instances + max(1, state.following - previous)) / 2)
        except StoreUnavailable as error:
            state.retry_at = asyncio.get_running_loop().time() + _PAUSE_AFTER_FAILURE
            logger.warning("the rotation of %s continues without the table: %s", pool, error)
        finally:
            state.fetching = False

    async def _claim(self, pool: str) -> int:
        """The number of a block that no other instance has. A write whose answer was lost only skips a number."""

        def increment(row: Row | None) -> Properties:
            return {"block": int(row.properties["block"]) + 1 if row is not None else 0}

        written = await conditional.update(self._table, pool, "0", increment)
        return int(written["block"]) if written is not None else 0
