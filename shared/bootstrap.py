"""Builds the application from its settings. Only this module chooses implementations."""

import asyncio
import importlib
import logging
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from shared import ulid
from shared.accounting import Accounting
from shared.affinity import directory
from shared.affinity.directory import ObjectDirectory
from shared.affinity.planner import Planner
from shared.alerts import events
from shared.alerts.dispatcher import Alerts
from shared.alerts.watch import Patience, Reading, Watch
from shared.auth.authenticator import Authenticator
from shared.auth.consumers import Consumers
from shared.auth.operators import Operators
from shared.azure_openai.backend_requests import token_scope
from shared.billing import cost as pricing
from shared.billing.cost import USD
from shared.billing.focus_export import FocusExporter
from shared.billing.prices import Prices
from shared.concurrency import Tasks
from shared.config import environment
from shared.config.document import Backend, Configuration, LedgerSettings
from shared.config.environment import Settings, Source, Storage
from shared.credentials import Credentials
from shared.errors import StoreUnavailable
from shared.forwarding.backend_client import BackendClient
from shared.forwarding.forwarder import Forwarder
from shared.forwarding.late_attempts import LateAttempts
from shared.forwarding.shadowing import Shadows
from shared.gateway import Gateway
from shared.lifecycle import reminders, retirement
from shared.limits import cleanup
from shared.limits.limiter import Limiter
from shared.limits.scopes import Scope
from shared.management.api import ManagementApi
from shared.management.audit import Audit, AuditRoutes
from shared.management.backends import BackendRoutes
from shared.management.configuration import ConfigurationRoutes
from shared.management.consumers import ConsumerRoutes
from shared.management.drains import DrainTable
from shared.management.keys import KeyRoutes
from shared.management.limits import LimitRoutes
from shared.management.models import ModelRoutes
from shared.management.named_sections import NamedSectionRoutes
from shared.management.openapi import ManagementOpenApi
from shared.management.page_files import PageRoutes
from shared.management.readiness import ReadinessCheck
from shared.management.requests import RequestRoutes
from shared.management.service import ServiceRoutes
from shared.management.usage import UsageRoutes
from shared.requests.buffers import Buffers
from shared.responses.dispatcher import Dispatcher
from shared.routing.breakers import Breakers
from shared.routing.drains import Drains
from shared.routing.fleet_health import SharedHealth
from shared.routing.report import BackendsReport
from shared.routing.retry_budget import RetryBudget
from shared.routing.rotation import Rotation
from shared.routing.router import Router
from shared.settlement import timer as settlement
from shared.settlement.settler import Settlements, Settler
from shared.storage import Store, names
from shared.telemetry import instruments
from shared.telemetry.recorder import Cost, NoTelemetry, Readings, Telemetry
from shared.types import Reference, Target, Usage
from shared.usage import rollup
from shared.usage.ledger import Ledger
from shared.usage.overflow import Overflow
from shared.usage.tokenizer import Tokenizer
from shared.versions.changes import Changes
from shared.versions.live import Live
from shared.versions.rows import Versions

if TYPE_CHECKING:
    from shared.storage.tables import TablesStore

logger = logging.getLogger("tollgate")

_PATIENCE = Patience()


class _LongLived(NamedTuple):
    """The parts of a process that outlive a configuration. Those that hold one are asked for another view of
    themselves, with the same memory."""

    settings: Settings  # of the start
    live: Live
    changes: Changes
    store: Store
    telemetry: Telemetry | NoTelemetry
    ledger: Ledger
    alerts: Alerts
    limiter: Limiter
    tokenizer: Tokenizer
    authenticator: Authenticator
    rotation: Rotation
    health: SharedHealth
    drains: Drains
    breakers: Breakers
    retries: RetryBudget
    late: LateAttempts
    credentials: Credentials
    client: BackendClient
    shadows: Shadows
    objects: ObjectDirectory
    settlements: Settlements
    buffers: Buffers


