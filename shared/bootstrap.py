"""Opens the parts of a gateway from its settings. Only this module chooses implementations."""

import asyncio
import importlib
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from shared.affinity.directory import ObjectDirectory
from shared.alerts.dispatcher import Alerts
from shared.alerts.watch import Patience, Watch
from shared.auth.authenticator import Authenticator
from shared.auth.consumers import Consumers
from shared.concurrency import Tasks
from shared.config import environment
from shared.config.document import Backend, Configuration, LedgerSettings
from shared.config.environment import Settings, Source, Storage
from shared.credentials import Credentials
from shared.forwarding.backend_client import BackendClient
from shared.forwarding.late_attempts import LateAttempts
from shared.forwarding.live import LiveCalls
from shared.forwarding.shadowing import Shadows
from shared.limits.limiter import Limiter
from shared.process import monitoring
from shared.process.application import Application, Backends, LongLived
from shared.requests.buffers import Buffers
from shared.requests.connections import Connections
from shared.routing.breakers import Breakers
from shared.routing.drains import Drains
from shared.routing.fleet_health import SharedHealth
from shared.routing.retry_budget import RetryBudget
from shared.routing.rotation import Rotation
from shared.settlement.settler import Settlements
from shared.storage import Store, names
from shared.types import Reference
from shared.usage.ledger import Ledger
from shared.usage.overflow import Overflow
from shared.usage.tokenizer import Tokenizer
from shared.versions.changes import Changes
from shared.versions.live import Live
from shared.versions.rows import Versions

if TYPE_CHECKING:
    from shared.storage.tables import TablesStore

_PATIENCE = Patience()

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
async def _assembled(
    settings: Settings, tables: "TablesStore", live: Live, changes: Changes, patience: Patience
) -> AsyncIterator[Application]:
    """The parts of a gateway, with its first settings."""
    configuration = settings.configuration
    async with _Parts() as parts:
        telemetry = parts.own(monitoring.telemetry(settings))
        store = telemetry.timed(tables)

        alerts = parts.own(Alerts(settings.receivers, store))
        watch = parts.own(Watch(alerts, patience))
        overflow = _overflow(configuration.ledger, tables.endpoint)
        ledger = parts.own(Ledger(store, configuration.ledger.durability, overflow))
        parts.own(Tasks()).start(ledger.rows.recover())
        limiter = parts.own(Limiter(store, configuration, monitoring.quota_alerts(alerts)))
        tokenizer = parts.own(Tokenizer())  # closed first: what it counts is booked in the limits and the ledger
        backends = await _backends(parts, settings, store, alerts, ledger.instance)

        async def has_object(backend: Backend, reference: Reference) -> bool:
            return await running.has_object(backend, reference)

        running = Application(
            LongLived(
                settings=settings,
                live=live,
                changes=changes,
                store=store,
                telemetry=telemetry,
                alerts=alerts,
                ledger=ledger,
                limiter=limiter,
                tokenizer=tokenizer,
                authenticator=parts.own(Authenticator(Consumers(store), store.now)),
                backends=backends,
                objects=parts.own(ObjectDirectory(store, configuration, backends.usable, has_object)),
                settlements=parts.own(Settlements()),
                buffers=Buffers(configuration.max_request_bytes),
                connections=Connections(configuration, limiter.hits),
            )
        )
        telemetry.start(monitoring.readings(ledger, limiter, alerts, backends.breakers))
        watch.start(lambda: monitoring.reading(ledger, limiter, backends.breakers))
        yield running


async def _backends(parts: _Parts, settings: Settings, store: Store, alerts: Alerts, instance: str) -> Backends:
    """The parts that call the backends, with the drains as they are now."""
    rng = random.Random()
    rotation = parts.own(Rotation(store.table(names.ROTATION), rng))
    health = parts.own(SharedHealth(store.table(names.HEALTH), store.now, rng, instance))
    breakers = Breakers(time.monotonic, rng, health)
    credentials = parts.own(Credentials(settings.client_id, settings.api_keys))
    client = parts.own(BackendClient(credentials, breakers, settings.configuration.timeouts, alerts))
    drains = parts.own(Drains(store))
    await drains.begin()
    return Backends(
        rotation=rotation,
        health=health,
        drains=drains,
        breakers=breakers,
        retries=RetryBudget(breakers.clock),
        credentials=credentials,
        client=client,
        late=parts.own(LateAttempts()),
        shadows=parts.own(Shadows(breakers)),
        live=LiveCalls(),
    )


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


async def stored_settings(environ: Mapping[str, str], store: Store, *, secrets: bool = False) -> Settings:
    """The settings with the configuration that the gateways on this store serve. `secrets`: with those that it names,
    which most commands do without. Raises `ConfigurationError`, and `StoreUnavailable` for a blob that is out of
    reach."""
    storage, place = environment.load_storage(environ), environment.source(environ)

    def settings_of(configuration: Configuration, name: str) -> Settings:
        if secrets:
            return environment.settings(configuration, name, environ)
        return environment.without_secrets(configuration, environ)

    async with open_base(place, storage) as read:
        return await Live(read, place.name, Versions(store, environment.management_key(environ)), settings_of).start()


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


def _overflow(settings: LedgerSettings, account: str) -> Overflow | None:
    """The place on disk for usage rows while the table is unavailable, None if the settings exclude it."""
    if not settings.overflow_bytes:
        return None
    return Overflow(Path(settings.overflow_directory or tempfile.gettempdir()), account, settings.overflow_bytes)
