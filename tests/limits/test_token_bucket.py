"""The arithmetic of limits: a fleet never spends more than one bucket, in any order of events."""

import asyncio
import math
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.config.limits import Limits
from shared.errors import StoreUnavailable
from shared.limits import scopes
from shared.limits._amounts import Amounts, Bound, Bounds
from shared.limits._exchange import Denied
from shared.limits._holding import NO_LEASE, Holding, Lease
from shared.limits._lease import LeasedLimit
from shared.limits._rows import LimitsTable, from_properties, to_properties
from shared.limits._settlement import SettlementScheduler
from shared.limits._token_bucket import LEASE_SECONDS, BucketState, Demand, Exchange, Level, caught_up, exchange, fresh
from shared.storage import Properties
from shared.storage import Row as StoredRow
from tests.harness.memory_store import MemoryStore, MemoryTable

NOW = 1_000_000.0


def per_minute(tokens: float) -> Bounds:
    return (None, Bound(tokens, tokens / 60), None, None)


def of(tokens: float) -> Amounts:
    return Amounts(tokens=tokens)


def ask(
    row: BucketState | None,
    bounds: Bounds,
    *,
    now: float = NOW,
    first: float = 0,
    ahead: float = 0,
    lease: Lease = NO_LEASE,
    owed: float = 0,
    kept: float = 0,
    nonce: str = "n",
    previous: str = "",
) -> Exchange:
    demand = Demand(of(first), of(first), of(ahead), of(kept))
    return exchange(row, bounds, Holding(lease, of(owed), nonce=previous), demand, now, nonce)


def tokens(row: BucketState) -> Level:
    level = row.levels[1]
    assert level is not None
    return level


def test_a_lease_takes_from_the_level_and_counts_as_out() -> None:
    done = ask(None, per_minute(600), first=100)
    assert done.denial is None
    assert done.lease.left.tokens == 100
    assert done.lease.expires == NOW + LEASE_SECONDS
    assert (tokens(done.row).level, tokens(done.row).out) == (500, 100)


def test_an_instance_leases_a_smaller_share_ahead_the_more_instances_there_are() -> None:
    alone = ask(None, per_minute(600), first=10, ahead=10_000)
    assert alone.lease.granted.tokens == 310
    row: BucketState | None = None
    for number in range(15):
        row = ask(row, per_minute(600), first=1, nonce=f"n{number}").row
    among_many = ask(row, per_minute(600), first=1, ahead=10_000, nonce="me")
    assert among_many.lease.granted.tokens == pytest.approx(1 + 585 * 0.5 / 4)


def test_a_returned_lease_is_no_longer_out() -> None:
    first = ask(None, per_minute(600), first=100)
    spent = first.lease.spend(of(30))
    done = ask(first.row, per_minute(600), lease=spent, nonce="m", previous="n")
    assert (tokens(done.row).level, tokens(done.row).out) == (570, 0)


def test_a_bucket_does_not_refill_while_its_tokens_are_out_on_lease() -> None:
    first = ask(None, per_minute(600), first=600)
    later = caught_up(first.row, per_minute(600), NOW + 1)
    assert tokens(later).level == 0
    assert tokens(caught_up(first.row, per_minute(600), NOW + 2 * LEASE_SECONDS)).level == 40


def test_a_dead_instances_slice_comes_back_after_two_epochs() -> None:
    first = ask(None, per_minute(600), first=600)
    assert tokens(caught_up(first.row, per_minute(600), NOW + 3600)).level == 600


def test_a_refund_never_fills_the_bucket_beyond_its_cap() -> None:
    first = ask(None, per_minute(600), first=100)
    done = ask(first.row, per_minute(600), lease=first.lease.spend(of(100)), owed=-100, now=NOW + 30)
    assert tokens(done.row).level == 600


