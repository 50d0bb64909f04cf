"""The report of the deployments: a line for each, and one for each tier that has a health of its own."""

import random
from typing import Any

from shared.config.document import Backend, Configuration
from shared.routing._health import FAULTS_TO_EJECT
from shared.routing.breakers import Breakers
from shared.routing.drains import Drains
from shared.routing.fleet_health import SharedHealth
from shared.routing.report import BackendsReport
from shared.types import Target
from tests.harness.backends import backend
from tests.harness.clock import Clock
from tests.harness.memory_store import MemoryStore

A = Target(backend("a"), "m", "m")
FLEX, PRIORITY = Target(A.backend, "m", "m", "flex"), Target(A.backend, "m", "m", "priority")


class Instance:
    """The breakers of one process that shares its health through `store`, and its report."""

    def __init__(self, store: MemoryStore, clock: Clock, name: str, *backends: Backend) -> None:
        self.shared = SharedHealth(store.table("health"), clock, random.Random(name), name)
        self.breakers = Breakers(clock, random.Random(name), self.shared)
        drains = Drains(store, clock)
        self._report = BackendsReport(Configuration(list(backends)), self.breakers, self.shared, drains, clock, name)

    async def deployments(self) -> list[dict[str, Any]]:
        await self.shared._tasks.finish(5)
        report = await self._report.report()
        lines: list[dict[str, Any]] = report["backends"][0]["deployments"]
        return lines


async def test_each_tier_that_was_called_has_a_line_with_the_health_and_the_calls_of_that_tier_alone() -> None:
    clock = Clock()
    one = Instance(MemoryStore(clock), clock, "one", A.backend, backend("b"))
    one.breakers.throttle(FLEX, 60.0)
    one.breakers.begin(PRIORITY, 10.0, 5.0)
    lines = await one.deployments()
    assert [
        (line["deployment"], line.get("tier"), line["models"], line["state"], line["in_flight"]) for line in lines
    ] == [
        ("m", None, ["m"], "usable", 0),
        ("m", "flex", ["m"], "cooling", 0),
        ("m", "priority", ["m"], "usable", 1),
    ]
    assert [line["cooling_for"] > 0 for line in lines] == [False, True, False]


async def test_a_tier_that_another_instance_ejected_has_a_line_with_what_that_one_reported() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    one, two = (Instance(store, clock, name, A.backend, backend("b")) for name in ("one", "two"))
    for _ in range(FAULTS_TO_EJECT):
        one.breakers.fault(FLEX, "status 503")
    await one.deployments()
    standard, flex = await two.deployments()
    assert (standard["state"], standard["shared"]) == ("usable", None)
    assert (flex["tier"], flex["shared"]["reason"], flex["shared"]["by"]) == ("flex", "status 503", "one")
