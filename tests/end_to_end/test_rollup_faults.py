"""Two timers at once, on a table service that refuses, loses answers and stalls: the sums are those of one fold.

`python -m bench.ledger_rollup` is the same with 10,000 rows and stalls that take longer than an operation may.
"""

import asyncio

from bench.faulty_tables import Faults
from bench.ledger_rollup import converge
from shared.errors import StoreUnavailable
from shared.storage import Properties, Row
from shared.storage.retrying import RetryingStore
from tests.harness.azurite import azurite
from tests.harness.memory_store import MemoryStore, MemoryTable


def test_two_timers_on_a_failing_service_produce_the_bytes_of_a_sequential_fold() -> None:
    with azurite() as running:
        tables, passes, same = asyncio.run(converge(running.port, 60, Faults(seconds=0.05), 6, (-3, -2)))
    assert min(tables.done[kind] for kind in ("refused", "lost", "stalled")) >= 5
    assert min(passes) >= 1
    assert same


class Failing(MemoryStore):
    """Every scan ends after its third row, as if the service had failed; every other write fails when it was done."""

    def __init__(self) -> None:
        super().__init__(lambda: 0.0)
        self.writes = 0

    def table(self, name: str) -> MemoryTable:
        table, store = super().table(name), self
        merge, scan_all = table.merge, table.scan_all

        async def failing_merge(partition: str, rows: dict[str, Properties]) -> None:
            await merge(partition, rows)
            store.writes += 1
            if store.writes % 2:
                raise StoreUnavailable("lost")

        async def failing_scan(after: str = ""):  # type: ignore[no-untyped-def]
            number = 0
            async for row in scan_all(after):
                yield row
                number += 1
                if number == 3:
                    raise StoreUnavailable("broken off")

        table.merge, table.scan_all = failing_merge, failing_scan  # type: ignore[method-assign, assignment]
        return table


async def test_an_interrupted_scan_continues_and_returns_every_row_once() -> None:
    patient = RetryingStore(Failing())
    table = patient.table("usage202601")
    for partition in ("a", "b", "c"):
        await table.merge(partition, {key: {"n": 1} for key in "xy"[: 1 + (partition == "b")]})
    rows: list[Row] = [row async for row in table.scan_all()]
    assert [(row.partition, row.key) for row in rows] == [("a", "x"), ("b", "x"), ("b", "y"), ("c", "x")]