class Application:
    """A running gateway, as an edge serves it: requests, and the timer's job. `gateway` serves the newest
    configuration; a call ends with the one that it began with."""

    def __init__(self, running: _LongLived) -> None:
        self._running = running
        self.store, self.alerts = running.store, running.alerts
        self._authenticator = running.authenticator
        self._serve(running.settings)

    def apply(self, settings: Settings) -> None:
        """Serve these settings from the next request on. Health, leases and memory stay for what did not change.
        Raises `ConfigurationError`, and changes nothing then."""
        running, former = self._running, {_identity(backend) for backend in self.configuration.backends}
        running.alerts.configure(settings.receivers)
        kept = [backend for backend in settings.configuration.backends if _identity(backend) in former]
        running.breakers.keep_only({(b.name, deployment) for b in kept for deployment in ("", *b.models.values())})
        running.telemetry.configure(settings.configuration.telemetry.traces_per_second, _usd(settings.configuration))
        self._serve(settings)

    def _serve(self, settings: Settings) -> None:
        running, configuration = self._running, settings.configuration
        router = Router(configuration, running.rotation, running.breakers, running.store.now, running.drains.current)
        credentials = running.credentials.with_keys(settings.api_keys)
        credentials.warm(_token_scopes(configuration.backends))
        client = running.client.with_settings(credentials, configuration.timeouts)
        forwarder = Forwarder(client, running.breakers, router, configuration.models, running.retries, running.late)
        limiter = running.limiter.with_configuration(configuration)
        objects = running.objects.with_configuration(configuration)
        audit = Audit(running.store)
        self.settler = Settler(
            running.settlements,
            running.store,
            configuration,
            objects,
            forwarder,
            running.ledger,
            limiter,
            running.telemetry,
        )
        resources = (
            ServiceRoutes(ReadinessCheck(running.store, router.unusable)),
            BackendRoutes(
                BackendsReport(
                    configuration,
                    running.breakers,
                    running.health,
                    running.drains,
                    running.store.now,
                    running.ledger.instance,
                ),
                DrainTable(running.store, configuration, audit),
            ),
            LimitRoutes(running.store, configuration, limiter.state),
            UsageRoutes(running.store, configuration),
            ModelRoutes(configuration),
            ConfigurationRoutes(running.live, running.changes, audit),
            RequestRoutes(running.store, configuration),
            NamedSectionRoutes("products", running.store, running.live, running.changes, audit),
            NamedSectionRoutes("teams", running.store, running.live, running.changes, audit),
            ConsumerRoutes(running.store, lambda: configuration, audit),
            KeyRoutes(running.store, audit),
            AuditRoutes(audit),
        )
        routes = [route for resource in resources for route in resource.routes()]
        routes += ManagementOpenApi(tuple(routes)).routes()
        routes += PageRoutes().routes()
        authenticator = self._authenticator = self._authenticator.with_settings(configuration.entra)
        operators = Operators(settings.management_key, authenticator.tokens, configuration.team_owners)
        management = ManagementApi(routes, limiter, authenticator, operators)
        self.gateway = Gateway(
            management,
            authenticator,
            limiter,
            Planner(router, objects),
            Dispatcher(router, forwarder, objects, self.settler, running.shadows),
            Accounting(limiter, running.ledger, running.tokenizer, running.telemetry),
            configuration,
            running.buffers,
        )
        self.configuration = configuration
        self.has_object = forwarder.has_object
        for warning in retirement.warnings(configuration, time.time()):
            logger.warning("%s", warning)

    async def roll_up(self) -> None:
        """Run the timer's job once."""
        configuration = self.configuration
        await self._settle()  # first, so that the roll-up folds what this adds to past hours
        keep_months = configuration.ledger.keep_months
        logger.info("roll-up: %s", await rollup.roll_up(self.store, keep_months=keep_months))
        await cleanup.forget_idle(self.store, configuration)
        await directory.drop_old(self.store)
        await Audit(self.store).drop_old()
        await self.alerts.clean_up()
        await reminders.remind(self.store, configuration, self.alerts)
        if configuration.export.container is not None:
            async with open_exporter(self._running.settings.storage, configuration, self.store) as exporter:
                for name in await exporter.write_due():
                    logger.info("export: %s written", name)

    async def _settle(self) -> None:
        try:
            logger.info("settlement: %s", await settlement.run(self.store, self.settler))
        except StoreUnavailable as error:
            logger.warning("settlement postponed: %s", error)

    async def attempt_roll_up(self, *, only_overdue: bool = False) -> None:
        """The same, with errors in the log: the next attempt does what this one could not."""
        try:
            if not only_overdue or await rollup.overdue(self.store):
                await self.roll_up()
        except StoreUnavailable as error:
            logger.warning("roll-up postponed: %s", error)
        except Exception:
            logger.exception("roll-up failed")


