"""Files of usage rows on the local disk, which outlive the process that wrote them: `*.rows`, in a directory that only
its owner may enter.

A record is its length, its checksum and the rows of one partition; the checksum detects a record that a crash left
incomplete. A process locks its files while it lives, so the next process takes over files without an owner. After a
crash rows may be read twice: merging them again changes nothing.
"""

import fcntl
import hashlib
import itertools
import os
import secrets
import stat
import struct
import zlib
from pathlib import Path
from typing import Literal

import msgspec

from shared.azure_openai.json_body import UNREADABLE
from shared.storage import MAX_BATCH, Value

_HEAD = struct.Struct("<II")  # length and CRC-32 of what follows
_LONGEST = 16 * 1024 * 1024  # bytes; a longer record is damaged


class Group(msgspec.Struct, frozen=True, array_like=True):
    """Rows of one partition, by their keys."""

    table: str
    partition: str
    rows: dict[str, dict[str, Value]]


_decode = msgspec.msgpack.Decoder(Group).decode


def record(group: Group) -> bytes:
    data = msgspec.msgpack.encode(group)
    return _HEAD.pack(len(data), zlib.crc32(data)) + data


class RowFile:
    """An open file that this process has locked. `place` is the offset of the next record to read; `waiting` counts
    the records whose rows are nowhere else yet."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.place = 0
        self.waiting = 0
        self.broken = False  # it ends with half a record, behind which nothing can be read
        self.size = os.fstat(descriptor).st_size

    def append(self, data: bytes, *, sync: bool) -> None:
        """Append a record whole or not at all: an incomplete one would hide those behind it. `sync`: wait for the disk
        itself, so that it outlives the machine's crash as well."""
        if self.broken:
            raise OSError(f"{self.path} cannot be repaired")
        self.broken = True
        try:
            if os.write(self.descriptor, data) != len(data):
                raise OSError("the disk is full")
            if sync:
                os.fdatasync(self.descriptor)
        except OSError:
            os.ftruncate(self.descriptor, self.size)
            self.broken = False
            raise
        self.broken = False
        self.size += len(data)

    def read(self) -> tuple[Group, int] | None:
        """The rows from `place` on that fit into one transaction, and the end of their records; None if there is no
        readable record."""
        first = self._record(self.place)
        if first is None:
            return None
        group, end = first
        while (following := self._record(end)) is not None:
            more, after = following
            together = {key: group.rows.get(key, {}) | row for key, row in more.rows.items()}
            alike = (more.table, more.partition) == (group.table, group.partition)
            if not alike or len(group.rows.keys() | together.keys()) > MAX_BATCH:
                break
            group.rows.update(together)
            end = after
        return group, end

    def empty(self) -> None:
        os.ftruncate(self.descriptor, 0)
        self.place = self.size = 0
        self.broken = False

    def _record(self, place: int) -> tuple[Group, int] | None:
        head = os.pread(self.descriptor, _HEAD.size, place)
        if len(head) < _HEAD.size:
            return None
        length, checksum = _HEAD.unpack(head)
        data = os.pread(self.descriptor, length, place + _HEAD.size) if length <= _LONGEST else b""
        if len(data) < length or zlib.crc32(data) != checksum:
            return None
        try:
            return _decode(data), place + _HEAD.size + length
        except UNREADABLE:
            return None


class RowFiles:
    """The files of one storage account that this process has open in `directory`, of at most `most_bytes` together.

    Each account and each user has its own subdirectory: rows must never go to another account's tables."""

    def __init__(self, directory: Path, account: str, most_bytes: int) -> None:
        self.directory = directory / f"tollgate-{os.getuid()}-{hashlib.sha256(account.encode()).hexdigest()[:16]}"
        self.most_bytes = most_bytes
        self._open: list[RowFile] = []
        self._numbers = itertools.count(1)
        self._process = f"{os.getpid()}-{secrets.token_hex(4)}"

    def has_room(self, length: int) -> bool:
        return sum(file.size for file in tuple(self._open)) + length <= self.most_bytes

    def create(self, kind: Literal["a-overflow", "b-journal"]) -> RowFile:
        """A new file. An heir reads files by their names: first the overflow, then the journals, the oldest first."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._is_private():
            raise OSError(f"{self.directory} must belong to this user and be closed to others (mode 0700)")
        while True:
            path = self.directory / f"{self._process}-{kind}-{next(self._numbers):08d}.rows"
            if (file := _open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)) is not None:
                self._open.append(file)
                return file

    def adopt(self) -> list[RowFile]:
        """Take over the files of processes that ended."""
        if not (self.directory.is_dir() and self._is_private()):
            return []
        opened = [_open(path, os.O_RDWR) for path in sorted(self.directory.glob("*.rows"))]
        adopted = [file for file in opened if file is not None]
        self._open += adopted
        return adopted

    def delete(self, file: RowFile) -> None:
        try:
            file.path.unlink(missing_ok=True)
        finally:
            self.release(file)

    def release(self, file: RowFile) -> None:
        """Leave a file to the next process."""
        if file in self._open:
            self._open.remove(file)
            os.close(file.descriptor)

    def _is_private(self) -> bool:
        """Others must neither read rows nor plant any: a temporary directory is shared."""
        about = self.directory.lstat()
        return stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o077


def _open(path: Path, flags: int) -> RowFile | None:
    """Open and lock a file. None if another process holds it, or has just deleted it."""
    try:
        descriptor = os.open(path, flags | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            return RowFile(path, descriptor)
    except BlockingIOError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
