"""`make bench-ledger`: compares the ledger with the simulator's log, for calls of every metered kind.

One caller in twenty disconnects, and one call in twenty meets a failing backend.
`python -m bench.ledger_exact [REQUESTS]`
"""

import asyncio
import json
import random
import sys
from collections import Counter
from typing import Any

import msgspec

from bench import usage_tables
from bench.ledger_kinds import DEPLOYMENTS, KINDS, Callers, Job
from simulator.process import SimulatorProcess
from tests.harness.azurite import azurite
from tests.harness.gateway_process import GatewayProcess, make_key
from tests.harness.system import _usage_rows

_OF_REFUSALS = {"r_sums", "r_status"}  # properties of rows about calls that were refused before they were on record
AT_ONCE = 24
ROUND = 2_000  # requests until the tables are dropped
LEAVING, FAILING = 0.3, 0.05  # LEAVING: of the streams; some end first, so about one in twenty of all calls
CLASSES = {  # property of the row: field of the simulator's log
    "e_input": "input_tokens",
    "e_output": "output_tokens",
    "e_cached": "cached_tokens",
    "e_reasoning": "reasoning_tokens",
    "e_audio_in": "audio_input_tokens",
    "e_image_in": "image_input_tokens",
    "e_audio_out": "audio_output_tokens",
    "e_image_out": "image_output_tokens",
    "e_accepted": "accepted_prediction_tokens",
    "e_rejected": "rejected_prediction_tokens",
    "e_images": "images",
    "e_seconds": "seconds",
    "e_chars": "characters",
}
ANY_CALL = (
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 429, "headers": {"retry-after-ms": "1"}},
    {"kind": "wrong_length"},
)
STREAMS = ({"kind": "cut_stream", "after_chunks": 0}, {"kind": "cut_stream", "after_chunks": 20})

type Rows = dict[str, dict[str, Any]]


class Estimates(msgspec.Struct):
    """Tokens estimated by the gateway, and those charged by the simulator."""

    calls: int = 0
    booked: int = 0
    true: int = 0

    def add(self, booked: int, true: int) -> None:
        self.calls, self.booked, self.true = self.calls + 1, self.booked + booked, self.true + true

    @property
    def off(self) -> float:
        return abs(self.booked - self.true) / max(1, self.true)


class Report(msgspec.Struct):
    """`different`: calls recorded differently from the usage that their backend reported; `exact` and `true` are the
    recorded and actual sums of these calls, in thousandths. `by_kind`: estimates for disconnects and broken streams.
    `tries`: prompts of attempts that failed after they were charged. `unobserved`: calls whose end no caller could
    observe. `uncounted`: texts that the tokenizer did not count."""

    requests: int
    calls: Counter[str] = Counter()
    hung_up: int = 0
    faults: int = 0
    missing: int = 0
    different: list[str] = []
    exact: Counter[str] = Counter()
    true: Counter[str] = Counter()
    by_kind: dict[str, Estimates] = {}
    tries: Estimates = msgspec.field(default_factory=Estimates)
    unobserved: int = 0
    uncounted: int = 0

    @property
    def estimates(self) -> Estimates:
        parts = self.by_kind.values()
        return Estimates(*(sum(getattr(part, name) for part in parts) for name in Estimates.__struct_fields__))

    def holds(self) -> bool:
        return not self.missing and not self.different and self.exact == self.true and self.estimates.off <= 0.1


def run(requests: int, kinds: tuple[str, ...] = tuple(KINDS), seed: int = 2) -> Report:
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
        storage = tables.connection_string
        environ = {
            "GATEWAY_CONFIG": json.dumps({"backends": backends}),
            "GATEWAY_STORAGE": storage,
            **simulator.identity_environment,
        }
        key, chance = make_key(storage, "bench"), random.Random(seed)
        jobs: list[Job] = []
        rows: Rows = {}
        with GatewayProcess("uvicorn", environ, app="tests.harness.quick_timer:app") as gateway:
            callers = Callers(gateway.url, key)
            asyncio.run(_load(callers, simulator, storage, requests, kinds, chance, jobs, rows))
            uncounted = gateway.logs().count("cannot count tokens")
        log = simulator.log()["requests"]
    report = _compare(callers.requests, jobs, rows, log)
    report.uncounted = uncounted
    return report


