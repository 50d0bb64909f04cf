"""Streams come through byte for byte, however the network cuts them; `make bench-chunkings` sends ten thousand."""

import asyncio

from bench.chunkings import pass_through, upstream
from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.gateway_process import Edge
from tests.harness.system import system

STREAMS = 300


async def test_streams_in_random_pieces_arrive_byte_for_byte(
    edge: Edge, azurite: Azurite, simulator: SimulatorProcess
) -> None:
    async with upstream() as (running, url):
        backend = {"name": "one", "endpoint": url, "region": "one", "models": {"m": "m"}}
        settings = {"backends": [{**backend, "auth": {"api_key_env": "JAPAN_KEY"}}]}
        opened = system(edge, settings, simulator, azurite.connection_string)
        gateway = await asyncio.to_thread(opened.__enter__)
        try:
            headers = {"authorization": f"Bearer {gateway.key}"}
            passages = await pass_through(f"{gateway.url}/v1", headers, running, range(STREAMS))
            gateway.assert_no_defect()
        finally:
            await asyncio.to_thread(opened.__exit__, None, None, None)
    assert sum(not passage.same for passage in passages) == 0
    assert len(passages) == STREAMS
