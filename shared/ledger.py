"""Usage as rows that survive a crash: an intent when a call is admitted, its end before the caller has the last byte.

Both halves are merges of disjoint properties into one row, so retries, lost answers and reordering neither lose nor
double anything. Rows are written in groups: while one batch is on its way the next one fills, so that a lone call waits
for one round trip and a busy process batches by itself.
"""

import asyncio
import functools
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from shared import ulid
from shared.errors import StoreUnavailable
from shared.stores import MAX_BATCH, Store, Value
from shared.types import Attempt, Call, Consumer, Outcome, Target, Usage

logger = logging.getLogger("tollgate.ledger")

SHARDS = 16  # partitions an hour; an instance writes to one of them, so that its rows share a transaction
_LINGER = 0.1  # seconds an intent may wait for company: a quick call needs no more than one write then
# After a batch of so many rows the next one starts so many seconds later at the earliest: a transaction costs as much
# CPU as twenty rows, and Azure takes about as long to answer anyway.
_BUSY, _PACE = 4, 0.01
_PATIENCE = 2.0  # seconds that an answer is held back for its row
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds between tries of a batch
_MAX_ROWS = 50_000  # rows kept in memory while the table is out of reach: about 50 MB


# The property of each field of `Usage`; one that is zero or empty takes no bytes. Sums are kept by `rollup.py`.
_PROPERTIES = {
    "input_tokens": "e_input",
    "output_tokens": "e_output",
    "cached_input_tokens": "e_cached",
    "audio_input_tokens": "e_audio_in",
    "image_input_tokens": "e_image_in",
    "reasoning_tokens": "e_reasoning",
    "audio_output_tokens": "e_audio_out",
    "image_output_tokens": "e_image_out",
    "accepted_prediction_tokens": "e_accepted",
    "rejected_prediction_tokens": "e_rejected",
    "images": "e_images",
    "seconds": "e_seconds",
    "characters": "e_chars",
    "model": "e_served",
    "service_tier": "e_tier",
    "estimated": "e_est",
}
_IN_ORDER = tuple(_PROPERTIES[field] for field in Usage.__struct_fields__)
_ALWAYS = frozenset(("e_input", "e_output"))
_WHOSE = ("s_key", "s_team", "s_product", "s_system", "s_model", "s_ts")  # what rows of the same call have in common


class Entry(msgspec.Struct, frozen=True):
    """Where the row of a call stands, and what it began with."""

    table: str
    partition: str
    request_id: str
    intent: dict[str, Value] = {}


@functools.lru_cache(maxsize=4)
def _place(hour: int, shard: int) -> tuple[str, str]:
    """The table and the partition of an hour since 1970."""
    start = datetime.fromtimestamp(hour * 3600, UTC)
    return f"usage{start:%Y%m}", f"{start:%Y%m%d%H}-{shard:02d}"


class _Batch:
    """Rows of one partition, to be written in one transaction, and the answers that wait for them."""

    def __init__(self, entry: Entry, born: float) -> None:
        self.entry = entry
        self.born = born
        self.rows: dict[str, dict[str, Value]] = {}
        self.waiting: list[asyncio.Future[None]] = []

    def release(self) -> None:
        for waiter in self.waiting:
            if not waiter.done():
                waiter.set_result(None)
        self.waiting.clear()


