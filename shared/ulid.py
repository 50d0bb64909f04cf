"""Identifiers that sort by time: 48 bits of milliseconds and 80 random ones as 26 characters of Crockford's base 32."""

import random

LENGTH = 26

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]
_DIGITS = str.maketrans(_ALPHABET, "0123456789abcdefghijklmnopqrstuv")


def new(now: float) -> str:
    """A new identifier; `now` in seconds since 1970. Unique, not secret."""
    number = int(now * 1000) << 80 | random.getrandbits(80)
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])


def lowest(moment: float) -> str:
    """The lowest identifier of a moment in seconds since 1970."""
    number = int(moment * 1000) << 80
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])


def number(identifier: str) -> int:
    """The 128 bits of an identifier that `new` made."""
    return int(identifier.translate(_DIGITS), 32)


def seconds(identifier: str) -> float:
    """The time of an identifier in seconds since 1970."""
    return (number(identifier) >> 80) / 1000
