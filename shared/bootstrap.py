"""Builds a gateway out of settings: the only module that chooses implementations."""

import asyncio
import logging
import random
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from shared import ulid
from shared.accounting import Accounting
from shared.affinity import directory
from shared.affinity.directory import ObjectDirectory
from shared.affinity.planner import Planner
from shared.auth.authenticator import Authenticator
from shared.auth.consumers import Consumers
from shared.azure_openai.backend_requests import token_scope
from shared.billing import cost as pricing
from shared.billing.cost import USD
from shared.billing.focus_export import FocusExporter
from shared.billing.prices import Prices
from shared.config import environment
from shared.config.document import Configuration, LedgerSettings
from shared.config.environment import Settings, Storage
from shared.credentials import Credentials
from shared.forwarding.adoption import has_object
from shared.forwarding.backend_client import BackendClient
from shared.forwarding.forwarder import Forwarder
from shared.forwarding.shadowing import Shadows
from shared.gateway import Gateway
from shared.limits import cleanup
from shared.limits.alerts import Alerts
from shared.limits.limiter import Limiter
from shared.management.api import ManagementApi
from shared.management.readiness import ReadinessCheck
from shared.responses.dispatcher import Dispatcher
from shared.routing.breakers import Breakers
from shared.routing.fleet_health import SharedHealth
from shared.routing.report import BackendsReport
from shared.routing.rotation import Rotation
from shared.routing.router import Router
from shared.storage import Store, names
from shared.storage.timed import TimedStore
from shared.telemetry.recorder import Telemetry, Vitals
from shared.types import Target, Usage
from shared.usage import rollup
from shared.usage.ledger import Ledger
from shared.usage.overflow import Overflow
from shared.usage.tokenizer import Tokenizer

if TYPE_CHECKING:
    from shared.storage.tables import TablesStore

logger = logging.getLogger("tollgate")


class Application(msgspec.Struct, frozen=True):
    """What an edge serves: requests, and the timer's job."""

    gateway: Gateway
    store: Store
    configuration: Configuration
    exporter: FocusExporter | None = None

    async def roll_up(self) -> None:
        """One pass of the timer's job."""
        keep_months = self.configuration.ledger.keep_months
        logger.info("roll-up: %s", await rollup.roll_up(self.store, keep_months=keep_months))
        await cleanup.forget_addresses(self.store, self.configuration)
        await directory.drop_old(self.store)
        if self.exporter is not None:
            for name in await self.exporter.write_due():
                logger.info("export: %s written", name)


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
    from shared.storage import blobs

    files = blobs.open(storage)
    try:
        yield FocusExporter(store, configuration, files)
    finally:
        await files.close()


