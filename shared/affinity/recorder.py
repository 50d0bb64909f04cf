"""What one call's answer tells of objects: whose they are is on record before the caller has the whole of it."""

import asyncio

import msgspec

from shared.affinity.directory import ObjectDirectory
from shared.azure_openai import references
from shared.azure_openai.json_body import UNREADABLE
from shared.azure_openai.metering import UNFINISHED
from shared.types import Call, Consumer, Reference, Usage

_PATIENCE = 2.0  # seconds that an answer is held back for its rows
_WITH_ITEMS = ("responses.", "conversations.items.")  # answers that list items, in `output` or in `data`
_NONE = msgspec.Raw(b"[]")


class _Object(msgspec.Struct):
    id: str = ""
    object: str = ""
    status: str | None = None
    output: msgspec.Raw = _NONE
    data: msgspec.Raw = _NONE


class _Event(msgspec.Struct):
    id: str = ""
    object: str = ""
    response: _Object | None = None


_decode_object = msgspec.json.Decoder(_Object).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_BY_FAMILY = {"responses": "response", "threads": "run", "batches": "batch"}  # what is finished after its call
_BY_OBJECT = {"thread.run": "run", "thread": "thread"}  # the kinds of what the events of a run are about


class ObjectRecorder:
    """One per call. `backend`: who answered."""

    def __init__(self, affinity: ObjectDirectory, consumer: Consumer, call: Call, backend: str) -> None:
        self._affinity = affinity
        self._consumer = consumer
        self._call = call
        self._backend = backend
        self._lists_items = call.operation.name.startswith(_WITH_ITEMS)
        # What goes on when the call has ended is charged to whoever is told the usage first.
        self.deferred = call.background or call.operation.metered == "once"
        self.charging: asyncio.Task[Usage] | None = None  # what the call is charged, once that is being found out
        self._settling: Reference | None = None
        self._writing: list[asyncio.Task[None]] = []

    def answer(self, status: int, body: bytes, location: str = "") -> None:
        """A whole answer. `location`: of what it has made, where the body does not tell that."""
        if status >= 300:
            return
        call, objects = self._call, {}
        try:
            made = _decode_object(body)
        except UNREADABLE:
            made = _Object()
        if location:
            made = _Object(location.rpartition("/")[2])
        if made.id and call.makes:
            objects[Reference(call.makes, made.id)] = self.deferred and made.status in UNFINISHED
        if made.id and call.operation.metered == "once":
            self._settling = Reference(_BY_FAMILY[call.operation.name.partition(".")[0]], made.id)
        elif made.id and call.background:
            self._settling = Reference("response", made.id)
        self._record(objects, body)
        self._record_items(made)

    def events(self, payloads: list[bytes]) -> None:
        """What events of a stream tell."""
        for data in payloads:
            try:
                event = _decode_event(data)
            except UNREADABLE:
                continue
            about = event.response or _Object(event.id, event.object)
            kind = "response" if event.response else _BY_OBJECT.get(about.object, "")
            if not kind and about.object.startswith("chat.completion"):
                kind = "chat_completion"
            objects = {}
            if about.id and kind and (kind == self._call.makes or kind == "thread"):
                objects[Reference(kind, about.id)] = self.deferred and kind != "thread"
            if kind in ("response", "run"):
                self._settling = Reference(kind, about.id)
            self._record(objects, data)
            self._record_items(about)

    async def kept(self) -> None:
        """Wait until it is in the table, or has been tried for 2 s."""
        if self._writing:
            await asyncio.wait(self._writing, timeout=_PATIENCE)

    async def charge(self, usage: Usage) -> Usage:
        """What this call is charged of the usage that its answer told."""
        if not self.deferred:
            return usage
        if usage.estimated or usage == Usage() or self._settling is None:
            return Usage()
        # What is settled is charged to nobody else: it goes on when the caller leaves now.
        self.charging = asyncio.ensure_future(self._settle(usage, self._settling))
        return await asyncio.shield(self.charging)

    async def _settle(self, usage: Usage, made: Reference) -> Usage:
        await self.kept()
        # A call that finds its object finished at once is the only one that knows of it so far.
        first = self._call.makes and not self._affinity.charge_pending(made)
        return usage if first or await self._affinity.claim_charge(made) else Usage()

    async def deleted(self, status: int) -> None:
        """The backend has answered the call that deletes an object."""
        if status < 300 and self._call.operation.deletes:
            await self._affinity.forget(self._consumer, self._call.references[-1])

    def _record(self, objects: dict[Reference, bool], body: bytes) -> None:
        mentioned = references.in_answer(body, self._call.operation.name)
        objects |= {reference: False for reference in mentioned if reference not in objects}
        if objects:
            self._writing += self._affinity.record(self._consumer.id, self._backend, objects, self._call.references)

    def _record_items(self, about: _Object) -> None:
        if self._lists_items and (ids := [*references.items(about.output), *references.items(about.data)]):
            self._writing += self._affinity.record_items(self._consumer.id, self._backend, ids)
