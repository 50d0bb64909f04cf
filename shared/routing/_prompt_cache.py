"""Sends calls with the same prefix to the same backend, whose prompt cache has it. Pure.

Azure caches prefixes of 1,024 tokens or more, per deployment. Backends are ranked by rendezvous hashing. Source of the
bound: Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads".
"""

import hashlib
import math
from collections.abc import Sequence

import msgspec

from shared.routing import rendezvous
from shared.types import Call

SHORTEST = 1024  # tokens; Azure caches no shorter prompt
_LEADING = 4 * SHORTEST  # bytes of the messages that stand for their first 1,024 tokens
_PROMPTS = ("messages", "input", "prompt")
_MARK = "cache_control"  # of Anthropic's API
_MARK_KEY = b'"cache_control"'
_BOUND = 1.25  # times its fair share that a backend may have in flight because of a prefix
_FEW = 8  # calls in flight that overload no backend; with so few, shares are chance
_FEW_OF_FLEET = 16  # the same for all instances together, which send the same prefixes to the same backend
_FEWEST = 2
_MOST_OF_ALL = 0.6  # of an instance's calls in flight: most of what it sends has the same prefix,
_FEW_OF_MOST = 4  # and so many are enough, because other instances probably send the same


def prefix(call: Call) -> bytes | None:
    """The key by which calls share a cache: the caller's `prompt_cache_key`, else the beginning of the prompt. None if
    nothing would be cached."""
    if (place := call.values.get("prompt_cache_key")) is not None and call.body[place] != b"null":
        return call.body[place][:_LEADING]
    if call.input_estimate < SHORTEST:
        return None
    if call.surface == "anthropic":
        return _marked(call)
    for name in _PROMPTS:
        if (place := call.values.get(name)) is not None:
            leading = call.body[place.start : min(place.stop, place.start + _LEADING)]
            return leading if len(leading) == _LEADING else None
    return None


def _marked(call: Call) -> bytes | None:
    """The beginning of a conversation whose turns are marked to be kept in a cache, else that of marked tools and
    instructions, which conversations share. None if nothing is marked."""
    turns = call.values.get("messages")
    if turns is not None and (_MARK in call.values or _is_marked(call.body, turns)):
        return call.body[turns][:_LEADING]
    shared = [place for name in ("tools", "system") if (place := call.values.get(name)) is not None]
    if not any(_is_marked(call.body, place) for place in shared):
        return None
    return b"".join(call.body[place.start : min(place.stop, place.start + _LEADING)] for place in shared)[:_LEADING]


def _is_marked(body: bytes, place: slice) -> bool:
    return body.find(_MARK_KEY, place.start, place.stop) >= 0


class Share(msgspec.Struct, frozen=True):
    """A backend that could serve: its weight, and its calls in flight."""

    name: str
    weight: int
    in_flight: int


def choose(key: bytes, backends: Sequence[Share], instances: float = 1.0) -> int:
    """The index of the backend that calls of this prefix prefer: the first in their ranking that is not overloaded.
    `instances`: about so many choose alike."""
    digest = hashlib.blake2b(key, digest_size=16).digest()
    scores = [rendezvous.score(digest, backend.name, backend.weight) for backend in backends]
    ranking = sorted(range(len(backends)), key=scores.__getitem__, reverse=True)
    calls = sum(backend.in_flight for backend in backends) + 1
    weights = sum(backend.weight for backend in backends)
    few = max(_FEWEST, min(_FEW, round(_FEW_OF_FLEET / instances)))
    for i in ranking:
        backend = backends[i]
        least = min(few, _FEW_OF_MOST) if backend.in_flight > _MOST_OF_ALL * (calls - 1) else few
        if backend.in_flight < max(least, math.ceil(_BOUND * calls * backend.weight / weights)):
            return i
    return ranking[0]  # unreachable: they cannot all be above the average
