"""Waiting for what comes true a moment later: a wait ends when it does, and gives up only after `PATIENCE`."""

import asyncio
from collections.abc import Callable

PATIENCE = 30.0  # seconds: a busy machine may stand still for some of them


async def eventually(holds: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until `holds()` is true."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
