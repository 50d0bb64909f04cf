"""Shared circuit-breaker state: trips and recoveries seen by the other instances, and the one that may try again."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import StoreUnavailable
from shared.routing._health import FAULTS_TO_EJECT, HEALTHY, Health
from shared.routing.breakers import Breakers
from shared.routing.fleet_health import Shared, SharedHealth, merged
from shared.storage import Row
from shared.types import Target
from tests.harness.backends import backend
from tests.harness.clock import Clock
from tests.harness.memory_store import MemoryStore

A = Target(backend("a"), "m", "m")
KEY = ("a", "m")


class Instance:
    """The breakers of one process, and what it tells and hears. All instances share the clock."""

    def __init__(self, store: MemoryStore, clock: Clock, name: str) -> None:
        self.clock = clock
        self.shared = SharedHealth(store.table("health"), clock, random.Random(name), name)
        self.breakers = Breakers(clock, random.Random(name), self.shared)

    async def settle(self) -> None:
        """Wait for what is under way in the background."""
        await self.shared._tasks.finish(5)

    async def look(self) -> None:
        self.clock.now += 5.0
        self.breakers.look()
        await self.settle()

    def fail(self, times: int = FAULTS_TO_EJECT) -> None:
        for _ in range(times):
            self.breakers.fault(A, "status 503")

    def usable(self) -> bool:
        return self.breakers.usable(A, self.clock())

    @property
    def health(self) -> Health:
        return self.breakers.health(A)


def fleet(count: int) -> list[Instance]:
    clock = Clock()
    store = MemoryStore(clock)
    return [Instance(store, clock, f"i{number}") for number in range(count)]


async def test_an_ejection_and_its_end_are_shared() -> None:
    one, two = fleet(2)
    one.fail()
    one.clock.now = one.health.ejected_until
    one.breakers.begin(A, 1.0)  # the probe
    one.fail(1)  # ejected again, for longer than the time between two looks
    await one.settle()
    await two.look()
    assert not two.usable()
    assert two.health.reason == "status 503 (seen by i0)"
    one.breakers.success(A)
    await one.settle()
    await two.look()
    assert two.usable()
    assert two.health.ejections == 0


async def test_a_429_is_not_shared() -> None:
    one, two = fleet(2)
    one.breakers.throttle(A, 30.0)
    await one.settle()
    await two.look()
    assert two.health is HEALTHY
    assert await two.shared.rows() == {}


async def test_the_table_is_read_at_most_every_five_seconds() -> None:
    (one,) = fleet(1)
    reads = 0

    async def count() -> dict[Any, Any]:
        nonlocal reads
        reads += 1
        return {}

    one.shared.rows = count  # type: ignore[method-assign]
    for _ in range(100):
        one.breakers.look()
        one.clock.now += 0.25
    await one.settle()
    assert reads == 5


async def test_one_instance_of_the_fleet_tries_a_deployment_whose_ejection_is_over() -> None:
    instances = fleet(5)
    clock = instances[0].clock
    instances[0].fail()
    for one in instances:
        await one.settle()
    for one in instances[1:]:
        one.breakers.adopt(KEY, instances[0].health)
    clock.now = instances[0].health.ejected_until
    assert not any(one.usable() for one in instances)  # they only ask who may
    for one in instances:
        await one.settle()
    granted = [one for one in instances if one.usable()]
    assert len(granted) == 1
    granted[0].breakers.begin(A, 20.0)
    assert not granted[0].usable()  # one call, not one instance
    granted[0].breakers.success(A)
    await granted[0].settle()
    for one in instances:
        await one.look()
    assert all(one.usable() for one in instances)


async def test_a_probe_whose_caller_hangs_up_leaves_the_next_call_to_try() -> None:
    (one,) = fleet(1)
    one.fail()
    await one.settle()
    one.clock.now = one.health.ejected_until
    one.usable()
    await one.settle()
    assert one.usable()
    one.breakers.begin(A, 60.0)
    assert not one.usable()
    one.breakers.abandoned(A)
    assert one.usable()


async def test_an_instance_that_died_before_its_try_is_replaced() -> None:
    one, two = fleet(2)
    one.fail()
    await one.settle()
    one.clock.now = one.health.ejected_until
    one.usable()
    await one.settle()  # it may try, but does not live to
    two.breakers.adopt(KEY, one.health)
    two.usable()
    await two.settle()
    assert not two.usable()
    two.clock.now += 61
    two.usable()
    await two.settle()
    assert two.usable()


async def test_without_the_table_every_instance_goes_by_what_it_sees() -> None:
    (one,) = fleet(1)

    async def out_of_reach(*_: object) -> Row | None:
        raise StoreUnavailable("gone")

    one.shared._table.get = out_of_reach  # type: ignore[method-assign, assignment]
    one.fail()
    await one.settle()
    assert not one.usable()
    one.clock.now = one.health.ejected_until
    one.usable()
    await one.settle()
    assert one.usable()


@pytest.mark.parametrize("wrong", ["é" * 300, "\x00\n", "x" * 5000])
async def test_any_text_of_a_backend_fits_into_the_row(wrong: str) -> None:
    (one,) = fleet(1)
    one.breakers.refusal(A, wrong)
    await one.settle()
    assert len((await one.shared.rows())[KEY].reason) <= 200


TIMES = st.floats(0, 2000)


@given(
    mine=st.builds(
        Health, faults=st.integers(0, 5), ejections=st.integers(0, 9), ejected_until=TIMES, cooling_until=TIMES
    ),
    mine_at=TIMES,
    row=st.builds(Shared, eject_until=TIMES, ejections=st.integers(0, 9), faults=st.integers(0, 3), at=TIMES),
    now=TIMES,
)
def test_a_shared_row_never_shortens_an_ejection_or_changes_a_cool_down(
    mine: Health, mine_at: float, row: Shared, now: float
) -> None:
    health = merged(mine, mine_at, row, now, now)
    assert health.cooling_until == mine.cooling_until
    if row.at <= mine_at:
        assert health is mine
    elif row.eject_until > now:
        assert health.ejected_until >= mine.ejected_until
        assert health.ejected_until >= row.eject_until - 1e-6 or health is mine
    elif health is not mine:
        assert row.faults == 0
        assert health.ejected_until == 0
