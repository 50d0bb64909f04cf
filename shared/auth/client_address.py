"""The caller's address, as reported by the servers in between that can be trusted. Pure.

The listening server reports the other end of the connection. In the Functions worker that is the host on this machine,
so uvicorn replaces it by the last entry of `X-Forwarded-For`, which the host sets from what it sees (YARP's default
transforms; Azure/azure-functions-host#11254). Entries written by the caller are further to the left. A container's
uvicorn replaces nothing (`--no-proxy-headers`): its neighbours may be callers.
"""

import functools
import ipaddress
from collections.abc import Iterable

from starlette.types import Scope

from shared.config.document import ClientAddress

UNKNOWN = ""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def of_client(scope: Scope, trusted: ClientAddress) -> str:
    """The caller's address in its usual form, or `UNKNOWN`.

    If the header has fewer entries than trusted hops, the request bypassed the outermost proxy: the header is ignored.
    """
    if trusted.header is not None:
        name = trusted.header.lower().encode()
        entries = [part for key, value in scope["headers"] if key == name for part in value.split(b",")]
        if len(entries) >= trusted.hops:
            return _usual(entries[-trusted.hops].decode("latin-1"))
    client = scope.get("client")
    return _usual(client[0]) if client else UNKNOWN


@functools.lru_cache(maxsize=4096)
def _usual(text: str) -> str:
    """An address as Python writes it, without port, brackets and zone. IPv4-mapped IPv6 addresses become IPv4."""
    text = text.strip()[:80]
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return UNKNOWN
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


@functools.lru_cache(maxsize=4096)
def limited_network(address: str) -> str:
    """The addresses that share limits: an IPv4 address, or the /64 of an IPv6 address, which usually has one owner."""
    if ":" not in address:
        return address or "unknown"
    return str(ipaddress.ip_network((address, 64), strict=False))


@functools.lru_cache(maxsize=4096)
def within(address: str, networks: tuple[str, ...]) -> bool:
    """True if an address is in one of these networks. `UNKNOWN` never is."""
    return address != UNKNOWN and any(ipaddress.ip_address(address) in network(text) for text in networks)


@functools.lru_cache(maxsize=4096)
def network(text: str) -> Network:
    """A network such as 10.0.0.0/8 or 2001:db8::/32, or a single address. Raises `ValueError`."""
    return ipaddress.ip_network(text.strip())


def networks(texts: Iterable[str]) -> tuple[str, ...]:
    """These networks in their usual form. Raises `ValueError`, which names the first invalid one."""
    return tuple(str(network(text)) for text in texts)
