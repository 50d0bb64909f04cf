"""Azure Table Storage as a `Store`: Azure's own client for what nobody waits for, a lean writer for `merge`.

An operation of `azure-data-tables` costs about a millisecond of CPU, one of its 100-row transactions 27 ms during which
every open stream stutters. So the ledger's batches are built in `batch.py` and sent on an aiohttp session of their own.
Every operation has a time budget and raises `StoreUnavailable` when it is spent, or when the service refuses.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from azure.core import MatchConditions
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import AzureError, HttpResponseError
from azure.core.pipeline import PipelineRequest, PipelineResponse
from azure.core.pipeline.transport import AioHttpTransport
from azure.core.utils import parse_connection_string
from azure.data.tables import EdmType, EntityProperty, TableEntity, UpdateMode
from azure.data.tables.aio import TableClient, TableServiceClient
from yarl import URL

from shared.errors import ConfigurationError, StoreUnavailable
from shared.stores import Properties, Row, Value, batch, connection
from shared.stores.bounds import check_key, check_rows, check_table_name
from shared.stores.clock import StoreClock
from shared.stores.signing import BearerToken, SharedKeyLite, Signer

BUDGET = 2.0  # seconds for an operation; who waits less wraps it in asyncio.timeout
PAGE = 200  # rows; the SDK takes 80 microseconds for each, all at once, and open streams must not stutter

_NOT_THERE = frozenset(("ResourceNotFound", "EntityNotFound", "TableNotFound"))
_SOMEBODY_WAS_FIRST = frozenset(("EntityAlreadyExists", "UpdateConditionNotSatisfied", "ConditionNotMet")) | _NOT_THERE
_CODE = re.compile(r'"code"\s*:\s*"(\w{1,80})"')


class TablesStore:
    """All tables of one storage account. Open sockets belong to the event loop that first used them; `close()` it."""

    def __init__(
        self, endpoint: str, credential: AzureNamedKeyCredential | AsyncTokenCredential, *, budget: float = BUDGET
    ) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.budget = budget
        self.clock = StoreClock()
        self.now = self.clock.now
        self._signer: Signer = (
            SharedKeyLite(*credential.named_key, self.endpoint)
            if isinstance(credential, AzureNamedKeyCredential)
            else BearerToken(credential)
        )
        self._service = TableServiceClient(
            self.endpoint,
            credential=credential,
            transport=AioHttpTransport(connection_timeout=budget, read_timeout=budget, use_env_settings=False),
            raw_request_hook=self._note_sent,
            raw_response_hook=self._read_clock,
            retry_total=1,
            retry_backoff_factor=0.1,
        )
        self._session: aiohttp.ClientSession | None = None
        self._batch_url = URL(f"{self.endpoint}/$batch", encoded=True)
        self._tables: dict[str, AzureTable] = {}
        self._creating: dict[str, asyncio.Task[None]] = {}

    @classmethod
    def from_connection_string(cls, text: str, *, budget: float = BUDGET) -> "TablesStore":
        """From `UseDevelopmentStorage=true` or `AccountName=…;AccountKey=…` and `TableEndpoint=` or `EndpointSuffix=`.

        `ConfigurationError` says what is wrong with another one, and never shows the key."""
        try:
            parts = parse_connection_string(text)
        except ValueError:
            raise connection.bad("is not a list of NAME=VALUE parted by semicolons") from None
        account = connection.account(parts)
        return cls(account.endpoint, AzureNamedKeyCredential(account.name, account.key), budget=budget)

    @classmethod
    def from_endpoint(
        cls, table_service_uri: str, credential: AsyncTokenCredential, *, budget: float = BUDGET
    ) -> "TablesStore":
        """As an Entra identity. The credential remains the caller's, who may use it elsewhere, and closes it."""
        if not connection.is_address(table_service_uri, ("https",)):
            raise ConfigurationError(
                f"{table_service_uri.partition('?')[0]!r} is no address of a table service: expected something like "
                "https://ACCOUNT.table.core.windows.net (a token is sent over https only)"
            )
        return cls(table_service_uri, credential, budget=budget)

    def table(self, name: str) -> "AzureTable":
        table = self._tables.get(name)
        if table is None:
            check_table_name(name)
            table = self._tables[name] = AzureTable(self, name, self._service.get_table_client(name))
        return table

    async def names(self, prefix: str) -> list[str]:
        query = f"TableName ge '{prefix}' and TableName lt '{prefix}~'"
        pages = self._service.query_tables(query).by_page()
        names: list[str] = []
        while True:
            async with self.guard(f"list tables {prefix}*"):
                try:
                    names += [table.name async for table in await anext(pages)]
                except StopAsyncIteration:
                    return sorted(name for name in names if name.startswith(prefix))

    async def drop(self, name: str) -> None:
        check_table_name(name)
        async with self.guard(f"drop table {name}"):
            try:
                await self._service.delete_table(name)
            except HttpResponseError as error:
                if _code(error) not in _NOT_THERE:
                    raise

    async def close(self) -> None:
        tasks = list(self._creating.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._signer.close()
        await self._service.close()
        if self._session is not None:
            await self._session.close()

    async def create_table(self, name: str) -> None:
        """Make a table unless it is there. However many writers miss it at once, one asks, for all of them."""
        task = self._creating.get(name)
        if task is None:
            task = self._creating[name] = asyncio.create_task(self._create_table(name))

            def created(done: asyncio.Task[None]) -> None:
                del self._creating[name]
                if not done.cancelled():
                    done.exception()  # heard here, should every writer have given up meanwhile

            task.add_done_callback(created)
        await asyncio.shield(task)

    async def _create_table(self, name: str) -> None:
        async with self.guard(f"create table {name}"):
            try:
                await self._service.create_table(name)
            except HttpResponseError as error:
                if _code(error) not in ("TableAlreadyExists", "ResourceAlreadyExists"):
                    raise

    async def send_batch(self, body: bytes, rows: int) -> batch.Refusal | None:
        """Send a transaction of merges. Idempotent, so that a closed connection is simply tried anew."""
        try:
            return await self._send_batch(body, rows)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            return await self._send_batch(body, rows)

    async def _send_batch(self, body: bytes, rows: int) -> batch.Refusal | None:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=64, keepalive_timeout=45),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept-Encoding"),
            )
        headers = {
            "Content-Type": batch.CONTENT_TYPE,
            "Accept": "application/json;odata=minimalmetadata",
            "x-ms-version": "2019-02-02",
            "DataServiceVersion": "3.0",
            "MaxDataServiceVersion": "3.0;NetFx",
        }
        headers.update(await self._signer.headers(self.now()))
        sent = self.clock.local()
        async with self._session.post(self._batch_url, data=body, headers=headers) as response:
            self.clock.learn(response.headers.get("Date"), sent, self.clock.local())
            return batch.refusal(response.status, await response.read(), rows)

    def _note_sent(self, request: PipelineRequest[Any]) -> None:
        request.context["sent"] = self.clock.local()

    def _read_clock(self, response: PipelineResponse[Any, Any]) -> None:
        sent = response.context["sent"]
        self.clock.learn(response.http_response.headers.get("Date"), sent, self.clock.local())

    @asynccontextmanager
    async def guard(self, doing: str) -> AsyncIterator[None]:
        """The time budget, and one error for all that can go wrong."""
        try:
            async with asyncio.timeout(self.budget):
                yield
        except StoreUnavailable:
            raise
        except TimeoutError as error:
            raise StoreUnavailable(f"{doing}: Table Storage did not answer within {self.budget:g} s") from error
        except HttpResponseError as error:
            raise StoreUnavailable(f"{doing}: {_explain(error.status_code or 0, _code(error))}") from error
        except (AzureError, aiohttp.ClientError, OSError) as error:
            raise StoreUnavailable(f"{doing}: no answer from Table Storage ({type(error).__name__})") from error
        except (ValueError, TypeError, LookupError, AttributeError) as error:  # what the SDK utters over a foreign body
            raise StoreUnavailable(f"{doing}: Table Storage answered nonsense ({type(error).__name__})") from error


