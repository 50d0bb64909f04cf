"""Watches a relayed answer for silence."""

import asyncio
import contextlib
import math

from starlette.types import Send

from shared.forwarding.response import OpenAnswer
from shared.responses.rendering import KEEP_ALIVE_COMMENT, send_part


class Watch:
    """Looks how long an upstream has been silent: puts comments into its event stream, because what stands between here
    and the caller cuts silence, and ends the wait for one that is silent for too long. No task and no timer per chunk:
    one timer looks how long ago the last chunk was."""

    def __init__(self, answer: OpenAnswer, timeout: asyncio.Timeout, send: Send, heartbeat: float) -> None:
        """`timeout`: of the whole answer. `heartbeat`: seconds until a silent stream gets a comment; 0: never."""
        self._waits = False  # for a chunk; else for the caller to take one, which does not count as silence
        self._loop = asyncio.get_running_loop()
        self._events = answer.events
        self._longest = answer.silence
        self._timeout = timeout
        self._send = send
        self._heartbeat = heartbeat if heartbeat and self._events is not None else math.inf
        self._since = self._heartbeat_at = self._loop.time()
        self._sending: asyncio.Future[None] | None = None
        self._timer = self._loop.call_at(self._next(), self._look)

    def waiting(self) -> None:
        """For a chunk, from now on."""
        self._waits = True
        self._since = self._loop.time()

    def chunk_arrived(self) -> None:
        """A chunk has come."""
        self._waits = False

    def stop(self) -> None:
        self._timer.cancel()
        if self._sending is not None:
            self._sending.cancel()

    def _next(self) -> float:
        return min(self._since + self._longest, max(self._since, self._heartbeat_at) + self._heartbeat)

    def _look(self) -> None:
        now = self._loop.time()
        if not self._waits:
            self._since = now
        if now >= self._since + self._longest:
            with contextlib.suppress(RuntimeError):  # its time is over at this very moment
                self._timeout.reschedule(now)
            return
        if now >= max(self._since, self._heartbeat_at) + self._heartbeat:
            self._heartbeat_at = now
            idle = self._sending is None or self._sending.done()  # a caller that does not read gets no more of them
            if idle and self._events is not None and self._events.between_events:
                # At once: in a turn from now a piece of an event may have passed.
                self._sending = asyncio.Task(
                    send_part(self._send, KEEP_ALIVE_COMMENT), loop=self._loop, eager_start=True
                )
        self._timer = self._loop.call_at(self._next(), self._look)
