"""Bounds on the bytes of bodies that are being received, per consumer and per process.

A body that has not arrived is nobody's call yet: without these bounds, one caller with many connections could fill the
memory with bodies that never end.
"""

import asyncio
from collections import Counter

from shared.errors import GatewayBusy, RateLimitExceeded


class Buffers:
    """The bodies of one process: at most `most` bytes, and half of that per consumer. `one_at_a_time`: held by whoever
    works on a large body, so that several of them do not add up to a long silence of the event loop."""

    def __init__(self, most: int) -> None:
        self.one_at_a_time = asyncio.Lock()
        self._most = most
        self._total = 0
        self._held: Counter[str] = Counter()  # by the consumer's id

    def resize(self, most: int) -> None:
        """Set another bound. What is held stays counted."""
        self._most = most

    def open(self, consumer_id: str) -> "Buffer":
        """The buffer of one body."""
        return Buffer(self, consumer_id)

    def hold(self, consumer_id: str, size: int) -> None:
        """Count bytes as held. Raises `RateLimitExceeded` (429) and `GatewayBusy` (503)."""
        if self._held[consumer_id] + size > self._most // 2:
            raise RateLimitExceeded(
                f"The bodies that are being sent with this key have more than {self._most // 2} bytes together. "
                "Send fewer large ones at once.",
                1.0,
            )
        if self._total + size > self._most:
            raise GatewayBusy("The gateway is receiving too many large bodies. Try again shortly.")
        self._total += size
        self._held[consumer_id] += size

    def release(self, consumer_id: str, size: int) -> None:
        """Count bytes as no longer held."""
        self._total -= size
        self._held[consumer_id] -= size
        if not self._held[consumer_id]:
            del self._held[consumer_id]


class Buffer:
    """The bytes held of one body."""

    def __init__(self, buffers: Buffers, consumer_id: str) -> None:
        self._buffers = buffers
        self._consumer_id = consumer_id
        self._size = 0

    @property
    def one_at_a_time(self) -> asyncio.Lock:
        return self._buffers.one_at_a_time

    def hold(self, size: int) -> None:
        """Count more bytes. Raises `RateLimitExceeded` (429) and `GatewayBusy` (503)."""
        self._buffers.hold(self._consumer_id, size)
        self._size += size

    def release(self) -> None:
        """Give all of it back. Calls after the first do nothing."""
        size, self._size = self._size, 0
        if size:
            self._buffers.release(self._consumer_id, size)
