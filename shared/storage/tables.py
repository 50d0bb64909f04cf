"""Azure Table Storage as a `Store`: Azure's own client for tables, requests of our own for what is in them.

Every operation has a time budget and raises `StoreUnavailable` when it is spent, or when the service refuses.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import AzureError, HttpResponseError
from azure.core.pipeline.transport import AioHttpTransport
from azure.core.utils import parse_connection_string
from azure.data.tables.aio import TableServiceClient

from shared.errors import ConfigurationError, StoreUnavailable
from shared.storage import Properties, Row, _batch, _entity, connection_string
from shared.storage._clock import StoreClock
from shared.storage._rules import check_key, check_rows, check_table_name
from shared.storage._session import Answer, Session
from shared.storage._signing import BearerToken, SharedKeyLite, Signer

BUDGET = 2.0  # seconds for an operation; who waits less wraps it in asyncio.timeout
PAGE = 500  # rows: read in some 5 ms, and open streams must not stutter

_NOT_THERE = frozenset(("ResourceNotFound", "EntityNotFound", "TableNotFound"))
_SOMEBODY_WAS_FIRST = frozenset(("EntityAlreadyExists", "UpdateConditionNotSatisfied", "ConditionNotMet")) | _NOT_THERE
_CODE = re.compile(r'"code"\s*:\s*"(\w{1,80})"')
_PASSING = frozenset((408, 429, 500, 502, 503, 504))  # statuses that a second try may better
_PAUSE = 0.1  # seconds before it


def account_of(text: str) -> connection_string.Account:
    """The account of a connection string, or `ConfigurationError`."""
    try:
        return connection_string.account(parse_connection_string(text))
    except ValueError:
        raise connection_string.bad("is not a list of NAME=VALUE parted by semicolons") from None


class TablesStore:
    """All tables of one storage account. Open sockets belong to the event loop that first used them; `close()` it."""

    def __init__(
        self, endpoint: str, credential: AzureNamedKeyCredential | AsyncTokenCredential, *, budget: float = BUDGET
    ) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.budget = budget
        self.clock = StoreClock()
        self.now = self.clock.now
        signer: Signer = (
            SharedKeyLite(*credential.named_key)
            if isinstance(credential, AzureNamedKeyCredential)
            else BearerToken(credential)
        )
        self.session = Session(self.endpoint, signer, self.clock)
        self._service = TableServiceClient(
            self.endpoint,
            credential=credential,
            transport=AioHttpTransport(connection_timeout=budget, read_timeout=budget, use_env_settings=False),
            retry_total=1,
            retry_backoff_factor=0.1,
        )
        self._tables: dict[str, AzureTable] = {}
        self._creating: dict[str, asyncio.Task[None]] = {}

    @classmethod
    def from_connection_string(cls, text: str, *, budget: float = BUDGET) -> "TablesStore":
        """From `UseDevelopmentStorage=true` or `AccountName=…;AccountKey=…` and `TableEndpoint=` or `EndpointSuffix=`.

        `ConfigurationError` says what is wrong with another one, and never shows the key."""
        account = account_of(text)
        return cls(account.endpoint, AzureNamedKeyCredential(account.name, account.key), budget=budget)

    @classmethod
    def from_endpoint(
        cls, table_service_uri: str, credential: AsyncTokenCredential, *, budget: float = BUDGET
    ) -> "TablesStore":
        """As an Entra identity. The credential remains the caller's, who may use it elsewhere, and closes it."""
        if not connection_string.is_address(table_service_uri, ("https",)):
            raise ConfigurationError(
                f"{table_service_uri.partition('?')[0]!r} is no address of a table service: expected something like "
                "https://ACCOUNT.table.core.windows.net (a token is sent over https only)"
            )
        return cls(table_service_uri, credential, budget=budget)

    def table(self, name: str) -> "AzureTable":
        table = self._tables.get(name)
        if table is None:
            check_table_name(name)
            table = self._tables[name] = AzureTable(self, name)
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
        await self.session.close()
        await self._service.close()

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
        except (
            msgspec.MsgspecError,
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
        ) as error:  # over a foreign body
            raise StoreUnavailable(f"{doing}: Table Storage answered nonsense ({type(error).__name__})") from error


