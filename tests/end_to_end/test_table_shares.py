"""The shares of the connections to an account: reads that hang hold up neither limits nor the ledger."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from bench.faulty_tables import Faults, FaultyTables, faulty_tables
from shared.auth.authenticator import Authenticator
from shared.auth.consumers import Consumers
from shared.auth.keys import make, new_id
from shared.config.document import Configuration
from shared.config.limits import Limits
from shared.limits.limiter import Limiter
from shared.storage.tables import TablesStore
from shared.types import Consumer, Usage
from tests.harness.azurite import Azurite
from tests.harness.calls import call
from tests.harness.patience import eventually

_HANGS = Faults(refused=0, lost=0, stalled=1, seconds=20)
_BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


def _of_keys_or_objects(request: web.BaseRequest) -> bool:
    return request.path.startswith(("/devstoreaccount1/consumers", "/devstoreaccount1/affinity"))


@asynccontextmanager
async def hanging(azurite: Azurite) -> AsyncIterator[tuple[TablesStore, FaultyTables]]:
    """A store whose reads of keys and of objects hang, with more of both under way than it has connections."""
    async with faulty_tables(azurite.port, _HANGS, 1, _of_keys_or_objects) as tables:
        store = TablesStore.from_connection_string(tables.connection_string, budget=10)
        authenticator = Authenticator(Consumers(store), store.now)

        async def present() -> None:
            await authenticator.authenticate({"api-key": make(new_id(10))[0]}, "")

        async def look_up() -> None:
            await store.table("affinity").get("file", "file-0123456789")

        tasks = [asyncio.ensure_future(use()) for use in (present, look_up) for _ in range(80)]
        try:
            await eventually(lambda: tables.done["stalled"] >= 24)
            yield store, tables
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await store.close()


async def test_a_limited_call_gets_its_lease_while_all_other_reads_hang(azurite: Azurite) -> None:
    async with hanging(azurite) as (store, _):
        limiter = Limiter(store, Configuration(backends=[]), lambda *_: None)
        ann = Consumer("ann", "ann", limits=Limits(requests_per_minute=10))
        async with asyncio.timeout(8):
            reservation = await limiter.reserve(ann, call("POST", "/v1/chat/completions", _BODY))
        assert limiter.headers(reservation)["x-ratelimit-remaining-requests"] == "9"
        assert limiter.safe_since is None
        limiter.settle(reservation, Usage())
        await limiter.close()


async def test_a_call_is_put_on_record_while_all_other_reads_hang(azurite: Azurite) -> None:
    async with hanging(azurite) as (store, _):
        async with asyncio.timeout(8):
            await store.table("usage202611").merge("2026112912-00", {"call": {"s_key": "ann"}})


async def test_objects_that_hang_do_not_keep_a_key_from_its_read(azurite: Azurite) -> None:
    def of_objects(request: web.BaseRequest) -> bool:
        return request.path.startswith("/devstoreaccount1/affinity")

    async with faulty_tables(azurite.port, _HANGS, 1, of_objects) as tables:
        store = TablesStore.from_connection_string(tables.connection_string, budget=10)
        reads = [asyncio.ensure_future(store.table("affinity").get("file", f"file-{n}")) for n in range(100)]
        await eventually(lambda: tables.done["stalled"] >= 16)
        async with asyncio.timeout(8):
            assert await Consumers(store).find(new_id(10)) is None
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)
        await store.close()
