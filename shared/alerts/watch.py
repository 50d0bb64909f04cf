"""Raises alerts for states that last: backends out of rotation, safe mode, and usage rows that wait or are lost.

It looks every few seconds, off the path of calls. A state that lasts is raised at every look; `dispatcher.py` sends it
once an hour.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

import msgspec

from shared.alerts import events
from shared.alerts.dispatcher import Raise
from shared.alerts.events import Alert
from shared.concurrency import Tasks

_LOSSES_TOGETHER = 600.0  # seconds of losses that are one alert

Deployment = tuple[str, str]
"""A backend's name and a deployment."""


class Patience(msgspec.Struct, frozen=True):
    """Seconds for which a state lasts until it is an alert, and between two looks."""

    ejected: float = 300.0
    rows_waiting: float = 60.0
    between_looks: float = 5.0


class Reading(msgspec.Struct, frozen=True):
    """The state of this instance. `ejected`: the deployments out of rotation, and why ("": not known). `safe_since`:
    None in normal mode."""

    instance: str
    ejected: Mapping[Deployment, str] = {}
    safe_since: float | None = None
    rows_on_disk: bool = False
    rows_lost: int = 0


class Ejection(msgspec.Struct, frozen=True):
    """An ejection as the watch has seen it. `reason` "": not known yet."""

    since: float
    reason: str


class Seen(msgspec.Struct, frozen=True):
    """The states at the last look, with the times of their beginnings."""

    ejections: Mapping[Deployment, Ejection] = {}
    safe_since: float | None = None
    rows_since: float | None = None
    rows_lost: int = 0
    lost_at: float = 0.0  # when a loss was raised last


def look(seen: Seen, reading: Reading, now: float, patience: Patience) -> tuple[Seen, list[Alert]]:
    """Return the states seen now, and the alerts that are due."""
    ejections = {key: _ejection(seen.ejections.get(key), why, now) for key, why in reading.ejected.items()}
    rows_since = None if not reading.rows_on_disk else now if seen.rows_since is None else seen.rows_since
    rows_lost, lost_at, alerts = seen.rows_lost, seen.lost_at, [*_of_backends(ejections, now, patience)]
    if reading.safe_since is not None:
        alerts.append(events.safe_mode_began(reading.safe_since, now))
    elif seen.safe_since is not None:
        alerts.append(events.safe_mode_ended(seen.safe_since, now))
    if rows_since is not None and now - rows_since >= patience.rows_waiting:
        alerts.append(events.usage_rows_waiting(reading.instance, now - rows_since, now))
    if reading.rows_lost > rows_lost and now - lost_at >= _LOSSES_TOGETHER:
        rows_lost, lost_at = reading.rows_lost, now
        alerts.append(events.usage_rows_lost(reading.instance, rows_lost, now))
    return Seen(ejections, reading.safe_since, rows_since, rows_lost, lost_at), alerts


def _ejection(before: Ejection | None, reason: str, now: float) -> Ejection:
    if before is None:
        return Ejection(now, reason)
    return Ejection(before.since, reason or before.reason)


def _of_backends(ejections: Mapping[Deployment, Ejection], now: float, patience: Patience) -> Iterator[Alert]:
    """An alert for each backend with deployments that have been out of rotation for long."""
    long = {key: one for key, one in ejections.items() if now - one.since >= patience.ejected}
    for backend in dict.fromkeys(backend for backend, _ in long):
        own = {deployment: one for (of, deployment), one in long.items() if of == backend}
        first = min(own.values(), key=lambda one: one.since)
        yield events.backend_ejected(backend, sorted(own), first.reason or "no reason known", now - first.since, now)


class Watch:
    """One per process. `close` it after what it watches: the losses of a shutdown are raised, too."""

    def __init__(self, alerts: Raise, patience: Patience, clock: Callable[[], float] = time.time) -> None:
        self._alerts = alerts
        self._patience = patience
        self._clock = clock
        self._seen = Seen()
        self._read: Callable[[], Reading] | None = None
        self._tasks = Tasks(shared=True)

    def start(self, read: Callable[[], Reading]) -> None:
        """Look from now on. `read` returns the state of this instance."""
        self._read = read
        self._tasks.start(self._run())

    async def close(self) -> None:
        """Look a last time."""
        await self._tasks.close()
        self._look()

    async def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(self._patience.between_looks)
                self._look()

    def _look(self) -> None:
        if self._read is not None:
            self._seen, alerts = look(self._seen, self._read(), self._clock(), self._patience)
            for alert in alerts:
                self._alerts(alert)
