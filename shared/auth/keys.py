"""The text of a gateway key: created, parsed, hashed. Pure, except for the random source.

    tg_0123456789_abcd_SSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSCCCCCC
       consumer   key  32 of secret (190 bits)         checksum

The consumer's id finds its rows without an index; the checksum (CRC-32) rejects a mistyped key without any I/O. The
secret is random and long, so a plain SHA-256 of the key is a safe thing to store.

A foreign key is one that a caller had before: its text says nothing, so an index finds its consumer by the digest.
"""

import functools
import hashlib
import hmac
import re
import secrets
import zlib

import msgspec

_CONSUMER_ID = re.compile(r"[0-9a-z][0-9a-z-]{0,79}")
_SHAPE = re.compile(rf"tg_({_CONSUMER_ID.pattern})_([0-9a-z]{{4}})_[0-9A-Za-z]{{38}}")
_LENGTHS = range(48, 128)
_FOREIGN = re.compile(r"[!-~]{20,256}")  # what headers can hold; shorter keys are guessed too easily
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FEWEST_CHARACTERS = 8  # different ones in a foreign key: fewer were not chosen at random
_LOWER = "0123456789abcdefghjkmnpqrstvwxyz"
_ALNUM = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class Key(msgspec.Struct, frozen=True):
    """A key with the right shape and checksum. `digest` is the part that the store keeps."""

    consumer_id: str
    key_id: str
    digest: str


def is_consumer_id(text: str) -> bool:
    """True if a text can be the id of a consumer: it fits into keys, and into the names of rows."""
    return _CONSUMER_ID.fullmatch(text) is not None


def new_id(length: int) -> str:
    """A random identifier of lower-case letters and digits that do not look alike."""
    return "".join(secrets.choice(_LOWER) for _ in range(length))


def make(consumer_id: str) -> tuple[str, Key]:
    """Create a key of a consumer: its text, to be shown once, and the part to be stored."""
    key_id = new_id(4)
    body = f"tg_{consumer_id}_{key_id}_" + "".join(secrets.choice(_ALNUM) for _ in range(32))
    text = body + _checksum(body)
    return text, Key(consumer_id, key_id, _digest(text))


def has_shape(text: str) -> bool:
    """True if a text looks like a gateway key, mistyped or not."""
    return _SHAPE.fullmatch(text) is not None


def parse(text: str) -> Key | None:
    """The key in a text; None if it has another shape or is mistyped."""
    return _parse(text) if len(text) in _LENGTHS else None


@functools.lru_cache(maxsize=8192)  # a caller sends the same key with every request
def _parse(text: str) -> Key | None:
    match = _SHAPE.fullmatch(text)
    if match is None or _checksum(text[:-6]) != text[-6:]:
        return None
    return Key(match[1], match[2], _digest(text))


def foreign_digest(text: str) -> str | None:
    """The digest of a text that may be a foreign key; None if no foreign key looks like it."""
    return _digest(text) if _FOREIGN.fullmatch(text) and not has_shape(text) else None


def digest_to_import(text: str) -> str:
    """The digest of a foreign key that is to be imported. Raises `ValueError`, without the key, for one that can be
    guessed."""
    digest = foreign_digest(text)
    if digest is None:
        raise ValueError("expected a key of 20 to 256 printable characters without spaces, not of the form tg_…")
    if len(set(text)) < _FEWEST_CHARACTERS:
        raise ValueError(f"expected a random key, got one with fewer than {_FEWEST_CHARACTERS} different characters")
    return digest


def is_digest(text: str) -> bool:
    """True if a text is a SHA-256 in hexadecimal digits, as the store keeps it."""
    return _DIGEST.fullmatch(text) is not None


def same(digest: str, other: str) -> bool:
    """Compare two digests in constant time."""
    return hmac.compare_digest(digest, other)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _checksum(text: str) -> str:
    number, digits = zlib.crc32(text.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = _ALNUM[digit] + digits
    return digits
