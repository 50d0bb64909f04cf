"""Turns at work that costs much more than a call: few at once, and few that wait for one asker."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.errors import RateLimitExceeded


class Turns:
    """`at_once`: pieces of work; `most`: those of one asker, with the ones that wait."""

    def __init__(self, at_once: int, most: int) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._most = most
        self._of: Counter[str] = Counter()

    @asynccontextmanager
    async def take(self, asker: str) -> AsyncIterator[None]:
        """Wait for a turn. Raises `RateLimitExceeded` for an asker with too many."""
        if self._of[asker] >= self._most:
            message = f"{asker} has {self._most} of these requests under way. Wait for their answers."
            raise RateLimitExceeded(message, 1.0)
        self._of[asker] += 1
        try:
            async with self._turns:
                yield
        finally:
            self._of -= Counter((asker,))  # which keeps no zeros