@asynccontextmanager
async def application(settings: Settings) -> AsyncIterator[Application]:
    """A running gateway, to be built inside the event loop that serves it. On the way out rows are flushed."""
    configuration = settings.configuration
    async with AsyncExitStack() as stack:
        tables = await stack.enter_async_context(open_store(settings.storage))
        store: Store = tables
        telemetry = _telemetry(settings)
        if telemetry is not None:
            stack.push_async_callback(telemetry.stop)
            store = TimedStore(store, telemetry.store_operation)
        rng = random.Random()
        rotation = Rotation(store.table(names.ROTATION), rng)
        stack.push_async_callback(rotation.close)
        ledger = Ledger(store, configuration.ledger.durability, _overflow(configuration.ledger, tables.endpoint))
        health = SharedHealth(store.table(names.HEALTH), store.now, rng, ledger.instance)
        stack.push_async_callback(health.close)
        breakers = Breakers(time.monotonic, rng, health)
        router = Router(configuration, rotation, breakers)
        credentials = Credentials(settings.client_id, settings.api_keys)
        stack.push_async_callback(credentials.close)
        upstream = await stack.enter_async_context(BackendClient(credentials, breakers, configuration.timeouts))
        forwarder = Forwarder(upstream, breakers, router, configuration.timeouts)
        stack.push_async_callback(ledger.stop)
        recovering = asyncio.ensure_future(ledger.recover())
        stack.callback(recovering.cancel)
        tokenizer = Tokenizer()
        stack.push_async_callback(tokenizer.stop)
        authenticator = Authenticator(Consumers(store), store.now)
        alerts = Alerts(settings.webhook)
        stack.push_async_callback(alerts.close)
        limiter = Limiter(store, configuration, alerts)
        stack.push_async_callback(limiter.close)
        backends = BackendsReport(configuration, breakers, health, ledger.instance)
        readiness = ReadinessCheck(store, router.unusable)
        management = ManagementApi(
            store, configuration, limiter, authenticator, backends, readiness, settings.management_key
        )
        shadows = Shadows(upstream, breakers, configuration.timeouts)
        stack.push_async_callback(shadows.close)
        places = ObjectDirectory(
            store,
            configuration,
            lambda backend: breakers.health(Target(backend, "", "")).usable_at(breakers.clock()),
            partial(has_object, forwarder),
        )
        stack.push_async_callback(places.stop)
        gateway = Gateway(
            management,
            authenticator,
            limiter,
            Planner(router, places),
            Dispatcher(router, forwarder, places, shadows),
            Accounting(limiter, ledger, tokenizer, telemetry),
            configuration,
        )
        if telemetry is not None:
            telemetry.start(lambda: _vitals(ledger, limiter, alerts, breakers))
        scopes = {
            token_scope(b, v1=b.api_version == "v1") for b in configuration.backends if b.auth == "managed_identity"
        }
        credentials.warm(scopes)
        exporter = None
        if configuration.export.container is not None:
            exporter = await stack.enter_async_context(open_exporter(settings.storage, configuration, store))
        yield Application(gateway, store, configuration, exporter)


def _overflow(settings: LedgerSettings, account: str) -> Overflow | None:
    """Where usage rows wait while the table is out of reach. Nothing is written before that."""
    if not settings.overflow_bytes:
        return None
    return Overflow(Path(settings.overflow_directory or tempfile.gettempdir()), account, settings.overflow_bytes)


def _telemetry(settings: Settings) -> Telemetry | None:
    """None where it would go nowhere. What exports is imported here, because nobody else needs it."""
    if settings.telemetry is None:
        return None
    from shared.telemetry.exporter import ExportThread

    per_second = settings.configuration.telemetry.traces_per_second
    sender = ExportThread(settings.telemetry, ulid.new(time.time())[-10:])
    return Telemetry(sender, per_second, settings.telemetry.metrics_every, time.monotonic, time.time, _usd(settings))


def _usd(settings: Settings) -> Callable[[Usage, Target], float | None]:
    """What tells the cost of a call."""
    prices = Prices(settings.configuration.prices, settings.configuration.backends)

    def usd(usage: Usage, target: Target) -> float | None:
        cost = pricing.cost(prices.of_call(usage, target, time.time()), usage)
        return None if cost is None else cost / USD

    return usd


def _vitals(ledger: Ledger, limiter: Limiter, alerts: Alerts, breakers: Breakers) -> Vitals:
    return Vitals(ledger.backlog, ledger.dropped, limiter.in_safe_mode, limiter.hits, alerts.raised, breakers.trips)


class OnDemand:
    """The application of a process that has no start-up hook: built by the first request, in that request's loop."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._settings = environment.load(environ)
        self._stack = AsyncExitStack()
        self._building: asyncio.Task[Application] | None = None

    async def get(self) -> Application:
        """The one application of this process; a failed attempt to build it is tried again by the next request."""
        if self._building is None or (self._building.done() and self._building.exception() is not None):
            self._building = asyncio.ensure_future(self._stack.enter_async_context(application(self._settings)))
        return await asyncio.shield(self._building)

    async def close(self) -> None:
        """Write what is left, when the process ends."""
        await self._stack.aclose()
