"""Creates, lists and drops the tables of an account through Azure's client.

The client takes 20 ms to import, more on a small instance, so import this module where it is used.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from azure.core.credentials import AccessToken, AzureNamedKeyCredential
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import AzureError, HttpResponseError
from azure.core.pipeline.transport import AioHttpTransport
from azure.data.tables.aio import TableServiceClient

from shared.credentials import TokenCache
from shared.errors import StoreUnavailable
from shared.storage._batch import code
from shared.storage._session import explain
from shared.storage.connection_string import Account

_MISSING = frozenset(("ResourceNotFound", "TableNotFound"))
_EXISTS = frozenset(("ResourceAlreadyExists", "TableAlreadyExists"))


class AccountTables:
    """Azure's client, with the time limit `budget` in seconds and one retry. Its methods raise `StoreUnavailable`, and
    `CredentialUnavailable` without a token. `close()` it."""

    def __init__(self, endpoint: str, access: Account | TokenCache, budget: float) -> None:
        self._service = TableServiceClient(
            endpoint,
            credential=_Identity(access)
            if isinstance(access, TokenCache)
            else AzureNamedKeyCredential(access.name, access.key),
            transport=AioHttpTransport(connection_timeout=budget, read_timeout=budget, use_env_settings=False),
            retry_total=1,
            retry_backoff_factor=0.1,
        )
        self.close = self._service.close

    async def create(self, doing: str, name: str) -> None:
        with _errors(doing, _EXISTS):
            await self._service.create_table(name)

    async def drop(self, doing: str, name: str) -> None:
        answers: list[Any] = []
        with _errors(doing, _MISSING):
            await self._service.delete_table(name, raw_response_hook=answers.append)
            if answers[-1].http_response.status_code == 404:  # the client ignores every 404, a proxy's too
                raise HttpResponseError(response=answers[-1].http_response)

    def pages(self, condition: str) -> AsyncIterator[AsyncIterator[Any]]:
        return self._service.query_tables(condition).by_page()

    async def names(self, doing: str, pages: AsyncIterator[AsyncIterator[Any]]) -> list[str] | None:
        """The names in the next one of `pages`, None after the last."""
        with _errors(doing):
            page = await anext(pages, None)
            return None if page is None else [table.name async for table in page]


class _Identity(AsyncTokenCredential):
    """The gateway's tokens as a credential of Azure's client."""

    def __init__(self, tokens: TokenCache) -> None:
        self._tokens = tokens

    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        """The cached token, marked as expired, so that the client asks the cache at each request."""
        return AccessToken((await self._tokens.header(scopes[0])).removeprefix("Bearer "), 0)

    async def close(self) -> None:
        """Close nothing: the cache belongs to the store."""

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@contextmanager
def _errors(doing: str, ignored: frozenset[str] = frozenset()) -> Iterator[None]:
    """Turn the client's errors into `StoreUnavailable`, except answers with an ignored error code."""
    try:
        yield
    except HttpResponseError as error:
        answer: Any = error.response
        refusal = code(answer.text().encode()) if answer is not None else ""
        if refusal not in ignored:
            raise StoreUnavailable(f"{doing}: {explain(error.status_code or 0, refusal)}") from error
    except AzureError as error:
        raise StoreUnavailable(f"{doing}: no answer from Table Storage ({type(error).__name__})") from error
