"""Settles one piece of pending work: asks for its usage, puts it on record and corrects the limits, exactly once.

The order of its writes ensures this, however many settlers there are and wherever a process dies. The usage goes into
the row of the call that began the work, as the same properties from every settler. Only then is the work marked as
settled, and the settler that marks it corrects the limits. A process that dies before the mark leaves all to the next
one.
"""

import asyncio
import logging
from collections.abc import Sequence

import msgspec

from shared.affinity.directory import ObjectDirectory
from shared.affinity.pending import PendingIndex, PendingRow, PendingWork
from shared.affinity.recorder import ObjectRecorder
from shared.auth.consumers import Consumers
from shared.azure_openai.operations import OPERATIONS
from shared.concurrency import LruDict, SingleFlight, Tasks
from shared.config.limits import merged
from shared.errors import GatewayError
from shared.limits import scopes
from shared.limits.limiter import Limiter
from shared.settlement.estimates import estimate
from shared.settlement.work_usage import Reported, Unreported, WorkUsage
from shared.storage import Store
from shared.telemetry.recorder import NoTelemetry, Telemetry
from shared.types import Call, Reference, Target, Usage
from shared.usage.ledger import Ledger

logger = logging.getLogger("tollgate.settlement")

_BEFORE_DELETION = 5.0  # seconds that a call which deletes the work waits
_AT_ONCE = 8  # settlements that calls have started
_REMEMBERED = 20_000
_STREAMS_END = 60.0  # seconds after the cancellation of their work
_LOOK_AGAIN = 2.0  # seconds until another read below the same thread looks for pending work
_CREATE_RESPONSE = next(operation for operation in OPERATIONS if operation.name == "responses.create")

_DELETING = {"responses.delete": "response", "threads.delete": "thread", "messages.batches.delete": "message_batch"}
# Reads that show what the work has made, past the object that has its usage.
_BESIDE = {
    "conversations.items.list": "conversation",
    "conversations.items.get": "conversation",
    "threads.messages.list": "thread",
    "threads.messages.get": "thread",
    "threads.runs.list": "thread",
    "threads.runs.steps.list": "thread",
    "threads.runs.steps.get": "thread",
    "messages.batches.results": "message_batch",
}


class Settlements:
    """Those of a process: under way, and done."""

    def __init__(self) -> None:
        self.running: SingleFlight[Reference, bool] = SingleFlight()
        self.done = LruDict[Reference, None](_REMEMBERED)
        self.looked = LruDict[str, float](_REMEMBERED)  # by parent: when
        self.gate = asyncio.Semaphore(_AT_ONCE)
        self.tasks = Tasks()

    async def close(self) -> None:
        """Finish what calls have begun."""
        if left := await self.tasks.finish(10):
            logger.warning("%d settlements are left to the timer", left)
        await self.running.close()


