"""Azure Table Storage as a `Store`: Azure's client creates, lists and drops tables; `_session.py` handles rows.

Every operation has a time budget, and raises `StoreUnavailable` when it is exceeded or the service returns an error.
"""

import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
import msgspec

from shared.concurrency import SingleFlight
from shared.config.environment import Storage
from shared.credentials import TokenCache, azure_credential
from shared.errors import ConfigurationError, CredentialUnavailable, RowsRefused, StoreUnavailable
from shared.storage import Properties, Row, _batch, _entity, _shares, connection_string
from shared.storage._clock import StoreClock
from shared.storage._rules import check_key, check_rows, check_table_name
from shared.storage._session import Answer, Session, explain
from shared.storage._shares import Share
from shared.storage._signing import BearerToken, SharedKeyLite, Signer

if TYPE_CHECKING:
    from shared.storage._account_tables import AccountTables

BUDGET = 2.0  # seconds per operation; a caller with less time uses asyncio.timeout
PAGE = 500  # rows per query: decoded in 5 ms, so that open streams do not stutter

_MISSING = frozenset(("ResourceNotFound", "EntityNotFound", "TableNotFound"))
_CONFLICT = frozenset(("EntityAlreadyExists", "UpdateConditionNotSatisfied", "ConditionNotMet")) | _MISSING
_OF_CONTENT = frozenset(
    (  # that no retry makes better
        "InvalidInput",
        "OutOfRangeInput",
        "InvalidValueType",
        "EntityTooLarge",
        "RequestBodyTooLarge",
        "TooManyProperties",
        "PropertyValueTooLarge",
        "PropertyNameInvalid",
        "PropertyNameTooLong",
    )
)
_RETRIABLE = frozenset((408, 429, 500, 502, 503, 504))
_PAUSE = 0.1  # seconds before the second attempt


