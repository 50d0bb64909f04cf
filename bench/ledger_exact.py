"""`make bench-ledger`: many calls of several APIs, of which one in twenty loses its caller and one in twenty meets a
failing backend, counted by the gateway and by the simulator. `python -m bench.ledger_exact [CALLS]`
"""

import asyncio
import json
import random
import sys
from collections import Counter
from typing import Any

import aiohttp
import msgspec

from bench.ledger_load import KINDS, Sent, body, call
from bench.load import repeat
from simulator.process import SimulatorProcess
from tests.azurite import azurite
from tests.gateway_process import GatewayProcess, make_key
from tests.system import _usage_rows, eventually

AT_ONCE = 24
LEAVING, FAILING = 0.05, 0.05
CLASSES = {
    "e_input": "input_tokens",
    "e_output": "output_tokens",
    "e_cached": "cached_tokens",
    "e_reasoning": "reasoning_tokens",
}
DEPLOYMENTS = {"chat": "gpt-4o", "instruct": "gpt-35-turbo-instruct", "embed": "text-embedding-3-small"}
FAULTS = (
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 429, "headers": {"retry-after-ms": "1"}},
    {"kind": "cut_stream", "after_chunks": 0},
    {"kind": "cut_stream", "after_chunks": 20},
    {"kind": "wrong_length"},
)


class Report(msgspec.Struct):
    """`different`: calls whose backend told its usage, and which are booked otherwise. The sums are over all of them,
    and over those whose callers left or whose streams broke off."""

    calls: Counter[str]
    missing: int
    different: list[str]
    exact: Counter[str]
    true: Counter[str]
    estimated: int
    estimates: int
    estimates_true: int

    @property
    def off(self) -> float:
        return abs(self.estimates - self.estimates_true) / max(1, self.estimates_true)

    def holds(self) -> bool:
        return not self.missing and not self.different and self.exact == self.true and self.off <= 0.1


def run(calls: int, kinds: tuple[str, ...] = tuple(KINDS), seed: int = 2) -> Report:
    deployments = [{"name": name, "model": model} for name, model in DEPLOYMENTS.items()]
    regions = [
        {"name": name, "deployments": deployments, "seconds_per_chunk": 0.002} for name in ("one", "two", "three")
    ]
    with azurite() as tables, SimulatorProcess({"regions": regions}) as simulator:
        models = {name: name for name in DEPLOYMENTS}
        backends = [
            {"name": name, "endpoint": address, "region": name, "models": models}
            for name, address in simulator.regions.items()
        ]
        environ = {
            "GATEWAY_CONFIG": json.dumps({"backends": backends}),
            "GATEWAY_STORAGE": tables.connection_string,
            **simulator.identity_environment,
        }
        for fault in FAULTS:
            fields: dict[str, Any] = dict(fault)
            simulator.fault(fields.pop("kind"), share=FAILING / len(FAULTS), **fields)
        key, chance = make_key(tables.connection_string, "bench"), random.Random(seed)
        sent: list[Sent] = []
        with GatewayProcess("uvicorn", environ) as gateway:
            asyncio.run(_load(gateway, key, calls, kinds, chance, sent))
            eventually(lambda: "hung_up" not in _open(tables.connection_string), 60)
        rows = asyncio.run(_usage_rows(tables.connection_string))
        log = simulator.log()["requests"]
    return _compare(sent, rows, log)


def _open(storage: str) -> str:
    """ "hung_up" as long as the row of a call has no end."""
    return "hung_up" if any("e_status" not in row for row in asyncio.run(_usage_rows(storage))) else ""


async def _load(
    gateway: GatewayProcess, key: str, calls: int, kinds: tuple[str, ...], chance: random.Random, sent: list[Sent]
) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one() -> None:
            about = Sent(f"c{len(sent)}", chance.choice(kinds), 0.0)
            sent.append(about)
            leave = chance.randint(1, 40) if chance.random() < LEAVING and KINDS[about.kind][1] else None
            await call(session, gateway.url, key, about, body(about.kind, chance), leave)

        await repeat(calls, AT_ONCE, one)


def _compare(sent: list[Sent], rows: list[dict[str, Any]], log: list[dict[str, Any]]) -> Report:
    booked = {row["id"]: row for row in rows}
    report = Report(Counter(f"{one.kind} {one.status}" for one in sent), 0, [], Counter(), Counter(), 0, 0, 0)
    report.missing = sum(1 for one in sent if one.status == 200 and one.request_id not in booked)
    tries: dict[str, list[dict[str, Any]]] = {}
    for entry in log:
        tries.setdefault(entry["client_request_id"], []).append(entry)
    for request_id, row in booked.items():
        if "e_role" in row or "e_backend" not in row:
            continue
        (truth,) = [entry for entry in tries[request_id] if entry["region"] == row["e_region"]][-1:]
        if row.get("e_est"):
            report.estimated += 1
            report.estimates += row["e_input"] + row["e_output"]
            report.estimates_true += truth["input_tokens"] + truth["output_tokens"]
            continue
        for name, field in CLASSES.items():
            report.exact[field] += row.get(name, 0)
            report.true[field] += truth[field]
            if row.get(name, 0) != truth[field]:
                report.different.append(f"{request_id} {field}: {row.get(name, 0)} booked, {truth[field]} true")
    return report


def main(calls: int) -> None:
    report = run(calls)
    print(
        f"{sum(report.calls.values())} calls {dict(report.calls)}: {report.missing} without a row, "
        f"{len(report.different)} booked otherwise than the simulator counted {report.different[:3]}; "
        f"{dict(report.exact)} booked, {dict(report.true)} true; {report.estimated} estimated, off by "
        f"{100 * report.off:.1f} %: {'holds' if report.holds() else 'DOES NOT HOLD'}"
    )
    if not report.holds():
        raise SystemExit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