class AzureTable:
    """One table of the account."""

    def __init__(self, store: TablesStore, name: str, client: TableClient) -> None:
        self._store = store
        self._name = name
        self._client = client
        self._url = f"{store.endpoint}/{name}"

    async def get(self, partition: str, key: str) -> Row | None:
        check_key(partition)
        check_key(key)
        async with self._store.guard(f"get from {self._name}"):
            try:
                return _row(await self._client.get_entity(partition, key))
            except HttpResponseError as error:
                if _code(error) not in _NOT_THERE:
                    raise
                return None

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        check_rows(partition, {key: properties})
        entity = _entity(partition, key, properties)
        async with self._store.guard(f"put into {self._name}"):
            try:
                if etag is None:
                    return await self._insert(entity)
                answer = await self._client.update_entity(
                    entity, mode=UpdateMode.REPLACE, etag=etag, match_condition=MatchConditions.IfNotModified
                )
                return _etag(answer)
            except HttpResponseError as error:
                if _code(error) not in _SOMEBODY_WAS_FIRST:
                    raise
                return None

    async def _insert(self, entity: dict[str, Any]) -> str:
        try:
            return _etag(await self._client.create_entity(entity))
        except HttpResponseError as error:
            if _code(error) != "TableNotFound":
                raise
        await self._store.create_table(self._name)
        return _etag(await self._client.create_entity(entity))

    async def merge(self, partition: str, rows: Mapping[str, Properties]) -> None:
        check_rows(partition, rows)
        if not rows:
            return
        body = batch.encode(self._url, partition, rows)
        doing = f"merge into {self._name}"
        async with self._store.guard(doing):
            refusal = await self._store.send_batch(body, len(rows))
            if refusal is not None and refusal.code == "TableNotFound":
                await self._store.create_table(self._name)
                refusal = await self._store.send_batch(body, len(rows))
            if refusal is not None:
                raise StoreUnavailable(
                    f"{doing}: {_explain(refusal.status, refusal.code)}; none of the rows is written"
                )

    async def delete(self, partition: str, key: str) -> None:
        check_key(partition)
        check_key(key)
        async with self._store.guard(f"delete in {self._name}"):
            await self._client.delete_entity(partition, key)

    def scan(self, partition: str) -> AsyncIterator[Row]:
        check_key(partition)
        return self._query(f"PartitionKey eq '{_quoted(partition)}'")

    def scan_all(self, after: str = "") -> AsyncIterator[Row]:
        return self._query(f"PartitionKey gt '{_quoted(after)}'")

    async def _query(self, query: str) -> AsyncIterator[Row]:
        pages = self._client.query_entities(query, results_per_page=PAGE).by_page()
        while True:
            async with self._store.guard(f"scan {self._name}"):
                try:
                    rows = [_row(entity) async for entity in await anext(pages)]
                except StopAsyncIteration:
                    return
                except HttpResponseError as error:
                    if _code(error) not in _NOT_THERE:
                        raise
                    return
            for row in rows:
                yield row