class Settler:
    """Settles by one configuration."""

    def __init__(
        self,
        settlements: Settlements,
        store: Store,
        usage: WorkUsage,
        directory: ObjectDirectory,
        ledger: Ledger,
        limiter: Limiter,
        telemetry: Telemetry | NoTelemetry,
    ) -> None:
        self._settlements = settlements
        self._now = store.now
        self._usage = usage
        self._index = PendingIndex(store)
        self._consumers = Consumers(store)
        self._directory = directory
        self._ledger = ledger
        self._limiter = limiter
        self._telemetry = telemetry

    # --- calls --------------------------------------------------------------------------------------------------------

    def begin(self, partition: str, reference: Reference, usage: Usage | None) -> None:
        """Settle an object in the background, whose usage a call has received; None: a call has seen its end."""
        if reference not in self._settlements.done:
            self._settlements.tasks.start(self._attempt(partition, reference, usage))

    def relayed(self, reference: Reference, tokens: int, recorder: ObjectRecorder) -> None:
        """Note in the background what a stream of an object has relayed. `recorder`: of the call that relays."""
        if reference not in self._settlements.done:
            self._settlements.tasks.start(self._note_relayed(reference, tokens, recorder))

    async def _note_relayed(self, reference: Reference, tokens: int, recorder: ObjectRecorder) -> None:
        try:
            await recorder.kept()
            location = await self._directory.find(reference)
            if location is not None and location.pending_in and recorder.is_own(location):
                await self._index.note_relayed(location.pending_in, reference, tokens)
        except GatewayError as error:
            logger.warning("cannot record the relayed tokens of %s: %s", reference.id[:128], error)

    def read_beside(self, call: Call) -> None:
        """Settle what is pending below the thread or the conversation that a call reads, or the batch whose results it
        does, in the background."""
        if (kind := _BESIDE.get(call.operation.name)) is None:
            return
        if kind == "message_batch":
            self._settlements.tasks.start(self._settle_object(Reference(kind, _named(call, kind))))
            return
        parent, now = _named(call, kind), self._now()
        if parent and now - self._settlements.looked.get(parent, 0.0) >= _LOOK_AGAIN:
            self._settlements.looked[parent] = now
            self._settlements.tasks.start(self._settle_below(parent))

    async def before_deletion(self, call: Call) -> None:
        """Settle what a call is about to delete, for at most 5 s: nobody can ask for it later."""
        if (kind := _DELETING.get(call.operation.name)) is None:
            return
        try:
            async with asyncio.timeout(_BEFORE_DELETION):
                if kind == "thread":
                    await self._settle_below(_named(call, kind))
                    return
                await self._settle_object(Reference(kind, _named(call, kind)))
        except TimeoutError:
            logger.warning("%s was deleted before its usage was known", _named(call, kind)[:128])

    async def _settle_object(self, reference: Reference) -> None:
        """Settle an object that a call names, if its usage is pending."""
        if reference in self._settlements.done:
            return
        location = await self._directory.find(reference)
        if location is not None and location.pending_in:
            await self._attempt(location.pending_in, reference)

    async def _settle_below(self, parent: str) -> None:
        try:
            rows = await self._index.below(parent)
        except GatewayError as error:
            logger.warning("pending work below %s not settled yet: %s", parent[:128], error)
            return
        works = [row.work for row in rows if row.work is not None]
        await asyncio.gather(*(self._attempt(work.partition, work.reference) for work in works))

    async def _attempt(self, partition: str, reference: Reference, usage: Usage | None = None) -> None:
        """Settle an object unless it is under way or cannot be settled now, which the timer does later."""
        try:
            async with self._settlements.gate:
                if reference in self._settlements.done:
                    return
                row = await self._index.find(partition, reference)
                if row is None or row.work is None or await self.settle(row, row.work, usage):
                    self._settlements.done[reference] = None
        except GatewayError as error:
            logger.warning("usage of %s not settled yet: %s", reference.id[:128], error)

    # --- one settlement -----------------------------------------------------------------------------------------------

    async def settle(self, row: PendingRow, work: PendingWork, usage: Usage | None = None) -> bool:
        """Settle work; return False if it is under way. `usage`: from another answer. Raises `GatewayError`
        if a backend or the table does not answer."""
        return await self._settlements.running.run(work.reference, lambda: self._settle(row, work, usage))

    async def _settle(self, row: PendingRow, work: PendingWork, known: Usage | None) -> bool:
        outcome = Reported((known,)) if known is not None and work.kind != "run" else await self._usage.of(work)
        if isinstance(outcome, Unreported) and row.cancelled:
            outcome = outcome._replace(cancelled=True)  # and deleted since
        if outcome is None or (isinstance(outcome, Unreported) and not await self._is_at_rest(row, outcome)):
            return False
        usages = (estimate(work, row, outcome),) if isinstance(outcome, Unreported) else outcome.usages
        lost = isinstance(outcome, Unreported) and not outcome.cancelled
        if lost:
            logger.warning("no usage reported for %s: keeping the estimate", work.id[:128])
        elif isinstance(outcome, Reported) and outcome.objects:
            self._directory.claims.record(work.consumer, work.backend, outcome.objects)
        charges = [(usage, self._usage.target(work, usage)) for usage in usages]
        await self._ledger.complete(work.place, charges, work.status)
        if await self._index.mark_settled(row):
            for usage, target in charges:
                self._report(work, usage, target)
            # Keep the reservation of lost work, unless more usage than that was seen.
            tokens = sum(usage.input_tokens + usage.output_tokens for usage in usages)
            if not lost or any(hold.tokens < tokens for hold in work.held.values()):
                await self._correct_limits(work, charges)
        return True

    async def _is_at_rest(self, row: PendingRow, end: Unreported) -> bool:
        """True unless a stream of cancelled work may still note what it has relayed."""
        if not (end.cancelled and row.streamed) or 0 < row.cancelled <= self._now() - _STREAMS_END:
            return True
        if not row.cancelled:
            await self._index.note_cancelled(row, self._now() + _STREAMS_END)
        return False

    def _report(self, work: PendingWork, usage: Usage, target: Target | None) -> None:
        operation = str(work.place.intent["s_op"])
        if target is not None:
            self._telemetry.settled(operation, target, usage)
        line = {
            "event": "settled",
            "request": work.place.request_id,
            "object": work.id[:128],
            "consumer": work.consumer,
            "model": target.model if target is not None else work.model,
            "operation": operation,
            "backend": work.backend,
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "estimated": usage.estimated,
        }
        logger.info(msgspec.json.encode(line).decode())

    async def _correct_limits(self, work: PendingWork, charges: Sequence[tuple[Usage, Target | None]]) -> None:
        record = await self._consumers.find(work.consumer)
        if record is None:
            return
        consumer = scopes.as_called(work.held, record.consumer)
        if work.granted is not None:
            consumer = msgspec.structs.replace(consumer, limits=merged(work.granted, consumer.limits))
        self._limiter.settle_held(consumer, work.model, work.held, work.started, charges)
        if work.kind == "response":
            self._limiter.learn(consumer, work.model, _CREATE_RESPONSE, work.size, charges[0][0])


def _named(call: Call, kind: str) -> str:
    return next((reference.id for reference in call.references if reference.kind == kind), "")
