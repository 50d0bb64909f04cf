"""Usage as rows that survive a crash: an intent when a call is admitted, its end before the caller has the last byte.

Both halves are merges of disjoint properties into one row, so retries, lost answers and reordering neither lose nor
double anything. How rows are written is `group_commit.py`'s.
"""

import asyncio
import functools
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from shared import ulid
from shared.config.document import Durability
from shared.storage import Store, Value
from shared.token_classes import TOKEN_CLASSES
from shared.types import Attempt, Call, Consumer, Outcome, Target, Usage
from shared.usage import rollup
from shared.usage._group_commit import GroupCommit
from shared.usage.overflow import Overflow

_WEIGHT = 0.05  # of the newest prompt in an average
_MOST_EXPERIENCES = 10_000
SHARDS = 16  # partitions an hour; an instance writes to one of them, so that its rows share a transaction
# Seconds that a row may wait for company. A quick call needs no more than one write then; where no answer waits for its
# row, a busy instance needs a write a second.
_LINGER: dict[Durability, float] = {"committed": 0.1, "deferred": 1.0}

# The property of each field of `Usage`; one that is zero or empty takes no bytes. Sums are kept by `rollup.py`.
_PROPERTIES = {field: tokens.row for field, tokens in TOKEN_CLASSES.items()} | {
    "images": "e_images",
    "seconds": "e_seconds",
    "characters": "e_chars",
    "model": "e_served",
    "service_tier": "e_tier",
    "estimated": "e_est",
}
_IN_ORDER = tuple(_PROPERTIES[field] for field in Usage.__struct_fields__)
_ALWAYS = frozenset(("e_input", "e_output"))
_WHOSE = ("s_key", "s_team", "s_product", "s_system", "s_model", "s_ts")  # what rows of the same call have in common


class Entry(msgspec.Struct, frozen=True):
    """Where the row of a call stands, and what it began with."""

    table: str
    partition: str
    request_id: str
    intent: dict[str, Value] = {}
    rough: int = 0  # tokens of the prompt, estimated by its length alone


class _Experience(msgspec.Struct):
    """How many tokens the prompts of one key to one model had for each that their length made expect."""

    factor: float = 1.0
    calls: int = 0

    def learn(self, tokens: int, rough: int) -> None:
        self.calls += 1
        self.factor += max(_WEIGHT, 1 / self.calls) * (tokens / rough - self.factor)


@functools.lru_cache(maxsize=4)
def _place(hour: int, shard: int) -> tuple[str, str]:
    """The table and the partition of an hour since 1970."""
    start = datetime.fromtimestamp(hour * 3600, UTC)
    return f"usage{start:%Y%m}", f"{start:%Y%m%d%H}-{shard:02d}"


