"""Routing scenarios of regions at capacity: overload, provisioned first, and retry-after."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from bench.routing_load import Answered, chat, meanwhile, statuses
from bench.routing_system import (
    PROVISIONED_TOKENS_PER_MINUTE,
    REGIONS,
    THREE,
    Row,
    System,
)

IN_FLIGHT = 0.5  # seconds in which calls may be sent before a 429 arrives, on a busy machine
ROUNDING = 0.01  # seconds


async def overload(system: System, seconds: float, window: int = 10, each: int = 60) -> Row:
    """More calls than all regions can take. `each`: calls per second of one region, counted over `window` seconds."""
    model, capacity = f"small-{window}s", each * len(THREE)
    demand = capacity * 5 / 3
    for region in REGIONS.values():  # a window begins with the first call
        limit = each * window
        system.simulator.limits(region=region, deployment=model, requests_per_minute=limit, window_seconds=window)
    calls = await system.callers.arrivals(demand, seconds, lambda _: chat(model, max_tokens=4))
    begins, took = calls[0].at, calls[-1].at - calls[0].at
    served = sum(entry["status"] == 200 and entry["time"] < begins + seconds for entry in system.log(model))
    goodput = served / (capacity * seconds)
    tries = sum(call.attempts for call in calls) / len(calls)
    honest = all(call.served or (call.status == 429 and call.retry_after) for call in calls)
    return Row(
        f"{demand:.0f} calls/s on a capacity of {capacity}, counted over {window} s",
        "goodput ≥ 95 % of the capacity; ≤ 1.5 attempts per call; the others get 429 with retry-after",
        f"{len(calls) / took:.0f} calls/s; goodput {goodput:.1%}; {tries:.2f} attempts per call; {statuses(calls)}",
        goodput >= 0.95 and tries <= 1.5 and honest,
    )


async def provisioned(system: System, seconds: float, burst: int = 10, least: float = 0.95) -> Row:
    """Calls at twice the rate of a provisioned deployment: it comes first, the rest spills over, and calls return to it
    afterwards. `burst`: size of its bucket in seconds of work."""
    limit = PROVISIONED_TOKENS_PER_MINUTE * burst // 60
    system.simulator.limits(deployment="ptu", tokens_per_minute=limit, window_seconds=burst)
    tokens = 40  # per call, roughly: the prompt, and 32 of the answer
    rate = 2 * PROVISIONED_TOKENS_PER_MINUTE / 60 / tokens
    calls = await system.callers.arrivals(rate, seconds, lambda number: chat("spill", f"{number}?", max_tokens=32))
    log = system.log("ptu")
    await asyncio.sleep(1)
    after = await system.callers.arrivals(rate / 8, max(2.0, seconds / 6), lambda _: chat("spill"))
    returned = sum(call.backend == "provisioned" for call in after) / len(after)
    answered = sum(call.served for call in calls) / len(calls)
    # Throughput from the time its bucket was full: the tokens that arrived, plus the decrease of its level.
    during = [entry for entry in log if entry["time"] <= calls[-1].at]
    during = list(itertools.dropwhile(lambda entry: entry["utilisation"] < 99, during))
    if len(during) < 10:
        return Row(
            "provisioned first, at its capacity", "its bucket fills up", "its bucket never filled up", held=False
        )
    came = sum(entry["input_tokens"] + entry["output_tokens"] for entry in during)
    left = (during[0]["utilisation"] - during[-1]["utilisation"]) / 100 * limit
    use = (came + left) / ((during[-1]["time"] - during[0]["time"]) * PROVISIONED_TOKENS_PER_MINUTE / 60)
    refused = sum(entry["status"] == 429 for entry in log)
    return Row(
        "provisioned first, at its capacity",
        f"provisioned ≥ {least:.0%} used; all answered; calls return when there is room",
        f"{use:.1%} used; {answered:.2%} of {len(calls)} answered; {refused} rejected by it; {returned:.0%} returned",
        use >= least and answered == 1 and returned >= 0.95,
    )


async def retry_after(system: System, seconds: float, rate: float = 40.0) -> Row:
    """Two of three regions occasionally answer 429, with short and long waits in seconds or milliseconds."""
    model = "retry-after"
    await system.warm(model)
    waits = itertools.cycle(
        [{"retry-after-ms": "1500"}, {"retry-after": "3"}, {"retry-after": "13", "retry-after-ms": "12500"}]
    )
    places = itertools.cycle(("virginia", "japan"))

    async def script() -> None:
        for _ in range(int(seconds / 2)):
            region = REGIONS[next(places)]
            system.simulator.fault("status", region=region, deployment=model, times=1, status=429, headers=next(waits))
            await asyncio.sleep(2)

    async with meanwhile(script()):
        calls = await system.callers.arrivals(rate, seconds, lambda number: chat(model, stream=number % 2 == 0))
    count, early = early_calls(system.log(model), calls)
    return Row(
        "two of three regions answer 429 with retry-after",
        "no call reaches them before the wait is over",
        f"{count} waits; {early} early calls; {statuses(calls)}",
        count > 0 and early == 0 and all(call.served for call in calls),
    )


def early_calls(log: Sequence[Mapping[str, Any]], calls: Sequence[Answered]) -> tuple[int, int]:
    """Number of waits, and of calls to the same region before the wait was over. Counted per instance, since each keeps
    its own waits; calls in flight are excluded."""
    instance = {call.request_id: call.door for call in calls}
    count = early = 0
    for number, entry in enumerate(log):
        if entry["retry_after"] is None:
            continue
        count += 1
        begins, ends = entry["time"] + IN_FLIGHT, entry["time"] + entry["retry_after"] - ROUNDING
        early += sum(
            later["region"] == entry["region"]
            and begins < later["time"] < ends
            and instance.get(later["client_request_id"]) == instance.get(entry["client_request_id"])
            for later in log[number + 1 :]
        )
    return count, early
