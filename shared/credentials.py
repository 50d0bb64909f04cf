"""The gateway's Entra identity with a cache of its bearer tokens; and the authorization of requests to backends: a key
from the environment, or such a token."""

import asyncio
import copy
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from shared.concurrency import SingleFlight, Tasks
from shared.config.document import Api, Backend
from shared.errors import CredentialUnavailable

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

logger = logging.getLogger("tollgate.identity")

_REMEDY = "the log has the reason"
_REMEDIES = {  # by the classes of azure-identity and azure-core, which are imported late
    "CredentialUnavailableError": f"there is no source of tokens: assign a managed identity; {_REMEDY}",
    "ClientAuthenticationError": f"it was refused: check AZURE_CLIENT_ID and the identity; {_REMEDY}",
    "ServiceRequestError": f"the source of tokens cannot be reached; {_REMEDY}",
}
# A token, or what stands behind the name of a secret.
_SECRET = re.compile(
    r"""(\b)eyJ[\w.-]+|(\b(?:\w*secret|\w*assertion|\w*password|access_token|api[-_]?key)\b["']?\s*[:=]\s*["']?)[^\s"'&,;]+""",
    re.IGNORECASE,
)
_RENEW_AHEAD = 600.0  # seconds before the end of a token's life, or a third of it where that is less
_UNUSED = 10.0  # last seconds of a token's life, in which no request is sent with it
_RETRY_AFTER = 2.0  # seconds between attempts to renew
_KEEP_CREDENTIAL = 60.0  # seconds between two replacements of the credential


def azure_credential(client_id: str | None) -> "AsyncTokenCredential":
    """The identity of this process: the managed one in Azure, the developer's own elsewhere. In Azure the managed
    identity is named outright: `DefaultAzureCredential` would try others first at every start. `azure.identity` costs
    200 ms to import, and is imported here."""
    from azure.core.pipeline.transport import AioHttpTransport
    from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential

    options: dict[str, Any] = {"transport": AioHttpTransport(use_env_settings=False)}
    if os.environ.get("IDENTITY_ENDPOINT"):
        return ManagedIdentityCredential(client_id=client_id, **options)
    return DefaultAzureCredential(managed_identity_client_id=client_id)


def _explained(scope: str, error: Exception) -> tuple[str, str]:
    """The failure to get a token: by its kind, with what to do; and in the words of the service, without secrets."""
    kind = type(error).__name__
    message = f"the gateway's identity got no token ({kind}): {_REMEDIES.get(kind, _REMEDY)}"
    # Whole: what to do stands at the end, after all sources of a token that were tried.
    text = _SECRET.sub(r"\1\2***", " ".join(str(error).split()))
    return message, f"no token for {scope}: {kind}: {text}"


class _Token(NamedTuple):
    """`header` is the value of `Authorization`; the times are seconds since 1970."""

    header: str
    renew_at: float
    use_until: float


