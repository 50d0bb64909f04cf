"""Reads back the rows that wait on the local disk, and writes them to the table."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from shared.concurrency import start_shared
from shared.errors import RowsRefused, StoreUnavailable
from shared.storage import Store, Value
from shared.usage._row_files import Group
from shared.usage.overflow import Overflow

logger = logging.getLogger("tollgate.ledger")

_PACE = 0.02  # seconds between two groups
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds between attempts to write a group


class ReadBack:
    """Goes on for as long as there are rows on disk. `late` is called with a partition that got rows; `table_answers`
    whenever it has taken some; `lost` with rows that it rejects, and the reason."""

    def __init__(
        self,
        store: Store,
        overflow: Overflow,
        late: Callable[[str], Awaitable[None]],
        table_answers: Callable[[], None],
        lost: Callable[[dict[str, dict[str, Value]], str], None],
    ) -> None:
        self._store = store
        self._overflow = overflow
        self._late = late
        self._table_answers = table_answers
        self._lost = lost
        self._task: asyncio.Task[None] | None = None

    @property
    def under_way(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Start, unless it is under way."""
        if not self.under_way:
            self._task = start_shared(self._run())

    async def recover(self) -> None:
        """Start with the rows that earlier processes left on disk."""
        if await asyncio.to_thread(self._overflow.adopt):
            logger.warning("reading back usage rows that an earlier process left on disk")
            self.start()

    async def close(self) -> None:
        """Stop, and leave unread rows to the next process."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        await asyncio.to_thread(self._overflow.close)

    async def _run(self) -> None:
        """Write the rows on disk slowly: no answer waits for them."""
        pause, rows = _FIRST_PAUSE, 0
        while (group := await asyncio.to_thread(self._overflow.next)) is not None:
            try:
                if new := await self._without_outdated(group):
                    await self._merge(group, new)
                await self._late(group.partition)
            except StoreUnavailable:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            except Exception as error:
                self._lost(group.rows, f"they cannot be read back ({type(error).__name__}: {error})")
            else:
                self._table_answers()
                rows, pause = rows + len(group.rows), _FIRST_PAUSE
            await asyncio.to_thread(self._overflow.advance)
            await asyncio.sleep(_PACE)
        if rows:
            logger.warning("%d usage rows were read back from disk", rows)

    async def _merge(self, group: Group, rows: dict[str, dict[str, Value]]) -> None:
        """Write rows of a group: one by one if the table rejects one of them, which alone is lost."""
        try:
            await self._store.table(group.table).merge(group.partition, rows)
        except Exception as error:
            if isinstance(error, StoreUnavailable) and not isinstance(error, RowsRefused):
                raise
            if len(rows) == 1:
                self._lost(rows, f"the table rejects them ({type(error).__name__}: {error})")
                return
            for key, row in rows.items():
                await self._merge(group, {key: row})

    async def _without_outdated(self, group: Group) -> dict[str, dict[str, Value]]:
        """The rows of a group from disk. Of a call whose usage has been corrected or completed since, only what is
        missing: a row with an estimate or without a usage is not the last word."""
        rows = dict(group.rows)
        for key, row in group.rows.items():
            open_end = "e_est" in row or ("e_status" in row and "e_input" not in row)
            if open_end and "e_counted" not in row:
                stored = await self._store.table(group.table).get(group.partition, key)
                if stored is not None and "e_counted" in stored.properties:
                    rows[key] = {name: value for name, value in row.items() if name not in stored.properties}
        return {key: row for key, row in rows.items() if row}
