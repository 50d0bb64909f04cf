"""Counts calls that were refused before they were on record, and keeps a row of some of them.

A flood of refusals must not become a flood of rows. So a process adds up what it refuses by consumer, product, model
and code, and writes the sums every ten seconds at most, as one row with a new key: rows are never overwritten, so none
is lost or counted twice when some wait on disk. A crash loses the sums of these seconds. In addition, at most ten rows
a second describe single calls of known consumers, so that they can be looked up by their ids.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from shared import ulid
from shared.errors import GatewayError
from shared.storage import Value
from shared.types import Consumer

SUMS = "r_sums"  # the property of a row with sums
OTHERS = "*"
_FIRST, _EVERY = 1.0, 10.0  # seconds until the sums of the first refusal are written, and between later ones
_MOST_SUMS = 80  # of one row; beyond, they are summed by code only. A property holds 32,000 characters
_PER_SECOND, _OF_ONE_CONSUMER = 10, 3  # rows of single calls
_LONGEST_MESSAGE = 500  # characters

Add = Callable[[int, str, dict[str, Value]], None]
"""Adds a row to an hour."""


class Refused(msgspec.Struct, frozen=True, array_like=True):
    """The dimensions of the sums. "": unknown, or none."""

    key: str
    team: str
    product: str
    model: str
    code: str


class Refusals:
    """Of one process. `clock` is monotonic."""

    def __init__(self, add: Add, now: Callable[[], float], clock: Callable[[], float]) -> None:
        self._add = add
        self._now = now
        self._clock = clock
        self._sums: dict[Refused, int] = {}
        self._hour = 0  # that the sums are of
        self._written_at = -_EVERY
        self._timer: asyncio.TimerHandle | None = None
        self._second = 0
        self._rows: Counter[str] = Counter()  # of this second, by consumer

    def note(self, request_id: str, consumer: Consumer | None, model: str, error: GatewayError, call: str) -> None:
        """A call was refused. `model`: its configured name; `call`: its method and path. Returns at once."""
        now = self._now()
        hour = int(now // 3600)
        if hour != self._hour:
            self.write()
            self._hour = hour
        key, team, product = (consumer.id, consumer.team, consumer.product) if consumer is not None else ("", "", "")
        refused = Refused(key, team, product, model, error.code)
        if refused not in self._sums and len(self._sums) >= _MOST_SUMS:
            refused = Refused(OTHERS, OTHERS, OTHERS, OTHERS, error.code)
        self._sums[refused] = self._sums.get(refused, 0) + 1
        if self._timer is None:
            wait = max(_FIRST, self._written_at + _EVERY - self._clock())
            self._timer = asyncio.get_running_loop().call_later(wait, self.write)
        if consumer is not None and self._may_describe(consumer.id, int(now)):
            self._add(hour, request_id, _row(refused, key, model, error, call, now))

    def write(self) -> None:
        """Hand over the sums so far."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sums:
            sums = [[*msgspec.structs.astuple(refused), count] for refused, count in self._sums.items()]
            self._add(self._hour, f"refused-{ulid.new(self._now())}", {SUMS: msgspec.json.encode(sums).decode()})
            self._sums = {}
            self._written_at = self._clock()

    def _may_describe(self, consumer_id: str, second: int) -> bool:
        if second != self._second:
            self._second = second
            self._rows.clear()
        if self._rows.total() >= _PER_SECOND or self._rows[consumer_id] >= _OF_ONE_CONSUMER:
            return False
        self._rows[consumer_id] += 1
        return True


def sums_of(row: Mapping[str, Any]) -> Iterator[tuple[Refused, int]]:
    """The sums of a row."""
    for *names, count in msgspec.json.decode(row[SUMS], type=list[tuple[str, str, str, str, str, int]]):
        yield Refused(*names), count


def _row(refused: Refused, key: str, model: str, error: GatewayError, call: str, now: float) -> dict[str, Value]:
    """The row of a single call. It has another prefix than those that are on record, so that no fold counts it."""
    row: dict[str, Value] = {
        "r_key": key,
        "r_team": refused.team,
        "r_product": refused.product,
        "r_model": model,
        "r_status": error.status,
        "r_code": error.code,
        "r_message": _printable(error.message[:_LONGEST_MESSAGE]),
        "r_call": _printable(call[:_LONGEST_MESSAGE]),
        "r_ts": now,
    }
    return {name: value for name, value in row.items() if value != ""}


def _printable(text: str) -> str:
    """A text that a caller may have written, without what a table may not take: controls, halves of characters and
    noncharacters."""
    return text if text.isprintable() else "".join(one if one.isprintable() else "\ufffd" for one in text)
