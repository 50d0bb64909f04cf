"""Parses the connection string of a storage account. No message shows the key."""

import base64
import binascii
from urllib.parse import urlsplit

import msgspec
from azure.core.utils import parse_connection_string

from shared.errors import ConfigurationError

# The emulator's account and key are public, the same on every machine.
_DEVELOPMENT_STORAGE = {
    "defaultendpointsprotocol": "http",
    "accountname": "devstoreaccount1",
    "accountkey": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
    "tableendpoint": "http://127.0.0.1:10002/devstoreaccount1",
    "blobendpoint": "http://127.0.0.1:10000/devstoreaccount1",
}


class Account(msgspec.Struct, frozen=True):
    """`key` is base64; the endpoints are those of the table and the blob service."""

    name: str
    key: str
    endpoint: str
    blob_endpoint: str

    def __repr__(self) -> str:
        return f"Account({self.name!r}, {self.endpoint!r})"


def account(text: str) -> Account:
    """The account of a connection string. Raises `ConfigurationError`."""
    try:
        parts = parse_connection_string(text)  # lower-case name -> value
    except ValueError:
        raise _wrong("is not a list of NAME=VALUE, separated by semicolons") from None
    if parts.get("usedevelopmentstorage", "").lower() == "true":
        parts = _DEVELOPMENT_STORAGE
    if "sharedaccesssignature" in parts:
        raise _wrong("holds a SharedAccessSignature, which is not supported: use AccountName and AccountKey")
    name, key = parts.get("accountname"), parts.get("accountkey")
    if not name or not key:
        raise _wrong(f"lacks {'AccountKey' if name else 'AccountName'}")
    try:
        base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        raise _wrong("has an AccountKey that is not base64") from None
    scheme, suffix = parts.get("defaultendpointsprotocol", "https"), parts.get("endpointsuffix", "core.windows.net")
    endpoint = parts.get("tableendpoint") or f"{scheme.lower()}://{name}.table.{suffix}"
    if not is_address(endpoint, ("http", "https")):
        field = "TableEndpoint" if "tableendpoint" in parts else "DefaultEndpointsProtocol or EndpointSuffix"
        raise _wrong(f"has a {field} that gives no http or https address")
    blobs = parts.get("blobendpoint") or f"{scheme.lower()}://{name}.blob.{suffix}"
    if not is_address(blobs, ("http", "https")):
        raise _wrong("has a BlobEndpoint that gives no http or https address")
    return Account(name, key, endpoint.rstrip("/"), blobs.rstrip("/"))


def is_address(text: str, schemes: tuple[str, ...]) -> bool:
    """True for a URL with a host and one of these schemes, and without a query."""
    try:
        address = urlsplit(text)
        return address.scheme in schemes and bool(address.hostname) and not address.query and address.port != 0
    except ValueError:  # a port that is not a number
        return False


def _wrong(what: str) -> ConfigurationError:
    return ConfigurationError(f"the connection string of the storage account {what}")
