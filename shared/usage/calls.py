"""Finds single calls among the raw usage rows: one by its id, or the newest that match a filter.

The id of a call, a ULID, has the time of its arrival; its row is in a partition of the hour of its admission, which may
be later. Both kinds of reading are ranges of row keys in the 16 partitions of an hour.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec

from shared import ulid
from shared.storage import Row, Store
from shared.usage import hours
from shared.usage._hour_fold import GRACE, HourFold
from shared.usage.folds import Lines
from shared.usage.ledger import SHARDS

_ID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_BEHIND, _AHEAD = 60, 2400  # seconds: clocks that differ; and bodies that arrive slowly, before a call is admitted
_ROWS_AT_ONCE = 2000  # that a slice of time should have
_SHORTEST, _FIRST, _LONGEST = 1.0, 30.0, 3600.0  # seconds of a slice
_MOST_ROWS = 20_000  # read for one page
_PATIENCE = 8.0  # seconds for one page


class CallRows(msgspec.Struct, frozen=True):
    """The rows of a call: its own, and those of charged attempts that did not answer it."""

    id: str
    own: Row
    charges: list[Row] = []


class CallPage(msgspec.Struct, frozen=True):
    """`after`: the id before which the next page begins; None: there are no more. A page may be short, or empty, and
    have a next one: its reading has a bound."""

    calls: list[CallRows]
    after: str | None


def sums(row: Row, now: float) -> Lines:
    """The sums that a row adds to those of its hour."""
    fold = HourFold(now)
    fold.add(row.properties)
    return fold.result().lines


def state(row: Row, now: float) -> str:
    """The end of a row's call (`types.Outcome`); else that it is `under way`, or was `lost` with its instance."""
    if "r_code" in row.properties:
        return "refused"
    begun = float(row.properties.get("s_ts", 0.0))
    return str(row.properties.get("e_ended", "under way" if now - begun < GRACE else "lost"))


def is_id(text: str) -> bool:
    """True for the id of a call."""
    return _ID.fullmatch(text) is not None


async def find(store: Store, call_id: str) -> CallRows | None:
    """The rows of a call; None if there are none (yet). Raises `StoreUnavailable`."""
    arrived = ulid.seconds(call_id)
    admitted = hours.hour_of(arrived)
    around = dict.fromkeys((admitted, hours.hour_of(arrived - _BEHIND), hours.hour_of(arrived + _AHEAD)))
    for hour in around:
        rows = await _range(store, hour, call_id, f"{call_id}~")
        if calls := list(_grouped(rows)):
            return calls[0]
    return None


async def newest(
    store: Store, since: float, until: float, limit: int, matches: Callable[[Row], bool], before: str = ""
) -> CallPage:
    """The calls that arrived in a period and match, newest first. `before`: an id; only older calls. Raises
    `StoreUnavailable`."""
    loop = asyncio.get_running_loop()
    deadline, read, length = loop.time() + _PATIENCE, 0, _FIRST
    calls: list[CallRows] = []
    end = min(before or _floor(until), _floor(until))
    while end > _floor(since):
        if read >= _MOST_ROWS or loop.time() >= deadline:
            return CallPage(calls, end)
        high = ulid.seconds(end)
        low = max(since, min(high, until) - length)
        first = _floor(low)
        span = range(hours.hour_of(low - _BEHIND), hours.hour_of(high + _AHEAD) + 1)
        parts = await asyncio.gather(*(_range(store, hour, first, end) for hour in span))
        rows = [row for part in parts for row in part]
        for call in sorted(_grouped(rows), key=lambda call: call.id, reverse=True):
            if matches(call.own):
                calls.append(call)
            if len(calls) > limit:
                return CallPage(calls[:limit], calls[limit - 1].id)
        read, end = read + len(rows), first
        length = min(_LONGEST, max(_SHORTEST, length * min(8.0, _ROWS_AT_ONCE / max(1, len(rows)))))
    return CallPage(calls, None)


def _floor(seconds: float) -> str:
    """The lowest id of that time."""
    return ulid.lowest(max(0.0, seconds))


async def _range(store: Store, hour: int, first: str, end: str) -> list[Row]:
    """The rows of an hour in a range of keys."""
    table = store.table(hours.raw_table(hour))

    async def read(scan: AsyncIterator[Row]) -> list[Row]:
        return [row async for row in scan]

    label = hours.label(hour)
    shards = (table.scan(f"{label}-{shard:02d}", first, end) for shard in range(SHARDS))
    return [row for rows in await asyncio.gather(*map(read, shards)) for row in rows]


def _grouped(rows: list[Row]) -> Iterator[CallRows]:
    """The calls among these rows. A charge without its call is left out."""
    charges: dict[str, list[Row]] = {}
    for row in rows:
        if len(row.key) > ulid.LENGTH:
            charges.setdefault(row.key[: ulid.LENGTH], []).append(row)
    for row in rows:
        if len(row.key) == ulid.LENGTH:
            yield CallRows(row.key, row, charges.get(row.key, []))
