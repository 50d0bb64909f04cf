"""Raises alerts: each once for all instances, in the log, in the metrics, and to the configured receivers."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

from shared.alerts._claims import Claims
from shared.alerts._delivery import Delivery
from shared.alerts.events import Alert, test_message
from shared.alerts.sent import Result, SentAlerts
from shared.concurrency import LruDict, Tasks
from shared.config.alerting import Receiver
from shared.storage import Store

logger = logging.getLogger("tollgate.alerts")

Raise = Callable[[Alert], None]
"""Raises an alert, and returns at once."""

_FIRST_PAUSE = 1.0  # seconds between tries; doubles
_MOST_WAITING = 100  # alerts on their way
_MOST_KEPT = 1000  # alerts that this process remembers
_AGAIN_AFTER = 600.0  # seconds until an alert that no receiver has accepted may be raised again


class Alerts:
    """One per process. Call it to raise an alert; it returns at once."""

    def __init__(
        self,
        receivers: Iterable[Receiver],
        store: Store,
        clock: Callable[[], float] = time.time,
        first_pause: float = _FIRST_PAUSE,
    ) -> None:
        self.raised: Counter[tuple[str]] = Counter()  # (event,) -> alerts
        self.quotas: Counter[tuple[str, str]] = Counter()  # (dimension, percentage) -> alerts
        self._clock = clock
        self._first_pause = first_pause
        self.configure(receivers)
        self._claims = Claims(store)
        self.sent = SentAlerts(store)
        self._quiet_until: LruDict[str, float] = LruDict(_MOST_KEPT)
        self._sending = Tasks(shared=True)

    def configure(self, receivers: Iterable[Receiver]) -> None:
        """Send alerts there from now on. Raises `ConfigurationError`, and changes nothing then."""
        self._deliveries = [Delivery(receiver, self._clock, self._first_pause) for receiver in receivers]

    @property
    def receivers(self) -> list[Receiver]:
        return [delivery.receiver for delivery in self._deliveries]

    async def clean_up(self) -> int:
        """Delete rows that are too old. Return their number. Raises `StoreUnavailable`."""
        return await self._claims.clean_up() + await self.sent.clean_up()

    async def test(self, place: str, by: str) -> Result | None:
        """Send a message to the receiver at this place of the configuration, once. None: there is none."""
        delivery = next((one for one in self._deliveries if one.receiver.place == place), None)
        if delivery is None:
            return None
        now = self._clock()
        alert = test_message(by, now)
        ended = await delivery.send(alert, tries=1)
        await self.sent.note(alert, now, [ended])
        return ended

    def __call__(self, alert: Alert) -> None:
        """Raise an alert, unless this process has done so and its time is not over."""
        now = self._clock()
        if not alert.claimed:
            if now < self._quiet_until.get(alert.key, 0.0):
                return
            self._quiet_until[alert.key] = alert.until
        if len(self._sending) >= _MOST_WAITING:
            _log(alert)
            logger.error("alert queue is full: the last alert was only logged")
            return
        self._sending.start(self._raise(alert))

    async def close(self, patience: float = 5.0) -> None:
        """Wait some seconds for alerts that are being sent."""
        await self._sending.finish(patience)

    async def _raise(self, alert: Alert) -> None:
        if not alert.claimed and not await self._claims.take(alert):
            return
        _log(alert)
        self.raised[alert.event,] += 1
        if alert.event == "quota_reached":
            self.quotas[str(alert.facts["limit"]), str(alert.facts["percentage"])] += 1
        due = [delivery for delivery in self._deliveries if alert.event in delivery.receiver.events]
        at = self._clock()
        noting = asyncio.ensure_future(self.sent.note(alert, at, None if due else []))
        results = await asyncio.gather(*(delivery.send(alert) for delivery in due))
        await noting
        if due:
            await self.sent.note(alert, at, results)
        if due and not any(one.accepted for one in results) and not alert.claimed:
            self._quiet_until[alert.key] = min(alert.until, self._clock() + _AGAIN_AFTER)
            await self._claims.release(alert)


def _log(alert: Alert) -> None:
    line = {"event": alert.event, "severity": alert.severity, "message": alert.message, **alert.facts}
    write = logger.info if alert.severity == "info" else logger.warning
    write("ALERT %s", msgspec.json.encode(line).decode())
