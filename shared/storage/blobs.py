"""Azure Blob Storage, as far as the gateway needs it: files are written whole, and one text is read again and again."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from azure.core import MatchConditions
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
    ResourceNotModifiedError,
)
from azure.core.pipeline.transport import AioHttpTransport

from shared.config.environment import Storage
from shared.credentials import azure_credential
from shared.errors import Complaint, ConfigurationError, StoreUnavailable
from shared.storage import connection_string

if TYPE_CHECKING:
    from azure.storage.blob.aio import BlobClient, BlobServiceClient

_SECONDS = 60.0
_SECONDS_FOR_TEXT = 5.0
_LARGEST_TEXT = 4 * 1024 * 1024  # bytes
_AZURE = re.compile(r"https://[a-z0-9]{3,24}\.blob\.core\.[a-z.]+/[a-z0-9$-]+/[^?#]+")


Credential = AzureNamedKeyCredential | AsyncTokenCredential


class _Closing:
    """The owner of a client of Azure's and its credential. `close()` it."""

    _credential: Credential

    async def close(self) -> None:
        if "_client" in self.__dict__:
            await self.__dict__["_client"].close()
        if not isinstance(self._credential, AzureNamedKeyCredential):
            await self._credential.close()


class Blobs(_Closing):
    """The containers of one account."""

    def __init__(self, endpoint: str, credential: Credential) -> None:
        self._endpoint = endpoint
        self._credential = credential

    async def put(self, container: str, name: str, body: bytes, content_type: str) -> None:
        """Write a blob, or replace it; create the container if it does not exist. Idempotent. Raises
        `StoreUnavailable`."""
        from azure.storage.blob import ContentSettings

        folder = self._client.get_container_client(container)
        settings = ContentSettings(content_type=content_type)
        upload = partial(folder.upload_blob, name, body, overwrite=True, content_settings=settings)
        async with _guard(f"write the blob {container}/{name}", _SECONDS, "Contributor"):
            try:
                await upload()
            except ResourceNotFoundError:
                with suppress(ResourceExistsError):
                    await folder.create_container()
                await upload()

    @cached_property
    def _client(self) -> "BlobServiceClient":
        """Azure's client. It costs 200 ms to import, and an instance that writes no file does without it."""
        from azure.storage.blob.aio import BlobServiceClient

        transport = AioHttpTransport(use_env_settings=False)
        retries: dict[str, Any] = {"retry_total": 1, "initial_backoff": 1, "random_jitter_range": 1}
        return BlobServiceClient(self._endpoint, self._credential, transport=transport, **retries)


class BlobText(_Closing):
    """The text in one blob, which is transferred only when it has changed."""

    def __init__(self, url: str, credential: Credential) -> None:
        self._url = url
        self._credential = credential
        self._etag: str | None = None
        self._text = ""

    async def read(self) -> str:
        """Return the text as it is now. Raises `StoreUnavailable`, and `ConfigurationError` if there is none."""
        changed: dict[str, Any] = {}
        if self._etag is not None:
            changed = {"etag": self._etag, "match_condition": MatchConditions.IfModified}
        async with _guard(f"read the blob {self._url}", _SECONDS_FOR_TEXT, "Reader"):
            try:
                blob = await self._client.download_blob(**changed)
            except ResourceNotModifiedError:
                return self._text
            except ResourceNotFoundError:
                raise self._wrong("does not exist") from None
            if blob.size > _LARGEST_TEXT:
                raise self._wrong(f"is larger than {_LARGEST_TEXT} bytes")
            body = await blob.readall()
        try:
            self._text, self._etag = body.decode("utf-8"), str(blob.properties.etag)
        except UnicodeDecodeError:
            raise self._wrong("is not UTF-8 text") from None
        return self._text

    def _wrong(self, problem: str) -> ConfigurationError:
        return ConfigurationError(Complaint("", problem, self._url))

    @cached_property
    def _client(self) -> "BlobClient":
        from azure.storage.blob.aio import BlobClient

        transport = AioHttpTransport(use_env_settings=False)
        return BlobClient.from_blob_url(self._url, self._credential, transport=transport, retry_total=1)


@asynccontextmanager
async def _guard(doing: str, seconds: float, role: str) -> AsyncIterator[None]:
    """Apply a time budget, and turn Azure's errors into `StoreUnavailable`. `role`: the one that is needed."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise StoreUnavailable(f"{doing}: Blob Storage did not answer within {seconds:g} s") from error
    except HttpResponseError as error:
        code, hint = getattr(error, "error_code", None) or "", ""
        if error.status_code in (401, 403):
            hint = f": the identity lacks the role Storage Blob Data {role}, or the key is wrong"
        raise StoreUnavailable(f"{doing}: Blob Storage answered {error.status_code} {code}{hint}") from error
    except (AzureError, OSError) as error:
        raise StoreUnavailable(f"{doing}: no answer from Blob Storage ({type(error).__name__})") from error


def open_text(url: str, storage: Storage) -> BlobText:
    """The text at a URL: read with the account's key if the blob is in the account of the connection string, else with
    the gateway's identity. Raises `ConfigurationError`."""
    if storage.connection_string is not None:
        account = connection_string.account(storage.connection_string)
        if url.startswith(f"{account.blob_endpoint}/") and "?" not in url:
            return BlobText(url, AzureNamedKeyCredential(account.name, account.key))
    if not _AZURE.fullmatch(url):
        address = url.partition("?")[0]
        expected = "expected https://ACCOUNT.blob.core.windows.net/CONTAINER/NAME, without a signature"
        raise ConfigurationError(Complaint("GATEWAY_CONFIG", f"{expected}, got {address[:300]!r}"))
    return BlobText(url, azure_credential(storage.client_id))


def open(storage: Storage) -> Blobs:
    """The containers of the account that holds the tables. Raises `ConfigurationError`."""
    if storage.table_service_uri is not None:
        endpoint = storage.table_service_uri.replace(".table.", ".blob.", 1)
        return Blobs(endpoint, azure_credential(storage.client_id))
    account = connection_string.account(storage.connection_string or "")
    return Blobs(account.blob_endpoint, AzureNamedKeyCredential(account.name, account.key))