class TablesStore:
    """All tables of one storage account. Open sockets belong to the event loop that first used them. `close()` the
    store, which closes the token cache, too."""

    def __init__(
        self, endpoint: str, access: connection_string.Account | TokenCache, *, budget: float = BUDGET
    ) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.budget = budget
        self.clock = StoreClock()
        self.now = self.clock.now
        signer: Signer = (
            BearerToken(access) if isinstance(access, TokenCache) else SharedKeyLite(access.name, access.key)
        )
        self.session = Session(self.endpoint, signer, self.clock)
        self._access = access
        self._account_tables: AccountTables | None = None
        self._tables: dict[str, AzureTable] = {}
        self._creations: SingleFlight[str, None] = SingleFlight()

    @classmethod
    def from_connection_string(cls, text: str, *, budget: float = BUDGET) -> "TablesStore":
        """From `UseDevelopmentStorage=true` or `AccountName=…;AccountKey=…` and `TableEndpoint=` or `EndpointSuffix=`.
        Raises `ConfigurationError`, whose message never shows the key."""
        account = connection_string.account(text)
        return cls(account.endpoint, account, budget=budget)

    @classmethod
    def from_endpoint(cls, table_service_uri: str, tokens: TokenCache) -> "TablesStore":
        """With an Entra identity. Raises `ConfigurationError`."""
        if not connection_string.is_address(table_service_uri, ("https",)):
            raise ConfigurationError(
                f"{table_service_uri.partition('?')[0]!r} is not the address of a table service: expected "
                "https://ACCOUNT.table.core.windows.net or similar (tokens are sent over https only)"
            )
        return cls(table_service_uri, tokens)

    def table(self, name: str) -> "AzureTable":
        table = self._tables.get(name)
        if table is None:
            check_table_name(name)
            table = self._tables[name] = AzureTable(self, name)
        return table

    async def names(self, prefix: str) -> list[str]:
        doing, tables = f"list tables {prefix}*", await self._tables_of_account()
        pages = tables.pages(f"TableName ge '{prefix}' and TableName lt '{prefix}~'")
        names: list[str] = []
        while True:
            async with self.guard(doing):
                page = await tables.names(doing, pages)
            if page is None:
                return sorted(name for name in names if name.startswith(prefix))
            names += page

    async def drop(self, name: str) -> None:
        check_table_name(name)
        doing, tables = f"drop table {name}", await self._tables_of_account()
        async with self.guard(doing):
            await tables.drop(doing, name)

    async def close(self) -> None:
        await self._creations.close()
        if self._account_tables is not None:
            await self._account_tables.close()
        await self.session.close()

    async def create_table(self, name: str) -> None:
        """Create a table if it does not exist, in one request for all writers that miss it at the same time."""
        await self._creations.run(name, partial(self._create_table, name))

    async def _create_table(self, name: str) -> None:
        doing, tables = f"create table {name}", await self._tables_of_account()
        async with self.guard(doing):
            await tables.create(doing, name)

    async def _tables_of_account(self) -> "AccountTables":
        """Azure's client, imported in a thread, so that open streams do not stutter."""
        if self._account_tables is None:
            await asyncio.to_thread(importlib.import_module, "shared.storage._account_tables")
            from shared.storage._account_tables import AccountTables

            # Another task may have opened it during the import.
            self._account_tables = self._account_tables or AccountTables(self.endpoint, self._access, self.budget)
        return self._account_tables

    async def request(
        self,
        share: Share,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        query: str = "",
    ) -> Answer:
        """Send a request, and once more after an error that may be temporary."""
        answer = await self.session.send(share, method, path, body, headers, query)
        if answer.status in _RETRIABLE:
            await asyncio.sleep(_PAUSE)
            answer = await self.session.send(share, method, path, body, headers, query)
        return answer

    async def answered[T](
        self,
        doing: str,
        request: Awaitable[Answer],
        status: int,
        refusals: frozenset[str],
        read: Callable[[Answer], T | None] = lambda answer: None,
    ) -> T | None:
        """Return the content of an answer with this status; None if the service refused with one of these codes."""
        async with self.guard(doing):
            answer = await request
            if answer.status == status:
                return read(answer)
            code = _batch.code(answer.body)
            if answer.status < 400 or code not in refusals:
                raise StoreUnavailable(f"{doing}: {explain(answer.status, code)}")
            return None

    @asynccontextmanager
    async def guard(self, doing: str) -> AsyncIterator[None]:
        """Apply the time budget, and turn every failure into `StoreUnavailable`."""
        try:
            async with asyncio.timeout(self.budget):
                yield
        except StoreUnavailable:
            raise
        except CredentialUnavailable as error:
            raise StoreUnavailable(f"{doing}: the gateway's identity got no token for Table Storage") from error
        except TimeoutError as error:
            raise StoreUnavailable(f"{doing}: Table Storage did not answer within {self.budget:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise StoreUnavailable(f"{doing}: no answer from Table Storage ({type(error).__name__})") from error
        except (msgspec.MsgspecError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise StoreUnavailable(f"{doing}: unreadable answer from Table Storage ({type(error).__name__})") from error


class AzureTable:
    def __init__(self, store: TablesStore, name: str) -> None:
        self._store = store
        self._name = name
        self._path = f"/{name}"
        self._share, self._share_of_merges = _shares.of_rows(name), _shares.of_merges(name)

    async def get(self, partition: str, key: str) -> Row | None:
        check_key(partition)
        check_key(key)
        request = self._store.request(self._share, "GET", self._path + _entity.address(partition, key))
        doing = f"get from {self._name}"
        return await self._store.answered(doing, request, 200, _MISSING, lambda answer: _entity.decode(answer.body))

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        check_rows(partition, {key: properties})
        body = _entity.encode(partition, key, properties)
        if etag is None:
            request = self._insert(body)
        else:
            address, headers = self._path + _entity.address(partition, key), {**_JSON, "If-Match": etag}
            request = self._store.request(self._share, "PUT", address, body, headers)
        doing = f"put into {self._name}"
        return await self._store.answered(doing, request, 204, _CONFLICT, lambda answer: answer.headers["ETag"])

    async def _insert(self, body: bytes) -> Answer:
        answer = await self._store.request(self._share, "POST", self._path, body, _INSERT)
        if answer.status == 404 and _batch.code(answer.body) == "TableNotFound":
            await self._store.create_table(self._name)
            answer = await self._store.request(self._share, "POST", self._path, body, _INSERT)
        return answer

    async def merge(self, partition: str, rows: Mapping[str, Properties]) -> None:
        check_rows(partition, rows)
        if not rows:
            return
        body = _batch.encode(self._store.endpoint + self._path, partition, rows)
        doing = f"merge into {self._name}"
        async with self._store.guard(doing):
            error = await self._merge(body, len(rows))
            if error is not None and error.code == "TableNotFound":
                await self._store.create_table(self._name)
                error = await self._merge(body, len(rows))
            if error is not None:
                kind = RowsRefused if error.code in _OF_CONTENT else StoreUnavailable
                raise kind(f"{doing}: {explain(error.status, error.code)}; no row was written")

    async def _merge(self, body: bytes, rows: int) -> _batch.BatchError | None:
        headers = {"Content-Type": _batch.CONTENT_TYPE}
        answer = await self._store.session.send(self._share_of_merges, "POST", "/$batch", body, headers)
        return _batch.error_in(answer.status, answer.body, rows)

    async def delete(self, partition: str, key: str) -> None:
        check_key(partition)
        check_key(key)
        address, headers = self._path + _entity.address(partition, key), {"If-Match": "*"}
        request = self._store.request(self._share, "DELETE", address, headers=headers)
        await self._store.answered(f"delete in {self._name}", request, 204, _MISSING)

    def scan(self, partition: str, first: str = "", end: str = "") -> AsyncIterator[Row]:
        check_key(partition)
        bounds = f" and RowKey ge '{_quoted(first)}'" if first else ""
        bounds += f" and RowKey lt '{_quoted(end)}'" if end else ""
        return self._query(f"PartitionKey eq '{_quoted(partition)}'{bounds}", self._share)

    def scan_all(self, after: str = "") -> AsyncIterator[Row]:
        return self._query(f"PartitionKey gt '{_quoted(after)}'", Share.REST)

    async def _query(self, condition: str, share: Share) -> AsyncIterator[Row]:
        following: dict[str, str] | None = {}
        while following is not None:
            query = _entity.query(condition, PAGE, following)
            request = self._store.request(share, "GET", f"{self._path}()", query=query)
            page = await self._store.answered(f"scan {self._name}", request, 200, _MISSING, _page)
            rows, following = page or ([], None)
            for row in rows:
                yield row


_JSON = {"Content-Type": "application/json"}
_INSERT = {**_JSON, "Prefer": "return-no-content"}


def _quoted(key: str) -> str:
    return key.replace("'", "''")


def _page(answer: Answer) -> tuple[list[Row], dict[str, str] | None]:
    return _entity.decode_page(answer.body), _entity.next_page(answer.headers)


def open(storage: Storage) -> TablesStore:
    """The tables of the account that the environment names. Raises `ConfigurationError`."""
    if storage.table_service_uri is not None:
        tokens = TokenCache(partial(azure_credential, storage.client_id))
        return TablesStore.from_endpoint(storage.table_service_uri, tokens)
    return TablesStore.from_connection_string(storage.connection_string or "")
