"""An incoming request."""

import time

import msgspec

from shared.telemetry.spans import UNTRACED, TraceContext


class ReceivedRequest(msgspec.Struct, frozen=True):
    """`started` is on the monotonic clock."""

    request_id: str
    started: float
    method: str
    path: str
    trace: TraceContext = UNTRACED

    def milliseconds(self) -> float:
        """Time since the request arrived."""
        return (time.monotonic() - self.started) * 1000
