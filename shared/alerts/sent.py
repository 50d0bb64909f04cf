"""The alerts that were raised, with what became of each at its receivers: for those who look, not for those who send.

A row per alert in the table `control`, newest first, for `KEEP_DAYS`. The last ones of this instance are in memory, so
that they can be shown while the table does not answer.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from shared.alerts.events import Alert, Fact
from shared.config.alerting import Receiver
from shared.errors import StoreUnavailable
from shared.storage import Properties, Row, Store, names

logger = logging.getLogger("tollgate.alerts")

KEEP_DAYS = 30
MOST_SHOWN = 100
_PARTITION = "alerts-sent"
_PATIENCE = 3.0  # seconds for the table's answer


class Result(msgspec.Struct, frozen=True):
    """The end of an alert at one receiver. `place`: its key in the configuration; `problem` "": it was accepted."""

    place: str
    kind: str
    host: str
    accepted: bool
    tries: int
    problem: str
    at: float


class SentAlert(msgspec.Struct, frozen=True):
    """An alert that was raised. Times in seconds since 1970. `results` None: it is on its way; empty: no receiver wants
    it, so it is in the log only."""

    at: float
    event: str
    severity: str
    key: str
    until: float
    message: str
    facts: Mapping[str, Fact] = {}
    results: Sequence[Result] | None = None


def result(receiver: Receiver, problem: str, tries: int, at: float) -> Result:
    """The result of sending. `problem` "": it was accepted."""
    return Result(receiver.place, receiver.kind, receiver.host, not problem, tries, problem, at)


def firing(sent: Iterable[SentAlert], ejected: Collection[str], now: float, *, safe_mode: bool) -> list[SentAlert]:
    """The newest alert of each kind that still holds. An alert holds until its time is over; of states that instances
    share, only while they last: `ejected` names the backends that are out of rotation, `safe_mode` is the limits'."""
    newest: dict[str, SentAlert] = {}
    for alert in sent:
        if alert.key not in newest or newest[alert.key].at < alert.at:
            newest[alert.key] = alert
    return sorted(
        (alert for alert in newest.values() if _holds(alert, ejected, now, safe_mode=safe_mode)),
        key=lambda alert: -alert.at,
    )


def _holds(alert: SentAlert, ejected: Collection[str], now: float, *, safe_mode: bool) -> bool:
    if alert.until <= now or alert.severity == "info":
        return False
    if alert.event == "backend_ejected":
        return alert.facts.get("backend") in ejected
    return alert.event != "safe_mode_began" or safe_mode


class SentAlerts:
    """One per process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._table = store.table(names.CONTROL)
        self._own: deque[SentAlert] = deque(maxlen=MOST_SHOWN)

    async def note(self, alert: Alert, at: float, results: Sequence[Result] | None) -> None:
        """Keep an alert that was raised at a time, again when its results are known."""
        sent = SentAlert(at, alert.event, alert.severity, alert.key, alert.until, alert.message, alert.facts, results)
        self._own = deque((one for one in self._own if (one.key, one.at) != (alert.key, at)), MOST_SHOWN)
        self._own.append(sent)
        row: Properties = {"alert": msgspec.json.encode(sent).decode()}
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._table.merge(_PARTITION, {f"{names.newest_first(at)}-{alert.id}": row})
        except (StoreUnavailable, TimeoutError) as error:
            logger.warning("alert %s not written to the table: %s", alert.event, error)

    def own(self) -> list[SentAlert]:
        """The last alerts of this instance, newest first."""
        return [*reversed(self._own)]

    async def newest(self) -> list[SentAlert]:
        """The last alerts of all instances, newest first. Raises `StoreUnavailable`."""
        alerts: list[SentAlert] = []
        async for row in self._table.scan(_PARTITION):
            alerts += _read(row)
            if len(alerts) >= MOST_SHOWN:
                break
        return alerts

    async def clean_up(self) -> int:
        """Delete the rows that are too old. Return their number. Raises `StoreUnavailable`."""
        oldest = names.newest_first(self._store.now() - KEEP_DAYS * 86_400)
        old = [row.key async for row in self._table.scan(_PARTITION, oldest)]
        for key in old:
            await self._table.delete(_PARTITION, key)
        return len(old)


def _read(row: Row) -> list[SentAlert]:
    """The alert of a row; none if a newer version has written it in another way."""
    try:
        return [msgspec.json.decode(str(row.properties.get("alert", "")), type=SentAlert)]
    except msgspec.DecodeError:
        return []