async def _load(
    callers: Callers,
    simulator: SimulatorProcess,
    storage: str,
    requests: int,
    kinds: tuple[str, ...],
    chance: random.Random,
    jobs: list[Job],
    rows: Rows,
) -> None:
    weights = [KINDS[kind].weight for kind in kinds]
    async with callers:
        await callers.prepare()
        for faults, share in ((ANY_CALL, FAILING), (STREAMS, FAILING / 2)):
            for fault in faults:
                fields: dict[str, Any] = dict(fault)
                await asyncio.to_thread(simulator.fault, fields.pop("kind"), share=share / len(faults), **fields)

        async def worker(until: int) -> None:
            while callers.requests < until:
                (kind,) = chance.choices(kinds, weights)
                leaves = KINDS[kind].stream and chance.random() < LEAVING
                jobs.append(await callers.call(kind, chance, chance.randint(1, 15) if leaves else None))

        while callers.requests < requests:
            until = min(requests, callers.requests + ROUND)
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(worker(until))
            rows |= await _closed_rows(storage)
            for prefix in ("usage", "affinity2"):
                await asyncio.to_thread(usage_tables.drop, storage, prefix)


async def _closed_rows(storage: str) -> Rows:
    """All rows, once every call and its work have ended and the tokens of disconnected callers are counted."""
    deadline = asyncio.get_running_loop().time() + 60
    while True:
        rows = {row["id"]: row for row in await _usage_rows(storage) if not row.keys() & _OF_REFUSALS}
        closed = all("e_status" in row and "e_input" in row for row in rows.values())
        if closed or asyncio.get_running_loop().time() > deadline:
            return rows
        await asyncio.sleep(0.3)


def _compare(requests: int, jobs: list[Job], rows: Rows, log: list[dict[str, Any]]) -> Report:
    report = Report(requests, calls=Counter(job.kind for job in jobs))
    tries: dict[str, list[dict[str, Any]]] = {}
    for entry in log:
        report.faults += entry["fault"] is not None
        tries.setdefault(entry["client_request_id"], []).append(entry)
    charges: Counter[str] = Counter()
    for name, row in rows.items():
        request_id, _, number = name.partition("-")
        charges[request_id] += row["e_input"] if number else 0
    for job in jobs:
        report.missing += sum(request_id not in rows for request_id in job.answered)
        served = [rows[request_id] for request_id in job.request_ids if "e_backend" in rows.get(request_id, ())]
        report.hung_up += any(row["e_ended"] == "hung_up" for row in served)
        truths = [[entry for entry in tries[row["id"]] if entry["region"] == row["e_region"]][-1] for row in served]
        if any(row.get("e_est") for row in served):
            booked = sum(row["e_input"] + row["e_output"] for row in served)
            true = sum(truth["input_tokens"] + truth["output_tokens"] for truth in truths)
            report.by_kind.setdefault(job.kind, Estimates()).add(booked, true)
        elif KINDS[job.kind].follow and not (job.finished or any("e_counted" in row for row in served)):
            report.unobserved += 1
        else:
            _compare_exactly(report, job, served, truths)
        _compare_tries(report, job, charges, truths, tries)
    return report


def _compare_exactly(report: Report, job: Job, served: list[dict[str, Any]], truths: list[dict[str, Any]]) -> None:
    for name, field in CLASSES.items():
        if name in KINDS[job.kind].unreported:
            continue
        booked, true = sum(row.get(name, 0) for row in served), sum(truth[field] for truth in truths)
        report.exact[field] += round(booked * 1000)
        report.true[field] += round(true * 1000)
        if round(booked * 1000) != round(true * 1000):
            ids = " ".join(job.request_ids)
            report.different.append(f"{job.kind} {ids} {field}: {booked} recorded, {true} actual")


def _compare_tries(
    report: Report,
    job: Job,
    charges: Counter[str],
    truths: list[dict[str, Any]],
    tries: dict[str, list[dict[str, Any]]],
) -> None:
    """Compare the prompts of failed attempts. Their output is unknown to the gateway and not compared."""
    for request_id in job.request_ids:
        failed = [entry for entry in tries.get(request_id, ()) if all(entry is not truth for truth in truths)]
        if not KINDS[job.kind].follow and (true := sum(entry["input_tokens"] for entry in failed)):
            report.tries.add(charges[request_id], true)


def main(requests: int) -> None:
    report = run(requests)
    estimates, tries = report.estimates, report.tries
    for kind, part in report.by_kind.items():
        print(f"  {kind}: {part.calls} estimated, {part.booked} tokens recorded, {part.true} actual")
    sums = {name: f"{report.exact[name] / 1000:g}" for name in report.exact}
    print(
        f"{report.requests} requests, {sum(report.calls.values())} calls {dict(report.calls)}, "
        f"{report.hung_up} disconnects, {report.faults} faults: {report.missing} without a row, "
        f"{len(report.different)} recorded differently from the simulator {report.different[:5]}; recorded: {sums}; "
        f"{estimates.calls} estimated, off by "
        f"{100 * estimates.off:.1f} % ({report.uncounted} by characters); {tries.calls} failed attempts that were "
        f"charged, their prompts off by {100 * tries.off:.1f} %; {report.unobserved} whose end was not observed: "
        f"{'holds' if report.holds() else 'DOES NOT HOLD'}"
    )
    if not report.holds():
        raise SystemExit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
