"""Routing scenarios of failing regions: calls must be answered, or get an accurate error."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from bench.routing_load import at_rank, between, chat, meanwhile, mixed, slowest, statuses
from bench.routing_system import REGIONS, SICK, THREE, Row, System

RATE = 30.0  # calls per second


def _plain(model: str) -> Callable[[int], dict[str, Any]]:
    return lambda _: chat(model)


async def sick(system: System, seconds: float, rate: float = RATE) -> Row:
    """One of three regions answers 503."""
    model, before = "sick", min(5.0, seconds / 4)
    await system.warm(model)
    period = [0.0, 0.0]

    async def script() -> None:
        await asyncio.sleep(before)
        period[0] = time.time()
        with system.fault("status", model, SICK, status=503):
            await asyncio.sleep(seconds)
        period[1] = time.time()

    async with meanwhile(script()):
        calls = await system.callers.arrivals(rate, before + seconds + before, mixed(model))
    during = between(calls, *period)
    wasted = sum(entry["fault"] == "status" for entry in system.log(model)) / len(system.gateways)
    tries = sum(call.attempts for call in during) / len(during)
    answered = sum(call.served for call in calls)
    return Row(
        f"one of three regions answers 503 for {seconds:.0f} s",
        "all answered; ≤ 1.05 attempts per call; ≤ 50 calls wasted per instance",
        f"{answered} of {len(calls)} answered; {tries:.3f} attempts per call; {wasted:.1f} wasted",
        answered == len(calls) and tries <= max(1.05, 1 + 6 * len(system.gateways) / len(during)) and wasted <= 50,
    )


async def hanging(system: System, seconds: float, rate: float = RATE) -> Row:
    """One region accepts calls and does not answer."""
    model = "hanging"
    await system.warm(model)

    async def script() -> None:
        with system.fault("hang", model, SICK):
            await asyncio.sleep(seconds)

    async with meanwhile(script()):
        calls = await system.callers.arrivals(rate, seconds, mixed(model))
    late = sum(call.seconds > 5 for call in calls) / len(calls)
    failed = sum(not call.served for call in calls)
    return Row(
        f"one of three regions hangs for {seconds:.0f} s",
        "no 5xx; ≤ 1 % of the calls take over 5 s",
        f"{statuses(calls)}; {late:.2%} over 5 s; slowest {slowest(calls):.1f} s",
        not failed and late <= 0.01,
    )


async def brown_out(system: System, seconds: float, rate: float = RATE) -> list[Row]:
    """Half the calls of one region fail; then half the calls of every region."""
    rows = []
    for model, backend in (("brown-out", SICK), ("all-brown", None)):
        await system.warm(model)
        with system.fault("status", model, backend, status=503, share=0.5):
            calls = await system.callers.arrivals(rate, seconds, mixed(model))
        tries = sum(call.attempts for call in calls) / len(calls)
        served = sum(call.served for call in calls) / len(calls)
        honest = all(call.served or (call.status == 503 and call.code != "not JSON") for call in calls)
        rows.append(
            Row(
                f"half of the calls fail in {'one region' if backend else 'every region'}",
                f"{'all answered' if backend else 'answered, or 503'}; no hang",
                f"{statuses(calls)}; {tries:.2f} attempts per call; slowest {slowest(calls):.1f} s",
                (served == 1 if backend else honest) and slowest(calls) < 10,
            )
        )
    return rows


async def slow(system: System, seconds: float, rate: float = RATE, delay: float = 3.0) -> Row:
    """One region answers late."""
    model = "slow"
    await system.warm(model)
    with system.fault("delay", model, SICK, seconds=delay):
        calls = await system.callers.arrivals(rate, seconds, mixed(model))
    share = sum(entry["region"] == REGIONS[SICK] for entry in system.log(model)) / len(calls)
    return Row(
        f"one region is {delay:g} s late",
        "all answered; no hang",
        f"{statuses(calls)}; {share:.0%} of the calls went there; half within {at_rank(calls, 0.5):.2f} s, "
        f"95 % within {at_rank(calls, 0.95):.2f} s, all within {slowest(calls):.2f} s",
        all(call.served for call in calls) and slowest(calls) < 10,
    )


async def flapping(system: System, seconds: float, rate: float = RATE) -> Row:
    """One region alternates between one second of refused connections and one second of service."""
    model = "flapping"
    await system.warm(model)

    async def script() -> None:
        for _ in range(int(seconds / 2)):
            system.simulator.down(REGIONS[SICK])
            await asyncio.sleep(1)
            system.simulator.up(REGIONS[SICK])
            await asyncio.sleep(1)

    async with meanwhile(script()):
        calls = await system.callers.arrivals(rate, seconds, _plain(model))
    tries = sum(call.attempts for call in calls) / len(calls)
    return Row(
        "one region goes down and up every second",
        "all answered; no hang",
        f"{statuses(calls)}; {tries:.2f} attempts per call; slowest {slowest(calls):.1f} s",
        all(call.served for call in calls) and slowest(calls) < 10,
    )


async def dead(system: System, seconds: float, rate: float = RATE) -> Row:
    """All regions refuse connections, then recover."""
    model = "dead"
    await system.warm(model)
    for backend in THREE:
        system.simulator.down(REGIONS[backend])
    calls = await system.callers.arrivals(rate, seconds, mixed(model))
    for backend in THREE:
        system.simulator.up(REGIONS[backend])
    back = time.monotonic()
    for _ in range(70):
        again = await system.callers.arrivals(10.0, 1.0, _plain(model))
        if all(call.served for call in again):
            break
    wait = time.monotonic() - back
    honest = all(call.status == 503 and call.code == "no_backend_available" for call in calls)
    return Row(
        "all regions are down, then up",
        "every call gets 503 no_backend_available at once, and is served again within 10 s",
        f"{statuses(calls)}; slowest {slowest(calls):.2f} s; served again after {wait:.1f} s",
        honest and slowest(calls) < 5 and wait <= 10,
    )


async def nameless(system: System, seconds: float, most: float = 10.0) -> list[Row]:
    """A backend whose name does not resolve, or whose name server does not answer: with a good backend, and alone."""

    async def run(failure: str, half: str, alone: str) -> Row:
        calls = await system.callers.arrivals(10.0, seconds, _plain(half))
        none = await system.callers.together(chat(alone) for _ in range(10))
        honest = all(call.status in (503, 504) and call.code != "not JSON" for call in none)
        return Row(
            f"the name of one of two backends {failure}",
            f"all answered; 503 or 504 without another backend; none over {most:g} s",
            f"{statuses(calls)}, slowest {slowest(calls):.1f} s; alone {statuses(none)}, slowest {slowest(none):.1f} s",
            all(call.served for call in calls) and honest and slowest([*calls, *none]) < most,
        )

    unknown = run("is unknown", "half-unknown", "unknown")
    return [*await asyncio.gather(unknown, run("does not resolve in time", "half-hanging", "hanging-name"))]
