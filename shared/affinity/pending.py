"""The index of work that goes on after its call, in the table `pending`: responses in the background, runs, batches.

A row has all that is needed to settle the work on any instance. It is inserted together with the object's own row, and
marked when the work is settled: the settler that marks it corrects the limits. The mark stays until a late repetition
of the insert can no longer come. Partition: `of-{thread or conversation}`, else a hex digit of the id's SHA-1.
"""

import secrets
from collections.abc import AsyncIterator

import msgspec

from shared.affinity._rows import partition_of
from shared.azure_openai.json_body import UNREADABLE
from shared.config.limits import Limits
from shared.limits.holds import Hold
from shared.storage import Properties, Row, Store, names
from shared.storage.conditional import update
from shared.types import Reference
from shared.usage.ledger import Place
from shared.usage.token_averages import Size


class PendingWork(msgspec.Struct, frozen=True):
    """Work of a call that was answered with `status`. `parent`: the thread or the conversation that it belongs to, or
    "". `model` and `deployment`: "" if the call did not name them; `deployments`: all those of a batch with several.
    `started`: seconds since 1970. `prompt`: its estimated tokens; `output`: those expected of its answers. `streamed`:
    the call streams it. `held`: what the limits count for it until it is settled, by their keys. `granted`: the limits
    that a rule gave the caller, which its row does not have."""

    kind: str
    id: str
    consumer: str
    backend: str
    started: float
    place: Place
    parent: str = ""
    model: str = ""
    deployment: str = ""
    deployments: tuple[str, ...] = ()
    status: int = 200
    prompt: int = 0
    output: int = 0
    streamed: bool = False
    size: Size = Size(0)
    held: dict[str, Hold] = {}
    granted: Limits | None = None

    @property
    def reference(self) -> Reference:
        return Reference(self.kind, self.id)

    @property
    def partition(self) -> str:
        return _partition_of(self.parent) if self.parent else partition_of(self.id)[:1]


class PendingRow(msgspec.Struct, frozen=True):
    """A row as it was read. `settled`: when, in seconds since 1970; 0: not yet. `due`: when to ask for it.

    `streamed`: a stream relays it, or has; `relayed`: tokens of the text that streams have relayed without a usage.
    `cancelled`: when it was seen to be, 0: never. `work` None: it is settled, or unreadable."""

    partition: str
    key: str
    work: PendingWork | None
    due: float
    settled: float
    streamed: bool
    relayed: int
    cancelled: float
    row: Row


_decode = msgspec.json.Decoder(PendingWork).decode


class PendingIndex:
    """The table. Methods raise `StoreUnavailable`."""

    def __init__(self, store: Store) -> None:
        self._table = store.table(names.PENDING)
        self._now = store.now

    async def insert(self, work: PendingWork) -> bool:
        """Insert the row of new work. Return False if it has one."""
        row: Properties = {
            "consumer": work.consumer,
            "backend": work.backend,
            "due": work.started,
            "work": msgspec.json.encode(work).decode(),
        }
        return await self._table.put(work.partition, _key(work.reference), row, None) is not None

    async def withdraw(self, work: PendingWork) -> None:
        """Delete the row of work that is another consumer's."""
        await self._table.delete(work.partition, _key(work.reference))

    async def find(self, partition: str, reference: Reference) -> PendingRow | None:
        row = await self._table.get(partition, _key(reference))
        return None if row is None else _read(row)

    async def below(self, parent: str) -> list[PendingRow]:
        """Return the rows of a thread or a conversation."""
        return [_read(row) async for row in self._table.scan(_partition_of(parent))]

    async def all(self) -> AsyncIterator[PendingRow]:
        async for row in self._table.scan_all():
            yield _read(row)

    async def postpone(self, row: PendingRow, due: float) -> None:
        """Ask for the work later. Does nothing if the row has changed meanwhile."""
        await self._table.put(row.partition, row.key, {**row.row.properties, "due": due}, row.row.etag)

    async def note_cancelled(self, row: PendingRow, due: float) -> None:
        """Note that work was seen to be cancelled just now, and ask for it again then. Does nothing if the row has
        changed meanwhile."""
        properties = {**row.row.properties, "cancelled": self._now(), "due": due}
        await self._table.put(row.partition, row.key, properties, row.row.etag)

    async def note_relayed(self, partition: str, reference: Reference, tokens: int) -> None:
        """Note what a stream of the work has relayed, 0 when it begins; of several streams the most counts."""

        def noted(current: Row | None) -> Properties | None:
            if current is None or "work" not in current.properties:
                return None
            if int(current.properties.get("relayed", -1)) >= tokens:
                return None
            return {**current.properties, "relayed": tokens}

        await update(self._table, partition, _key(reference), noted)

    async def mark_settled(self, row: PendingRow) -> bool:
        """Mark work as settled. Return True for the first who does: on this instance, also if the answer to its write
        was lost."""
        settler, seen = secrets.token_urlsafe(9), list[Row]()

        def mark(current: Row | None) -> Properties | None:
            if current is None:
                return None
            seen.append(current)
            if current.properties.get("settled"):
                return None
            kept = {name: value for name, value in current.properties.items() if name in ("consumer", "backend")}
            return {**kept, "settled": self._now(), "settler": settler}

        if await update(self._table, row.partition, row.key, mark) is not None:
            return True
        return bool(seen) and seen[-1].properties.get("settler") == settler

    async def delete(self, row: PendingRow) -> None:
        await self._table.delete(row.partition, row.key)


def _partition_of(parent: str) -> str:
    return f"of-{parent}"


def _key(reference: Reference) -> str:
    return f"{reference.kind}-{reference.id}"


def _read(row: Row) -> PendingRow:
    about = row.properties
    try:
        work = _decode(str(about["work"])) if "work" in about else None
    except UNREADABLE:
        work = None
    due, settled, cancelled = (float(about.get(name, 0.0)) for name in ("due", "settled", "cancelled"))
    streamed, relayed = "relayed" in about or (work is not None and work.streamed), int(about.get("relayed", 0))
    return PendingRow(row.partition, row.key, work, due, settled, streamed, relayed, cancelled, row)
