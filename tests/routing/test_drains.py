"""Drains: read by every instance, ended by themselves, and what the router makes of them."""

import random
from collections.abc import AsyncIterator

import pytest

from shared.config.document import Configuration, Model, Variant
from shared.errors import NoBackendAvailable
from shared.routing.breakers import Breakers
from shared.routing.drains import Drains
from shared.routing.rotation import Rotation
from shared.routing.router import Router
from shared.storage import Row
from shared.types import Access, Binding, Consumer
from tests.harness.backends import backend
from tests.harness.clock import Clock
from tests.harness.memory_store import MemoryStore, MemoryTable
from tests.harness.scripted_store import ScriptedStore, ScriptedTable
from tests.routing.test_router import ANYONE, chat


class UnreliableTable(ScriptedTable):
    async def scan(self, partition: str, first: str = "", end: str = "") -> AsyncIterator[Row]:
        await self._scripted.operate()
        async for row in super().scan(partition, first, end):
            yield row


class UnreliableStore(ScriptedStore):
    """A store whose scans fail, too."""

    def table(self, name: str) -> MemoryTable:
        return UnreliableTable(self, name)


class Instance:
    """The drains of one process. All instances share the clock."""

    def __init__(self, store: MemoryStore, clock: Clock) -> None:
        self.drains = Drains(store, clock)

    async def current(self) -> frozenset[str]:
        """The names after a reading that this look may have started."""
        self.drains.current()
        await self.drains._tasks.finish(5)
        return self.drains.current()


async def put(store: MemoryStore, name: str, until: float) -> None:
    table = store.table("control")
    row = await table.get("drains", name)
    values: dict[str, str | float] = {"until": until, "reason": "", "by": "", "at": store.now()}
    assert await table.put("drains", name, values, row.etag if row else None)


async def test_a_drain_reaches_an_instance_that_serves_within_four_seconds_and_ends_by_itself() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    one = Instance(store, clock)
    assert await one.current() == frozenset()
    await put(store, "a", clock.now + 100)
    clock.now += 3.9
    assert await one.current() == frozenset()  # the table is not read with every call
    clock.now += 0.1
    assert await one.current() == frozenset(("a",))
    await put(store, "b", clock.now + 4.5)
    clock.now += 4
    assert await one.current() == frozenset(("a", "b"))
    clock.now += 0.6
    assert one.drains.current() == frozenset(("a",))
    clock.now += 100
    assert one.drains.current() == frozenset()


async def test_a_restored_backend_is_back_with_the_next_reading() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    await put(store, "a", clock.now + 100)
    one = Instance(store, clock)
    assert await one.current() == frozenset(("a",))
    await put(store, "a", 0.0)
    clock.now += 4
    assert await one.current() == frozenset()


async def test_drains_hold_while_the_table_is_out_of_reach() -> None:
    store = UnreliableStore()
    await put(store, "a", store.time + 100)
    clock = Clock()
    drains = Drains(store, clock)
    await drains.begin()
    assert drains.current() == frozenset(("a",))
    store.dead = True
    for passed, left in ((50, frozenset(("a",))), (51, frozenset())):
        clock.now += passed
        store.time += passed
        drains.current()
        await drains._tasks.finish(5)
        assert drains.current() == left


def routed(*drained: str, models: dict[str, Model] | None = None) -> Router:
    clock, rng = Clock(), random.Random(7)
    backends = [
        backend("a", models=("m", "n")),
        backend("b", models=("m",)),
        backend("c", models=("m",), priority=2),
    ]
    return Router(
        Configuration(backends, models or {}),
        Rotation(MemoryStore(clock).table("rotation"), rng),
        Breakers(clock, rng),
        drained=lambda: frozenset(drained),
    )


def order(router: Router, consumer: Consumer = ANYONE, binding: Binding | None = None) -> list[str]:
    plan = router.plan(consumer, chat(), binding=binding) if binding else router.plan(consumer, chat())
    return [target.backend.name for target in plan.targets]


async def test_a_drained_backend_gets_no_call_and_the_next_group_serves_if_a_group_is_drained() -> None:
    router = routed("a")
    assert [order(router) for _ in range(4)] == [["b", "c"]] * 4
    assert order(routed("a", "b")) == ["c"]
    assert routed("a").unusable() == ["n"]


async def test_a_drained_model_is_served_by_its_fallback() -> None:
    router = routed("a", models={"n": Model(fallbacks=["m"])})
    assert [target.model for target in router.plan(ANYONE, chat("n")).targets] == ["m", "m"]


async def test_calls_whose_backends_are_all_drained_are_refused() -> None:
    with pytest.raises(NoBackendAvailable, match="drained"):
        order(routed("a", "b", "c"))
    with pytest.raises(NoBackendAvailable, match="drained"):
        order(routed("b"), Consumer("c", "c", access=Access(regions=frozenset(("b",)))))


async def test_objects_of_a_drained_backend_are_still_served_by_it() -> None:
    assert order(routed("a"), binding=Binding(frozenset(("a",)), "a", "it is there")) == ["a"]
    assert order(routed("a"), binding=Binding(frozenset(("a", "b")), "a", "either")) == ["b"]
    assert order(routed("a"), binding=Binding(None, "a", "rather there")) == ["b", "c"]


async def test_a_drained_backend_gets_no_copies_and_no_canaries() -> None:
    variant = Variant("n", 1.0)
    plan = routed("a", models={"m": Model(canary=variant, shadow=variant)}).plan(ANYONE, chat())
    assert (plan.canary, plan.shadow) == ("", [])
