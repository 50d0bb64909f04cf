"""Usage rows on the local disk while the table is out of reach: appended, and read back once it answers.

One file per process, `*.rows`, in a directory that only its owner may enter. A record is its length, its checksum and
the rows of one partition; what a crash left unfinished at the end of a file is told by the checksum. A process holds a
lock on its file for as long as it lives, so that the next one to start knows which files have lost their owner, and
takes them over. Rows may be read twice, after a crash in the middle of reading: merging them again changes nothing.

Blocking, to be called from a thread. Nothing here raises `OSError`: a disk that fails is told once, and rows stay
where they are.
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

from shared.storage import Value

logger = logging.getLogger("tollgate.ledger")

_HEAD = struct.Struct("<II")  # length and CRC-32 of what follows
_LONGEST = 16 * 1024 * 1024  # bytes of a record; a longer one is no record


class Group(msgspec.Struct, frozen=True, array_like=True):
    """Rows of one partition, by their keys."""

    table: str
    partition: str
    rows: dict[str, dict[str, Value]]


_decode = msgspec.msgpack.Decoder(Group).decode


class _File:
    """An open file that this process has locked. `place`: where the next record to be read begins."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.place = 0
        self.size = os.fstat(descriptor).st_size

    def append(self, data: bytes) -> None:
        """All of it, or none: half a record in the middle would hide those behind it."""
        try:
            if os.write(self.descriptor, data) != len(data):
                raise OSError("the disk is full")
            os.fdatasync(self.descriptor)
        except OSError:
            os.ftruncate(self.descriptor, self.size)
            raise
        self.size += len(data)

    def read(self) -> tuple[Group, int] | None:
        """The record at `place` and where it ends. None at the end of what can be read."""
        head = os.pread(self.descriptor, _HEAD.size, self.place)
        if len(head) < _HEAD.size:
            return None
        length, checksum = _HEAD.unpack(head)
        data = os.pread(self.descriptor, length, self.place + _HEAD.size) if length <= _LONGEST else b""
        if len(data) < length or zlib.crc32(data) != checksum:
            return None
        try:
            return _decode(data), self.place + _HEAD.size + length
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None


class Overflow:
    """The files of one storage account in `directory`, with at most `most_bytes` in them.

    Each account, and each user, has a directory of its own below it: rows must never go to another account's tables."""

    def __init__(self, directory: Path, account: str, most_bytes: int) -> None:
        self._directory = directory / f"tollgate-{os.getuid()}-{hashlib.sha256(account.encode()).hexdigest()[:16]}"
        self._most = most_bytes
        self._own: _File | None = None
        self._left: list[_File] = []  # files of processes that are no more
        self._end = 0  # of the record that `next` gave
        self._lock = threading.Lock()
        self._told = False

    def adopt(self) -> bool:
        """Take over what dead processes have left; whether there is something to be read."""
        with self._lock, self._telling():
            if self._directory.is_dir() and self._is_private():
                for path in sorted(self._directory.glob("*.rows")):
                    if (file := _open(path, os.O_RDWR)) is not None:
                        self._left.append(file)
        return bool(self._left)

    def append(self, groups: Iterable[Group]) -> int:
        """Keep these groups, in their order; how many of them there was room for."""
        stored = 0
        with self._lock, self._telling():
            own = self._own or self._create()
            for group in groups:
                data = msgspec.msgpack.encode(group)
                record = _HEAD.pack(len(data), zlib.crc32(data)) + data
                if sum(file.size for file in (own, *self._left)) + len(record) > self._most:
                    if not self._told:
                        logger.error("the overflow of usage rows in %s is full (%d bytes)", self._directory, self._most)
                    self._told = True
                    break
                own.append(record)
                stored += 1
        return stored

    def next(self) -> Group | None:
        """The oldest group that is kept; the same one until `advance`. None when there is none: the files are gone."""
        with self._lock, self._telling():
            while (file := self._oldest()) is not None:
                if (found := file.read()) is not None:
                    self._end = found[1]
                    return found[0]
                self._finish(file)
        return None

    def advance(self) -> None:
        """The group that `next` gave is in the table."""
        with self._lock:
            if (file := self._oldest()) is not None:
                file.place = self._end

    def close(self) -> None:
        """Leave what is not read yet to the next process."""
        with self._lock, self._telling():
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
        """A file is read to its end, or to where it is damaged, which is told."""
        if file.place < file.size:
            logger.error(
                "%d bytes at the end of %s cannot be read: a process that was killed there, or a damaged disk; the "
                "rows in them are lost",
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
        self._told = False

    def _create(self) -> _File:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._is_private():
            raise OSError(f"{self._directory} belongs to somebody else, or is open to others")
        while self._own is None:
            path = self._directory / f"{os.getpid()}-{secrets.token_hex(4)}.rows"
            self._own = _open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        return self._own

    def _is_private(self) -> bool:
        """Others must neither read the rows nor lay their own in the way: a temporary directory is everybody's."""
        about = self._directory.lstat()
        return stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o077

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._told:
                logger.error("usage rows cannot be kept on disk: %s", error)
            self._told = True


def _open(path: Path, flags: int) -> _File | None:
    """The file, locked; None when another process holds it, or has just removed it."""
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
