"""The users behind a key, as usage and limits know them."""

import functools
import hashlib
from collections.abc import Mapping

import msgspec

from shared.config.callers import EndUsers
from shared.types import Call, Consumer

_LONGEST = 64  # characters of a plain name
_REMEMBERED = 256  # characters of a name whose label is remembered
_RESERVED = ("*", "-")  # stand for others and for nobody in usage


def named(call: Call, consumer: Consumer, headers: Mapping[str, str], settings: EndUsers) -> Call:
    """The call with the label of its user, whom the configured header or else the body names."""
    name = call.user
    if settings.header is not None:
        name = headers.get(settings.header.lower(), "") or name
    if not name:
        return call
    label = _remembered if len(name) <= _REMEMBERED else _label  # a header may have 32 kB
    return msgspec.structs.replace(call, user=label(consumer.id, name, plain=settings.plain))


def _label(consumer_id: str, name: str, *, plain: bool) -> str:
    """A short hash, which differs from one key to the next; or the name itself, if it is a short text in one line."""
    name = name.strip()
    if not name:
        return ""
    if plain and len(name) <= _LONGEST and name.isprintable() and name not in _RESERVED:
        return name
    return hashlib.sha256(f"{consumer_id}\n{name}".encode(errors="surrogatepass")).hexdigest()[:16]


_remembered = functools.lru_cache(maxsize=8192)(_label)
