"""An incoming request."""

import logging
import time
from typing import Any

import msgspec

from shared.telemetry.spans import TraceContext

logger = logging.getLogger("tollgate.requests")


class ReceivedRequest(msgspec.Struct, frozen=True):
    """`started`: on the monotonic clock. `place`: its place in a trace; None: telemetry is off."""

    request_id: str
    started: float
    method: str
    path: str
    place: TraceContext | None = None

    def milliseconds(self) -> float:
        return (time.monotonic() - self.started) * 1000

    def log(self, line: dict[str, Any]) -> None:
        """Log the one line of a request."""
        if self.place is not None:
            line["trace"] = self.place.trace
        logger.info(msgspec.json.encode(line).decode())
