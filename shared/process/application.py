"""A running gateway: the parts of its process, and the stages that it makes of them for each configuration."""

import logging
import time
from typing import NamedTuple

from shared.accounting import Accounting
from shared.affinity.directory import ObjectDirectory
from shared.affinity.planner import Planner
from shared.alerts.dispatcher import Alerts
from shared.auth.authenticator import Authenticator
from shared.auth.operators import Operators
from shared.azure_openai.backend_requests import token_scope
from shared.config import residency
from shared.config.document import Backend, Configuration
from shared.config.environment import Settings
from shared.credentials import Credentials
from shared.errors import StoreUnavailable
from shared.forwarding.backend_client import BackendClient
from shared.forwarding.forwarder import Forwarder
from shared.forwarding.late_attempts import LateAttempts
from shared.forwarding.live import LiveCalls
from shared.forwarding.shadowing import Shadows
from shared.gateway import Gateway
from shared.lifecycle import retirement
from shared.limits.limiter import Limiter
from shared.management.access import AccessRoutes
from shared.management.alerts import AlertRoutes
from shared.management.api import ManagementApi
from shared.management.audit import Audit, AuditRoutes
from shared.management.backends import BackendRoutes
from shared.management.configuration import ConfigurationRoutes
from shared.management.consumers import ConsumerRoutes
from shared.management.drains import DrainTable
from shared.management.keys import KeyRoutes
from shared.management.limits import LimitRoutes
from shared.management.live import LiveRoutes
from shared.management.models import ModelRoutes
from shared.management.named_sections import NamedSectionRoutes
from shared.management.openapi import ManagementOpenApi
from shared.management.page_files import PageRoutes
from shared.management.provisioned import ProvisionedRoutes
from shared.management.readiness import ReadinessCheck
from shared.management.requests import RequestRoutes
from shared.management.routes import Route
from shared.management.service import ServiceRoutes
from shared.management.sign_in import SignInRoutes, origin_of_authority
from shared.management.simulation import SimulationRoutes
from shared.management.usage import UsageRoutes
from shared.process import upkeep
from shared.process.front import Front
from shared.process.monitoring import reading, usd_of
from shared.requests.buffers import Buffers
from shared.requests.connections import Connections
from shared.responses.dispatcher import Dispatcher
from shared.routing.breakers import Breakers
from shared.routing.drains import Drains
from shared.routing.fleet_health import SharedHealth
from shared.routing.report import BackendsReport
from shared.routing.retry_budget import RetryBudget
from shared.routing.rotation import Rotation
from shared.routing.router import Router
from shared.settlement.settler import Settlements, Settler
from shared.settlement.work_usage import WorkUsage
from shared.sockets.admission import SocketAdmission, Stages
from shared.sockets.service import Sockets
from shared.storage import Store
from shared.telemetry.recorder import NoTelemetry, Telemetry
from shared.types import Target
from shared.usage import rollup
from shared.usage.ledger import Ledger
from shared.usage.tokenizer import Tokenizer
from shared.versions.changes import Changes
from shared.versions.live import Live

logger = logging.getLogger("tollgate")


class Backends(NamedTuple):
    """The parts that call the backends, and that know their state."""

    rotation: Rotation
    health: SharedHealth
    drains: Drains
    breakers: Breakers
    retries: RetryBudget
    credentials: Credentials
    client: BackendClient
    late: LateAttempts
    shadows: Shadows
    live: LiveCalls

    def usable(self, backend: Backend) -> bool:
        """True if a call without a deployment may go there."""
        state = self.breakers.health(Target(backend, "", ""))
        return backend.name not in self.drains.current() and state.usable_at(self.breakers.clock())


class LongLived(NamedTuple):
    """The parts of a process that outlive a configuration. Those that hold one are asked for another view of
    themselves, with the same memory."""

    settings: Settings  # of the start
    live: Live
    changes: Changes
    store: Store
    telemetry: Telemetry | NoTelemetry
    alerts: Alerts
    ledger: Ledger
    limiter: Limiter
    tokenizer: Tokenizer
    authenticator: Authenticator
    backends: Backends
    objects: ObjectDirectory
    settlements: Settlements
    buffers: Buffers
    connections: Connections


