"""Batches of telemetry, and the exporter that sends them."""

from typing import Protocol

import msgspec

from shared.telemetry.metrics import Point
from shared.telemetry.spans import Span


class LogLine(msgspec.Struct, frozen=True):
    """A log line. `time` in nanoseconds since 1970; ids are 0 outside of calls. `exception` is its type."""

    time: int
    level: int
    logger: str
    text: str
    trace_id: int = 0
    span_id: int = 0
    exception: str = ""
    stack: str = ""


class Batch(msgspec.Struct, frozen=True):
    spans: list[Span] = []
    lines: list[LogLine] = []
    points: list[Point] = []


class TelemetryExporter(Protocol):
    """Sends batches in order, outside of the event loop."""

    @property
    def busy(self) -> bool:
        """True until every batch taken has been sent."""

    def send(self, batch: Batch) -> None:
        """Take a batch. Returns at once."""

    async def close(self) -> None:
        """Send the batches taken."""
