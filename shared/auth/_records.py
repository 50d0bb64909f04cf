"""Records of consumers, from memory if possible.

Only a few reads of ids that are not cached are under way at once: a stranger may invent as many as it likes. A cached
record is read again in the background once it is 30 s old, and awaited once it is 50 s old, so that a
revocation applies everywhere within 60 s. With the table out of reach, cached records remain in use.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

import msgspec

from shared.auth._freshness import RECHECK_AFTER, REFRESH_AFTER, STALE_AFTER, WAIT_WITH_FALLBACK, WAIT_WITHOUT
from shared.auth.consumer_rows import Record
from shared.auth.consumers import Consumers
from shared.concurrency import LruDict, SingleFlight
from shared.errors import StoreUnavailable

logger = logging.getLogger("tollgate.authentication")

_MAX_KNOWN = 50_000  # consumers
_READS_AT_ONCE = 8  # of consumers not cached: limits and usage rows need the same connections
_MAX_UNKNOWN = 10_000  # ids without a consumer, cached apart so that guessing evicts no consumer


class _Cached(msgspec.Struct):
    """The record of an id (None: there is none), and when it was read (monotonic seconds)."""

    record: Record | None
    read_at: float
    retry_at: float = 0.0


class Records:
    """The records of one process. `clock` is monotonic."""

    def __init__(self, consumers: Consumers, clock: Callable[[], float]) -> None:
        self._consumers = consumers
        self._clock = clock
        self._known: LruDict[str, _Cached] = LruDict(_MAX_KNOWN)
        self._unknown: LruDict[str, _Cached] = LruDict(_MAX_UNKNOWN)
        self._reads: SingleFlight[str, _Cached] = SingleFlight()
        self.close = self._reads.close
        self._gate = asyncio.Semaphore(_READS_AT_ONCE)

    async def get(self, consumer_id: str, key_id: str = "") -> Record | None:
        """The record of a consumer, None if there is none. `key_id`: a key that it should have. Raises
        `StoreUnavailable` if it is neither cached nor read in time."""
        now = self._clock()
        cache = self._known if consumer_id in self._known else self._unknown
        cached = cache.get(consumer_id)
        if cached is None:
            return (await self._read(consumer_id, WAIT_WITHOUT, None)).record
        cache.move_to_end(consumer_id)
        age = now - cached.read_at
        if key_id and cached.record is not None and key_id not in cached.record.keys and age > RECHECK_AFTER:
            age = STALE_AFTER  # the key may be younger than the cached record
        if age < REFRESH_AFTER or now < cached.retry_at:
            return cached.record
        if age < STALE_AFTER and cached.record is not None:
            self._reads.start(consumer_id, lambda: self._fetch(consumer_id))
            return cached.record
        try:
            return (await self._read(consumer_id, WAIT_WITH_FALLBACK, cached)).record
        except StoreUnavailable as error:
            logger.warning("store out of reach, using the cached consumer %s: %s", consumer_id, error)
            return cached.record

    def read_again(self, consumer_id: str) -> None:
        """Read a record in the background: it has just been written."""
        self._reads.start(consumer_id, lambda: self._fetch(consumer_id))

    def outdate(self, consumer_id: str) -> None:
        """Have a record read again before its next use: it has just been changed."""
        if cached := self._known.get(consumer_id) or self._unknown.get(consumer_id):
            cached.read_at = self._clock() - STALE_AFTER

    async def _read(self, consumer_id: str, wait: float, seen: _Cached | None) -> _Cached:
        """Read a record. `seen`: what the cache had."""
        gate = self._gate if seen is None or seen.record is None else contextlib.nullcontext()
        try:
            async with asyncio.timeout(wait), gate:
                cached = self._known.get(consumer_id) or self._unknown.get(consumer_id)
                if cached is not None and cached is not seen:  # read while this call waited for the gate
                    return cached
                return await self._reads.run(consumer_id, lambda: self._fetch(consumer_id))
        except TimeoutError:
            self._postpone(consumer_id)
            raise StoreUnavailable("The store of the keys does not answer. Try again shortly.") from None
        except StoreUnavailable as error:
            logger.warning("cannot read consumer %s: %s", consumer_id, error)
            raise StoreUnavailable("The store of the keys is out of reach. Try again shortly.") from None

    async def _fetch(self, consumer_id: str) -> _Cached:
        started = self._clock()  # the row may be as old as the start of the read
        try:
            cached = _Cached(await self._consumers.find(consumer_id), started)
        except Exception:
            self._postpone(consumer_id)
            raise
        cache, other = (self._known, self._unknown) if cached.record else (self._unknown, self._known)
        other.pop(consumer_id, None)
        cache[consumer_id] = cached
        return cached

    def _postpone(self, consumer_id: str) -> None:
        """Use the cached record for a moment before the table is tried again, after a failure."""
        if cached := self._known.get(consumer_id) or self._unknown.get(consumer_id):
            cached.retry_at = self._clock() + RECHECK_AFTER
