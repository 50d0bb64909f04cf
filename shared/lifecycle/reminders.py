"""The daily look for models and keys that end soon, by the timer's job."""

from collections.abc import Iterable, Iterator

from shared.alerts import events
from shared.alerts.dispatcher import Raise
from shared.alerts.events import Alert
from shared.auth.consumer_rows import Record, StoredKey
from shared.auth.consumers import Consumers
from shared.config.document import Configuration
from shared.lifecycle import retirement
from shared.storage import Store, daily
from shared.storage.daily import DAY

KEY_NOTICES = (3, 14)  # days before a key's end at which people are alerted

_PARTITION, _ROW = "lifecycle", "reminders"  # of the table `control`


async def remind(store: Store, configuration: Configuration, alerts: Raise) -> int:
    """Raise an alert for everything that ends soon, once a day for all instances. Return the number of alerts. Raises
    `StoreUnavailable`."""
    if not await daily.claim(store, _PARTITION, _ROW):
        return 0
    now = store.now()
    due = [*of_models(configuration, now), *of_keys(await Consumers(store).all(), now)]
    for alert in due:
        alerts(alert)
    return len(due)


def of_models(configuration: Configuration, now: float) -> Iterator[Alert]:
    """The alerts about models that end soon, unless a successor serves in their place by then."""
    for name, end in retirement.of_all(configuration).items():
        within = end.notice(now)
        if within is None or configuration.served(name, now + end.days_left(now) * DAY) != name:
            continue
        backends = [backend.name for backend in configuration.backends if name in backend.models]
        yield events.model_retires(name, backends, end.retires, end.replacement, within, end.days_left(now))


def of_keys(records: Iterable[Record], now: float) -> Iterator[Alert]:
    """The alerts about keys that expire soon, unless a newer key of their consumer lives longer."""
    for record in records:
        valid = [key for key in record.keys.values() if key.valid_at(now)]
        for key in valid:
            within = next((days for days in KEY_NOTICES if 0 < key.expires - now <= days * DAY), None)
            if within is not None and not any(_follows(key, other) for other in valid):
                consumer = record.consumer
                yield events.key_expires(consumer.id, consumer.name, key.id, key.expires, within, now)


def _follows(key: StoredKey, other: StoredKey) -> bool:
    """True if the other key was made to take the place of this one."""
    return other.created > key.created and (not other.expires or other.expires > key.expires)
