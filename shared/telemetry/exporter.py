"""Sends telemetry from a thread. It imports the exporters, too, so neither the start nor a call waits for them."""

import asyncio
import logging
import threading
from queue import SimpleQueue

from shared.config.environment import TelemetrySettings
from shared.telemetry.batches import Batch

logger = logging.getLogger("tollgate")

_TIMEOUT_AT_EXIT = 5.0  # seconds to export the rest


class ExportThread:
    """A thread that destinations batches. `instance` names this process."""

    def __init__(self, settings: TelemetrySettings, instance: str) -> None:
        self._settings = settings
        self._instance = instance
        self._queue: SimpleQueue[Batch | None] = SimpleQueue()
        self._idle = True
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        return not self._idle or not self._queue.empty()

    def send(self, batch: Batch) -> None:
        self._queue.put(batch)

    async def close(self) -> None:
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join, _TIMEOUT_AT_EXIT)

    def _run(self) -> None:
        destinations = None
        while (batch := self._queue.get()) is not None:
            self._idle = False
            try:
                if destinations is None:
                    from shared.telemetry import _destinations

                    destinations = _destinations.of(self._settings, self._instance)
                for destination in destinations:
                    destination.export(batch)
            except Exception:  # the next batch may succeed
                logger.exception("cannot export telemetry")
            self._idle = True
