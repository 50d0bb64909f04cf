"""Telemetry and alerts of a process: their destinations, and the states that they read from its parts."""

import time
from collections.abc import Callable

from shared import ulid
from shared.alerts import events
from shared.alerts.dispatcher import Alerts
from shared.alerts.watch import Reading
from shared.billing import cost as pricing
from shared.billing.cost import USD
from shared.billing.prices import Prices
from shared.config.document import Configuration
from shared.config.environment import Settings
from shared.limits.limiter import Limiter
from shared.limits.scopes import Scope
from shared.routing.breakers import Breakers
from shared.telemetry import instruments
from shared.telemetry.recorder import Cost, NoTelemetry, Readings, Telemetry
from shared.types import Target, Usage
from shared.usage.ledger import Ledger


def telemetry(settings: Settings) -> Telemetry | NoTelemetry:
    """Telemetry, if it has a destination. Only an export imports the exporter."""
    if settings.telemetry is None:
        return NoTelemetry()
    from shared.telemetry.exporter import ExportThread

    per_second = settings.configuration.telemetry.traces_per_second
    sender = ExportThread(settings.telemetry, ulid.new(time.time())[-10:])
    usd = usd_of(settings.configuration)
    return Telemetry(sender, per_second, settings.telemetry.metrics_every, time.monotonic, time.time, usd)


def usd_of(configuration: Configuration) -> Cost:
    """A function that returns the cost of a call in USD, None if it is unknown."""
    prices = Prices(configuration.prices, configuration.backends)

    def usd(usage: Usage, target: Target) -> float | None:
        cost = pricing.cost(prices.of_call(usage, target, time.time()), usage)
        return None if cost is None else cost / USD

    return usd


def quota_alerts(alerts: Alerts) -> Callable[[Scope, str, int, float], None]:
    """The function that a limit calls when its quota is nearly or entirely used."""

    def reached(scope: Scope, dimension: str, percentage: int, until: float) -> None:
        alerts(events.quota_reached(scope.key, scope.about, dimension, percentage, until))

    return reached


def reading(ledger: Ledger, limiter: Limiter, breakers: Breakers) -> Reading:
    """The states of this instance that are alerts if they last."""
    return Reading(ledger.instance, breakers.ejected(), limiter.safe_since, ledger.rows.on_disk, ledger.rows.dropped)


def readings(ledger: Ledger, limiter: Limiter, alerts: Alerts, breakers: Breakers) -> Readings:
    """The metrics that are read from their owners at every export."""
    return {
        instruments.BACKLOG: lambda: [((), ledger.rows.backlog)],
        instruments.LEDGER_LOST: lambda: [((), ledger.rows.dropped)],
        instruments.SAFE_MODE: lambda: [((), int(limiter.safe_since is not None))],
        instruments.LIMIT_HITS: limiter.hits.items,
        instruments.LIMIT_ALERTS: alerts.quotas.items,
        instruments.ALERTS: alerts.raised.items,
        instruments.TRIPS: lambda: [((backend,), trips) for backend, trips in breakers.trips.items()],
    }
