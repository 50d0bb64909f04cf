"""Authorization of requests to Table Storage: with the account's key, or with an Entra token.

Source: "Authorize with Shared Key" (the Lite form for the Table service) and "Authorize with Microsoft Entra ID",
learn.microsoft.com.
"""

import base64
import hashlib
import hmac
from email.utils import formatdate
from typing import Protocol

from shared.credentials import TokenCache

SCOPE = "https://storage.azure.com/.default"


class Signer(Protocol):
    async def headers(self, now: float, path: str) -> dict[str, str]:
        """Headers that authorize a request to an encoded path. `now` by the service's clock: it rejects dates that
        differ from its own by 15 minutes. Raises `CredentialUnavailable`."""

    async def close(self) -> None: ...


class SharedKeyLite:
    """Signs the date and the path. All requests for a path within a second share a signature, as transactions do."""

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
    def __init__(self, tokens: TokenCache) -> None:
        self._tokens = tokens

    async def headers(self, now: float, path: str) -> dict[str, str]:
        return {"x-ms-date": formatdate(now, usegmt=True), "Authorization": await self._tokens.header(SCOPE)}

    async def close(self) -> None:
        await self._tokens.close()
