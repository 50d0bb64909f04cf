"""An incoming request."""

import re
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


def without_empty_segments(path: str) -> str:
    """The path as it was meant by a client that joins `https://gateway/` and `/openai/…`."""
    return re.sub("//+", "/", path) if "//" in path else path
