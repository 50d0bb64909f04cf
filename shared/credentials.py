"""Authorization of requests to backends: a key from the environment, or a bearer token of the gateway's identity."""

import copy
from collections.abc import Mapping
from functools import partial
from typing import Self

from shared.config.document import Api, Backend
from shared.identity import TokenCache, azure_credential

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
