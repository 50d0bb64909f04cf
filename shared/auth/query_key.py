"""The key in the query of a request, as callers of API Management may send it. Pure."""

from typing import NamedTuple
from urllib.parse import unquote_plus

NAME = "subscription-key"
HEADER = "ocp-apim-subscription-key"  # which means the same


class Parted(NamedTuple):
    """A query without its keys, and the first of them; "": none."""

    rest: bytes
    key: str


def parted(query: bytes) -> Parted:
    """Take every key out of a query, so that nothing after this logs or forwards one."""
    if b"%" not in query and NAME.encode() not in query.lower():
        return Parted(query, "")
    rest, keys = [], []
    for part in query.split(b"&"):
        name, _, value = part.decode("latin-1").partition("=")
        if unquote_plus(name).strip().lower() == NAME:
            keys.append(unquote_plus(value).strip())
        else:
            rest.append(part)
    return Parted(b"&".join(rest), next(filter(None, keys), ""))
