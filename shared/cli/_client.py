"""The management API as commands call it: over HTTP, or in this process on the storage account, by the same routes."""

import asyncio
import getpass
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec

from shared import __version__, bootstrap, ulid
from shared.auth.operators import ADMINS, Operator
from shared.config import environment
from shared.config.document import Configuration
from shared.errors import ConfigurationError, CredentialUnavailable, GatewayError
from shared.identity import TokenCache, azure_credential
from shared.management.audit import Audit, AuditRoutes
from shared.management.consumers import ConsumerRoutes
from shared.management.keys import KeyRoutes
from shared.management.limits import LimitRoutes
from shared.management.routes import ManagementRequest, Paths, Route
from shared.management.usage import UsageRoutes
from shared.storage import Store

DEFAULT_SCOPE = "api://tollgate/.default"
_SECONDS = 30.0  # for an answer
_TRIES = 6  # of a request that exceeds the rate
_LONGEST_WAIT = 10.0  # seconds


class Client(Protocol):
    """Calls a path of the management API. Raises `GatewayError`, with the status and the words of the refusal."""

    async def call(self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None) -> Any:
        """The answer: JSON as a value, anything else as text, None if it is empty."""


class HttpClient:
    """Calls a gateway. `authorization` returns the value of that header."""

    def __init__(self, url: str, session: aiohttp.ClientSession, authorization: str) -> None:
        self._url = url
        self._session = session
        self._headers = {"authorization": authorization, "user-agent": f"tollgate/{__version__}"}

    async def call(self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None) -> Any:
        for attempt in range(_TRIES):
            try:
                async with self._session.request(
                    method,
                    self._url + quote(path),
                    params=dict(query or {}),
                    json=body,
                    headers=self._headers,
                    allow_redirects=False,  # the key is for this address alone
                ) as answer:
                    text = await answer.text()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                reason = str(error) or type(error).__name__
                raise ConfigurationError(f"--gateway: no answer from {self._url}: {reason}") from None
            if answer.status != 429 or attempt == _TRIES - 1:
                return _value(answer.status, answer.content_type, text, self._url)
            await asyncio.sleep(min(_LONGEST_WAIT, float(answer.headers.get("retry-after", "1"))))
        raise AssertionError  # the last attempt returns


class LocalClient:
    """Calls the routes in this process, as an admin, on the store. A configuration that cannot be read is missed only
    where a path needs it."""

    def __init__(self, store: Store, environ: Mapping[str, str]) -> None:
        self._store = store
        self._environ = environ
        self._operator = Operator(f"cli:{_user()}", ADMINS)
        self._audit = Audit(store)
        self._configuration: Configuration | ConfigurationError | None = None
        self._paths: dict[str, Paths] = {}
        self._families: dict[str, Callable[[], list[Route]]] = {
            "audit": lambda: [*AuditRoutes(self._audit).routes()],
            "consumers": lambda: [
                *ConsumerRoutes(store, self._needed, self._audit).routes(),
                *KeyRoutes(store, self._audit).routes(),
            ],
            "limits": lambda: [*LimitRoutes(store, self._needed(), dict).routes()],
            "usage": lambda: [*UsageRoutes(store, self._needed()).routes()],
        }

    async def call(self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None) -> Any:
        family = path.split("/")[2]
        if self._configuration is None and (method != "GET" or family in ("limits", "usage")):
            self._configuration = await self._read()
        if family not in self._paths:
            self._paths[family] = Paths(self._families[family]())
        methods, found = self._paths[family].find(path)
        request = ManagementRequest(
            parameters=found,
            query=dict(query or {}),
            body=b"" if body is None else msgspec.json.encode(body),
            operator=self._operator,
            address="local",
            request_id=ulid.new(self._store.now()),
        )
        answer = await methods[method].handler(request)
        return _value(answer.status_code, answer.media_type or "", bytes(answer.body).decode(), "this storage account")

    async def _read(self) -> Configuration | ConfigurationError:
        try:
            return await bootstrap.stored_configuration(self._environ, self._store)
        except ConfigurationError as error:
            return error

    def _needed(self) -> Configuration:
        """The configuration. Raises `ConfigurationError`."""
        assert self._configuration is not None
        if isinstance(self._configuration, ConfigurationError):
            raise self._configuration
        return self._configuration


@asynccontextmanager
async def over_http(url: str, scope: str, environ: Mapping[str, str]) -> AsyncIterator[Client]:
    """A client of the gateway at this address. Raises `ConfigurationError`."""
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise ConfigurationError(
            f"--gateway: expected the address of a gateway such as https://gateway.example.com, got {url[:200]!r} "
            "(http only to this machine: the key would pass in the clear)"
        )
    authorization = await _authorization(scope, environ)
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session:
        yield HttpClient(url.rstrip("/"), session, authorization)


@asynccontextmanager
async def on_storage(environ: Mapping[str, str]) -> AsyncIterator[Client]:
    """A client of the storage account of the environment. Raises `ConfigurationError`."""
    async with bootstrap.open_store(environment.load_storage(environ)) as store:
        yield LocalClient(store, environ)


async def _authorization(scope: str, environ: Mapping[str, str]) -> str:
    """The management key, or else a token of whoever is signed in to Azure."""
    if key := environ.get("TOLLGATE_MANAGEMENT_KEY"):
        return f"Bearer {key}"
    tokens = TokenCache(partial(azure_credential, environ.get("AZURE_CLIENT_ID") or None))
    try:
        return await tokens.header(scope, _SECONDS)
    except CredentialUnavailable as error:
        raise ConfigurationError(
            f"TOLLGATE_MANAGEMENT_KEY is not set, and {error}. Set it, or sign in with: az login"
        ) from None
    finally:
        await tokens.close()


def _value(status: int, media_type: str, text: str, where: str) -> Any:
    """The value of an answer. Raises `GatewayError` for a refusal."""
    is_json = media_type == "application/json"
    if status < 300:
        return json.loads(text) if is_json and text else text or None
    try:
        refusal = json.loads(text)["error"]
        error = GatewayError(str(refusal["message"]), param=refusal.get("param"), code=refusal.get("code"))
    except (ValueError, LookupError, TypeError, AttributeError):
        error = GatewayError(f"{where} answered {status} without an error of a gateway: is this its address?")
    error.status = status
    raise error


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
