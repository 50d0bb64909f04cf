"""How the gateway authenticates to a backend: a key from the environment, or a bearer token of its own identity.

Tokens are kept and renewed in the background well before they expire, so that a request waits for one only when the
process is new. `azure.identity` costs 200 ms to import; it is imported when the first token is wanted.
"""

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from shared.config.document import Backend

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

logger = logging.getLogger("tollgate.credentials")

_RENEW_BEFORE = 600.0  # seconds before the end of a token's life, or a third of it where that is less
_RETRY_AFTER = 2.0  # seconds between attempts to renew
_KEEP_CREDENTIAL = 60.0  # seconds between two replacements of the credential


class CredentialUnavailable(Exception):
    """No token could be had. The message names the reason, without any secret."""


class _Token:
    """A token with the wall-clock times at which it is to be renewed and at which it ends."""

    def __init__(self, text: str, expires_on: float, now: float) -> None:
        self.header = "Bearer " + text
        self.expires_on = expires_on
        self.renew_at = expires_on - min(_RENEW_BEFORE, (expires_on - now) / 3)


def azure_credential(client_id: str | None) -> "AsyncTokenCredential":
    """The identity of this process: the managed one in Azure, the developer's own elsewhere.

    In Azure the managed identity is named outright: `DefaultAzureCredential` would try others first at every start.
    """
    from azure.core.pipeline.transport import AioHttpTransport
    from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential

    options: dict[str, Any] = {"transport": AioHttpTransport(use_env_settings=False)}
    if os.environ.get("IDENTITY_ENDPOINT"):
        return ManagedIdentityCredential(client_id=client_id, **options)
    return DefaultAzureCredential(managed_identity_client_id=client_id)


class Credentials:
    """Authorization headers for backends."""

    def __init__(self, client_id: str | None, api_keys: Mapping[str, str]) -> None:
        self._client_id = client_id
        self._api_keys = api_keys
        self._credential: AsyncTokenCredential | None = None
        self._retired: AsyncTokenCredential | None = None  # its last renewal may be under way still
        self._closing: asyncio.Task[None] | None = None
        self._keep_until = 0.0
        self._tokens: dict[str, _Token] = {}
        self._renewals: dict[str, asyncio.Task[_Token]] = {}
        self._retry_at: dict[str, float] = {}

    def known(self, backend: Backend, scope: str) -> tuple[str, str] | None:
        """The header, name and value, that opens a backend, if it is at hand."""
        if (key := self._api_keys.get(backend.name)) is not None:
            return "api-key", key
        now, token = time.time(), self._tokens.get(scope)
        if token is None or now >= token.expires_on:
            return None
        if now >= token.renew_at and now >= self._retry_at.get(scope, 0.0):
            self._renewal(scope)
        return "authorization", token.header

    async def header(self, backend: Backend, scope: str, patience: float = 10.0) -> tuple[str, str]:
        """The header that opens a backend, waited for if need be. Raises `CredentialUnavailable`, and does so at once
        for a while after the identity endpoint has failed."""
        if (known := self.known(backend, scope)) is not None:
            return known
        if time.time() < self._retry_at.get(scope, 0.0):
            raise CredentialUnavailable(f"no token for {scope}: the identity has just failed to give one")
        try:
            async with asyncio.timeout(patience):
                # Shielded: one caller that gives up must not take the token from the others who wait for it.
                return "authorization", (await asyncio.shield(self._renewal(scope))).header
        except TimeoutError:
            raise CredentialUnavailable(f"no token for {scope} within {patience:g} s") from None

    async def warm(self, scopes: Iterable[str]) -> None:
        """Get tokens before the first request asks for them. What fails is logged, and tried again by a request."""
        await asyncio.gather(*(self._renewal(scope) for scope in scopes), return_exceptions=True)

    def forget(self, scope: str) -> None:
        """A backend refused the token: a new one is fetched in the background. This one goes on being used meanwhile,
        because the other backends may accept it: a missing role looks the same. The credential is replaced, since it
        keeps tokens of its own; not more often than once in a while."""
        if self._credential is not None and time.monotonic() >= self._keep_until:
            self._keep_until = time.monotonic() + _KEEP_CREDENTIAL
            if (token := self._tokens.get(scope)) is not None:
                token.renew_at = 0.0
            if self._retired is not None:
                self._closing = asyncio.ensure_future(self._retired.close())
            self._retired, self._credential = self._credential, None

    async def close(self) -> None:
        for task in list(self._renewals.values()):
            task.cancel()
        for credential in (self._retired, self._credential):
            if credential is not None:
                await credential.close()

    def _renewal(self, scope: str) -> asyncio.Task[_Token]:
        """The one renewal of this scope's token that is under way."""
        task = self._renewals.get(scope)
        if task is None:
            task = self._renewals[scope] = asyncio.ensure_future(self._renew(scope))
            task.add_done_callback(lambda done: self._renewed(scope, done))
        return task

    async def _renew(self, scope: str) -> _Token:
        if self._credential is None:
            self._credential = azure_credential(self._client_id)
        try:
            answer = await self._credential.get_token(scope)
        except Exception as error:  # azure-identity raises its own, azure-core's and the transport's errors
            raise CredentialUnavailable(f"no token for {scope}: {type(error).__name__}: {str(error)[:300]}") from None
        token = self._tokens[scope] = _Token(answer.token, answer.expires_on, time.time())
        return token

    def _renewed(self, scope: str, task: asyncio.Task[_Token]) -> None:
        self._renewals.pop(scope, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._retry_at[scope] = time.time() + _RETRY_AFTER
            logger.error("%s", error)