def test_a_denied_call_gets_the_exact_wait() -> None:
    row = ask(None, per_minute(600), first=600).row
    refused = ask(row, per_minute(600), first=50, nonce="m", now=NOW)
    assert refused.denial is not None
    assert refused.denial.wait == pytest.approx(5.0)
    passed = ask(row, per_minute(600), first=50, nonce="m", now=NOW + 5.0)
    assert passed.denial is None
    assert ask(row, per_minute(600), first=50, nonce="m", now=NOW + 4.9).denial is not None


def test_a_denial_without_anything_to_settle_writes_nothing() -> None:
    row = ask(None, per_minute(600), first=600).row
    assert not ask(row, per_minute(600), first=50, nonce="m").changed
    assert ask(row, per_minute(600), first=50, owed=7, nonce="m").changed


def test_a_lone_call_passes_a_limit_smaller_than_its_estimate() -> None:
    done = ask(None, per_minute(100), first=2000)
    assert done.denial is None
    assert tokens(done.row).level == -1900
    assert ask(done.row, per_minute(100), first=2000, nonce="m", now=NOW + 60).denial is not None
    assert ask(done.row, per_minute(100), first=2000, nonce="m", now=NOW + 2000 * 0.6).denial is None


def test_a_slow_clock_does_not_move_the_row_back() -> None:
    row = ask(None, per_minute(600), first=600, now=NOW).row
    lagging = ask(row, per_minute(600), first=1, nonce="m", now=NOW - 50)
    assert lagging.row.time == NOW
    assert lagging.row.epoch == row.epoch
    assert lagging.denial is not None


def test_lowered_limits_hold_from_the_next_exchange() -> None:
    row = ask(None, per_minute(600), first=1).row
    assert tokens(caught_up(row, per_minute(60), NOW)).level == 59


def test_a_quota_is_used_up_once_and_starts_over_with_the_period() -> None:
    bounds: Bounds = (None, Bound(quota=1000, since=NOW - 100, until=NOW + 500), None, None)
    first = ask(None, bounds, first=900)
    over = ask(first.row, bounds, first=200, nonce="m", now=NOW + 10)
    assert over.denial is not None
    assert (over.denial.kind, over.denial.wait) == ("quota", 490)
    renewed: Bounds = (None, Bound(quota=1000, since=NOW + 500, until=NOW + 1100), None, None)
    again = ask(first.row, renewed, first=200, nonce="m", now=NOW + 501, lease=first.lease, owed=0)
    assert again.denial is None
    assert tokens(again.row).used == 200
    late = ask(again.row, renewed, nonce="o", now=NOW + 502, lease=first.lease)
    assert tokens(late.row).used == 200  # a lease of the old period takes nothing off the new one


def test_a_quota_that_others_hold_on_lease_may_come_back() -> None:
    bounds: Bounds = (None, Bound(quota=1000, since=NOW - 100, until=NOW + 500), None, None)
    row = ask(None, bounds, first=900).row
    refusal = ask(row, bounds, first=200, nonce="m").denial
    assert refusal is not None
    assert (refusal.kind, refusal.wait) == ("rate", LEASE_SECONDS)


def test_80_and_100_percent_of_a_quota_alert_once_a_period() -> None:
    bounds: Bounds = (None, Bound(quota=1000, since=NOW - 100, until=NOW + 500), None, None)
    row: BucketState | None = None
    alerts: list[tuple[str, int]] = []
    for _ in range(12):
        done = ask(row, bounds, first=100, owed=0, previous="n")
        row, alerts = done.row, [*alerts, *done.alerts]
    assert alerts == [("tokens", 80), ("tokens", 100)]


def test_slots_come_back_when_a_call_ends_and_when_its_instance_dies() -> None:
    bounds: Bounds = (None, None, None, Bound(2, math.inf))
    one = Demand(first=Amounts(slots=1), queued=Amounts(slots=1))
    first = exchange(None, bounds, Holding(), one, NOW, "a")
    second = exchange(first.row, bounds, Holding(), one, NOW, "b")
    assert exchange(second.row, bounds, Holding(), one, NOW, "c").denial is not None
    renewed = exchange(second.row, bounds, Holding(first.lease, under_way=1, nonce="a"), Demand(), NOW + 3, "d")
    assert renewed.changed
    assert exchange(renewed.row, bounds, Holding(), one, NOW + 3, "c").denial is not None
    assert exchange(renewed.row, bounds, Holding(), one, NOW + 4.5, "c").denial is None


