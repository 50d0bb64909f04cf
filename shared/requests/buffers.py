"""Bounds on the bytes of bodies that a process holds, per consumer and altogether.

A body that has not arrived is nobody's call yet: without these bounds, one caller with many connections could fill the
memory with bodies that never end. A large one that has arrived is held until its call ends, since another try may need
it: calls at a slow backend could fill the memory as well.
"""

import asyncio
from collections import Counter

from shared.azure_openai.outline import LARGE
from shared.errors import GatewayBusy, RateLimitExceeded

_UNDER_WAY = 2  # times the bytes of bodies that are arriving


class _Bound:
    """At most `most` bytes, and half of that per consumer. `of`: the bodies that are counted, for messages."""

    def __init__(self, most: int, of: str) -> None:
        self.most = most
        self._of = of
        self.total = 0
        self._held: Counter[str] = Counter()  # by the consumer's id

    def hold(self, consumer_id: str, size: int) -> None:
        """Count bytes as held. Raises `RateLimitExceeded` (429) and `GatewayBusy` (503)."""
        if self._held[consumer_id] + size > self.most // 2:
            raise RateLimitExceeded(
                f"The bodies that are {self._of} with this key have more than {self.most // 2} bytes together. "
                "Send fewer large ones at once.",
                1.0,
            )
        if self.total + size > self.most:
            raise GatewayBusy(f"Too many large bodies are {self._of}. Try again shortly.")
        self.total += size
        self._held[consumer_id] += size

    def release(self, consumer_id: str, size: int) -> None:
        """Count bytes as no longer held."""
        self.total -= size
        self._held[consumer_id] -= size
        if not self._held[consumer_id]:
            del self._held[consumer_id]


class Buffers:
    """The bodies of one process: at most `most` bytes of those that arrive, and twice as many of those under way.
    `one_at_a_time`: held while a large body is processed, so that several of them do not block the event loop for
    long."""

    def __init__(self, most: int) -> None:
        self.one_at_a_time = asyncio.Lock()
        self.arriving = _Bound(most, "being sent")
        self.under_way = _Bound(_UNDER_WAY * most, "under way")

    def resize(self, most: int) -> None:
        """Set another bound. What is held stays counted."""
        self.arriving.most, self.under_way.most = most, _UNDER_WAY * most

    def open(self, consumer_id: str) -> "Buffer":
        """The buffer of one body."""
        return Buffer(self, consumer_id)


class Buffer:
    """The bytes held of one body."""

    def __init__(self, buffers: Buffers, consumer_id: str) -> None:
        self._buffers = buffers
        self._bound = buffers.arriving
        self._consumer_id = consumer_id
        self._size = 0

    @property
    def one_at_a_time(self) -> asyncio.Lock:
        return self._buffers.one_at_a_time

    @property
    def holds(self) -> bool:
        """True if bytes are counted."""
        return self._size > 0

    def hold(self, size: int) -> None:
        """Count more bytes. Raises `RateLimitExceeded` (429) and `GatewayBusy` (503)."""
        self._bound.hold(self._consumer_id, size)
        self._size += size

    def keep(self) -> None:
        """The body has arrived: count a large one with those of calls under way, until it is released. Raises as
        `hold`."""
        size = self._size
        self.release()
        if size > LARGE:
            self._bound = self._buffers.under_way
            self.hold(size)

    def release(self) -> None:
        """Give all of it back. Calls after the first do nothing."""
        size, self._size = self._size, 0
        if size:
            self._bound.release(self._consumer_id, size)
