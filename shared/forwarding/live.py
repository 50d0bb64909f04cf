"""Calls as they happen, for those who watch: each try when it ends, each call, and each one that is refused.

Nothing is kept. While nobody listens, nothing is made: a call then costs a look at an empty set.
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from shared.errors import GatewayError
from shared.types import Attempt, Consumer

MOST_LISTENERS = 8  # of a process
_MOST_WAITING = 200  # events of one listener


class Event(NamedTuple):
    """Something that happened. `name`: `try`, `call`, `refused`, `pool` or `dropped`; `data`: its facts, for JSON."""

    name: str
    data: Mapping[str, Any]


class Listener:
    """The events that one watcher has not taken yet. Those beyond the bound are counted, not kept."""

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque()
        self._dropped = 0
        self._news = asyncio.Event()
        self.closed = False

    def put(self, event: Event) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self._dropped += 1
        else:
            self._waiting.append(event)
        self._news.set()

    def close(self) -> None:
        """End the stream of this watcher."""
        self.closed = True
        self._news.set()

    async def take(self, seconds: float) -> list[Event]:
        """Return what has happened since the last time, as soon as something has; nothing after so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return []
        self._news.clear()
        taken = [*self._waiting]
        self._waiting.clear()
        if self._dropped:
            taken.append(Event("dropped", {"events": self._dropped}))
            self._dropped = 0
        return taken


class LiveCalls:
    """One per process."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()

    @property
    def watched(self) -> bool:
        """True if somebody listens. Reporters ask first, and make no event otherwise."""
        return bool(self._listeners)

    @property
    def full(self) -> bool:
        return len(self._listeners) >= MOST_LISTENERS

    @contextmanager
    def listen(self) -> Iterator[Listener]:
        listener = Listener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def tell(self, name: str, data: Mapping[str, Any]) -> None:
        """Give an event to all listeners."""
        event = Event(name, data)
        for listener in self._listeners:
            listener.put(event)

    def tried(self, request_id: str, number: int, attempt: Attempt) -> None:
        """Report an attempt that has ended. `number`: its place among those of its call."""
        target = attempt.target
        self.tell(
            "try",
            {
                "request": request_id,
                "number": number,
                "backend": target.backend.name,
                "region": target.backend.region,
                "model": target.model,
                "deployment": target.deployment,
                "role": attempt.role,
                "status": attempt.status,
                "problem": attempt.problem,
                "ms": round(attempt.milliseconds, 1),
            },
        )

    def refused(
        self, request_id: str, consumer: Consumer | None, model: str, error: GatewayError, milliseconds: float
    ) -> None:
        """Report a call that was refused before it was on record. `consumer` None: it is unknown; `model`: its
        configured name, or ""."""
        self.tell(
            "refused",
            {
                "request": request_id,
                "consumer": consumer.id if consumer is not None else None,
                "name": consumer.name if consumer is not None else None,
                "model": model or None,
                "status": error.status,
                "code": error.code,
                "ms": round(milliseconds),
            },
        )

    def end_all(self) -> None:
        """End all streams: the configuration that they began with is no longer served."""
        for listener in self._listeners:
            listener.close()
