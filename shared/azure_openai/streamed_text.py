"""The text of a stream, for an estimate of its tokens."""

_LONGEST_TEXT = 1_000_000  # characters that are kept: more than any model answers


class StreamedText:
    """The text of a stream, as long as it is short enough to be kept."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._characters = 0
        self._pieces = 0

    def add(self, piece: str) -> None:
        self._characters += len(piece)
        self._pieces += 1
        if self._characters <= _LONGEST_TEXT:
            self._parts.append(piece)
            if len(self._parts) > 1000:
                self._parts = ["".join(self._parts)]

    @property
    def begun(self) -> bool:
        return self._pieces > 0

    def tokens(self) -> int:
        """An estimate."""
        return max(self._characters // 4, min(self._pieces, self._characters))

    def whole(self) -> str:
        return "".join(self._parts) if self._characters <= _LONGEST_TEXT else ""
