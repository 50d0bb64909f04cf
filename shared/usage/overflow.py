"""Keeps usage rows on the local disk while the table is unavailable, and reads them back when it answers.

One file per process, `*.rows`, in a directory that only its owner may enter. A record is its length, its checksum and
the rows of one partition; the checksum detects a record that a crash left incomplete. A process locks its file while it
lives, so the next process takes over files without an owner. After a crash rows may be read twice: merging them again
changes nothing.

All calls block, so call them from a thread. They never raise `OSError`: a disk error is logged once, and rows stay in
memory.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import secrets
import stat
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from shared.azure_openai.json_body import UNREADABLE
from shared.storage import Value

logger = logging.getLogger("tollgate.ledger")

_HEAD = struct.Struct("<II")  # length and CRC-32 of what follows
_LONGEST = 16 * 1024 * 1024  # bytes; a longer record is damaged


class Group(msgspec.Struct, frozen=True, array_like=True):
    """Rows of one partition, by their keys."""

    table: str
    partition: str
    rows: dict[str, dict[str, Value]]


_decode = msgspec.msgpack.Decoder(Group).decode


class _File:
    """An open file that this process has locked. `place` is the offset of the next record to read."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.place = 0
        self.size = os.fstat(descriptor).st_size

    def append(self, data: bytes) -> None:
        """Append a record whole or not at all: an incomplete one would hide those behind it."""
        try:
            if os.write(self.descriptor, data) != len(data):
                raise OSError("the disk is full")
            os.fdatasync(self.descriptor)
        except OSError:
            os.ftruncate(self.descriptor, self.size)
            raise
        self.size += len(data)

    def read(self) -> tuple[Group, int] | None:
        """The record at `place` and its end; None if there is no readable record."""
        head = os.pread(self.descriptor, _HEAD.size, self.place)
        if len(head) < _HEAD.size:
            return None
        length, checksum = _HEAD.unpack(head)
        data = os.pread(self.descriptor, length, self.place + _HEAD.size) if length <= _LONGEST else b""
        if len(data) < length or zlib.crc32(data) != checksum:
            return None
        try:
            return _decode(data), self.place + _HEAD.size + length
        except UNREADABLE:
            return None


class Overflow:
    """The files of one storage account in `directory`, of at most `most_bytes` together.

    Each account and each user has its own subdirectory: rows must never go to another account's tables."""

    def __init__(self, directory: Path, account: str, most_bytes: int) -> None:
        self._directory = directory / f"tollgate-{os.getuid()}-{hashlib.sha256(account.encode()).hexdigest()[:16]}"
        self._most = most_bytes
        self._own: _File | None = None
        self._left: list[_File] = []  # files of processes that ended
        self._end = 0  # of the record that `next` returned
        self._lock = threading.Lock()
        self._logged = False

    def adopt(self) -> bool:
        """Take over the files of processes that ended. Return True if there is something to read."""
        with self._lock, self._logging_errors():
            if self._directory.is_dir() and self._is_private():
                for path in sorted(self._directory.glob("*.rows")):
                    if (file := _open(path, os.O_RDWR)) is not None:
                        self._left.append(file)
        return bool(self._left)

    def append(self, groups: Iterable[Group]) -> int:
        """Keep these groups in order. Return the number for which there was room."""
        stored = 0
        with self._lock, self._logging_errors():
            own = self._own or self._create()
            for group in groups:
                data = msgspec.msgpack.encode(group)
                record = _HEAD.pack(len(data), zlib.crc32(data)) + data
                if sum(file.size for file in (own, *self._left)) + len(record) > self._most:
                    if not self._logged:
                        logger.error(
                            "the overflow of usage rows in %s is full (%d bytes)",
                            self._directory,
                            self._most,
                        )
                    self._logged = True
                    break
                own.append(record)
                stored += 1
        return stored

    def next(self) -> Group | None:
        """The oldest group, the same one until `advance`. None if there is none; then the files are deleted."""
        with self._lock, self._logging_errors():
            while (file := self._oldest()) is not None:
                if (record := file.read()) is not None:
                    group, self._end = record
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
                    file.path.unlink(missing_ok=True)
                os.close(file.descriptor)
            self._left, self._own = [], None

    def _oldest(self) -> _File | None:
        if self._left:
            return self._left[0]
        return self._own if self._own is not None and self._own.size else None

    def _finish(self, file: _File) -> None:
        """Delete or empty a file that was read to its end, or to a damaged record, which is logged."""
        if file.place < file.size:
            logger.error(
                "cannot read %d bytes at the end of %s, whose rows are lost: a process was killed while writing it, or "
                "the disk is damaged",
                file.size - file.place,
                file.path,
            )
        if file is self._own:
            os.ftruncate(file.descriptor, 0)
            file.place = file.size = 0
        else:
            self._left.remove(file)
            file.path.unlink(missing_ok=True)
            os.close(file.descriptor)
        self._logged = False

    def _create(self) -> _File:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._is_private():
            raise OSError(f"{self._directory} must belong to this user and be closed to others (mode 0700)")
        while self._own is None:
            path = self._directory / f"{os.getpid()}-{secrets.token_hex(4)}.rows"
            self._own = _open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        return self._own

    def _is_private(self) -> bool:
        """Others must neither read rows nor plant any: a temporary directory is shared."""
        about = self._directory.lstat()
        return stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o077

    @contextlib.contextmanager
    def _logging_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._logged:
                logger.error("cannot keep usage rows on disk: %s", error)
            self._logged = True


def _open(path: Path, flags: int) -> _File | None:
    """Open and lock a file. None if another process holds it, or has just deleted it."""
    try:
        descriptor = os.open(path, flags | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            return _File(path, descriptor)
    except BlockingIOError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