class Ledger:
    """Notes what calls took. One per process; `clock` is monotonic. `overflow`: where rows go that the table does not
    take; without one they wait in memory."""

    def __init__(
        self,
        store: Store,
        durability: Durability = "committed",
        overflow: Overflow | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = store.now
        self._deferred = durability == "deferred"
        late = functools.partial(rollup.note_late, store)
        self._rows = GroupCommit(store, overflow, _LINGER[durability], clock, late)
        self.instance = ulid.new(store.now())[-10:]
        self._experiences: dict[tuple[Value, Value], _Experience] = {}
        self._shard = int.from_bytes(os.urandom(2)) % SHARDS

    @property
    def backlog(self) -> int:
        """Rows that are neither in the table nor on disk yet."""
        return self._rows.backlog

    @property
    def spilled(self) -> int:
        """Rows that went to disk since the start."""
        return self._rows.spilled

    @property
    def dropped(self) -> int:
        """Rows given up since the start."""
        return self._rows.dropped

    def open(self, request_id: str, consumer: Consumer, call: Call, model: str) -> Entry:
        """Note that a call was admitted. Returns at once; the row follows."""
        now = self._now()
        intent: dict[str, Value] = {
            "s_key": consumer.id,
            "s_model": model,
            "s_op": call.operation.name,
            "s_prompt": self._expected(consumer.id, model, call.input_estimate),
            "s_max": call.max_output_tokens or 0,
            "s_ts": now,
            "s_inst": self.instance,
        }
        if consumer.team:
            intent["s_team"] = consumer.team
        if consumer.product:
            intent["s_product"] = consumer.product
        if call.system:
            intent["s_system"] = call.system
        entry = Entry(*_place(int(now // 3600), self._shard), request_id, intent, call.input_estimate)
        self._rows.add(entry.table, entry.partition, request_id, intent)
        self._rows.soon()
        return entry

    def close(self, entry: Entry, outcome: Outcome) -> asyncio.Future[None]:
        """Note how a call ended. Returns at once; the future is done when the row is in the table. It is done early
        when the table has failed for 2 s, and from the beginning when durability is deferred: answers then go out at
        once, and their rows follow when they can."""
        end = _usage_properties(outcome.usage)
        end["e_status"] = outcome.status
        end["e_ended"] = outcome.ended
        end["e_attempts"] = len(outcome.attempts)
        end["e_ttft"] = outcome.first_byte_ms
        end["e_ms"] = outcome.total_ms
        if outcome.served_by is not None:
            _tell_target(end, outcome.served_by)
            self._learn(entry, outcome.usage)
        batch = self._rows.add(entry.table, entry.partition, entry.request_id, end)
        if self._deferred:
            self._rows.soon()
            done = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done
        self._rows.at_once()
        return self._rows.written(batch)

    def charge(self, entry: Entry, number: int, attempt: Attempt) -> None:
        """Note what a try of a call was charged that did not answer the caller, in a row of its own beside the call's.

        `number` is the try's own within the call. Returns at once; nothing waits for the row."""
        if attempt.usage is None:
            return
        row = {name: entry.intent[name] for name in _WHOSE if name in entry.intent}
        row |= _usage_properties(attempt.usage)
        row["e_role"] = attempt.role
        row["e_status"] = attempt.status
        row["e_ms"] = round(attempt.milliseconds)
        _tell_target(row, attempt.target)
        self._rows.add(entry.table, entry.partition, f"{entry.request_id}-{number}", row)
        self._rows.soon()

    def _expected(self, key: str, model: str, rough: int) -> int:
        """Tokens of a prompt, should this instance not live to hear them."""
        known = self._experiences.get((key, model))
        return rough if known is None else round(rough * known.factor)

    def _learn(self, entry: Entry, usage: Usage) -> None:
        if usage.estimated or not usage.input_tokens or not entry.rough:
            return
        place = entry.intent["s_key"], entry.intent["s_model"]
        known = self._experiences.get(place)
        if known is None:
            if len(self._experiences) >= _MOST_EXPERIENCES:
                self._experiences.clear()
            known = self._experiences[place] = _Experience()
        known.learn(usage.input_tokens, entry.rough)

    async def recover(self) -> None:
        """Write what processes before this one have left on disk."""
        await self._rows.recover()

    async def stop(self, patience: float = 10.0) -> None:
        """Write what is left. What the table does not take in this time goes to disk, or is reported as lost."""
        await self._rows.stop(patience)


def _usage_properties(usage: Usage) -> dict[str, Value]:
    """The token classes of a row. Input and output stand there always, the others where they are not zero."""
    values = zip(_IN_ORDER, msgspec.structs.astuple(usage), strict=True)
    properties: dict[str, Value] = {name: value for name, value in values if value or name in _ALWAYS}
    if properties.get("e_tier") == "default":
        del properties["e_tier"]
    return properties


def _tell_target(row: dict[str, Value], target: Target) -> None:
    row["e_backend"] = target.backend.name
    row["e_region"] = target.backend.region
    row["e_model"] = target.model
    row["e_deployment"] = target.deployment
