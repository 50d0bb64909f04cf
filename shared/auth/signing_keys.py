"""The public keys with which the tenants of Entra ID sign tokens, read from the OpenID configuration.

Keys are read again in the background every hour. A token that names an unknown key has them read at once, but at most
once a minute per tenant: invented names cause no more reads than that.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from urllib.parse import urlsplit

import aiohttp
import msgspec

from shared.concurrency import SingleFlight
from shared.errors import IdentityUnavailable

logger = logging.getLogger("tollgate.entra")

_REFRESH_AFTER = 3600.0  # seconds: read again in the background
_KEEP = 86_400.0  # seconds: not used any longer
_UNKNOWN_AFTER = 60.0  # seconds between two reads because of unknown keys
_RETRY_AFTER = 2.0  # seconds between two reads while there are no keys
_WAIT = 2.5  # seconds that a request waits
_BUDGET = 8.0  # seconds of a read, which goes on without the request
_MOST_BYTES = 1024 * 1024
_VERSIONS = ("/v2.0", "")  # of the tokens: each has a list of keys


class Jwk(msgspec.Struct, frozen=True):
    """A public key as published. `n` and `e` in base64url."""

    kid: str = ""
    kty: str = ""
    use: str = "sig"
    n: str = ""
    e: str = ""


class _Jwks(msgspec.Struct):
    keys: list[Jwk]


class _OpenIdConfiguration(msgspec.Struct):
    jwks_uri: str


class _Published(msgspec.Struct):
    """The keys of a tenant by `kid`, and when they were read. Times are monotonic."""

    keys: dict[str, Jwk] = {}
    read_at: float = float("-inf")
    retry_at: float = 0.0


class SigningKeys:
    """The keys of tenants, each by the address that stands before its documents (`https://AUTHORITY/TENANT`).
    `withdrawn` counts the keys that a tenant published once and no longer does: what they signed is not to be trusted
    from memory. `close()` it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tenants: defaultdict[str, _Published] = defaultdict(_Published)
        self._reads: SingleFlight[str, None] = SingleFlight()
        self.close = self._reads.close
        self.withdrawn = 0

    def warm(self, tenants: Iterable[str]) -> None:
        """Have keys that were never read, or are due, read in the background."""
        for tenant in tenants:
            self.keep_fresh(tenant)

    def keep_fresh(self, tenant: str) -> None:
        """Have keys that are due read in the background."""
        published, now = self._tenants[tenant], self._clock()
        if now - published.read_at >= _REFRESH_AFTER and now >= published.retry_at:
            self._reads.start(tenant, partial(self._read, tenant))

    async def find(self, tenant: str, kid: str) -> Jwk | None:
        """The key of that name, None if the tenant publishes none. Raises `IdentityUnavailable`."""
        published, now = self._tenants[tenant], self._clock()
        age = now - published.read_at
        if (key := published.keys.get(kid)) is not None and age < _KEEP:
            self.keep_fresh(tenant)
            return key
        if age < _UNKNOWN_AFTER:
            return None
        if now < published.retry_at:
            raise _unavailable()
        try:
            async with asyncio.timeout(_WAIT):
                await self._reads.run(tenant, partial(self._read, tenant))
        except (TimeoutError, IdentityUnavailable):
            raise _unavailable() from None
        return published.keys.get(kid)

    async def _read(self, tenant: str) -> None:
        published, started = self._tenants[tenant], self._clock()
        timeout = aiohttp.ClientTimeout(total=_BUDGET)
        try:
            async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
                lists = await asyncio.gather(*(_keys(session, f"{tenant}{version}") for version in _VERSIONS))
            keys = {key.kid: key for one in lists for key in one}
            if not keys:
                raise ValueError("it publishes no key")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, msgspec.MsgspecError) as error:
            published.retry_at = self._clock() + (_UNKNOWN_AFTER if published.keys else _RETRY_AFTER)
            logger.error("cannot read the signing keys of %s: %s: %s", tenant, type(error).__name__, error)
            raise _unavailable() from None
        self.withdrawn += len(published.keys.keys() - keys.keys())
        published.keys, published.read_at = keys, started


async def _keys(session: aiohttp.ClientSession, issuer: str) -> list[Jwk]:
    url = f"{issuer}/.well-known/openid-configuration"
    location = msgspec.json.decode(await _body(session, url), type=_OpenIdConfiguration).jwks_uri
    if urlsplit(location).scheme != "https" and not issuer.startswith("http://"):
        raise ValueError(f"{url} names an address of keys that is not https")
    keys = msgspec.json.decode(await _body(session, location), type=_Jwks).keys
    return [key for key in keys if key.kid and key.kty == "RSA" and key.use == "sig"]


async def _body(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(url, allow_redirects=False) as answer:
        if answer.status != 200:
            raise ValueError(f"{url} answered {answer.status}")
        body = b""
        async for piece in answer.content.iter_any():
            body += piece
            if len(body) > _MOST_BYTES:
                raise ValueError(f"{url} answered with more than {_MOST_BYTES} bytes")
        return body


def _unavailable() -> IdentityUnavailable:
    return IdentityUnavailable(
        "The signing keys of Entra ID cannot be read now, so the token cannot be checked. Try again shortly."
    )
