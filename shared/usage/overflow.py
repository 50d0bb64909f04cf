"""Keeps usage rows on the local disk while the table is unavailable, and reads them back when it answers.

All calls block, so call them from a thread. They never raise `OSError`: a disk error is logged once, and rows stay in
memory.
"""

import contextlib
import logging
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from shared.usage._row_files import Group, RowFile, RowFiles, record

logger = logging.getLogger("tollgate.ledger")


class Overflow:
    """The file of this process in `directory`, and those that others have left there."""

    def __init__(self, directory: Path, account: str, most_bytes: int) -> None:
        self.files = RowFiles(directory, account, most_bytes)
        self._own: RowFile | None = None
        self._left: list[RowFile] = []  # files of processes that ended
        self._end = 0  # of the records that `next` returned
        self._lock = threading.Lock()
        self._logged = False

    def adopt(self) -> bool:
        """Take over the files of processes that ended. Return True if there is something to read."""
        with self._lock, self._logging_errors():
            self._left += self.files.adopt()
        return bool(self._left)

    def append(self, groups: Iterable[Group]) -> int:
        """Keep these groups in order. Return the number for which there was room."""
        stored = 0
        with self._lock, self._logging_errors():
            own = self._own = self._own or self.files.create("a-overflow")
            for group in groups:
                data = record(group)
                if not self.files.has_room(len(data)):
                    if not self._logged:
                        logger.error(
                            "the overflow of usage rows in %s is full (%d bytes)",
                            self.files.directory, self.files.most_bytes,
                        )  # fmt: skip
                    self._logged = True
                    break
                own.append(data, sync=True)
                stored += 1
        return stored

    def next(self) -> Group | None:
        """The oldest rows of one transaction, the same until `advance`. None if there are none; then the files are
        deleted."""
        with self._lock, self._logging_errors():
            while (file := self._oldest()) is not None:
                if (read := file.read()) is not None:
                    group, self._end = read
                    return group
                self._finish(file)
        return None

    def advance(self) -> None:
        """Mark the group that `next` returned as written."""
        with self._lock:
            if (file := self._oldest()) is not None:
                file.place = self._end

    def close(self) -> None:
        """Leave unread rows to the next process."""
        with self._lock, self._logging_errors():
            for file in (*self._left, *([self._own] if self._own else ())):
                if file.place >= file.size:
                    self.files.delete(file)
                else:
                    self.files.release(file)
            self._left, self._own = [], None

    def _oldest(self) -> RowFile | None:
        if self._left:
            return self._left[0]
        return self._own if self._own is not None and self._own.size else None

    def _finish(self, file: RowFile) -> None:
        """Delete or empty a file that was read to its end, or to a damaged record, which is logged."""
        if file.place < file.size:
            logger.error(
                "cannot read %d bytes at the end of %s, whose rows are lost: a process was killed while writing it, or "
                "the disk is damaged",
                file.size - file.place, file.path,
            )  # fmt: skip
        if file is self._own:
            file.empty()
        else:
            self._left.remove(file)
            self.files.delete(file)
        self._logged = False

    @contextlib.contextmanager
    def _logging_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._logged:
                logger.error("cannot keep usage rows on disk: %s", error)
            self._logged = True