class AzureTable:
    """One table of the account."""

    def __init__(self, store: TablesStore, name: str) -> None:
        self._store = store
        self._name = name
        self._path = f"/{name}"
        self._url = f"{store.endpoint}/{name}"

    async def get(self, partition: str, key: str) -> Row | None:
        check_key(partition)
        check_key(key)
        doing = f"get from {self._name}"
        async with self._store.guard(doing):
            answer = await self._ask("GET", self._path + _entity.address(partition, key))
            if answer.status == 200:
                return _entity.decode(answer.body)
            _expect(answer, _NOT_THERE, doing)
            return None

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        check_rows(partition, {key: properties})
        body = _entity.encode(partition, key, properties)
        doing = f"put into {self._name}"
        async with self._store.guard(doing):
            if etag is None:
                answer = await self._insert(body)
            else:
                answer = await self._ask(
                    "PUT", self._path + _entity.address(partition, key), body, {**_JSON, "If-Match": etag}
                )
            if answer.status == 204:
                return answer.headers["ETag"]
            _expect(answer, _SOMEBODY_WAS_FIRST, doing)
            return None

    async def _insert(self, body: bytes) -> Answer:
        answer = await self._ask("POST", self._path, body, _INSERT)
        if answer.status == 404 and _batch.code(answer.body) == "TableNotFound":
            await self._store.create_table(self._name)
            answer = await self._ask("POST", self._path, body, _INSERT)
        return answer

    async def merge(self, partition: str, rows: Mapping[str, Properties]) -> None:
        check_rows(partition, rows)
        if not rows:
            return
        body = _batch.encode(self._url, partition, rows)
        doing = f"merge into {self._name}"
        async with self._store.guard(doing):
            refusal = await self._merge(body, len(rows))
            if refusal is not None and refusal.code == "TableNotFound":
                await self._store.create_table(self._name)
                refusal = await self._merge(body, len(rows))
            if refusal is not None:
                raise StoreUnavailable(
                    f"{doing}: {_explain(refusal.status, refusal.code)}; none of the rows is written"
                )

    async def _merge(self, body: bytes, rows: int) -> _batch.BatchError | None:
        answer = await self._store.session.send("POST", "/$batch", body, {"Content-Type": _batch.CONTENT_TYPE})
        return _batch.error_in(answer.status, answer.body, rows)

    async def delete(self, partition: str, key: str) -> None:
        check_key(partition)
        check_key(key)
        doing = f"delete in {self._name}"
        async with self._store.guard(doing):
            answer = await self._ask("DELETE", self._path + _entity.address(partition, key), headers={"If-Match": "*"})
            if answer.status != 204:
                _expect(answer, _NOT_THERE, doing)

    def scan(self, partition: str) -> AsyncIterator[Row]:
        check_key(partition)
        return self._query(f"PartitionKey eq '{_quoted(partition)}'")

    def scan_all(self, after: str = "") -> AsyncIterator[Row]:
        return self._query(f"PartitionKey gt '{_quoted(after)}'")

    async def _query(self, condition: str) -> AsyncIterator[Row]:
        following: dict[str, str] = {}
        doing = f"scan {self._name}"
        while True:
            async with self._store.guard(doing):
                answer = await self._ask("GET", f"{self._path}()", query=_entity.query(condition, PAGE, following))
                if answer.status != 200:
                    _expect(answer, _NOT_THERE, doing)
                    return
                rows, following = _entity.decode_page(answer.body), _entity.next_page(answer.headers)
            for row in rows:
                yield row
            if not following:
                return

    async def _ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, query: str = ""
    ) -> Answer:
        """What the service answers; where that may be a passing trouble, what it answers to a second try."""
        answer = await self._store.session.send(method, path, body, headers, query)
        if answer.status in _PASSING:
            await asyncio.sleep(_PAUSE)
            answer = await self._store.session.send(method, path, body, headers, query)
        return answer


_JSON = {"Content-Type": "application/json"}
_INSERT = {**_JSON, "Prefer": "return-no-content"}


def _expect(answer: Answer, codes: frozenset[str], doing: str) -> None:
    """Raise `StoreUnavailable` unless the service refused with one of these codes."""
    code = _batch.code(answer.body)
    if answer.status < 400 or code not in codes:
        raise StoreUnavailable(f"{doing}: {_explain(answer.status, code)}")


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