def _entity(partition: str, key: str, properties: Properties) -> dict[str, Any]:
    """All integers have 64 bits, as `batch.py` writes them: a column of two types cannot be filtered."""
    entity: dict[str, Any] = {"PartitionKey": partition, "RowKey": key}
    for name, value in properties.items():
        entity[name] = EntityProperty(value, EdmType.INT64) if type(value) is int else value
    return entity


def _row(entity: TableEntity) -> Row:
    properties = {name: _value(value) for name, value in entity.items()}
    return Row(str(properties.pop("PartitionKey")), str(properties.pop("RowKey")), properties, _etag(entity.metadata))


def _value(value: Any) -> Value:
    if isinstance(value, EntityProperty):
        value = value.value
    return value if isinstance(value, str | int | float) else str(value)  # dates and the like, written by other hands


def _etag(answer: Mapping[str, Any]) -> str:
    etag = answer["etag"]
    if not isinstance(etag, str):
        raise TypeError("an answer without an ETag")
    return etag


def _quoted(key: str) -> str:
    return key.replace("'", "''")


def _code(error: HttpResponseError) -> str:
    """Azure's word for what went wrong. The SDK gives it for some operations only, as text or as an enumeration."""
    code = getattr(error, "error_code", None)
    response: Any = error.response
    if code is None and response is not None:
        code = response.headers.get("x-ms-error-code")
    if code is None and response is not None and (found := _CODE.search(response.text())):
        code = found[1]
    return str(getattr(code, "value", code or ""))


def _explain(status: int, code: str) -> str:
    said = f"{status} {code}".strip()
    if status in (401, 403):
        return f"refused with {said}: the identity lacks the role Storage Table Data Contributor, or the key is wrong"
    if status == 503:
        return f"throttled with {said}"
    if status < 300:
        return "Table Storage answered nonsense"
    return f"Table Storage answered {said}"
