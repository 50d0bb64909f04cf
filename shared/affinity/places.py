"""The places at which lists of objects were left, in the table `affinity`.

A list that is too long for one call ends where no object of the caller stands. Its cursor must not name an object of
another one, so it is a token, and the row has what it stands for.
"""

import secrets

import msgspec

from shared.affinity._rows import time_limit
from shared.azure_openai.json_body import UNREADABLE
from shared.storage import Store, names
from shared.types import Consumer

_PREFIX = "next_"
_KEPT = 16  # places of one consumer and kind; each new one takes the row of an older one


Cursor = tuple[str, str]  # the parameter of a backend's list, and its value


class Place(msgspec.Struct, frozen=True):
    """A place: `at` is where the list of each backend that has more goes on, `after` the caller's own object that was
    not found yet; "": there is none."""

    at: dict[str, Cursor]
    after: str = ""


_decode = msgspec.json.Decoder(Place).decode


def is_token(cursor: str) -> bool:
    return cursor.startswith(_PREFIX)


class ListPlaces:
    """The places of one consumer and one kind of objects. Methods raise `StoreUnavailable`."""

    def __init__(self, store: Store, consumer: Consumer, kind: str) -> None:
        self._table = store.table(names.AFFINITY)
        self._partition = f"list-{consumer.id}-{kind}"

    async def keep(self, place: Place) -> str:
        """Keep a place. Return its token."""
        row = f"{secrets.randbelow(_KEPT):x}"
        token = f"{_PREFIX}{row}{secrets.token_hex(12)}"
        async with time_limit():
            await self._table.merge(
                self._partition, {row: {"token": token, "place": msgspec.json.encode(place).decode()}}
            )
        return token

    async def find(self, token: str) -> Place | None:
        """Return the place of a token; None if it is unknown, or not this consumer's."""
        key = token.removeprefix(_PREFIX)[:1]
        if not (key.isascii() and key.isalnum()):
            return None
        async with time_limit():
            row = await self._table.get(self._partition, key)
        if row is None or row.properties.get("token") != token:
            return None
        try:
            return _decode(str(row.properties.get("place", "")))
        except UNREADABLE:
            return None
