"""Empties the tables of usage between rounds: Azurite looks through a whole table for each row that it writes, so that
after some thousand rows a run would measure how it does that."""

import asyncio

from shared import bootstrap
from shared.config.environment import Storage


def drop(storage: str, prefix: str = "usage") -> None:
    """Drop them all; the gateway makes a table anew when it misses it. `storage`: a connection string."""
    asyncio.run(_drop(storage, prefix))


async def _drop(storage: str, prefix: str) -> None:
    async with bootstrap.open_store(Storage(connection_string=storage)) as store:
        for name in await store.names(prefix):
            await store.drop(name)
