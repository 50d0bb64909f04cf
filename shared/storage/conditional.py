"""Updates of one row by read, change and conditional write, repeated after conflicts with other writers."""

import asyncio
import random
from collections.abc import Callable

from shared.errors import StoreUnavailable
from shared.storage import Properties, Row, Table

TRIES = 8
_PAUSE = 0.01  # seconds, doubled with each of the first attempts and multiplied by a random number below 1
_DOUBLED = 6  # times


async def update(
    table: Table, partition: str, key: str, change: Callable[[Row | None], Properties | None]
) -> Properties | None:
    """Write what `change` makes of the row (None: there is no row). Return the properties written, or None if `change`
    returned None and nothing was written. `change` may be called several times. A write whose answer was lost looks
    like another writer's: `change` then sees its own row. Raises `StoreUnavailable` if other writers were faster
    `TRIES` times."""
    for attempt in range(TRIES):
        row = await table.get(partition, key)
        properties = change(row)
        if properties is None:
            return None
        if await table.put(partition, key, properties, row.etag if row is not None else None) is not None:
            return properties
        await pause(attempt)
    raise contended(f"The row {partition}/{key}")


async def pause(attempt: int) -> None:
    """Let the writers go first that were faster at an attempt, counted from 0 on."""
    await asyncio.sleep(random.random() * _PAUSE * 2 ** min(attempt, _DOUBLED))


def contended(name: str, attempts: int = TRIES) -> StoreUnavailable:
    """The error after attempts during which other writers changed the same thing each time. `name`: of that thing."""
    return StoreUnavailable(f"{name} changed during each of {attempts} attempts. Try again.")
