"""Routing scenarios with several failures: a burst, disconnects, a killed instance, tables that do not answer."""

import asyncio
import itertools
import os
import signal
import time

from bench.routing_load import chat, meanwhile, mixed, slowest, statuses
from bench.routing_system import REGIONS, SICK, THREE, Row, System
from shared.routing import preferences

OTHER, THIRD = (name for name in THREE if name != SICK)


async def crowd(system: System, callers: int = 200) -> Row:
    """Concurrent calls with cold connections and caches, while one region fails and another is slow."""
    with system.fault("status", "crowd", SICK, status=500), system.fault("delay", "crowd", OTHER, seconds=1):
        calls = await system.callers.together(chat("crowd", stream=i % 2 == 0) for i in range(callers))
    tries = sum(call.attempts for call in calls) / len(calls)
    return Row(
        f"{callers} concurrent calls while one region fails and one is a second late",
        "all answered; none over 10 s",
        f"{statuses(calls)}; {tries:.2f} attempts per call; slowest {slowest(calls):.1f} s",
        all(call.served for call in calls) and slowest(calls) < 10,
    )


async def hung_up(system: System, callers: int = 100) -> Row:
    """Callers disconnect while their calls wait for a hanging or slow region. Calls without streaming are hedged."""
    model = "hung-up"
    await system.warm(model, 90 * len(system.gateways))  # a hedge needs the usual latency, from 20 answers
    slow = system.fault("delay", model, OTHER, seconds=4), system.fault("delay", model, THIRD, seconds=2)
    with system.fault("hang", model, SICK), slow[0], slow[1]:
        started = time.time()
        bodies = [chat(model, stream=number % 2 == 0) for number in range(callers)]
        hedged = itertools.cycle([{}, {preferences.HEDGE: "true"}])
        tasks = [asyncio.create_task(system.callers.call(body, headers=next(hedged))) for body in bodies]
        await asyncio.sleep(1.5)
        left = [task for task in tasks if not task.done()]
        for task in left:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.5)  # the regions log a call when it has ended
        arrived = [entry for entry in system.log(model) if entry["time"] >= started]
        after = await system.callers.arrivals(20.0, 2.0, mixed(model))
    reached = sum(entry["status"] is None for entry in arrived)
    return Row(
        f"{len(left)} of {callers} callers disconnect while their calls wait",
        "their connections to the regions are closed; later calls are answered",
        f"{reached} calls were cancelled at the regions; afterwards {statuses(after)}",
        reached > len(left) / 2 and all(call.served for call in after),
    )


async def killed(system: System, seconds: float = 20.0) -> Row:
    """An instance is killed while a region fails, when it may be the one that probes. The other instance and a new one
    continue, and use the region again once it recovers."""
    model = "killed"
    await system.warm(model)

    async def script() -> None:
        with system.fault("status", model, SICK, status=503):
            await asyncio.sleep(seconds / 4)
            system.gateways[0].kill()
            await asyncio.sleep(1)
            await asyncio.to_thread(system.restart, 0)
            await asyncio.sleep(seconds / 4)

    async with meanwhile(script()):
        calls = await system.callers.arrivals(20.0, seconds / 2 + 1, lambda _: chat(model), door=1)
    recovered = time.monotonic()
    while time.monotonic() < recovered + 75:
        after = await system.callers.arrivals(20.0, 1.0, lambda _: chat(model))
        if all(any(call.region == REGIONS[SICK] and call.door == door for call in after) for door in (0, 1)):
            break
    wait = time.monotonic() - recovered
    return Row(
        "an instance is killed and restarted while a region fails",
        "the other instance answers all; both use the region again within 72 s",
        f"{statuses(calls)}; used again after {wait:.0f} s",
        all(call.served for call in calls) and wait < 73,
    )


async def storeless(system: System, seconds: float = 15.0) -> Row:
    """The tables do not answer while a region fails. Instances share no state meanwhile; calls continue."""
    model = "storeless"
    await system.warm(model)
    os.kill(system.azurite.pid, signal.SIGSTOP)
    try:
        with system.fault("status", model, SICK, status=503):
            calls = await system.callers.arrivals(20.0, seconds, mixed(model))
    finally:
        os.kill(system.azurite.pid, signal.SIGCONT)
    wasted = sum(entry["fault"] == "status" for entry in system.log(model)) / len(system.gateways)
    return Row(
        "the tables do not answer while a region fails",
        "all answered; none over 5 s; ≤ 50 calls wasted per instance",
        f"{statuses(calls)}; slowest {slowest(calls):.1f} s; {wasted:.1f} wasted",
        all(call.served for call in calls) and slowest(calls) < 5 and wasted <= 50,
    )
