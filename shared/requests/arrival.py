"""An incoming request."""

import time

import msgspec

from shared.telemetry.spans import TraceContext


class ReceivedRequest(msgspec.Struct, frozen=True):
    """`started` is on the monotonic clock. `place` in its trace is None if nothing is traced."""

    request_id: str
    started: float
    method: str
    path: str
    place: TraceContext | None = None

    def milliseconds(self) -> float:
        """Time since the request arrived."""
        return (time.monotonic() - self.started) * 1000
