"""`make bench-ledger`: kills the gateway (kill -9) repeatedly under load.

Compares the ledger with the callers' answers and the simulator's log.
`python -m bench.ledger_kills [KILLS] [CALLS PER SECOND] [DURABILITY]`
"""

import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import msgspec

from bench import usage_tables
from bench.ledger_load import Sent, call
from simulator.process import SimulatorProcess
from tests.harness.azurite import azurite
from tests.harness.gateway_process import GatewayProcess, make_key
from tests.harness.system import _usage_rows

SECONDS = 2.5  # of load before each kill
SEEN = 0.4  # seconds after which a request must have a row


class Report(msgspec.Struct):
    """Required: a complete row per whole answer (unless `deferred`), a row per request older than `SEEN`, and tokens
    within 0.5 %. `whole_without_end` are estimates."""

    calls: int
    whole: int
    whole_without_end: int
    whole_without_row: int
    old: int
    old_without_row: int
    tokens_booked: int
    tokens_true: int
    unreported: int

    @property
    def difference(self) -> float:
        return abs(self.tokens_booked - self.tokens_true) / max(1, self.tokens_true)

    def holds(self, durability: str) -> bool:
        missing = self.whole_without_end if durability != "deferred" else 0
        return not missing and not self.old_without_row and self.difference <= 0.005


def run(times: int, rate: int, durability: str = "committed", seed: int = 1) -> Report:
    deployments = [{"name": "chat", "model": "gpt-4o"}]
    regions = [{"name": "one", "deployments": deployments, "seconds_per_chunk": 0.004}]
    with (
        tempfile.TemporaryDirectory() as disk,
        azurite() as tables,
        SimulatorProcess({"regions": regions}) as simulator,
    ):
        ledger = {"durability": durability, "overflow_directory": disk}
        backend = {"name": "one", "endpoint": simulator.regions["one"], "region": "one", "models": {"chat": "chat"}}
        environ = {
            "GATEWAY_CONFIG": json.dumps({"backends": [backend], "ledger": ledger}),
            "GATEWAY_STORAGE": tables.connection_string,
            **simulator.identity_environment,
        }
        key, chance = make_key(tables.connection_string, "bench"), random.Random(seed)
        sent: list[Sent] = []
        kills: list[float] = []  # epoch seconds
        booked: dict[str, dict[str, object]] = {}
        for number in range(times):
            with GatewayProcess("uvicorn", environ) as gateway:
                asyncio.run(_load(gateway, key, rate, number, chance, sent, kills))
            time.sleep(0.5)  # for writes in flight
            with GatewayProcess("uvicorn", environ):  # which reads back what is on disk
                _wait_for_rows(Path(disk))
            booked |= {row["id"]: row for row in asyncio.run(_usage_rows(tables.connection_string))}
            usage_tables.drop(tables.connection_string)
        log = {entry["client_request_id"]: entry for entry in simulator.log()["requests"]}
    return _compare(sent, kills, booked, log)


def _wait_for_rows(disk: Path) -> None:
    """Wait until no file of rows is left."""
    deadline = time.monotonic() + 30
    while list(disk.glob("*/*.rows")):
        if time.monotonic() > deadline:
            raise TimeoutError(f"rows are left in {disk}")
        time.sleep(0.05)


async def _load(
    gateway: GatewayProcess,
    key: str,
    rate: int,
    number: int,
    chance: random.Random,
    sent: list[Sent],
    kills: list[float],
) -> None:
    """Send calls at a steady rate, half of them streamed, then kill the gateway."""
    count = 0
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, asyncio.TaskGroup() as group:
        for _ in range(20):  # warm up
            await call(session, gateway.url, key, Sent(f"{number}-warm", False, time.time()), chance)
        started = time.monotonic()
        while (passed := time.monotonic() - started) < SECONDS:
            for _ in range(int(passed * rate) - count):
                one = Sent(f"{number}-{count}", chance.random() < 0.5, time.time())
                sent.append(one)
                count += 1
                group.create_task(call(session, gateway.url, key, one, chance))
            await asyncio.sleep(0.002)
        kills.append(time.time())
        gateway.kill()


def _compare(
    sent: list[Sent], kills: list[float], booked: dict[str, dict[str, object]], log: dict[str, dict[str, int]]
) -> Report:
    report = Report(len(sent), 0, 0, 0, 0, 0, 0, 0, 0)
    rows = {str(row.get("s_system")): row for row in booked.values()}
    for request_id, entry in log.items():
        # The age is counted from its arrival at the backend. A call that arrived just after the recorded time of a kill
        # belongs to the killed gateway, since the next one takes longer than this to start.
        died = min(died for died in kills if died > entry["time"] - SEEN)
        if died - entry["time"] > SEEN:
            report.old += 1
            report.old_without_row += request_id not in booked
    for one in sent:
        row = rows.get(one.tag)
        ended = row is not None and "e_status" in row
        if one.whole:
            report.whole += 1
            report.whole_without_end += not ended
            report.whole_without_row += row is None
        truth = log.get(str(row["id"])) if row is not None else None
        if row is None or truth is None or not truth["input_tokens"]:  # the simulator charges a prompt with its answer
            continue
        report.tokens_true += truth["input_tokens"]
        if ended:
            report.tokens_booked += int(str(row["e_input"])) + int(str(row["e_output"]))
            report.tokens_true += truth["output_tokens"]
        else:  # the output of an interrupted stream is not reported
            report.tokens_booked += int(str(row["s_prompt"]))
            report.unreported += truth["output_tokens"]
    return report


def main(kills: int, rate: int, durability: str) -> None:
    report = run(kills, rate, durability)
    print(
        f"{kills} kills under {rate} calls/s: {report.calls} calls, {report.whole} whole answers, "
        f"{report.whole_without_row} of them not recorded, {report.whole_without_end - report.whole_without_row} "
        f"estimated; {report.old} calls older than {SEEN:g} s at a kill, "
        f"{report.old_without_row} without a row; {report.tokens_booked} tokens recorded, {report.tokens_true} actual "
        f"({100 * report.difference:.2f} %), {report.unreported} not reported by interrupted streams: "
        f"{'holds' if report.holds(durability) else 'DOES NOT HOLD'}"
    )
    if not report.holds(durability):
        raise SystemExit(1)


if __name__ == "__main__":
    given = dict(enumerate(sys.argv[1:]))
    main(int(given.get(0, 20)), int(given.get(1, 120)), given.get(2, "committed"))
