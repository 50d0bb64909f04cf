"""Records which backend and consumer own the objects that an answer reports, before the caller has the whole answer."""

import asyncio
from collections.abc import Callable, Iterable

import msgspec

from shared.affinity._rows import Location
from shared.affinity.directory import ObjectDirectory
from shared.affinity.pending import PendingWork
from shared.azure_openai import references
from shared.azure_openai.batch_lines import BatchSize
from shared.azure_openai.json_body import UNREADABLE, reader
from shared.azure_openai.metering import UNFINISHED
from shared.types import Call, Consumer, Reference

_MOST_WAIT = 2.0  # seconds that an answer is held back for its rows
# Answers with items that their backend made, in `output` or in `data`. Lists have those of callers as well, under ids
# that a caller may have chosen.
_WITH_ITEMS = frozenset(
    ("responses.create", "responses.get", "responses.cancel", "responses.compact", "conversations.items.create")
)
_NONE = msgspec.Raw(b"[]")


class _Object(msgspec.Struct):
    id: str = ""
    object: str = ""
    status: str | None = None
    processing_status: str | None = None
    model: str | None = None
    thread_id: str | None = None
    output: msgspec.Raw = _NONE
    data: msgspec.Raw = _NONE


class _Event(msgspec.Struct):
    id: str = ""
    object: str = ""
    model: str | None = None
    thread_id: str | None = None
    response: _Object | None = None


_read_object = reader(_Object)
_decode_event = msgspec.json.Decoder(_Event).decode
# Objects that finish after their call.
_BY_FAMILY = {"responses": "response", "threads": "run", "batches": "batch", "messages": "message_batch"}
_ENDED = "ended"  # a batch of messages, whose results have its usage
_BY_OBJECT = {"thread.run": "run", "thread": "thread"}  # kinds of the objects in the events of a run
_PARENTS = ("thread", "conversation")  # kinds of objects that a caller may read in place of a run or a response

Begin = Callable[[Reference, str, str, BatchSize | None], PendingWork]
"""Notes that work goes on after its call. Takes the object, its parent, its model or deployment in the backend's words,
and the size of a batch, if that is known; the texts may be ""."""


class ObjectRecorder:
    """Records the objects of one call, which `backend` answers.

    `deferred`: the work may go on when the call has ended (`DeferredCharge`). `begin` is called once if so.
    `charged`: the object whose usage the answer reports; `finished`: this call made it, complete, so that no other call
    knows it; `ended`: its work has, and its usage is reported elsewhere. `lines`: of the uploaded file, if they name no
    object.
    """

    def __init__(
        self,
        directory: ObjectDirectory,
        consumer: Consumer,
        call: Call,
        backend: str,
        begin: Begin,
        *,
        lines: BatchSize | None = None,
    ) -> None:
        self.directory = directory
        self._begin = begin
        self._works: dict[Reference, PendingWork] = {}
        self.deferred = call.background or call.operation.metered == "once"
        self.charged: Reference | None = None
        self.finished = self.ended = False
        self._consumer = consumer
        self._call = call
        self._backend = backend
        self._lines = lines
        self._lists_items = call.stateful and call.operation.name in _WITH_ITEMS
        # The answer may repeat what the request brought, which makes nobody its owner.
        self._brought = call.brought.union(reference.id for reference in call.references)
        self._recorded: set[str] = set()  # items and sealed contents, which several events of a stream may have
        self._writing: list[asyncio.Task[None]] = []

    def answer(self, status: int, body: bytes, location: str = "") -> None:
        """Record the objects in a whole answer. `location`: of the object it made, if the body does not have its id."""
        if status >= 300:
            return
        call, objects = self._call, list[Reference]()
        made = _Object(location.rpartition("/")[2]) if location else _read_object(body)
        if made.id and call.makes:
            pending = self.deferred and (made.status in UNFINISHED or made.processing_status is not None)
            objects.append(Reference(call.makes, made.id))
            if pending:
                self._goes_on(objects[0], made)
            self.finished = not pending
        if made.id and call.operation.metered == "once":
            self.charged = Reference(_BY_FAMILY[call.operation.name.partition(".")[0]], made.id)
            self.ended = made.processing_status == _ENDED
        elif made.id and call.background:
            self.charged = Reference("response", made.id)
        self._record(objects, made, body)

    def events(self, payloads: list[bytes]) -> None:
        """Record the objects in the events of a stream."""
        for data in payloads:
            try:
                event = _decode_event(data)
            except UNREADABLE:
                continue
            about = event.response or _Object(event.id, event.object, model=event.model, thread_id=event.thread_id)
            kind = "response" if event.response else _BY_OBJECT.get(about.object, "")
            if not kind and about.object.startswith("chat.completion"):
                kind = "chat_completion"
            objects = list[Reference]()
            if about.id and kind and (kind == self._call.makes or kind == "thread"):
                objects.append(Reference(kind, about.id))
                if self.deferred and kind != "thread":
                    self._goes_on(objects[0], about)
            if kind in ("response", "run"):
                self.charged = Reference(kind, about.id)
            self._record(objects, about, data)

    async def kept(self) -> None:
        """Wait until the rows are written, for at most 2 s."""
        if self._writing:
            await asyncio.wait(self._writing, timeout=_MOST_WAIT)

    def is_own(self, location: Location) -> bool:
        """True for an object of this caller at the backend that answers."""
        return (location.consumer, location.backend) == (self._consumer.id, self._backend)

    async def deleted(self, status: int) -> None:
        """Forget the object that the call has deleted, if the backend's status says so."""
        if status < 300 and self._call.operation.deletes:
            await self.directory.forget(self._consumer, self._call.references[-1])

    def _goes_on(self, reference: Reference, about: _Object) -> None:
        """Note that the work of an object that the call has made goes on."""
        if reference in self._works or reference.id in self._brought:
            return
        parents = (one.id for one in self._call.references if one.kind in _PARENTS)
        parent = next(parents, about.thread_id or "")
        lines = self.directory.lines(self._call)
        named = about.model or (lines.model if lines is not None else "")
        self._works[reference] = self._begin(reference, parent, named, lines)

    def _record(self, objects: Iterable[Reference], about: _Object, body: bytes) -> None:
        """Record these objects, and what else an answer or an event names. `about`: the object that it is."""
        items = [*references.items(about.output), *references.items(about.data)] if self._lists_items else []
        named = dict.fromkeys(objects)
        for reference in references.in_answer(body, self._call.operation.name):
            if reference.kind == "sealed":
                items.append(reference.id)
            else:
                named[reference] = None
        if new := [reference for reference in named if reference.id not in self._brought]:
            self._writing += self.directory.claims.record(
                self._consumer.id, self._backend, new, works=self._works, lines=self._lines
            )
        if left := [item for item in items if item not in self._brought and item not in self._recorded]:
            self._recorded.update(left)
            self._writing += self.directory.claims.record_items(self._consumer.id, self._backend, left)
