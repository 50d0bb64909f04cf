"""Drops the usage tables between rounds, because Azurite scans the whole table on every write."""

import asyncio

from shared import bootstrap
from shared.config.environment import Storage


def drop(storage: str, prefix: str = "usage") -> None:
    """Drop all tables with this prefix; the gateway recreates missing ones. `storage`: a connection string."""
    asyncio.run(_drop(storage, prefix))


async def _drop(storage: str, prefix: str) -> None:
    async with bootstrap.open_store(Storage(connection_string=storage)) as store:
        for name in await store.names(prefix):
            await store.drop(name)
