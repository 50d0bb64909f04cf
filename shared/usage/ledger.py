"""Records usage in rows that survive a crash: an intent when a call is admitted, its end before the last byte is sent.

Both halves are merges of disjoint properties into one row, so retries, lost answers and reordering neither lose nor
duplicate anything. `_group_commit.py` writes the rows.
"""

import asyncio
import functools
import logging
import os
import time
from collections.abc import Callable, Sequence

import msgspec

from shared import ulid
from shared.config.document import Durability
from shared.errors import GatewayError
from shared.storage import Store, Value
from shared.token_classes import TOKEN_CLASSES, UNITS
from shared.types import Attempt, Call, Consumer, Outcome, Target, Usage
from shared.usage import hours, rollup
from shared.usage._group_commit import Batch, GroupCommit
from shared.usage.overflow import Overflow
from shared.usage.refusals import Refusals
from shared.usage.token_averages import Size, TokenAverages

_MOST_AVERAGES = 10_000
_MOST_TRIES = 30  # of one call, that are described
_PARTS = 200  # the number of a batch's first part among the charges of its call: higher than a shadow's
_MOST_PARTS = 100  # rows of one transaction
_MOST_UNKNOWN = 100  # classes of tokens that are logged
logger = logging.getLogger("tollgate.ledger")

_NO_AVERAGES = TokenAverages(prior=1)
SHARDS = 16  # partitions per hour; an instance writes to one of them, so its rows share transactions
# Seconds that a row waits for others. A quick call then needs one write, and a busy instance whose answers do not wait
# for their rows needs one write per second.
_LINGER: dict[Durability, float] = {"committed": 0.1, "recorded": 0.5, "deferred": 1.0}

# The property of each field of `Usage`. Zero and empty values are not stored.
_PROPERTIES = {field: tokens.row for field, tokens in (TOKEN_CLASSES | UNITS).items()} | {
    "model": "e_served",
    "service_tier": "e_tier",
    "estimated": "e_est",
    "summed": "e_sum",
    "long": "e_long",
    "empty": "e_empty",
    "unknown": "e_unknown",
}
# Properties that all rows of a call share.
_WHOSE = ("s_key", "s_team", "s_product", "s_system", "s_user", "s_model", "s_ts")


class Place(msgspec.Struct, frozen=True):
    """The place of a call's row, with the properties of its first half: with it, another process can complete the
    row."""

    table: str
    partition: str
    request_id: str
    intent: dict[str, Value]


class Entry(Place, frozen=True):
    """A row under way. `size`: of the prompt; `batch`: with the intent."""

    size: Size
    batch: Batch

    @property
    def place(self) -> Place:
        return Place(self.table, self.partition, self.request_id, self.intent)


@functools.lru_cache(maxsize=4)
def _place(hour: int, shard: int) -> tuple[str, str]:
    """The table and the partition of an hour since 1970."""
    return hours.raw_table(hour), f"{hours.label(hour)}-{shard:02d}"


