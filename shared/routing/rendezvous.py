"""Weighted rendezvous hashing: every instance ranks backends alike for a key, without talking to the others. Pure.

A backend that comes or goes moves only its own share of the keys. Source of the weights: Schindelhauer, Schomaker,
"Weighted Distributed Hash Tables".
"""

import hashlib
import math


def score(key: bytes, name: str, weight: int) -> float:
    """Return the score of a backend for a key: the one with the highest score comes first, in proportion to the
    weights. Hash a long key once before it is scored."""
    drawn = int.from_bytes(hashlib.blake2b(key + name.encode(), digest_size=8).digest()) + 1
    return -weight / math.log(drawn / (2**64 + 2))
