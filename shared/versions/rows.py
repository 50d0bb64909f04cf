"""The versions of the configuration in the table `control`: a row for each, and a row that names the current one.

A version is a whole set of sections, and is never changed: its row is written first, then the row `current` under the
condition that nobody else has written it. Version 0 is the base document alone, and has no row. The row `good` has what
was served last, for a process that starts while the newest cannot be used."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from shared.errors import StoreUnavailable
from shared.storage import Properties, Row, Store, names

MOST_CHARACTERS = 460_000  # of a version as JSON, and of a base document that is remembered: what fits into a row
KEPT = 500  # versions
_PARTITION = "configuration"
_CURRENT, _GOOD = "current", "good"
_PIECE = 32_000  # characters of a property; the table takes 32,768 UTF-16 units
_TRIES = 10  # numbers: each one lost to a writer that has died


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A version. `by`: who put it; `at`: seconds since 1970; `replaced`: the digest of each section of the base
    document that it replaced, "" if there was none; `previous`: the version before it."""

    number: int = 0
    sections: dict[str, Any] = {}
    by: str = ""
    at: float = 0.0
    note: str = ""
    replaced: dict[str, str] = {}
    previous: int = 0

    @property
    def name(self) -> str:
        return f"version {self.number}" if self.number else "the base document alone"

    @property
    def time(self) -> str | None:
        """The time at which it was put, in RFC 3339."""
        return datetime.fromtimestamp(self.at, UTC).isoformat(timespec="seconds") if self.number else None

    def about(self) -> dict[str, Any]:
        """The version as operators see it, without its sections."""
        return {"version": self.number, "by": self.by, "at": self.time, "note": self.note}


class Pointer(msgspec.Struct, frozen=True):
    """The number of the current version, and the ETag of the row that says so; None: there is no such row."""

    number: int = 0
    etag: str | None = None


class Good(msgspec.Struct, frozen=True):
    """The last served configuration: the base document with its name, and the number of the version. `trusted`: its
    seal shows that a gateway with the same management key has written it, not somebody who may merely write the
    table."""

    source: str
    text: str
    version: int
    trusted: bool = True


class Versions:
    """Reads and writes the rows. Every method raises `StoreUnavailable`. `key`: the management key, which seals what is
    remembered; None: writers of the table are trusted with it."""

    def __init__(self, store: Store, key: str | None = None) -> None:
        self._table = store.table(names.CONTROL)
        self._now = store.now
        self._key = key or ""

    async def pointer(self) -> Pointer:
        row = await self._table.get(_PARTITION, _CURRENT)
        return Pointer() if row is None else Pointer(int(row.properties["number"]), row.etag)

    async def get(self, number: int) -> Version | None:
        if number == 0:
            return Version()
        row = await self._table.get(_PARTITION, _key(number))
        return None if row is None else _version(row)

    async def existing(self, number: int) -> Version:
        version = await self.get(number)
        if version is None:
            raise StoreUnavailable(f"version {number} of the configuration is not in the table {names.CONTROL}")
        return version

    async def history(self) -> list[Version]:
        """Return the versions that are or were current, the newest first."""
        rows = {row.key: row async for row in self._table.scan(_PARTITION)}
        current = rows.get(_CURRENT)
        number = int(current.properties["number"]) if current is not None else 0
        versions = []
        while number and (row := rows.get(_key(number))) is not None:  # a row off this chain was never current
            versions.append(_version(row))
            number = versions[-1].previous
        return versions

    async def put(self, version: Version, pointer: Pointer) -> Version | None:
        """Make a version current, with a new number and the time. Return it as written, or None if the current
        version is no longer the one that the pointer names."""
        for number in range(pointer.number + 1, pointer.number + 1 + _TRIES):
            written = msgspec.structs.replace(version, number=number, at=self._now(), previous=pointer.number)
            if await self._table.put(_PARTITION, _key(number), _properties(written), None) is not None:
                break
            if await self.get(number) == written:  # the answer to the write was lost
                break
            if await self.pointer() != pointer:
                return None
        else:
            raise StoreUnavailable(f"no version could be written after version {pointer.number}")
        moved = await self._table.put(_PARTITION, _CURRENT, {"number": number}, pointer.etag)
        if moved is None and (await self.pointer()).number != number:
            await self._table.delete(_PARTITION, _key(number))
            return None
        if number > KEPT:
            await self._table.delete(_PARTITION, _key(number - KEPT))
        return written

    async def remembered(self) -> Good | None:
        """Return what was served last, None if nothing was."""
        row = await self._table.get(_PARTITION, _GOOD)
        if row is None:
            return None
        text, seal = json.loads(_joined(row.properties)), str(row.properties.get("seal", ""))
        trusted = hmac.compare_digest(seal.encode(), self._seal(text).encode())
        return Good(str(row.properties["source"]), text, int(row.properties["version"]), trusted)

    async def remember(self, good: Good) -> None:
        """Remember what is served, unless its document does not fit into a row."""
        text = json.dumps(good.text)
        if len(text) > MOST_CHARACTERS:
            return
        row = await self._table.get(_PARTITION, _GOOD)
        about: Properties = {"source": good.source[:1000], "version": good.version, "seal": self._seal(good.text)}
        properties: Properties = {**_pieces(text), **about}
        if row is None or row.properties != properties:
            await self._table.put(_PARTITION, _GOOD, properties, row.etag if row is not None else None)

    def _seal(self, text: str) -> str:
        return hmac.new(self._key.encode(), b"base document\0" + text.encode(), hashlib.sha256).hexdigest()


def text_of(sections: Mapping[str, Any]) -> str:
    """The sections as they are stored."""
    return json.dumps(sections, separators=(",", ":"))


def _key(number: int) -> str:
    return f"v{number:08}"


def _properties(version: Version) -> Properties:
    about: dict[str, Any] = {name: getattr(version, name) for name in ("by", "at", "note", "previous")}
    return {**_pieces(text_of(version.sections)), **about, "replaced": json.dumps(version.replaced)}


def _version(row: Row) -> Version:
    values = row.properties
    return Version(
        number=int(row.key[1:]),
        sections=json.loads(_joined(values)),
        by=str(values["by"]),
        at=float(values["at"]),
        note=str(values["note"]),
        replaced=json.loads(str(values["replaced"])),
        previous=int(values["previous"]),
    )


def _pieces(text: str) -> dict[str, str]:
    return {f"text{i:02}": text[start : start + _PIECE] for i, start in enumerate(range(0, len(text), _PIECE))}


def _joined(values: Mapping[str, Any]) -> str:
    return "".join(str(values[name]) for name in sorted(values) if name.startswith("text"))