class TokenCache:
    """Bearer tokens by scope, renewed in the background before they expire: a request waits only for the first one.
    `open_credential` is called with the first token, and again when a service rejected one. `close()` the cache."""

    def __init__(
        self, open_credential: Callable[[], "AsyncTokenCredential"], clock: Callable[[], float] = time.time
    ) -> None:
        self._open_credential = open_credential
        self._clock = clock
        self._credential: AsyncTokenCredential | None = None
        self._retired: AsyncTokenCredential | None = None  # its last renewal may still run
        self._keep_until = 0.0
        self._tokens: dict[str, _Token] = {}
        self._retry_at: dict[str, float] = {}
        self._failures: dict[str, tuple[str, str]] = {}  # the last ones: for callers, and for operators
        self._renewals: SingleFlight[str, str] = SingleFlight()
        self._closings = Tasks()

    def cached(self, scope: str) -> str | None:
        """The value of `Authorization` if a valid token is cached. Starts the renewal of one that is due."""
        now, token = self._clock(), self._tokens.get(scope)
        if token is None or now >= token.use_until:
            return None
        if now >= token.renew_at and now >= self._retry_at.get(scope, 0.0):
            self._renewals.start(scope, partial(self._renew, scope))
        return token.header

    async def header(self, scope: str, seconds: float = 10.0) -> str:
        """The value of `Authorization`, after at most so many seconds. Raises `CredentialUnavailable`; immediately, if
        the last attempt has just failed."""
        if (header := self.cached(scope)) is not None:
            return header
        if self._clock() < self._retry_at.get(scope, 0.0):
            raise CredentialUnavailable(*self._failures[scope])
        try:
            async with asyncio.timeout(seconds):
                return await self._renewals.run(scope, partial(self._renew, scope))
        except TimeoutError:
            message = f"the gateway's identity got no token within {seconds:g} s"
            raise CredentialUnavailable(message, f"{message} for {scope}") from None

    def warm(self, scopes: Iterable[str]) -> None:
        """Fetch tokens in the background before the first request needs them, as far as there are none. A failure is
        logged."""
        for scope in scopes:
            if self.cached(scope) is None:
                self._renewals.start(scope, partial(self._renew, scope))

    def rejected(self, scope: str) -> None:
        """Renew a token that a service rejected, in the background. The token stays in use meanwhile: a missing role
        looks the same, and other services may accept it. The credential is replaced, because it caches tokens itself;
        at most once per `_KEEP_CREDENTIAL`."""
        now, token = self._clock(), self._tokens.get(scope)
        if self._credential is None or now < self._keep_until:
            return
        self._keep_until = now + _KEEP_CREDENTIAL
        if token is not None:
            self._tokens[scope] = token._replace(renew_at=0.0)
        if self._retired is not None:
            self._closings.start(self._retired.close())
        self._retired, self._credential = self._credential, None

    async def close(self) -> None:
        await self._renewals.close()
        await self._closings.finish(1.0)
        for credential in (self._retired, self._credential):
            if credential is not None:
                await credential.close()

    async def _renew(self, scope: str) -> str:
        try:
            if self._credential is None:
                self._credential = self._open_credential()
            answer = await self._credential.get_token(scope)
        except Exception as error:  # azure-identity raises its own, azure-core's and the transport's errors
            self._retry_at[scope] = self._clock() + _RETRY_AFTER
            message, details = _explained(scope, error)
            self._failures[scope] = message, details
            logger.error("%s", details)
            raise CredentialUnavailable(message, details) from None
        life = answer.expires_on - self._clock()
        header, end = f"Bearer {answer.token}", answer.expires_on
        self._tokens[scope] = _Token(header, end - min(_RENEW_AHEAD, life / 3), end - _UNUSED)
        return header


_KEY_HEADERS: dict[Api, tuple[str, str]] = {
    "azure": ("api-key", ""),
    "openai": ("authorization", "Bearer "),
    "anthropic": ("x-api-key", ""),
}
"""The header that takes a backend's key, and the word before it."""


class Credentials:
    """Authorization headers, as (name, value). `api_keys`: name of the backend -> its key. `close()` them."""

    def __init__(self, client_id: str | None, api_keys: Mapping[str, str]) -> None:
        self._api_keys = api_keys
        self._tokens = TokenCache(partial(azure_credential, client_id))
        self.warm, self.rejected, self.close = self._tokens.warm, self._tokens.rejected, self._tokens.close

    def with_keys(self, api_keys: Mapping[str, str]) -> Self:
        """The same tokens with other keys."""
        other = copy.copy(self)
        other._api_keys = api_keys
        return other

    def cached(self, backend: Backend, scope: str) -> tuple[str, str] | None:
        """The header for a backend, None if its token has to be fetched first."""
        if (key := self._api_keys.get(backend.name)) is not None:
            name, scheme = _KEY_HEADERS[backend.api]
            return name, scheme + key
        header = self._tokens.cached(scope)
        return None if header is None else ("authorization", header)

    async def header(self, backend: Backend, scope: str) -> tuple[str, str]:
        """The header for a backend, with a new token if necessary. Raises `CredentialUnavailable`."""
        return self.cached(backend, scope) or ("authorization", await self._tokens.header(scope))
