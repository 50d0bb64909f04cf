"""Writes rows to the table in groups: while one batch is written the next one fills. A lone row waits for one round
trip; a busy process batches by itself.

While the table is unavailable, no answer waits longer than two seconds. Rows go to the overflow on disk, which is read
back when the table answers. Rows that cannot be kept are dropped, and the log says how many tokens they had.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from shared.concurrency import start_shared
from shared.errors import RowsRefused, StoreUnavailable
from shared.storage import MAX_BATCH, Store, Value
from shared.usage._journal import Journal
from shared.usage._read_back import ReadBack
from shared.usage._row_files import Group, RowFile
from shared.usage.overflow import Overflow

logger = logging.getLogger("tollgate.ledger")

# After a batch of at least _BUSY rows, the next one starts _PACE seconds later. A transaction costs as much CPU as
# forty rows, so a busy process should write fifty times a second rather than a hundred.
_BUSY, _PACE = 4, 0.02
_PATIENCE = 2.0  # seconds that an answer waits for its row
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds between attempts to write a batch
_MAX_ROWS = 50_000  # rows kept in memory if the disk has no room: about 50 MB


class Batch:
    """Rows of one partition for one transaction, and the answers that wait for them."""

    def __init__(self, table: str, partition: str, born: float) -> None:
        self.table = table
        self.partition = partition
        self.born = born
        self.rows: dict[str, dict[str, Value]] = {}
        self.waiting: list[asyncio.Future[None]] = []
        self.kept: list[tuple[str, RowFile]] = []  # the keys of rows that the journal has, and its file
        self.released = False  # nothing waits for it any more

    def release(self) -> None:
        self.released = True
        for waiter in self.waiting:
            if not waiter.done():
                waiter.set_result(None)
        self.waiting.clear()


class GroupCommit:
    """Merges rows into tables in the background. `clock` is monotonic. `linger`: seconds that a row waits for others to
    join its batch. `late` is called with a partition that got rows from disk. `journaled`: rows can be kept on the disk
    of the overflow until they are written."""

    def __init__(
        self,
        store: Store,
        overflow: Overflow | None,
        linger: float,
        clock: Callable[[], float],
        late: Callable[[str], Awaitable[None]],
        *,
        journaled: bool = False,
    ) -> None:
        self._store = store
        self._overflow = overflow
        self._journal = Journal(overflow.files, clock) if journaled and overflow is not None else None
        self._linger = linger
        self._clock = clock
        self._batches: deque[Batch] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._read_back = (
            ReadBack(store, overflow, late, self._table_answers, self._give_up) if overflow is not None else None
        )
        self._under_way: Batch | None = None
        self._spilling: list[Batch] = []  # being written to disk
        self._lingering: asyncio.TimerHandle | None = None
        self._failing_since: float | None = None
        self._pause = _FIRST_PAUSE
        self.dropped = 0  # rows since the start
        self.spilled = 0  # rows written to disk since the start

    @property
    def backlog(self) -> int:
        """Rows that are neither in the table nor on disk yet."""
        return sum(len(batch.rows) for batch in (*self._batches, *self._spilling))

    @property
    def on_disk(self) -> bool:
        """True if rows wait on disk: they are being read back for as long as there are some."""
        return self._read_back is not None and self._read_back.under_way

    def add(self, table: str, partition: str, key: str, properties: dict[str, Value]) -> Batch:
        """Merge properties into a row. They are written after the next `soon` or `at_once`."""
        batch = self._open_batch(table, partition, key)
        row = batch.rows.get(key)
        batch.rows[key] = properties if row is None else row | properties
        return batch

    def keep(self, batch: Batch, key: str, row: dict[str, Value]) -> bool:
        """Keep a row of this batch on disk until the batch is written. Return False if that is not possible."""
        if self._journal is None:
            return False
        if (file := self._journal.keep(Group(batch.table, batch.partition, {key: row}))) is None:
            return False
        batch.kept.append((key, file))
        return True

    def soon(self) -> None:
        """Start writing after `linger`."""
        if self._lingering is None and not self._writing():
            self._lingering = asyncio.get_running_loop().call_later(self._linger, self.at_once)

    def at_once(self) -> None:
        """Start writing now."""
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        if not self._writing():
            self._writer = start_shared(self._write())

    def written(self, batch: Batch) -> asyncio.Future[None]:
        """A future that is done when the batch is in the table, or when it takes too long to wait for."""
        waiter = asyncio.get_running_loop().create_future()
        if batch.released or self._out_of_patience():
            waiter.set_result(None)
        else:
            batch.waiting.append(waiter)
        return waiter

    async def recover(self) -> None:
        """Start to write the rows that earlier processes left on disk."""
        if self._read_back is not None:
            await self._read_back.recover()

    async def close(self, seconds: float) -> None:
        """Write the remaining rows. Those not written in this time go to disk, or are logged as lost."""
        if self._batches:
            self.at_once()
        if self._writer is not None and self._writing():
            await asyncio.wait((self._writer,), timeout=seconds)
            self._writer.cancel()
            await asyncio.wait((self._writer,))
        await self._spill()
        if self._read_back is not None:
            await self._read_back.close()
        while self._batches:
            batch = self._batches.popleft()
            batch.release()
            kept = {key for key, _ in batch.kept}
            if lost := {key: row for key, row in batch.rows.items() if key not in kept}:
                self._give_up(lost, "not written before the gateway ended, and not kept on disk")
        if self._journal is not None:
            self._journal.close()

    def _writing(self) -> bool:
        return self._writer is not None and not self._writer.done()

    def _open_batch(self, table: str, partition: str, key: str) -> Batch:
        """The batch that has this row, else one with room for its partition, else a new one. The batch that is being
        written takes no rows."""
        room = None
        for batch in reversed(self._batches):
            if batch.partition == partition and batch is not self._under_way:
                if key in batch.rows:
                    return batch
                if room is None and len(batch.rows) < MAX_BATCH:
                    room = batch
        if room is not None:
            return room
        if len(self._batches) * MAX_BATCH > _MAX_ROWS:
            self._lose(self._batches[0], "the oldest of too many waiting rows")
        batch = Batch(table, partition, self._clock())
        self._batches.append(batch)
        return batch

    async def _write(self) -> None:
        """Write the batches in order until none is left. The store limits the time of each attempt."""
        while self._batches:
            batch, started = self._batches[0], self._clock()
            for waiting in self._batches:  # the oldest first
                if started - waiting.born < _PATIENCE:
                    break
                waiting.release()
            self._under_way = batch
            try:
                await self._store.table(batch.table).merge(batch.partition, batch.rows)
            except Exception as error:
                self._under_way = None
                if isinstance(error, StoreUnavailable) and not isinstance(error, RowsRefused):
                    await self._wait_for_the_table(started, error)
                elif len(batch.rows) > 1:
                    self._divide(batch)
                else:  # no retry can help, and other rows and answers must not wait
                    self._lose(batch, f"the table rejects them ({type(error).__name__}: {error})")
                continue
            self._table_answers()
            batch.release()
            self._forget(batch)
            if self._batches and self._batches[0] is batch:
                self._batches.popleft()
            self._under_way = None
            if len(batch.rows) >= _BUSY:
                await asyncio.sleep(max(0.0, started + _PACE - self._clock()))

    async def _wait_for_the_table(self, tried: float, error: StoreUnavailable) -> None:
        if self._failing_since is None:
            self._failing_since = tried
            logger.warning("usage rows wait: the table is unavailable: %s", error)
        if self._out_of_patience():
            for waiting in self._batches:
                waiting.release()
            await self._spill()
        await asyncio.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _table_answers(self) -> None:
        if self._failing_since is not None:
            logger.warning("the table accepts usage rows again")
            self._failing_since, self._pause = None, _FIRST_PAUSE

    def _out_of_patience(self) -> bool:
        """True if a new row would wait too long: the table fails, or the backlog is old."""
        now = self._clock()
        failing = self._failing_since is not None and now - self._failing_since >= _PATIENCE
        return failing or (bool(self._batches) and now - self._batches[0].born >= _PATIENCE)

    async def _spill(self) -> None:
        """Move waiting rows to disk, as far as there is room. There they survive the process."""
        if self._overflow is None or self._read_back is None or not self._batches:
            return
        moving = self._spilling = list(self._batches)
        self._batches = deque()
        for batch in moving:
            batch.release()
        groups = [Group(batch.table, batch.partition, batch.rows) for batch in moving]
        try:
            stored = await asyncio.to_thread(self._overflow.append, groups)
        except asyncio.CancelledError:  # they may be stored nevertheless: twice does no harm
            self._batches.extendleft(reversed(moving))
            raise
        finally:
            self._spilling = []
        self._batches.extendleft(reversed(moving[stored:]))
        for batch in moving[:stored]:
            self._forget(batch)
        if stored:
            rows = sum(len(batch.rows) for batch in moving[:stored])
            self.spilled += rows
            logger.warning("%d usage rows wait on disk for the table; %d so far", rows, self.spilled)
            self._read_back.start()

    def _divide(self, batch: Batch) -> None:
        """Have the halves of a batch written apart: the table rejects a row of it, with which no other may be lost.
        The answers wait for both."""
        if batch not in self._batches:
            return
        half = Batch(batch.table, batch.partition, batch.born)
        for key in list(batch.rows)[: len(batch.rows) // 2]:
            half.rows[key] = batch.rows.pop(key)
        half.kept = [pair for pair in batch.kept if pair[0] in half.rows]
        batch.kept = [pair for pair in batch.kept if pair[0] in batch.rows]
        self._batches.insert(self._batches.index(batch), half)

    def _lose(self, batch: Batch, reason: str) -> None:
        if batch in self._batches:
            self._batches.remove(batch)
        batch.release()
        self._forget(batch)
        self._give_up(batch.rows, reason)

    def _forget(self, batch: Batch) -> None:
        """The journal need not keep the rows of this batch any more."""
        if self._journal is not None:
            self._journal.written([file for _, file in batch.kept])
            batch.kept.clear()

    def _give_up(self, rows: dict[str, dict[str, Value]], reason: str) -> None:
        """Log every loss, with the number of unbilled tokens."""
        self.dropped += len(rows)
        tokens = [sum(int(row.get(name, 0)) for row in rows.values()) for name in ("e_input", "e_output")]
        logger.error(
            "%d usage rows lost (%s to %s; %d input and %d output tokens): %s; %d so far",
            len(rows), min(rows), max(rows), *tokens, reason, self.dropped,
        )  # fmt: skip
