"""Resolves the key in a request's headers to a consumer, from memory if possible.

A cached consumer is read again in the background once it is 30 s old, and awaited once it is 50 s old, so that a
revocation applies everywhere within 60 s. With the table out of reach, cached consumers remain in use. Others get 503,
never 401: the caller's key may be valid.
"""

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Mapping

import msgspec

from shared.auth import client_address, keys
from shared.auth.consumers import Consumers, Record
from shared.concurrency import LruDict, SingleFlight
from shared.errors import AddressNotAllowed, InvalidApiKey, StoreUnavailable
from shared.types import Consumer

logger = logging.getLogger("tollgate.authentication")

_REFRESH_AFTER = 30.0  # seconds: read again in the background
_STALE_AFTER = 50.0  # seconds: read again before use
_RECHECK_AFTER = 2.0  # seconds: an unknown key of a known consumer may be new; also the pause after a failure
_WAIT_WITH_FALLBACK = 0.3  # seconds a request waits for the table if a cached consumer can serve instead
_WAIT_WITHOUT = 2.5  # seconds it waits otherwise: more than the store's own time budget
_MAX_KNOWN = 50_000  # consumers
_MAX_UNKNOWN = 10_000  # ids without a consumer, cached apart so that guessing evicts no consumer


class _Cached(msgspec.Struct):
    """The record of an id (None: there is none), and when it was read (monotonic seconds)."""

    record: Record | None
    read_at: float
    retry_at: float = 0.0


class Authenticator:
    """One per process. `clock` is monotonic; `wall_clock` is the store's time, by which keys expire."""

    def __init__(
        self, consumers: Consumers, wall_clock: Callable[[], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._consumers = consumers
        self._wall_clock = wall_clock
        self._clock = clock
        self._known: LruDict[str, _Cached] = LruDict(_MAX_KNOWN)
        self._unknown: LruDict[str, _Cached] = LruDict(_MAX_UNKNOWN)
        self._reads: SingleFlight[str, _Cached] = SingleFlight()

    async def authenticate(self, headers: Mapping[str, str], address: str = client_address.UNKNOWN) -> Consumer:
        """The consumer of the key in the headers, at this client address. Raises `InvalidApiKey` (401),
        `AddressNotAllowed` (403) and `StoreUnavailable` (503)."""
        text, product = _presented(headers)
        key = keys.parse(text)
        if key is None:
            raise InvalidApiKey(
                "The API key is mistyped: its checksum is wrong. Check that it was copied in full."
                if keys.has_shape(text)
                else "Invalid API key: keys of this gateway start with tg_. Ask its operator for one."
            )
        record = await self._record(key)
        stored = record.keys.get(key.key_id) if record else None
        if record is None or stored is None or not keys.same(stored.digest, key.digest):
            raise InvalidApiKey("The API key is unknown. Ask the gateway's operator for a new one.")
        if not stored.valid_at(self._wall_clock()):
            raise InvalidApiKey("The API key was revoked or has expired. Ask the gateway's operator for a new one.")
        consumer = record.consumer
        if consumer.addresses and not client_address.within(address, consumer.addresses):
            raise AddressNotAllowed(
                f"The API key may not be used from {address or 'an unknown address'}. Ask the gateway's operator."
            )
        return msgspec.structs.replace(consumer, product=product) if product else consumer

    async def _record(self, key: keys.Key) -> Record | None:
        now = self._clock()
        cache = self._known if key.consumer_id in self._known else self._unknown
        cached = cache.get(key.consumer_id)
        if cached is None:
            return (await self._read(key.consumer_id, _WAIT_WITHOUT)).record
        cache.move_to_end(key.consumer_id)
        age = now - cached.read_at
        if cached.record is not None and key.key_id not in cached.record.keys and age > _RECHECK_AFTER:
            age = _STALE_AFTER  # the key may be younger than the cached record
        if age < _REFRESH_AFTER or now < cached.retry_at:
            return cached.record
        if age < _STALE_AFTER:
            self._reads.start(key.consumer_id, lambda: self._fetch(key.consumer_id))
            return cached.record
        try:
            return (await self._read(key.consumer_id, _WAIT_WITH_FALLBACK)).record
        except StoreUnavailable as error:
            logger.warning("store out of reach, using the cached consumer %s: %s", key.consumer_id, error)
            return cached.record

    async def _read(self, consumer_id: str, wait: float) -> _Cached:
        try:
            async with asyncio.timeout(wait):
                return await self._reads.run(consumer_id, lambda: self._fetch(consumer_id))
        except TimeoutError:
            self._postpone(consumer_id)
            raise StoreUnavailable("The store of the keys does not answer. Try again shortly.") from None
        except StoreUnavailable as error:
            logger.warning("cannot read consumer %s: %s", consumer_id, error)
            raise StoreUnavailable("The store of the keys is out of reach. Try again shortly.") from None

    async def _fetch(self, consumer_id: str) -> _Cached:
        started = self._clock()  # the row may be as old as the start of the read
        try:
            cached = _Cached(await self._consumers.find(consumer_id), started)
        except Exception:
            self._postpone(consumer_id)
            raise
        cache, other = (self._known, self._unknown) if cached.record else (self._unknown, self._known)
        other.pop(consumer_id, None)
        cache[consumer_id] = cached
        return cached

    def _postpone(self, consumer_id: str) -> None:
        """Use the cached record for a moment before the table is tried again, after a failure."""
        if cached := self._known.get(consumer_id) or self._unknown.get(consumer_id):
            cached.retry_at = self._clock() + _RECHECK_AFTER


def _presented(headers: Mapping[str, str]) -> tuple[str, str]:
    """The key and the product named with it."""
    values = tuple(headers.get(name, "") for name in ("authorization", "api-key", "ocp-apim-subscription-key"))
    if "x-api-key" in headers and not any(values):
        raise InvalidApiKey(
            "The key is in the header x-api-key, which this gateway does not read: send it as Authorization: Bearer "
            "KEY, or in the header api-key."
        )
    return _choose_cached(*values) if sum(map(len, values)) <= _LONG_HEADERS else _choose(*values)


def _choose(authorization: str, api_key: str, subscription_key: str) -> tuple[str, str]:
    """Of several keys, the one with the shape of a gateway key."""
    scheme, _, token = authorization.partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    subscription, _, suffix = subscription_key.partition(";")
    candidates = [text for text in (bearer, api_key.strip(), subscription.strip()) if text]
    if not candidates:
        raise InvalidApiKey("No API key: send it as Authorization: Bearer KEY, or in the header api-key.")
    text = next((candidate for candidate in candidates if keys.has_shape(candidate)), candidates[0])
    name, _, product = suffix.strip().partition("=")
    valid = text == subscription.strip() and name.lower() == "product" and product.isascii() and product.isprintable()
    return text, product[:64] if valid else ""


_LONG_HEADERS = 300  # characters: longer ones hold no key, and are not cached
_choose_cached = functools.lru_cache(maxsize=8192)(_choose)  # a caller sends the same headers with every request
