"""Resolves the credentials in a request's headers to a consumer, from memory if possible.

A gateway key counts first, then a valid token of Entra ID, then a foreign key. Records of consumers are cached, so that
a revocation applies everywhere within 60 s (`_records.py`). With the table out of reach, cached consumers remain in
use. Others get 503, never 401: the caller's credentials may be valid.
"""

import contextlib
import copy
import time
from collections.abc import Callable, Mapping

import msgspec

from shared.auth import client_address, keys
from shared.auth._identities import Identities
from shared.auth._jwt import Accepted, Identity
from shared.auth._presented import Presented, presented
from shared.auth._records import Records
from shared.auth.consumers import Consumers
from shared.auth.entra import EntraTokens
from shared.auth.foreign_keys import ForeignKeys
from shared.auth.signing_keys import SigningKeys
from shared.config.callers import EntraSettings
from shared.errors import AddressNotAllowed, InvalidApiKey
from shared.types import Consumer


class Authenticator:
    """One per process and configuration. `clock` is monotonic; `wall_clock` is the store's time, by which keys expire.
    It accepts no token of Entra ID before `with_settings`. `close()` it."""

    def __init__(
        self, consumers: Consumers, wall_clock: Callable[[], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall_clock = wall_clock
        self._records = Records(consumers, clock)
        self._foreign_keys = ForeignKeys(consumers.foreign_keys, clock)
        self._signing_keys = SigningKeys(clock)
        self._identities = Identities(consumers, self._records, wall_clock, clock)
        self.tokens: EntraTokens | None = None

    def with_settings(self, entra: EntraSettings | None) -> "Authenticator":
        """The same with other settings for tokens; it shares what is cached. None: no token is accepted."""
        other = copy.copy(self)
        accepted = Accepted.of(entra) if entra is not None else None
        if accepted is None:
            other.tokens = None
        elif self.tokens is None or self.tokens.accepted != accepted:
            other.tokens = EntraTokens(accepted, self._wall_clock, self._signing_keys)
        other._identities = self._identities.with_rules(entra.callers if entra is not None else ())
        return other

    async def authenticate(self, headers: Mapping[str, str], address: str = client_address.UNKNOWN) -> Consumer:
        """The consumer with the credentials in the headers, at this client address. Raises `InvalidApiKey` (401),
        `CallerNotAllowed` and `AddressNotAllowed` (403), `StoreUnavailable` and `IdentityUnavailable` (503)."""
        credentials = presented(headers)
        key, product = keys.parse(credentials.key), credentials.product
        identity: Identity | None = None
        if key is None:
            identity, product = await self._identity_beside_keys(credentials), ""
            if identity is None:
                key, product = await self._foreign_key(credentials)
        if key is None:
            consumer = await self._identities.consumer(identity or await self._identity(credentials))
        else:
            record = await self._records.get(key.consumer_id, key.key_id)
            stored = record.keys.get(key.key_id) if record else None
            if record is None or stored is None or not keys.same(stored.digest, key.digest):
                raise InvalidApiKey("The API key is unknown. Ask the gateway's operator for a new one.")
            if not stored.valid_at(self._wall_clock()):
                raise InvalidApiKey("The API key was revoked or has expired. Ask the gateway's operator for a new one.")
            consumer = record.consumer
        if consumer.addresses and not client_address.within(address, consumer.addresses):
            raise AddressNotAllowed(
                f"This caller may not call from {address or 'an unknown address'}. Ask the gateway's operator."
            )
        return msgspec.structs.replace(consumer, product=product) if product else consumer

    def outdate(self, consumer_id: str) -> None:
        """Have a consumer read again before its next call: it has just been changed."""
        self._records.outdate(consumer_id)

    async def close(self) -> None:
        for part in (self._identities, self._records, self._foreign_keys, self._signing_keys):
            await part.close()

    async def _identity_beside_keys(self, credentials: Presented) -> Identity | None:
        """The caller with a token beside texts that may be foreign keys; None without a valid one. It goes first: a
        placeholder that callers send beside their tokens may have been imported as somebody's key."""
        if self.tokens is None or credentials.key or not (credentials.token and credentials.others):
            return None
        with contextlib.suppress(InvalidApiKey):  # it is another service's, so the key counts
            return await self.tokens.identify(credentials.token)
        return None

    async def _foreign_key(self, credentials: Presented) -> tuple[keys.Key | None, str]:
        """The first of the texts that is a foreign key, and the product named with it."""
        for text in () if credentials.key else credentials.others:
            digest = keys.foreign_digest(text)
            owner = await self._foreign_keys.find(digest) if digest is not None else None
            if digest is not None and owner is not None:
                product = credentials.product if text == credentials.subscription else ""
                return keys.Key(owner.consumer, owner.key, digest), product
        return None, ""

    async def _identity(self, credentials: Presented) -> Identity:
        """The caller with the token, if there is one."""
        if credentials.key:
            raise InvalidApiKey("The API key is mistyped: its checksum is wrong. Check that it was copied in full.")
        if credentials.token and self.tokens is not None:
            return await self.tokens.identify(credentials.token)
        if credentials.token:
            raise InvalidApiKey("This gateway accepts no tokens of Entra ID, only keys. Ask its operator for one.")
        if credentials.misplaced:
            raise InvalidApiKey("A token of Entra ID is accepted as Authorization: Bearer TOKEN only.")
        raise InvalidApiKey("Invalid API key: keys of this gateway start with tg_. Ask its operator for one.")