OpenTables = Callable[[Storage], AbstractAsyncContextManager["TablesStore"]]


class _Part(Protocol):
    async def close(self) -> None: ...


class _Parts(AsyncExitStack):
    """The parts of an application, closed in reverse order."""

    def own[P: _Part](self, part: P) -> P:
        self.push_async_callback(part.close)
        return part


@asynccontextmanager
async def open_store(storage: Storage) -> AsyncIterator["TablesStore"]:
    """The tables. Azure's SDK is imported here, because a caller with its own store does not need it."""
    from shared.storage import tables

    store = tables.open(storage)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def open_exporter(storage: Storage, configuration: Configuration, store: Store) -> AsyncIterator[FocusExporter]:
    """The writer of charges as files in the container that the configuration names."""
    await asyncio.to_thread(importlib.import_module, "shared.storage.blobs")  # open streams must not stutter
    from shared.storage import blobs

    files = blobs.open(storage)
    try:
        yield FocusExporter(store, configuration, files)
    finally:
        await files.close()


@asynccontextmanager
async def _assembled(
    settings: Settings, tables: "TablesStore", live: Live, changes: Changes, patience: Patience
) -> AsyncIterator[Application]:
    """The parts of a gateway, with its first settings."""
    configuration, rng = settings.configuration, random.Random()
    async with _Parts() as parts:
        telemetry = _telemetry(settings)
        parts.own(telemetry)
        store = telemetry.timed(tables)

        alerts = parts.own(Alerts(settings.receivers, store))
        watch = parts.own(Watch(alerts, patience))
        overflow = _overflow(configuration.ledger, tables.endpoint)
        ledger = parts.own(Ledger(store, configuration.ledger.durability, overflow))
        parts.own(Tasks()).start(ledger.recover())
        limiter = parts.own(Limiter(store, configuration, _quota_alerts(alerts)))
        tokenizer = parts.own(Tokenizer())  # closed first: what it counts is booked in the limits and the ledger

        rotation = parts.own(Rotation(store.table(names.ROTATION), rng))
        health = parts.own(SharedHealth(store.table(names.HEALTH), store.now, rng, ledger.instance))
        breakers = Breakers(time.monotonic, rng, health)
        credentials = parts.own(Credentials(settings.client_id, settings.api_keys))
        client = parts.own(BackendClient(credentials, breakers, configuration.timeouts, alerts))

        drains = parts.own(Drains(store))
        await drains.begin()

        def usable(backend: Backend) -> bool:
            state = breakers.health(Target(backend, "", ""))
            return backend.name not in drains.current() and state.usable_at(breakers.clock())

        async def has_object(backend: Backend, reference: Reference) -> bool:
            return await running.has_object(backend, reference)

        running = Application(
            _LongLived(
                settings=settings,
                live=live,
                changes=changes,
                store=store,
                telemetry=telemetry,
                ledger=ledger,
                alerts=alerts,
                limiter=limiter,
                tokenizer=tokenizer,
                authenticator=parts.own(Authenticator(Consumers(store), store.now)),
                rotation=rotation,
                health=health,
                drains=drains,
                breakers=breakers,
                retries=RetryBudget(breakers.clock),
                late=parts.own(LateAttempts()),
                credentials=credentials,
                client=client,
                shadows=parts.own(Shadows(breakers)),
                objects=parts.own(ObjectDirectory(store, configuration, usable, has_object)),
                settlements=parts.own(Settlements()),
                buffers=Buffers(configuration.max_request_bytes),
            )
        )
        telemetry.start(_readings(ledger, limiter, alerts, breakers))
        watch.start(lambda: _reading(ledger, limiter, breakers))
        yield running


@asynccontextmanager
async def application(
    environ: Mapping[str, str], open_tables: OpenTables | None = None, patience: Patience = _PATIENCE
) -> AsyncIterator[Application]:
    """A running gateway, which follows changes of its configuration. Enter it in the event loop that serves it; leaving
    it writes what is left. `patience`: of the alerts about states that last. Raises `ConfigurationError`."""
    storage, place = environment.load_storage(environ), environment.source(environ)
    settings_of = partial(environment.settings, environ=environ)
    async with (open_tables or open_store)(storage) as tables, open_base(place, storage) as read:
        versions = Versions(tables, environment.management_key(environ))
        live = Live(read, place.name, versions, settings_of)
        changes = Changes(versions, lambda: live.newest_base, settings_of)
        async with _assembled(await live.start(), tables, live, changes, patience) as running:
            live.serve_by(running.apply, running.alerts)
            following = Tasks()
            following.start(live.follow())
            try:
                yield running
            finally:
                await following.close()


