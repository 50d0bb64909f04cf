"""A request as it came in, and the one line of the log that tells of it."""

import logging
import time
from typing import Any

import msgspec

from shared.telemetry.spans import TraceContext

logger = logging.getLogger("tollgate.requests")


class ReceivedRequest(msgspec.Struct, frozen=True):
    """`started` on the monotonic clock. `place`: in its trace; None: nobody wants to know."""

    request_id: str
    started: float
    method: str
    path: str
    place: TraceContext | None = None

    def milliseconds(self) -> float:
        return (time.monotonic() - self.started) * 1000

    def log(self, line: dict[str, Any]) -> None:
        """The one line of a request."""
        if self.place is not None:
            line["trace"] = self.place.trace
        logger.info(msgspec.json.encode(line).decode())