def test_a_row_survives_the_table() -> None:
    bounds: Bounds = (Bound(10, 1 / 6), Bound(quota=1000, since=5.0, until=9.0), None, Bound(3, math.inf))
    row = exchange(fresh(bounds, NOW), bounds, Holding(), Demand(Amounts(1, 9, 0, 1)), NOW, "n").row
    assert from_properties(to_properties(row)) == row


class Weather:
    """The fate of each operation on the table: `fine`, `lost` before it is done, `unheard` after, `slow`."""

    def __init__(self, rng: random.Random, trouble: float) -> None:
        self.rng, self.trouble = rng, trouble

    def next(self) -> str:
        return self.rng.choice(("lost", "unheard", "slow")) if self.rng.random() < self.trouble else "fine"


class RoughTable(MemoryTable):
    """A table on a bad network."""

    def __init__(self, store: MemoryStore, weather: Weather) -> None:
        super().__init__(store, "limits")
        self._weather = weather

    async def get(self, partition: str, key: str) -> StoredRow | None:
        if await self._delayed() in ("lost", "unheard"):
            raise StoreUnavailable("lost")
        return await super().get(partition, key)

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        fate = await self._delayed()
        if fate == "lost":
            raise StoreUnavailable("lost")
        written = await super().put(partition, key, properties, etag)
        await self._delayed()
        if fate == "unheard":
            raise StoreUnavailable("unheard")
        return written

    async def _delayed(self) -> str:
        fate = self._weather.next()
        for _ in range(self._weather.rng.randrange(8 if fate == "slow" else 3)):
            await asyncio.sleep(0)
        return fate


class Watched(LeasedLimit):
    """Records what it admitted without the table, to which another guarantee applies."""

    alone: set[int]

    def overdraw(self, cost: Amounts) -> None:
        self.alone.add(id(cost))
        super().overdraw(cost)


