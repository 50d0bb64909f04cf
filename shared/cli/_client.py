"""The management API as commands call it, and its client over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import aiohttp

from shared import __version__
from shared.credentials import TokenCache, azure_credential
from shared.errors import Complaint, ConfigurationError, CredentialUnavailable, GatewayError

DEFAULT_SCOPE = "api://tollgate/.default"
_SECONDS = 30.0  # for an answer
_TRIES = 6  # of a request that exceeds the rate
_LONGEST_WAIT = 10.0  # seconds


Pairs = Mapping[str, str] | None


class Client(Protocol):
    """Calls a path of the management API. Raises `GatewayError`, with the status and the words of the refusal."""

    async def call(self, method: str, path: str, body: Any = None, query: Pairs = None, headers: Pairs = None) -> Any:
        """The answer: JSON as a value, anything else as text, None if it is empty."""


class HttpClient:
    """Calls a gateway. `authorization` returns the value of that header."""

    def __init__(self, url: str, session: aiohttp.ClientSession, authorization: str) -> None:
        self._url = url
        self._session = session
        self._headers = {"authorization": authorization, "user-agent": f"tollgate/{__version__}"}

    async def call(self, method: str, path: str, body: Any = None, query: Pairs = None, headers: Pairs = None) -> Any:
        for attempt in range(_TRIES):
            try:
                async with self._session.request(
                    method,
                    self._url + quote(path),
                    params=dict(query or {}),
                    json=body,
                    headers={**self._headers, **(headers or {})},
                    allow_redirects=False,  # the key is for this address alone
                ) as answer:
                    text = await answer.text()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                reason = str(error) or type(error).__name__
                raise ConfigurationError(f"--gateway: no answer from {self._url}: {reason}") from None
            if answer.status != 429 or attempt == _TRIES - 1:
                return value_of(answer.status, answer.content_type, text, self._url)
            await asyncio.sleep(min(_LONGEST_WAIT, float(answer.headers.get("retry-after", "1"))))
        raise AssertionError  # the last attempt returns


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


async def _authorization(scope: str, environ: Mapping[str, str]) -> str:
    """The management key, or else a token of the account that is signed in to Azure."""
    if key := environ.get("TOLLGATE_MANAGEMENT_KEY"):
        return f"Bearer {key}"
    tokens = TokenCache(partial(azure_credential, environ.get("AZURE_CLIENT_ID") or None))
    try:
        return await tokens.header(scope, _SECONDS)
    except CredentialUnavailable as error:
        raise ConfigurationError(
            f"TOLLGATE_MANAGEMENT_KEY is not set, and {error.details}. Set it, or sign in with: az login"
        ) from None
    finally:
        await tokens.close()


def value_of(status: int, media_type: str, text: str, where: str) -> Any:
    """The value of an answer of `where`. Raises `GatewayError` for a refusal."""
    is_json = media_type == "application/json"
    if status < 300:
        return json.loads(text) if is_json and text else text or None
    try:
        body = json.loads(text)
        refusal, complaints = body["error"], body.get("complaints", ())
        error = GatewayError(str(refusal["message"]), param=refusal.get("param"), code=refusal.get("code"))
        error.complaints = tuple(Complaint(str(one["path"]), str(one["message"])) for one in complaints)
    except (ValueError, LookupError, TypeError, AttributeError):
        error = GatewayError(f"{where} answered {status}, but not as a gateway does: check the address.")
    error.status = status
    raise error
