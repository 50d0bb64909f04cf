"""Contents of a file: in memory while small, on disk beyond that, and read in pieces."""

import hashlib
import tempfile
from collections.abc import Iterator
from typing import IO

IN_MEMORY = 1_048_576
PIECE = 65_536


class Content:
    """Bytes that are written once, in pieces, and can be read repeatedly. Deleted with the last reference."""

    def __init__(self, data: bytes = b"") -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - closed with this object
        self._hash = hashlib.sha256()
        self.size = 0
        if data:
            self.write(data)

    def write(self, data: bytes) -> None:
        self._file.seek(self.size)
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

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
        """The first `most` bytes."""
        self._file.seek(0)
        return self._file.read(most)