class Ledger:
    """Writes usage rows in the background. One per process; `clock` is monotonic."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self.instance = ulid.new(store.now())[-10:]
        self._shard = int.from_bytes(os.urandom(2)) % SHARDS
        self._batches: deque[_Batch] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._under_way: _Batch | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._failing_since: float | None = None
        self.dropped = 0  # rows given up since the start

    @property
    def backlog(self) -> int:
        """Rows that are not in the table yet."""
        return sum(len(batch.rows) for batch in self._batches)

    def open(self, request_id: str, consumer: Consumer, call: Call, model: str) -> Entry:
        """Note that a call was admitted. Returns at once; the row follows."""
        now = self._store.now()
        intent: dict[str, Value] = {
            "s_key": consumer.id,
            "s_model": model,
            "s_op": call.operation.name,
            "s_prompt": call.input_estimate,
            "s_max": call.max_output_tokens or 0,
            "s_ts": now,
            "s_inst": self.instance,
        }
        if consumer.team:
            intent["s_team"] = consumer.team
        if consumer.product:
            intent["s_product"] = consumer.product
        if call.system:
            intent["s_system"] = call.system
        entry = Entry(*_place(int(now // 3600), self._shard), request_id, intent)
        self._enqueue(entry, request_id, intent)
        if self._lingering is None and not self._writing():
            self._lingering = asyncio.get_running_loop().call_later(_LINGER, self._start_writing)
        return entry

    def close(self, entry: Entry, outcome: Outcome) -> asyncio.Future[None]:
        """Note how a call ended. Returns at once; the future is done when the row is in the table. It is done early
        when the table has failed for 2 s: answers then go out at once, and their rows follow when they can."""
        end = _usage_properties(outcome.usage)
        end["e_status"] = outcome.status
        end["e_ended"] = outcome.ended
        end["e_attempts"] = len(outcome.attempts)
        end["e_ttft"] = outcome.first_byte_ms
        end["e_ms"] = outcome.total_ms
        if outcome.served_by is not None:
            _tell_target(end, outcome.served_by)
        waiter = asyncio.get_running_loop().create_future()
        batch = self._enqueue(entry, entry.request_id, end)
        self._start_writing()
        if self._out_of_patience():
            waiter.set_result(None)
        else:
            batch.waiting.append(waiter)
        return waiter

    def charge(self, entry: Entry, number: int, attempt: Attempt) -> None:
        """Note what a try of a call was charged that did not answer the caller, in a row of its own beside the call's.

        `number` is the try's own within the call. Returns at once; nothing waits for the row."""
        if attempt.usage is None:
            return
        row = {name: entry.intent[name] for name in _WHOSE if name in entry.intent}
        row |= _usage_properties(attempt.usage)
        row["e_role"] = attempt.role
        row["e_status"] = attempt.status
        row["e_ms"] = round(attempt.milliseconds)
        _tell_target(row, attempt.target)
        self._enqueue(entry, f"{entry.request_id}-{number}", row)
        self._start_writing()

    async def stop(self, patience: float = 10.0) -> None:
        """Write what is left; what cannot be written in this time is reported as lost."""
        if self._batches:
            self._start_writing()
        if self._writer is not None and self._writing():
            await asyncio.wait((self._writer,), timeout=patience)
            self._writer.cancel()
        if self.backlog:
            logger.error(
                "stopped with %d usage rows unwritten; the roll-up closes their calls as estimates", self.backlog
            )

    def _enqueue(self, entry: Entry, key: str, properties: dict[str, Value]) -> _Batch:
        batch = self._open_batch(entry, key)
        row = batch.rows.get(key)
        batch.rows[key] = properties if row is None else row | properties
        return batch

    def _writing(self) -> bool:
        return self._writer is not None and not self._writer.done()

    def _start_writing(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        if not self._writing():
            self._writer = asyncio.get_running_loop().create_task(self._write())

    def _open_batch(self, entry: Entry, key: str) -> _Batch:
        """The batch that has this row already, else one that still takes rows of its partition. The one that is on its
        way takes none."""
        room = None
        for batch in reversed(self._batches):
            if batch.entry.partition == entry.partition and batch is not self._under_way:
                if key in batch.rows:
                    return batch
                if room is None and len(batch.rows) < MAX_BATCH:
                    room = batch
        if room is not None:
            return room
        if len(self._batches) * MAX_BATCH > _MAX_ROWS:
            self._lose(self._batches[0], "are the oldest of too many that wait for the table")
        batch = _Batch(entry, self._clock())
        self._batches.append(batch)
        return batch

    async def _write(self) -> None:
        """Writes the batches in turn until none is left; the store bounds the time of each try."""
        pause = _FIRST_PAUSE
        while self._batches:
            batch, started = self._batches[0], self._clock()
            for waiting in self._batches:  # the oldest first
                if started - waiting.born < _PATIENCE:
                    break
                waiting.release()
            self._under_way = batch
            try:
                await self._store.table(batch.entry.table).merge(batch.entry.partition, batch.rows)
            except StoreUnavailable as error:
                if self._failing_since is None:
                    self._failing_since = started
                    logger.warning("usage rows wait for the table: %s", error)
                if self._out_of_patience():
                    for waiting in self._batches:
                        waiting.release()
                self._under_way = None
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            except Exception as error:  # no retry can help; the next rows, and answers, must not wait behind these
                self._lose(batch, f"cannot be written ({type(error).__name__}: {error})")
                self._under_way = None
                continue
            if self._failing_since is not None:
                logger.warning("the table takes usage rows again; %d are waiting", self.backlog - len(batch.rows))
                self._failing_since, pause = None, _FIRST_PAUSE
            batch.release()
            if self._batches and self._batches[0] is batch:
                self._batches.popleft()
            self._under_way = None
            if len(batch.rows) >= _BUSY:
                await asyncio.sleep(max(0.0, started + _PACE - self._clock()))

    def _out_of_patience(self) -> bool:
        """Whether a row that queues now would have to wait for too long: the table fails, or has a backlog to take."""
        now = self._clock()
        failing = self._failing_since is not None and now - self._failing_since >= _PATIENCE
        return failing or (bool(self._batches) and now - self._batches[0].born >= _PATIENCE)

    def _lose(self, batch: _Batch, reason: str) -> None:
        """Give rows up, never without a word."""
        if batch in self._batches:
            self._batches.remove(batch)
        batch.release()
        self.dropped += len(batch.rows)
        logger.error("%d usage rows lost: they %s; %d so far", len(batch.rows), reason, self.dropped)


def _usage_properties(usage: Usage) -> dict[str, Value]:
    """The token classes of a row. Input and output stand there always, the others where they are not zero."""
    values = zip(_IN_ORDER, msgspec.structs.astuple(usage), strict=True)
    properties: dict[str, Value] = {name: value for name, value in values if value or name in _ALWAYS}
    if properties.get("e_tier") == "default":
        del properties["e_tier"]
    return properties


def _tell_target(row: dict[str, Value], target: Target) -> None:
    row["e_backend"] = target.backend.name
    row["e_region"] = target.backend.region
    row["e_model"] = target.model
    row["e_deployment"] = target.deployment
