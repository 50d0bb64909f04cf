"""What a storage connection string says: an address, an account, a key. The messages never show the key."""

import base64
import binascii
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

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
    name: str
    key: str
    endpoint: str
    blob_endpoint: str

    def __repr__(self) -> str:
        return f"Account({self.name!r}, {self.endpoint!r})"


def account(parts: Mapping[str, str]) -> Account:
    """The account that the string's parts (lower-case name -> value) describe, or `ConfigurationError`."""
    if parts.get("usedevelopmentstorage", "").lower() == "true":
        parts = _DEVELOPMENT_STORAGE
    if "sharedaccesssignature" in parts:
        raise bad("holds a SharedAccessSignature, which is not supported: use AccountName and AccountKey")
    name, key = parts.get("accountname"), parts.get("accountkey")
    if not name or not key:
        raise bad(f"lacks {'AccountKey' if name else 'AccountName'}")
    try:
        base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        raise bad("has an AccountKey that is not base64") from None
    scheme, suffix = parts.get("defaultendpointsprotocol", "https"), parts.get("endpointsuffix", "core.windows.net")
    endpoint = parts.get("tableendpoint") or f"{scheme.lower()}://{name}.table.{suffix}"
    if not is_address(endpoint, ("http", "https")):
        field = "TableEndpoint" if "tableendpoint" in parts else "DefaultEndpointsProtocol or EndpointSuffix"
        raise bad(f"has a {field} that makes no http or https address")
    blobs = parts.get("blobendpoint") or f"{scheme.lower()}://{name}.blob.{suffix}"
    if not is_address(blobs, ("http", "https")):
        raise bad("has a BlobEndpoint that makes no http or https address")
    return Account(name, key, endpoint.rstrip("/"), blobs.rstrip("/"))


def is_address(text: str, schemes: tuple[str, ...]) -> bool:
    try:
        address = urlsplit(text)
        return address.scheme in schemes and bool(address.hostname) and not address.query and address.port != 0
    except ValueError:  # a port that is no number
        return False


def bad(what: str) -> ConfigurationError:
    return ConfigurationError(f"the connection string of the storage account {what}")
