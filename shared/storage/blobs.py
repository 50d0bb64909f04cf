"""Azure Blob Storage, as far as the gateway needs it: files are written whole into a container."""

import asyncio
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from azure.core.credentials import AzureNamedKeyCredential
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import AzureError, HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.core.pipeline.transport import AioHttpTransport

from shared.config.environment import Storage
from shared.errors import StoreUnavailable
from shared.identity import azure_credential
from shared.storage import connection_string

if TYPE_CHECKING:
    from azure.storage.blob.aio import BlobServiceClient

_SECONDS = 60.0


class Blobs:
    """The containers of one account. `close()` them, which closes the credential, too."""

    def __init__(self, endpoint: str, credential: AzureNamedKeyCredential | AsyncTokenCredential) -> None:
        self._endpoint = endpoint
        self._credential = credential

    async def put(self, container: str, name: str, body: bytes, content_type: str) -> None:
        """Write a blob, or replace it; create the container if it does not exist. Idempotent. Raises
        `StoreUnavailable`."""
        from azure.storage.blob import ContentSettings

        doing = f"write the blob {container}/{name}"
        folder = self._client.get_container_client(container)
        settings = ContentSettings(content_type=content_type)
        upload = partial(folder.upload_blob, name, body, overwrite=True, content_settings=settings)
        try:
            async with asyncio.timeout(_SECONDS):
                try:
                    await upload()
                except ResourceNotFoundError:
                    with suppress(ResourceExistsError):
                        await folder.create_container()
                    await upload()
        except TimeoutError as error:
            raise StoreUnavailable(f"{doing}: Blob Storage did not answer within {_SECONDS:g} s") from error
        except HttpResponseError as error:
            code = getattr(error, "error_code", None) or ""
            hint = ""
            if error.status_code in (401, 403):
                hint = ": the identity lacks the role Storage Blob Data Contributor, or the key is wrong"
            raise StoreUnavailable(f"{doing}: Blob Storage answered {error.status_code} {code}{hint}") from error
        except (AzureError, OSError) as error:
            raise StoreUnavailable(f"{doing}: no answer from Blob Storage ({type(error).__name__})") from error

    async def close(self) -> None:
        if "_client" in self.__dict__:
            await self._client.close()
        if not isinstance(self._credential, AzureNamedKeyCredential):
            await self._credential.close()

    @cached_property
    def _client(self) -> "BlobServiceClient":
        """Azure's client. It costs 200 ms to import, and an instance that writes no file does without it."""
        from azure.storage.blob.aio import BlobServiceClient

        transport = AioHttpTransport(use_env_settings=False)
        retries: dict[str, Any] = {"retry_total": 1, "initial_backoff": 1, "random_jitter_range": 1}
        return BlobServiceClient(self._endpoint, self._credential, transport=transport, **retries)


def open(storage: Storage) -> Blobs:
    """The containers of the account that holds the tables. Raises `ConfigurationError`."""
    if storage.table_service_uri is not None:
        endpoint = storage.table_service_uri.replace(".table.", ".blob.", 1)
        return Blobs(endpoint, azure_credential(storage.client_id))
    account = connection_string.account(storage.connection_string or "")
    return Blobs(account.blob_endpoint, AzureNamedKeyCredential(account.name, account.key))