class Application:
    """A running gateway, as an edge serves it: requests, and the timer's job. `front` serves the newest
    configuration; a call ends with the one that it began with."""

    def __init__(self, running: LongLived) -> None:
        self._running = running
        self.store, self.alerts, self.connections = running.store, running.alerts, running.connections
        self._authenticator = running.authenticator
        self._serve(running.settings)

    def apply(self, settings: Settings) -> None:
        """Serve these settings from the next request on. Health, leases and memory stay for what did not change.
        Raises `ConfigurationError`, and changes nothing then."""
        running, former = self._running, {_identity(backend) for backend in self.configuration.backends}
        running.alerts.configure(settings.receivers)
        kept = [backend for backend in settings.configuration.backends if _identity(backend) in former]
        deployments = {
            (backend.name, deployment) for backend in kept for deployment in ("", *backend.deployments.values())
        }
        running.backends.breakers.keep_only(deployments)
        running.telemetry.configure(settings.configuration.telemetry.traces_per_second, usd_of(settings.configuration))
        self._serve(settings)
        running.backends.live.end_all()  # listeners reconnect, and see the backends of these settings

    def _serve(self, settings: Settings) -> None:
        running, backends, configuration = self._running, self._running.backends, settings.configuration
        running.connections.configure(configuration)
        router = Router(configuration, backends.rotation, backends.breakers, running.store.now, backends.drains.current)
        forwarder = self._forwarder(router, settings)
        limiter = running.limiter.with_configuration(configuration)
        objects = running.objects.with_configuration(configuration)
        authenticator = self._authenticator = self._authenticator.with_settings(configuration.entra)
        accounting = Accounting(limiter, running.ledger, running.tokenizer, running.telemetry, backends.live)
        usage = WorkUsage(configuration.backends, forwarder, running.store.now)
        self.settler = Settler(
            running.settlements, running.store, usage, objects, running.ledger, limiter, running.telemetry
        )
        planner = Planner(router, objects)
        dispatcher = Dispatcher(router, forwarder, objects, self.settler, backends.shadows)
        self.gateway = Gateway(authenticator, limiter, planner, dispatcher, accounting, configuration, running.buffers)
        stages = Stages(planner, forwarder, accounting, objects, running.buffers)
        self.sockets = Sockets(SocketAdmission(authenticator, limiter, configuration), stages, configuration)
        operators = Operators(settings.management_key, authenticator.tokens, configuration.team_owners)
        routes = _routes(running, configuration, router, limiter)
        management = ManagementApi(routes, limiter, authenticator, operators)
        self.front = Front(self.gateway, management, accounting, configuration)
        self.configuration = configuration
        self.has_object = forwarder.has_object
        for warning in (*retirement.warnings(configuration, time.time()), *residency.warnings(configuration)):
            logger.warning("%s", warning)

    def _forwarder(self, router: Router, settings: Settings) -> Forwarder:
        backends, configuration = self._running.backends, settings.configuration
        credentials = backends.credentials.with_keys(settings.api_keys)
        managed = (one for one in configuration.backends if one.auth == "managed_identity")
        credentials.warm({token_scope(one, v1=one.api_version == "v1") for one in managed})
        client = backends.client.with_settings(credentials, configuration.timeouts)
        state = (backends.breakers, router, configuration.models, backends.retries, backends.late)
        return Forwarder(client, *state, configuration.retry)

    async def roll_up(self) -> None:
        """Run the timer's job once."""
        storage = self._running.settings.storage
        await upkeep.run(self.store, storage, self.configuration, self.settler, self.alerts)

    async def attempt_roll_up(self, *, only_overdue: bool = False) -> None:
        """The same, with errors in the log: the next attempt does what this one could not."""
        try:
            if not only_overdue or await rollup.overdue(self.store):
                await self.roll_up()
        except StoreUnavailable as error:
            logger.warning("roll-up postponed: %s", error)
        except Exception:
            logger.exception("roll-up failed")


def _routes(running: LongLived, configuration: Configuration, router: Router, limiter: Limiter) -> list[Route]:
    """The gateway's own paths: those of each resource, then those that describe and show them."""
    store, live, changes, audit = running.store, running.live, running.changes, Audit(running.store)
    backends = running.backends
    simulator, instance = running.settings.simulator, running.ledger.instance
    report = BackendsReport(
        configuration, backends.breakers, backends.health, backends.drains, store.now, instance, bool(simulator)
    )
    consumers = ConsumerRoutes(store, lambda: configuration, audit)
    resources = (
        ServiceRoutes(ReadinessCheck(store, router.unusable)),
        SignInRoutes(configuration.entra),
        BackendRoutes(report, DrainTable(store, configuration, audit)),
        LiveRoutes(report, backends.live),
        LimitRoutes(store, configuration, limiter.state),
        UsageRoutes(store, configuration),
        ModelRoutes(configuration, router.models),
        ProvisionedRoutes(configuration),
        ConfigurationRoutes(live, changes, audit),
        RequestRoutes(store, configuration),
        NamedSectionRoutes("products", store, live, changes, audit),
        NamedSectionRoutes("teams", store, live, changes, audit),
        consumers,
        KeyRoutes(store, audit),
        AccessRoutes(store, lambda: configuration, audit, consumers, running.alerts),
        AuditRoutes(audit),
        AlertRoutes(running.alerts, lambda: reading(running.ledger, running.limiter, backends.breakers), store.now),
    )
    routes = [route for resource in resources for route in resource.routes()]
    if simulator:
        routes += SimulationRoutes(simulator, configuration, audit).routes()
    page = PageRoutes(origin_of_authority(configuration.entra))
    return [*routes, *ManagementOpenApi(tuple(routes)).routes(), *page.routes()]


def _identity(backend: Backend) -> tuple[object, ...]:
    """The fields that a backend's health and speed depend on."""
    return backend.name, backend.endpoint, backend.auth, backend.token_scope, backend.api_version, backend.kind
