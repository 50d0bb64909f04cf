"""Complaints about URLs in the configuration document, which never show what may be secret. Pure."""

import ipaddress
import re
from urllib.parse import urlsplit


def redacted(url: str) -> str:
    """A URL as complaints show it: without a password, a path and a query, any of which may be secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "another text"
    host = parts.netloc.rpartition("@")[2]
    left_out = "…" if (parts.netloc, parts.path, parts.query, parts.fragment) != (host, "", "", "") else ""
    return repr(f"{parts.scheme}://{host}{left_out}") if parts.scheme and host else "another text"


def endpoint_problem(endpoint: str) -> str:
    """The complaint about an address without a path, or ""."""
    if problem := url_problem(endpoint):
        return problem
    parts = urlsplit(endpoint)
    if parts.username or parts.password or parts.query or parts.fragment or parts.path not in ("", "/"):
        return "only scheme, host and port are allowed"
    return ""


def url_problem(url: str) -> str:
    """The complaint about a URL, or "". Tokens and secrets need https, except on this machine and between containers,
    whose names have no dot."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:  # its text may hold a password
        return "not a URL with a valid host and port"
    if parts.scheme not in ("http", "https") or not host:
        return "not a URL with a host"
    if not re.fullmatch(r"[A-Za-z0-9._:-]+", host):
        return "not the name of a host"
    if parts.scheme == "http" and not _is_near(host):
        return "http is allowed for this machine and for names without a dot only"
    return ""


def _is_near(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return "." not in host
