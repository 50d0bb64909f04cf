"""Keeps rows on the local disk until they are in the table, so that no answer waits for the table.

A row is one write to the system's page cache. It survives any end of the process, whose heir reads it back
(`overflow.py`), but not the end of the machine. Files are small, and deleted as soon as all their rows are written.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable

from shared.usage._row_files import Group, RowFile, RowFiles, record

logger = logging.getLogger("tollgate.ledger")

_LONGEST_FILE = 1024 * 1024  # bytes
_SLOW = 0.25  # seconds that a write may block the event loop
_PAUSE = 5.0  # seconds without writes after one that failed or was slow


class Journal:
    """The journal of one process, which its event loop alone uses. `clock` is monotonic."""

    def __init__(self, files: RowFiles, clock: Callable[[], float] = time.monotonic) -> None:
        self._files = files
        self._clock = clock
        self._journal: deque[RowFile] = deque()  # the oldest first; rows are added to the last one
        self._resumes = float("-inf")
        self._logged = False

    def keep(self, group: Group) -> RowFile | None:
        """Keep rows until `written` is called with the file. None: they could not be kept."""
        started = self._clock()
        if started < self._resumes:
            return None
        try:
            data = record(group)
            if not self._files.has_room(len(data)):
                raise OSError(f"{self._files.directory} has {self._files.most_bytes} bytes of rows already")
            if not self._journal or self._journal[-1].broken or self._journal[-1].size >= _LONGEST_FILE:
                self._journal.append(self._files.create("b-journal"))
            file = self._journal[-1]
            file.append(data, sync=False)
        except OSError as error:
            self._pause(started, f"failed ({error})")
            return None
        file.waiting += 1
        if (seconds := self._clock() - started) > _SLOW:
            self._pause(started, f"took {seconds:.1f} s for a row")
        elif self._logged:
            logger.warning("the local disk keeps usage rows again")
            self._logged = False
        return file

    def written(self, files: Iterable[RowFile]) -> None:
        """Forget rows that were kept in these files, one for each time that a file occurs."""
        for file in files:
            file.waiting -= 1
        try:
            # In order: a later row, such as a corrected one, must not be missing where an earlier one is read back.
            while self._journal and not self._journal[0].waiting:
                if len(self._journal) == 1 and self._journal[0].size < _LONGEST_FILE:
                    if self._journal[0].size:
                        self._journal[0].empty()
                    break
                self._files.delete(self._journal.popleft())
        except OSError as error:
            self._pause(self._clock(), f"failed ({error})")

    def close(self) -> None:
        """Leave the rows that were not written to the next process."""
        self.written(())
        while self._journal:
            file = self._journal.popleft()
            try:
                (self._files.release if file.size else self._files.delete)(file)
            except OSError as error:
                self._pause(self._clock(), f"failed ({error})")

    def _pause(self, now: float, reason: str) -> None:
        self._resumes = now + _PAUSE
        if not self._logged:
            logger.error("local disk for usage rows %s: answers wait for the table", reason)
        self._logged = True
