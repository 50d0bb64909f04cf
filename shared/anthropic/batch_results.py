"""Reads a batch of messages and its results: whether it has ended, what its requests used, what they made. No I/O."""

from collections import Counter
from typing import Any

import msgspec

from shared.azure_openai import references
from shared.azure_openai.json_body import UNREADABLE, reader
from shared.azure_openai.usage_objects import UsageObject
from shared.token_classes import TOKEN_CLASSES, UNITS
from shared.types import BATCH, Reference, Usage, long_context

RESULTS = "messages.batches.results"  # the operation
_ENDED = "ended"
_COUNTED = (*TOKEN_CLASSES, *(name for name in UNITS if name in Usage.__struct_fields__))
_LONGEST_LINE = 128 * 1024 * 1024  # bytes; no answer of a model is as long


class BatchState(msgspec.Struct, frozen=True):
    """A batch as its backend reports it."""

    processing_status: str = ""
    request_counts: dict[str, Any] = {}
    archived_at: str | None = None

    @property
    def ended(self) -> bool:
        return self.processing_status == _ENDED

    @property
    def requests(self) -> int:
        return sum(count for count in self.request_counts.values() if isinstance(count, int))

    @property
    def succeeded(self) -> int:
        """The number of those that are charged."""
        count = self.request_counts.get("succeeded")
        return count if isinstance(count, int) else 0


state_of = reader(BatchState)  # of the body of a batch


class _Message(msgspec.Struct):
    model: Any = None
    usage: UsageObject | None = None


class _Result(msgspec.Struct):
    type: str = ""
    message: _Message | None = None


class _Line(msgspec.Struct):
    result: _Result


_decode_line = msgspec.json.Decoder(_Line).decode


class BatchResults:
    """Sums the usage of results while they arrive: `feed` each piece, then `finish`. `lines`: the results so far;
    `objects`: those that the answers have made. Raises `ValueError` for a line that cannot be read."""

    def __init__(self) -> None:
        self.lines = 0
        self.objects: dict[Reference, None] = {}
        self._line = bytearray()
        self._sums: dict[tuple[str, str, bool], Counter[str]] = {}

    def feed(self, piece: bytes) -> None:
        *lines, rest = piece.split(b"\n")
        for line in lines:
            self._line += line
            self._take(bytes(self._line))
            self._line.clear()
        self._line += rest
        if len(self._line) > _LONGEST_LINE:
            raise ValueError("a result is too long")

    def finish(self) -> None:
        """Read a last line that has no end."""
        self.feed(b"\n")

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            result = _decode_line(line).result
        except UNREADABLE as error:
            raise ValueError(f"a result cannot be read: {error}") from None
        self.lines += 1
        if (message := result.message) is None or message.usage is None:
            return  # it has failed, was canceled or has expired
        message.usage.service_tier = BATCH
        usage = message.usage.value(message.model)
        long = usage.input_tokens > long_context(usage.model)
        sums = self._sums.setdefault((usage.model, usage.service_tier, long), Counter())
        for name in _COUNTED:
            if amount := getattr(usage, name):
                sums[name] += amount
        self.objects |= dict.fromkeys(references.in_answer(line, RESULTS))

    def usages(self) -> tuple[Usage, ...]:
        """The usage by the parts of its price: the model, where it ran, and whether its context was long."""
        return tuple(
            Usage(model=model, service_tier=tier, summed=True, long=long, **sums)  # type: ignore[arg-type]
            for (model, tier, long), sums in sorted(self._sums.items())
        ) or (Usage(service_tier=BATCH, summed=True),)