async def stored_configuration(environ: Mapping[str, str], store: Store) -> Configuration:
    """The configuration that the gateways on this store serve, without the secrets that it names. Raises
    `ConfigurationError`, and `StoreUnavailable` for a blob that is out of reach."""
    storage, place = environment.load_storage(environ), environment.source(environ)
    async with open_base(place, storage) as read:
        versions = Versions(store, environment.management_key(environ))
        live = Live(read, place.name, versions, lambda found, _: environment.without_secrets(found, environ))
        return (await live.start()).configuration


@asynccontextmanager
async def open_base(place: Source, storage: Storage) -> AsyncIterator[Callable[[], Awaitable[str]]]:
    """A function that returns the text of the base document as it is now. It raises `ConfigurationError`, and
    `StoreUnavailable` for a blob that is out of reach."""
    if place.url is None:
        yield partial(asyncio.to_thread, place.read)
        return
    await asyncio.to_thread(importlib.import_module, "azure.storage.blob.aio")  # open streams must not stutter
    from shared.storage import blobs

    blob = blobs.open_text(place.url, storage)
    try:
        yield blob.read
    finally:
        await blob.close()


def _identity(backend: Backend) -> tuple[object, ...]:
    """What makes a backend the same one under another configuration: its health and its speed depend on it."""
    return backend.name, backend.endpoint, backend.auth, backend.token_scope, backend.api_version, backend.kind


def _token_scopes(backends: Iterable[Backend]) -> set[str]:
    return {token_scope(b, v1=b.api_version == "v1") for b in backends if b.auth == "managed_identity"}


def _overflow(settings: LedgerSettings, account: str) -> Overflow | None:
    """The place on disk for usage rows while the table is unavailable, None if the settings exclude it."""
    if not settings.overflow_bytes:
        return None
    return Overflow(Path(settings.overflow_directory or tempfile.gettempdir()), account, settings.overflow_bytes)


def _telemetry(settings: Settings) -> Telemetry | NoTelemetry:
    """Telemetry, if it has a destination. Only an export imports the exporter."""
    if settings.telemetry is None:
        return NoTelemetry()
    from shared.telemetry.exporter import ExportThread

    per_second = settings.configuration.telemetry.traces_per_second
    sender = ExportThread(settings.telemetry, ulid.new(time.time())[-10:])
    usd = _usd(settings.configuration)
    return Telemetry(sender, per_second, settings.telemetry.metrics_every, time.monotonic, time.time, usd)


def _usd(configuration: Configuration) -> Cost:
    """A function that returns the cost of a call in USD, None if it is unknown."""
    prices = Prices(configuration.prices, configuration.backends)

    def usd(usage: Usage, target: Target) -> float | None:
        cost = pricing.cost(prices.of_call(usage, target, time.time()), usage)
        return None if cost is None else cost / USD

    return usd


def _quota_alerts(alerts: Alerts) -> Callable[[Scope, str, int, float], None]:
    """The function that a limit calls when its quota is nearly or entirely used."""

    def reached(scope: Scope, dimension: str, percentage: int, until: float) -> None:
        alerts(events.quota_reached(scope.key, scope.about, dimension, percentage, until))

    return reached


def _reading(ledger: Ledger, limiter: Limiter, breakers: Breakers) -> Reading:
    """The states of this instance that are alerts if they last."""
    return Reading(ledger.instance, breakers.ejected(), limiter.safe_since, ledger.on_disk, ledger.dropped)


def _readings(ledger: Ledger, limiter: Limiter, alerts: Alerts, breakers: Breakers) -> Readings:
    """The metrics that are read from their owners at every export."""
    return {
        instruments.BACKLOG: lambda: [((), ledger.backlog)],
        instruments.LEDGER_LOST: lambda: [((), ledger.dropped)],
        instruments.SAFE_MODE: lambda: [((), int(limiter.safe_since is not None))],
        instruments.LIMIT_HITS: limiter.hits.items,
        instruments.LIMIT_ALERTS: alerts.quotas.items,
        instruments.ALERTS: alerts.raised.items,
        instruments.TRIPS: lambda: [((backend,), trips) for backend, trips in breakers.trips.items()],
    }
