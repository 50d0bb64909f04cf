"""The management API as commands call it in this process, on the storage account, by the routes of a gateway."""

import getpass
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from shared import bootstrap, ulid
from shared.alerts.dispatcher import Alerts
from shared.auth.operators import ADMINS, Operator
from shared.cli._client import Client, Pairs, value_of
from shared.config import environment
from shared.config.document import Configuration
from shared.errors import ConfigurationError, UnknownPath
from shared.management.access import AccessRoutes
from shared.management.audit import Audit, AuditRoutes
from shared.management.backends import BackendRoutes
from shared.management.configuration import ConfigurationRoutes
from shared.management.consumers import ConsumerRoutes
from shared.management.drains import DrainTable
from shared.management.keys import KeyRoutes
from shared.management.limits import LimitRoutes
from shared.management.named_sections import NamedSectionRoutes
from shared.management.requests import RequestRoutes
from shared.management.routes import ManagementRequest, Paths, Route
from shared.management.usage import UsageRoutes
from shared.routing.breakers import Breakers
from shared.routing.drains import Drains
from shared.routing.fleet_health import SharedHealth
from shared.routing.report import BackendsReport
from shared.storage import Store, names
from shared.versions.changes import Changes
from shared.versions.live import Live
from shared.versions.rows import Versions

logger = logging.getLogger("tollgate.cli")

# The families of paths that need the configuration for reading, too.
_REFER = frozenset(("backends", "limits", "requests", "requests-for-access", "usage"))
_VERSIONED = frozenset(("configuration", "products", "teams"))
_HERE = "local"  # in place of an instance's name and of an address


class LocalClient:
    """Calls the routes in this process, as an admin, on the store. A configuration that cannot be read is missed only
    where a path needs it."""

    def __init__(self, store: Store, environ: Mapping[str, str]) -> None:
        self._store = store
        self._environ = environ
        self._operator = Operator(f"cli:{_user()}", ADMINS)
        self._audit = Audit(store)
        self._configuration: Configuration | ConfigurationError | None = None
        self._followed: tuple[Live, Changes] | None = None
        self._alerts: Alerts | None = None
        self._paths: dict[str, Paths] = {}
        self._families: dict[str, Callable[[], Sequence[Route]]] = {
            "audit": lambda: AuditRoutes(self._audit).routes(),
            "backends": lambda: self._backends().routes(),
            "configuration": lambda: ConfigurationRoutes(*self._versioned(), self._audit).routes(),
            "consumers": lambda: (*self._consumers().routes(), *KeyRoutes(store, self._audit).routes()),
            "limits": lambda: LimitRoutes(store, self._needed(), dict).routes(),
            "products": lambda: NamedSectionRoutes("products", store, *self._versioned(), self._audit).routes(),
            "requests": lambda: RequestRoutes(store, self._needed()).routes(),
            "requests-for-access": lambda: self._access().routes(),
            "teams": lambda: NamedSectionRoutes("teams", store, *self._versioned(), self._audit).routes(),
            "usage": lambda: UsageRoutes(store, self._needed()).routes(),
        }

    async def call(self, method: str, path: str, body: Any = None, query: Pairs = None, headers: Pairs = None) -> Any:
        family = path.split("/")[2]
        if family in _VERSIONED:
            await self._follow()
        elif self._configuration is None and (method != "GET" or family in _REFER):
            try:
                self._configuration = (await bootstrap.stored_settings(self._environ, self._store)).configuration
            except ConfigurationError as error:
                self._configuration = error
        if family not in self._paths:
            self._paths[family] = Paths(self._families[family]())
        methods, parameters = self._paths[family].find(path)
        request = ManagementRequest(
            parameters=parameters,
            query=dict(query or {}),
            headers=headers or {},
            body=b"" if body is None else msgspec.json.encode(body),
            operator=self._operator,
            address=_HERE,
            request_id=ulid.new(self._store.now()),
        )
        if (route := methods.get(method)) is None:
            raise UnknownPath(f"{path[:200]} is not a path of the management API.")
        answer = await route.answer(request)
        text = bytes(answer.body).decode()
        return value_of(answer.status_code, answer.media_type or "", text, "this storage account")

    async def close(self) -> None:
        """Wait for alerts that are being sent."""
        if self._alerts is not None:
            await self._alerts.close()

    def _needed(self) -> Configuration:
        """The configuration. Raises `ConfigurationError`."""
        assert self._configuration is not None
        if isinstance(self._configuration, ConfigurationError):
            raise self._configuration
        return self._configuration

    async def _follow(self) -> None:
        """Find the versions, over the base document that the gateways serve, or else that of the environment. Raises
        `ConfigurationError`."""
        if self._followed is not None:
            return
        storage, place = environment.load_storage(self._environ), environment.source(self._environ)
        versions = Versions(self._store, environment.management_key(self._environ))
        good = await versions.remembered()
        if good is None:
            async with bootstrap.open_base(place, storage) as read_base:
                text, source = await read_base(), place.name
        else:
            text, source = good.text, good.source

        async def read() -> str:
            return text

        live = Live(
            read, source, versions, lambda configuration, _: environment.without_secrets(configuration, self._environ)
        )
        await live.start()
        self._followed = live, Changes(versions, lambda: live.newest_base)

    def _versioned(self) -> tuple[Live, Changes]:
        assert self._followed is not None
        return self._followed

    def _consumers(self) -> ConsumerRoutes:
        return ConsumerRoutes(self._store, self._needed, self._audit)

    def _access(self) -> AccessRoutes:
        """Those paths with the receivers of alerts whose variables the environment of the command has."""
        receivers, problems, _ = environment.receivers(self._needed(), self._environ)
        for problem in problems:
            logger.warning("no alert sent to %s: %s", problem.path, problem.message)
        usable = [one for one in receivers if not any(problem.path.startswith(one.place) for problem in problems)]
        self._alerts = Alerts(usable, self._store)
        return AccessRoutes(self._store, self._needed, self._audit, self._consumers(), self._alerts)

    def _backends(self) -> BackendRoutes:
        """Those paths without a state of this process, which calls none."""
        store, configuration, rng = self._store, self._needed(), random.Random()
        health = SharedHealth(store.table(names.HEALTH), store.now, rng, _HERE)
        breakers, drains = Breakers(time.monotonic, rng, health), Drains(store)
        report = BackendsReport(configuration, breakers, health, drains, store.now, _HERE)
        return BackendRoutes(report, DrainTable(store, configuration, self._audit))


@asynccontextmanager
async def on_storage(environ: Mapping[str, str]) -> AsyncIterator[Client]:
    """A client of the storage account of the environment. Raises `ConfigurationError`."""
    async with bootstrap.open_store(environment.load_storage(environ)) as store:
        client = LocalClient(store, environ)
        try:
            yield client
        finally:
            await client.close()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
