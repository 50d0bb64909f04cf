"""The scenarios of `make bench-routing`, in short: one instance with short timeouts, and most of the troubles at once.

The figures that the routing promises are measured there. Where the machine was too busy to send the calls in time, what
falls below them is measured once more.
"""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from bench.routing_attacks import crowd, hung_up
from bench.routing_capacity import overload, provisioned, retry_after
from bench.routing_faults import brown_out, dead, flapping, hanging, nameless, sick, slow
from bench.routing_load import TOO_LATE
from bench.routing_streams import dying
from bench.routing_system import Row, System, running
from tests.harness.azurite import Azurite

type Scenario = Callable[[System], Awaitable[Row | list[Row]]]

TIMEOUTS = {"connect": 0.5, "first_byte": 3.0}
# Each has a model of its own, so they do not disturb each other.
AT_ONCE: dict[str, Scenario] = {
    "sick": lambda system: sick(system, 4, rate=10),
    "hanging": lambda system: hanging(system, 5, rate=8),
    "slow": lambda system: slow(system, 4, rate=6, delay=1),
    "overload": lambda system: overload(system, 4, window=1, each=6),
    "provisioned": lambda system: provisioned(system, 4, burst=1, least=0.7),
    "retry-after": lambda system: retry_after(system, 6, rate=10),
    "brown-out": lambda system: brown_out(system, 2, rate=8),
    "nameless": lambda system: nameless(system, 2, most=5),
}
# Many callers come together, or whole regions go down.
ONE_BY_ONE: dict[str, Scenario] = {
    "crowd": lambda system: crowd(system, 40),
    "hung-up": lambda system: hung_up(system, 30),
    "flapping": lambda system: flapping(system, 3, rate=15),
    "dying": lambda system: dying(system, 20, wait=1.5),
    "dead": lambda system: dead(system, 1.5),
}
LEAK = "leak"


class Results(msgspec.Struct, frozen=True):
    """The results of the scenarios, and the seconds by which calls were sent too late, because the machine was busy."""

    rows: dict[str, list[Row]]
    late: float


async def measure(azurite: Azurite) -> Results:
    async with running(azurite, instances=1, timeouts=TIMEOUTS) as system:
        async with system.watched() as leaks:
            async with asyncio.TaskGroup() as group:
                tasks = {name: group.create_task(_rows(system, scenario)) for name, scenario in AT_ONCE.items()}
            rows = {name: task.result() for name, task in tasks.items()}
            for name, scenario in ONE_BY_ONE.items():
                rows[name] = await _rows(system, scenario)
        rows[LEAK] = [Row(LEAK, "no leak of tasks or connections", str(leaks), leaks.none)]
        assert "Traceback" not in system.gateways[0].logs()
    return Results(rows, system.callers.late)


async def _rows(system: System, scenario: Scenario) -> list[Row]:
    measured = await scenario(system)
    return measured if isinstance(measured, list) else [measured]


@pytest.fixture(scope="module")
def results(azurite: Azurite) -> Results:
    results = asyncio.run(measure(azurite))
    if results.late > TOO_LATE and not all(row.held for rows in results.rows.values() for row in rows):
        return asyncio.run(measure(azurite))
    return results


@pytest.mark.parametrize("name", [*AT_ONCE, *ONE_BY_ONE, LEAK])
def test_the_routing_does_what_it_promises_when(name: str, results: Results) -> None:
    missed = [f"{row.case}: must be {row.must}; was {row.measured}" for row in results.rows[name] if not row.held]
    assert not missed, f"calls were sent up to {results.late:.1f} s late"
