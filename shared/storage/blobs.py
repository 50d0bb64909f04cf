"""Azure Blob Storage, as far as the gateway needs it: a whole file is put into a container, in one request.

By hand rather than with azure-storage-blob, which is 3 MB of package for two requests. Source: "Put Blob", "Create
Container" and "Authorize with Shared Key", learn.microsoft.com.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from email.utils import formatdate
from urllib.parse import quote, urlsplit

import aiohttp
from yarl import URL

from shared.errors import StoreUnavailable
from shared.storage._signing import BearerToken, TokenCredential

_SECONDS = 60.0
_CODE = re.compile(rb"<Code>(\w{1,80})</Code>")


class SharedKey:
    """Signs with the account's key: the method, the length, the kind, and the headers and the path of a request."""

    def __init__(self, account: str, key: str) -> None:
        self._account = account
        self._key = base64.b64decode(key)

    def authorization(self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> str:
        length = headers.get("Content-Length", "0")
        lines = [method, "", "", "" if length == "0" else length, "", headers.get("Content-Type", ""), *[""] * 6]
        lines += [f"{name}:{headers[name]}" for name in sorted(headers) if name.startswith("x-ms-")]
        lines += [f"/{self._account}{path}", *(f"{name}:{query[name]}" for name in sorted(query))]
        digest = hmac.digest(self._key, "\n".join(lines).encode(), hashlib.sha256)
        return f"SharedKey {self._account}:{base64.b64encode(digest).decode()}"


class Blobs:
    """The containers of one account; `now` by its clock. `close()` it."""

    def __init__(self, endpoint: str, signer: SharedKey | BearerToken, now: Callable[[], float]) -> None:
        parts = urlsplit(endpoint)
        self._origin, self._root = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
        self._signer = signer
        self._now = now
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def from_endpoint(cls, endpoint: str, credential: TokenCredential, now: Callable[[], float]) -> "Blobs":
        """Signed with Entra tokens."""
        return cls(endpoint, BearerToken(credential), now)

    async def put(self, container: str, name: str, body: bytes, content_type: str) -> None:
        """Write a blob, in place of one that has this name; a container that is not there is made. Idempotent.

        Raises `StoreUnavailable`."""
        blob = f"/{container}/{quote(name)}"
        headers = {"x-ms-blob-type": "BlockBlob", "Content-Type": content_type}
        doing = f"write the blob {container}/{name}"
        status, code = await self._request(doing, blob, {}, headers, body)
        if code == "ContainerNotFound":
            status, code = await self._request(doing, f"/{container}", {"restype": "container"}, {}, b"")
            if status == 201 or code == "ContainerAlreadyExists":
                status, code = await self._request(doing, blob, {}, headers, body)
        if status != 201:
            hint = ""
            if status in (401, 403):
                hint = ": the identity lacks the role Storage Blob Data Contributor, or the key is wrong"
            raise StoreUnavailable(f"{doing}: Blob Storage answered {status} {code}{hint}")

    async def close(self) -> None:
        if isinstance(self._signer, BearerToken):
            await self._signer.close()
        if self._session is not None:
            await self._session.close()

    async def _request(
        self, doing: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> tuple[int, str]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(_SECONDS))
        path, now = self._root + path, self._now()
        sent = {
            "x-ms-version": "2021-12-02",
            "x-ms-date": formatdate(now, usegmt=True),
            "Content-Type": "",
            "Content-Length": str(len(body)),
            **headers,
        }
        if isinstance(self._signer, SharedKey):
            sent["Authorization"] = self._signer.authorization("PUT", path, query, sent)
        else:
            sent |= await self._signer.headers(now, path)
        url = URL(f"{self._origin}{path}", encoded=True).with_query(dict(query))
        try:
            async with self._session.put(url, data=body, headers=sent) as response:
                found = _CODE.search(await response.read())
                code = response.headers.get("x-ms-error-code") or (found[1].decode() if found else "")
                return response.status, code
        except TimeoutError as error:
            raise StoreUnavailable(f"{doing}: Blob Storage did not answer within {_SECONDS:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise StoreUnavailable(f"{doing}: no answer from Blob Storage ({type(error).__name__})") from error
