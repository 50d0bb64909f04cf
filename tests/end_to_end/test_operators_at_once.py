"""Many operators write at once through two instances, on a table service that fails: nothing is lost."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import aiohttp

from bench.faulty_tables import Faults, FaultyTables, faulty_tables
from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.gateway_process import EDGES, GatewayProcess
from tests.harness.system import MANAGEMENT_KEY, SPARES, configuration

OPERATORS = 20
NAME_QUERY = "/gateway/consumers?name=wanted%20by%20all"
SHARED = "/gateway/consumers/shared-by-all"


class Fleet:
    """Instances on both edges, and operators who ask again when the store failed."""

    def __init__(self, urls: list[str], session: aiohttp.ClientSession) -> None:
        self._urls = urls
        self._session = session
        self.statuses: Counter[int] = Counter()

    async def ask(
        self, operator: int, method: str, path: str, body: Any = None, etag: str = ""
    ) -> tuple[int, Any, str]:
        headers = {"authorization": f"Bearer {MANAGEMENT_KEY}", **({"if-match": etag} if etag else {})}
        url = self._urls[operator % len(self._urls)] + path
        async with self._session.request(method, url, json=body, headers=headers) as answer:
            self.statuses[answer.status] += 1
            shown = await answer.json() if answer.content_type == "application/json" else None
            return answer.status, shown, answer.headers.get("etag", "")

    async def until_done(self, operator: int, method: str, path: str, body: Any = None) -> tuple[int, Any, str]:
        deadline = time.monotonic() + 60
        while True:
            status, shown, etag = await self.ask(operator, method, path, body)
            if status not in (429, 503):
                return status, shown, etag
            assert time.monotonic() < deadline, shown
            await asyncio.sleep(0.05)


@asynccontextmanager
async def fleet(
    azurite: Azurite, simulator: SimulatorProcess, faults: Faults
) -> AsyncIterator[tuple[Fleet, FaultyTables]]:
    async with faulty_tables(azurite.port, faults, seed=5) as tables:
        environ = {
            "GATEWAY_CONFIG": json.dumps(configuration(simulator)),
            "GATEWAY_STORAGE": tables.connection_string,
            "GATEWAY_MANAGEMENT_KEY": MANAGEMENT_KEY,
            "JAPAN_KEY": simulator.api_key,
            **simulator.identity_environment,
        }
        with ExitStack() as running:
            processes = [
                running.enter_context(await asyncio.to_thread(GatewayProcess, edge, environ)) for edge in EDGES
            ]
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
                yield Fleet([process.url for process in processes], session), tables
            for process in processes:
                assert "Traceback" not in process.logs(), process.logs()[-4000:]


async def test_twenty_operators_on_a_failing_table_lose_nothing(azurite: Azurite, simulator: SimulatorProcess) -> None:
    async with fleet(azurite, simulator, Faults(refused=0.06, lost=0.06, stalled=0.0)) as (operators, tables):
        status, _, _ = await operators.until_done(0, "PUT", SHARED, {"name": "shared by all"})
        assert status in (200, 201)

        async def work(number: int) -> str:
            # Its own field of the consumer that all change
            limit = {"model_limits": {SPARES[number]: {"tokens_per_minute": number + 1}}}
            assert (await operators.until_done(number, "PATCH", SHARED, limit))[0] == 200
            # Its own entry of a list, which is only replaced as a whole: by the ETag
            network = f"10.0.0.{number}/32"
            while True:
                _, shown, etag = await operators.until_done(number, "GET", SHARED)
                if network in shown["addresses"]:
                    break
                more = {"addresses": [*shown["addresses"], network]}
                await operators.ask(number, "PATCH", SHARED, more, etag)
                await asyncio.sleep(0.02 * number % 0.1)
            # A name that all want
            return str((await operators.until_done(number, "POST", "/gateway/consumers", {"name": "wanted by all"}))[0])

        started = time.monotonic()
        outcomes = Counter(await asyncio.gather(*map(work, range(OPERATORS))))
        assert outcomes.keys() <= {"201", "409"}
        assert outcomes["201"] <= 1  # none, if the answer to the one who got it was lost
        assert operators.statuses[412] > 0
        assert min(tables.done[kind] for kind in ("refused", "lost")) >= 20

        _, shared, _ = await operators.until_done(0, "GET", SHARED)
        assert shared["model_limits"] == {SPARES[n]: {"tokens_per_minute": n + 1} for n in range(OPERATORS)}
        assert sorted(shared["addresses"]) == sorted(f"10.0.0.{number}/32" for number in range(OPERATORS))
        while not (holders := (await operators.until_done(1, "GET", NAME_QUERY))[1]["data"]):
            # Whoever claimed it failed to write and to withdraw: such a claim ends by itself after 30 s.
            await operators.until_done(2, "POST", "/gateway/consumers", {"name": "wanted by all"})
            assert time.monotonic() < started + 120
            await asyncio.sleep(1)
        assert len(holders) == 1
        assert len(holders[0]["keys"]) == 1
        # Every change is on record, as its own: before it the value was not there, and after it is
        _, trail, _ = await operators.until_done(0, "GET", "/gateway/audit?object=shared-by-all&limit=1000")
        assert trail["after"] is None
        changes = [(e["before"] or {}, e["after"]) for e in trail["data"] if e["state"] != "failed" and e["after"]]
        for number in range(OPERATORS):
            for field, value in (("model_limits", SPARES[number]), ("addresses", f"10.0.0.{number}/32")):
                assert any(value in after[field] and value not in before.get(field, ()) for before, after in changes)


async def test_a_table_that_hangs_is_a_503_after_two_seconds_and_nothing_is_half_done(
    azurite: Azurite, simulator: SimulatorProcess
) -> None:
    async with fleet(azurite, simulator, Faults(refused=0.0, lost=0.0, stalled=1.0, seconds=7.0)) as (operators, _):
        for number, (method, path, body) in enumerate(
            (
                ("POST", "/gateway/consumers", {"name": "never made"}),
                ("PUT", "/gateway/consumers/never-made", {"name": "never made either"}),
                ("GET", "/gateway/consumers", None),
            )
        ):
            started = time.monotonic()
            status, shown, _ = await operators.ask(number, method, path, body)
            assert (status, shown["error"]["code"]) == (503, "store_unavailable")
            assert time.monotonic() - started < 6.5
    await asyncio.sleep(7.5)  # what hung arrives now
    async with fleet(azurite, simulator, Faults(0.0, 0.0, 0.0)) as (operators, _):
        _, listing, _ = await operators.ask(0, "GET", "/gateway/consumers?name=never")
        assert listing["data"] == []
        assert (await operators.ask(1, "GET", "/gateway/consumers/never-made"))[0] == 404