class Fleet:
    """Some instances on one row, driven by a script. Calls never take more than was reserved for them, as with
    `estimate: max`, so what may be admitted is exactly one bucket and its refill."""

    CAP = 1000.0

    def __init__(self, size: int, seed: int, trouble: float) -> None:
        self.time = NOW
        self.store = MemoryStore(lambda: self.time)
        self.weather = Weather(random.Random(seed), trouble)
        self.alone: set[int] = set()
        self.members = [self._new() for _ in range(size)]
        self.under_way: list[tuple[LeasedLimit, Amounts]] = []
        self.admitting: set[asyncio.Task[None]] = set()
        self.charged = 0.0  # calls under way as reserved, ended ones as they were
        self.charged_alone = 0.0

    def _new(self) -> Watched:
        scope = scopes.scope("key", "k", Limits(tokens_per_minute=int(self.CAP)))
        table = LimitsTable(RoughTable(self.store, self.weather), lambda: self.time)
        member = Watched(scope, table, SettlementScheduler(), lambda *_: None)
        member.alone = self.alone
        return member

    def call(self, who: int, amount: float) -> None:
        task = asyncio.ensure_future(self._admit(self.members[who % len(self.members)], Amounts(1.0, amount)))
        self.admitting.add(task)
        task.add_done_callback(self.admitting.discard)

    async def _admit(self, member: LeasedLimit, cost: Amounts) -> None:
        if not member.spend(cost, self.time):
            try:
                await member.admit(cost, self.time)
            except Denied:
                return
        self.charged += cost.tokens
        self.charged_alone += cost.tokens if id(cost) in self.alone else 0.0
        self.under_way.append((member, cost))

    def end(self, which: int, share: float) -> None:
        if self.under_way:
            member, cost = self.under_way.pop(which % len(self.under_way))
            returned = cost.tokens * (1 - share)
            self.charged -= returned
            self.charged_alone -= returned if id(cost) in self.alone else 0.0
            member.settle(cost, Amounts(cost.requests, cost.tokens - returned))

    def die(self, who: int) -> None:
        """Without a word. Its calls under way have been charged by the backends all the same."""
        who %= len(self.members)
        _forget(self.members[who])
        self.under_way = [(member, cost) for member, cost in self.under_way if member is not self.members[who]]
        self.members[who] = self._new()

    async def play(self, script: list[tuple[str, int, float]]) -> None:
        for what, which, amount in script:
            if what == "call":
                self.call(which, 1 + amount * 600)
            elif what == "end":
                self.end(which, amount)
            elif what == "die":
                self.die(which)
            elif what == "later":
                self.time += amount
            elif what == "much later":
                self.time += 10 * amount
            for _ in range(which % 7):
                await asyncio.sleep(0)
            self.check()

    async def finish(self) -> None:
        """All calls end, all instances settle, and the weather is fine again."""
        self.weather.trouble = 0.0
        for task in list(self.admitting):
            await asyncio.wait((task,))
        while self.under_way:
            self.end(0, 1.0)
        for member in self.members:
            await member.flush()
            assert member.idle
            _forget(member)
        self.check()

    def row(self) -> BucketState | None:
        stored = self.store.rows("limits").get("key:k", {})
        return from_properties(stored["0"][0]) if "0" in stored else None

    def check(self) -> None:
        if (row := self.row()) is not None:
            level = tokens(row)
            assert level.out >= -1e-6
            assert level.before >= -1e-6
            assert level.level + level.out + level.before <= self.CAP + 1e-6
        assert self.charged - self.charged_alone <= self.CAP + (self.time - NOW) * self.CAP / 60 + 1e-6


def _forget(member: LeasedLimit) -> None:
    for pending in (member._timer, member._task, member._scheduler._timer):
        if pending is not None:
            pending.cancel()


def scripts(*kinds: str) -> st.SearchStrategy[list[tuple[str, int, float]]]:
    step = st.tuples(st.sampled_from(kinds), st.integers(0, 1000), st.floats(0, 1))
    return st.lists(step, max_size=60)


def run(size: int, seed: int, trouble: float, script: list[tuple[str, int, float]]) -> Fleet:
    async def main() -> Fleet:
        fleet = Fleet(size, seed, trouble)
        await fleet.play(script)
        await fleet.finish()
        return fleet

    return asyncio.run(main())


@pytest.fixture(autouse=True, scope="module")
def _no_jitter() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shared.limits._exchange._JITTER", 0.0)
        yield


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(),
    st.sampled_from((0.0, 0.1, 0.5)),
    scripts("call", "call", "call", "end", "end", "later", "much later", "die"),
)
def test_the_fleet_never_spends_more_than_one_bucket(
    size: int, seed: int, trouble: float, script: list[tuple[str, int, float]]
) -> None:
    """Whatever is interleaved, lost or dead; `Fleet.check` holds after every step. Nothing is undercounted, except
    what an instance admitted alone before it died."""
    fleet = run(size, seed, trouble, script)
    if (row := fleet.row()) is not None:
        assert tokens(row).used >= fleet.charged - fleet.charged_alone - 1e-6


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(),
    st.sampled_from((0.0, 0.1, 0.5)),
    scripts("call", "call", "call", "end", "end"),
)
def test_the_row_counts_what_was_taken_to_the_token(
    size: int, seed: int, trouble: float, script: list[tuple[str, int, float]]
) -> None:
    """Every token granted is settled or returned once, however many answers are lost."""
    fleet = run(size, seed, trouble, script)
    row = fleet.row()
    assert (tokens(row).used if row else 0.0) == pytest.approx(fleet.charged)