class Ledger:
    """The usage records of one process, whose `rows` are written in the background. `clock` is monotonic. Without an
    `overflow` on disk, rows that the table does not accept wait in memory."""

    def __init__(
        self,
        store: Store,
        durability: Durability = "committed",
        overflow: Overflow | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._now = store.now
        self._durability = durability
        self._late = functools.partial(rollup.note_late, store)
        journaled = durability == "recorded"
        self.rows = GroupCommit(store, overflow, _LINGER[durability], clock, self._late, journaled=journaled)
        self.instance = ulid.new(store.now())[-10:]
        self._averages: dict[tuple[Value, Value, Value], TokenAverages] = {}
        self._unknown: frozenset[str] = frozenset()
        self.reasoning: set[str] = set()  # models whose answers have reported reasoning
        self._shard = int.from_bytes(os.urandom(2)) % SHARDS
        self._refusals = Refusals(self._add_to_hour, store.now, clock)

    def begin(self, request_id: str, consumer: Consumer, call: Call, model: str) -> Entry:
        """Record that a call was admitted. Returns at once; the row follows, at once if its answer will wait for it."""
        now, size = self._now(), Size(4 * call.input_estimate)
        intent: dict[str, Value] = {
            "s_key": consumer.id,
            "s_model": model,
            "s_op": call.operation.name,
            # Used if this instance crashes before the call ends.
            "s_prompt": round(self._averages.get((consumer.id, model, call.operation.name), _NO_AVERAGES).input(size)),
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
        if call.user:
            intent["s_user"] = call.user
        place = _place(int(now // hours.HOUR), self._shard)
        batch = self.rows.add(*place, request_id, intent)
        if self._durability == "recorded":
            self.rows.at_once()
        else:
            self.rows.soon()
        return Entry(*place, request_id, intent, size, batch)

    def expected(self, entry: Entry, size: Size) -> tuple[int, int]:
        """The tokens of the prompt and of all answers of a call of this size, by the key's such calls so far."""
        key = entry.intent["s_key"], entry.intent["s_model"], entry.intent["s_op"]
        averages = self._averages.get(key, _NO_AVERAGES)
        return round(averages.input(size)), round(averages.expected_output * size.answers)

    def end(self, entry: Entry, outcome: Outcome, *, goes_on: bool = False) -> asyncio.Future[None]:
        """Record the end of a call. Returns at once; the future is done when the row is in the table. `goes_on`: its
        usage is not known yet, and is left to `complete`.

        It is done earlier if the table has failed for 2 s, and at once if durability is `deferred`, or if it is
        `recorded` and the row is on the local disk; without that disk, it is done when the intent is in the table."""
        end = {} if goes_on else _usage_properties(outcome.usage)
        end["e_status"] = outcome.status
        end["e_ended"] = outcome.ended
        end["e_attempts"] = len(outcome.attempts)
        end["e_ttft"] = outcome.first_byte_ms
        end["e_ms"] = outcome.total_ms
        if outcome.code:
            end["e_code"] = outcome.code
        if len(outcome.attempts) > 1 or (outcome.attempts and outcome.attempts[0].problem):
            end["e_tries"] = _tries(outcome.attempts)
        if outcome.usage.unknown:
            self._note_unknown(outcome.usage.unknown)
        if outcome.served_by is not None:
            _add_target(end, outcome.served_by)
            self._learn(entry, outcome.usage)
            if outcome.usage.reasoning_tokens and not outcome.usage.estimated:
                self.reasoning.add(outcome.served_by.model)
        if goes_on:  # a model that its answer names, `complete` has
            end = {name: value for name, value in end.items() if value != ""}
        batch = self.rows.add(entry.table, entry.partition, entry.request_id, end)
        if self._durability == "committed":
            self.rows.at_once()
            return self.rows.written(batch)
        self.rows.soon()
        # On disk the whole row, because the intent may not be in the table either.
        whole = entry.intent | end
        if self._durability == "recorded" and not self.rows.keep(batch, entry.request_id, whole):
            return self.rows.written(entry.batch)
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def charge(self, entry: Entry, number: int, attempt: Attempt) -> None:
        """Record an attempt that was charged but did not answer the caller, in a separate row. Without a charge, do
        nothing.

        `number` identifies the attempt within the call. Returns at once; no answer waits for the row."""
        if attempt.usage is None:
            return
        row = {name: entry.intent[name] for name in _WHOSE if name in entry.intent}
        row |= _usage_properties(attempt.usage)
        row["e_role"] = attempt.role
        row["e_status"] = attempt.status
        row["e_ms"] = round(attempt.milliseconds)
        _add_target(row, attempt.target)
        self._add(entry, f"{entry.request_id}-{number}", row)

    def correct(self, entry: Entry, outcome: Outcome) -> None:
        """Replace the estimated tokens of an ended call, and of its charges, with what was counted. Returns at once.

        `e_counted` makes a fold of the corrected rows outrank one of the estimates."""
        usages = {entry.request_id: outcome.usage} | {
            f"{entry.request_id}-{number}": attempt.usage
            for number, attempt in enumerate(outcome.attempts, 1)
            if attempt.usage is not None
        }
        for key, usage in usages.items():
            if usage.estimated:
                self._add(entry, key, _usage_properties(usage) | {"e_counted": True})

    def _add(self, entry: Entry, key: str, row: dict[str, Value]) -> None:
        """Add a row, or a part of one, that no answer waits for."""
        self.rows.keep(self.rows.add(entry.table, entry.partition, key, row), key, row)
        self.rows.soon()

    async def complete(self, place: Place, charges: Sequence[tuple[Usage, Target | None]], status: int) -> None:
        """Record the usage of a call whose work went on after its end: that in its own row, and each further part in a
        row beside it. Returns when the rows are in the table, and their hour is to be folded again if that is past.
        Raises `StoreUnavailable`.

        The rows are the same whichever process completes them, and however often: so they are complete even if the
        process that served the call has died."""
        rows: dict[str, dict[str, Value]] = {}
        whose = {name: place.intent[name] for name in _WHOSE if name in place.intent}
        for number, (usage, target) in enumerate(charges[:_MOST_PARTS]):
            row = (whose | {"e_role": "part"} if number else place.intent) | _usage_properties(usage)
            row |= {"e_status": status, "e_counted": True}
            if target is not None:
                _add_target(row, target)
            rows[f"{place.request_id}-{_PARTS + number}" if number else place.request_id] = row
        await self._store.table(place.table).merge(place.partition, rows)
        if hours.hour_of(self._now()) != hours.from_label(place.partition[:10]):
            await self._late(place.partition)

    def refuse(self, request_id: str, consumer: Consumer | None, model: str, error: GatewayError, call: str) -> None:
        """Record that a call was refused before it was on record. Returns at once. See `Refusals.note`."""
        self._refusals.note(request_id, consumer, model, error, call)

    def _add_to_hour(self, hour: int, key: str, row: dict[str, Value]) -> None:
        self.rows.add(*_place(hour, self._shard), key, row)
        self.rows.soon()

    def _note_unknown(self, classes: str) -> None:
        names = frozenset(msgspec.json.decode(classes)) - self._unknown
        if names and len(self._unknown) < _MOST_UNKNOWN:
            self._unknown |= names
            logger.warning("unknown classes of tokens are kept in e_unknown, unpriced: %s", ", ".join(sorted(names)))

    def _learn(self, entry: Entry, usage: Usage) -> None:
        if entry.size.text and usage.input_tokens and not (usage.estimated or usage.summed):
            key = entry.intent["s_key"], entry.intent["s_model"], entry.intent["s_op"]
            if key not in self._averages and len(self._averages) >= _MOST_AVERAGES:  # an LruDict costs 1 µs a call
                self._averages.clear()
            self._averages[key] = self._averages.get(key, _NO_AVERAGES).learn(entry.size, usage)

    async def close(self, seconds: float = 10.0) -> None:
        """Write the remaining rows. Those not written in this time go to disk, or are logged as lost."""
        self._refusals.write()
        await self.rows.close(seconds)


def _tries(attempts: Sequence[Attempt]) -> str:
    """The attempts as JSON, for calls with more than one, or with one that failed."""
    tries = [
        (a.target.backend.name, a.target.model, a.target.deployment, a.role, a.status, a.problem, round(a.milliseconds))
        for a in attempts[-_MOST_TRIES:]
    ]
    return msgspec.json.encode(tries).decode()


def _usage_properties(usage: Usage) -> dict[str, Value]:
    """The usage of a row: input and output always, other values unless zero."""
    fields = msgspec.to_builtins(usage).items()
    properties: dict[str, Value] = {_PROPERTIES[name]: value for name, value in fields}
    properties.setdefault("e_input", 0)
    properties.setdefault("e_output", 0)
    if usage.service_tier == "default":
        del properties["e_tier"]
    return properties


def _add_target(row: dict[str, Value], target: Target) -> None:
    row["e_backend"] = target.backend.name
    row["e_region"] = target.backend.region
    row["e_model"] = target.model
    row["e_deployment"] = target.deployment
