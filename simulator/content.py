"""The bytes of a file: kept in memory while they are few, beyond that on disk, and read in pieces."""

import hashlib
import tempfile
from collections.abc import Iterator
from typing import IO

IN_MEMORY = 1_048_576
PIECE = 65_536


class Content:
    """Bytes that are written once, piece by piece, and read as often as wanted. It is gone with its last reference."""

    def __init__(self, data: bytes = b"") -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - it lives as long as this
        self._hash = hashlib.sha256()
        self.size = 0
        if data:
            self.write(data)

    def write(self, data: bytes) -> None:
        self._file.seek(self.size)
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def append(self, other: "Content") -> None:
        for piece in other.pieces():
            self.write(piece)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def pieces(self) -> Iterator[bytes]:
        place = 0
        while place < self.size:
            self._file.seek(place)
            piece = self._file.read(PIECE)
            place += len(piece)
            yield piece

    def read(self, most: int = IN_MEMORY) -> bytes:
        """The beginning of it, all where it is not long."""
        self._file.seek(0)
        return self._file.read(most)
