"""How a request proves who sends it: with the account's key, or with an Entra token.

Source: "Authorize with Shared Key" (the Lite form for the Table service) and "Authorize with Microsoft Entra ID",
learn.microsoft.com.
"""

import asyncio
import base64
import hashlib
import hmac
import time
from email.utils import formatdate
from typing import Any, Protocol

SCOPE = "https://storage.azure.com/.default"
REFRESH_AHEAD = 300.0  # seconds before its end when a token is renewed
LAST_CALL = 10.0  # seconds before its end when a token is no longer sent


class Signer(Protocol):
    async def headers(self, now: float, path: str) -> dict[str, str]:
        """What authorizes a request to an encoded path; `now` by the service's clock, which refuses dates 15 minutes
        off its own."""
        ...

    async def close(self) -> None: ...


class AccessToken(Protocol):
    @property
    def token(self) -> str: ...
    @property
    def expires_on(self) -> int: ...


class TokenCredential(Protocol):
    """azure-core's `AsyncTokenCredential`, as far as it is used here."""

    async def get_token(self, *scopes: str, **options: Any) -> AccessToken: ...


class SharedKeyLite:
    """Signs the second and the path. One signature of a path serves a whole second: transactions all have the same."""

    def __init__(self, account: str, key: str) -> None:
        self._account = account
        self._key = base64.b64decode(key)
        self._second = 0
        self._date = ""
        self._signed: dict[str, dict[str, str]] = {}

    async def headers(self, now: float, path: str) -> dict[str, str]:
        if self._second != int(now):
            self._second = int(now)
            self._date = formatdate(self._second, usegmt=True)
            self._signed = {}
        headers = self._signed.get(path)
        if headers is None:
            digest = hmac.digest(self._key, f"{self._date}\n/{self._account}{path}".encode(), hashlib.sha256)
            signature = base64.b64encode(digest).decode()
            headers = {"x-ms-date": self._date, "Authorization": f"SharedKeyLite {self._account}:{signature}"}
            self._signed[path] = headers
        return headers

    async def close(self) -> None:
        pass


class BearerToken:
    """A token, renewed in the background before it ends; only who finds none that is valid waits for one."""

    def __init__(self, credential: TokenCredential) -> None:
        self._credential = credential
        self._expires = 0.0
        self._token = ""
        self._renewal: asyncio.Task[None] | None = None

    async def headers(self, now: float, path: str) -> dict[str, str]:
        left = self._expires - time.time()
        if left < REFRESH_AHEAD:
            if self._renewal is None or self._renewal.done():
                self._renewal = asyncio.create_task(self._renew())
                self._renewal.add_done_callback(_take_exception)
            if left < LAST_CALL:
                await asyncio.shield(self._renewal)
        return {"x-ms-date": formatdate(now, usegmt=True), "Authorization": f"Bearer {self._token}"}

    async def close(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)

    async def _renew(self) -> None:
        token = await self._credential.get_token(SCOPE)
        self._token, self._expires = token.token, token.expires_on


def _take_exception(task: asyncio.Task[None]) -> None:
    """A renewal that nobody waits for may fail unheard: the next request tries again."""
    if not task.cancelled():
        task.exception()
