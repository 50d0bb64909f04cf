"""Verifies tokens of Entra ID, and remembers them until they end.

A token that was verified costs one digest and one look into memory. A rejected one is remembered, too, apart from the
others, so that rejected tokens evict no verified one.
"""

import asyncio
import hashlib
import importlib
from collections.abc import Callable
from typing import Any

from shared.auth._jwt import LEEWAY, MOST_CHARACTERS, Accepted, Identity, identity, not_yet, parse, problem
from shared.auth.signing_keys import Jwk, SigningKeys
from shared.concurrency import LruDict
from shared.errors import IdentityUnavailable, InvalidApiKey

_MOST_VERIFIED = 20_000
_MOST_REJECTED = 10_000
_MOST_KEYS = 200


class EntraTokens:
    """Verifies the tokens that are accepted. `wall_clock`: seconds since 1970."""

    def __init__(self, accepted: Accepted, wall_clock: Callable[[], float], keys: SigningKeys) -> None:
        self.accepted = accepted
        self._wall_clock = wall_clock
        self._keys = keys
        self._withdrawn = keys.withdrawn
        self._verified: LruDict[bytes, Identity] = LruDict(_MOST_VERIFIED)
        self._rejected: LruDict[bytes, str] = LruDict(_MOST_REJECTED)
        self._public_keys: LruDict[Jwk, Any] = LruDict(_MOST_KEYS)
        self._jwt: Any = None
        keys.warm(accepted.tenants.values())

    async def identify(self, text: str) -> Identity:
        """The caller who was given this token. Raises `InvalidApiKey`, whose message has the reason and not the token,
        and `IdentityUnavailable`."""
        if len(text) > MOST_CHARACTERS:  # before anything that takes as long as the token
            raise InvalidApiKey(str(parse(text)))
        if self._keys.withdrawn != self._withdrawn:
            self._withdrawn = self._keys.withdrawn
            self._verified.clear()
        digest, now = hashlib.sha256(text.encode()).digest(), self._wall_clock()
        known = self._verified.get(digest)
        if known is not None and now < known.ends + LEEWAY:
            self._verified.move_to_end(digest)
            self._keys.keep_fresh(known.address)
            return known
        if (reason := self._rejected.get(digest)) is not None:
            raise InvalidApiKey(reason)
        return await self._verify(text, digest, now)

    async def _verify(self, text: str, digest: bytes, now: float) -> Identity:
        token = parse(text)
        if isinstance(token, str):
            raise self._rejection(digest, token)
        if reason := problem(token, self.accepted, now):
            raise self._rejection(digest, reason)
        if not_yet(token, now):
            raise InvalidApiKey("The token is not valid yet. Check the clock of the machine that requested it.")
        address = self.accepted.tenants[token.claims.tid.lower()]
        key = await self._keys.find(address, token.header.kid)
        if key is None:
            raise InvalidApiKey("The token is signed with a key that its tenant does not publish.")
        if self._jwt is None:  # takes 0.1 s to import, and is imported in a thread so that open streams do not stutter
            self._jwt = await asyncio.to_thread(importlib.import_module, "jwt")
        if not self._is_signed(text, key):
            raise self._rejection(digest, "The signature of the token is wrong.")
        caller = self._verified[digest] = identity(token.claims, address)
        return caller

    def _is_signed(self, text: str, key: Jwk) -> bool:
        """True if the token is signed with this key. It takes 0.1 ms."""
        public = self._public_keys.get(key)
        if public is None:
            try:
                public = self._jwt.algorithms.RSAAlgorithm.from_jwk({"kty": "RSA", "n": key.n, "e": key.e})
            except (self._jwt.PyJWTError, ValueError):
                raise IdentityUnavailable("The tenant publishes a signing key that cannot be read.") from None
            self._public_keys[key] = public
        try:
            self._jwt.PyJWS(algorithms=["RS256"]).decode(
                text, public, algorithms=["RS256"], options={"enforce_minimum_key_length": True}
            )
        except self._jwt.PyJWTError:
            return False
        return True

    def _rejection(self, digest: bytes, reason: str) -> InvalidApiKey:
        """The refusal of a token that no time and no other key will make valid."""
        self._rejected[digest] = reason
        return InvalidApiKey(reason)
