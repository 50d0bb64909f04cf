"""A store whose clock, latency and failures a test sets, and limiters on it."""

import asyncio
from typing import Any

from shared.config.document import Configuration, Model
from shared.config.limits import LimitSettings
from shared.errors import StoreUnavailable
from shared.limits.limiter import Limiter
from shared.storage import Properties, Row
from tests.harness.memory_store import MemoryStore, MemoryTable

NOON = 1_795_262_400.0  # 2026-11-21 12:00 UTC, a Saturday


class ScriptedTable(MemoryTable):
    """A table whose operations are counted, delayed and failed by its store."""

    def __init__(self, store: "ScriptedStore", name: str) -> None:
        super().__init__(store, name)
        self._scripted = store

    async def get(self, partition: str, key: str) -> Row | None:
        await self._scripted.operate()
        return await super().get(partition, key)

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        await self._scripted.operate()
        return await super().put(partition, key, properties, etag)


class ScriptedStore(MemoryStore):
    """Starts at noon, without latency or failures. `operations`: the reads and conditional writes so far; `alerts`:
    those that its limiters have raised, as (scope, dimension, percentage)."""

    def __init__(self) -> None:
        self.time = NOON
        super().__init__(lambda: self.time)
        self.operations = 0
        self.dead = False
        self.defect: Exception | None = None  # raised by every operation
        self.stalled = False
        self.latency = 0.0
        self.alerts: list[tuple[str, str, int]] = []

    async def operate(self) -> None:
        self.operations += 1
        if self.stalled:
            await asyncio.sleep(60)
        if self.latency:
            await asyncio.sleep(self.latency)
        if self.defect is not None:
            raise self.defect
        if self.dead:
            raise StoreUnavailable("dead")

    def table(self, name: str) -> MemoryTable:
        return ScriptedTable(self, name)

    def limiter(self, models: dict[str, Model] | None = None, **settings: Any) -> Limiter:
        """A limiter of one more instance, with these settings of `limits`."""
        configuration = Configuration(backends=[], models=models or {}, limits=LimitSettings(**settings))
        return Limiter(self, configuration, lambda scope, what, share, _: self.alerts.append((scope.key, what, share)))
