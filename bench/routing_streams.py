"""Routing scenario: a region goes down during open streams."""

import asyncio

from bench.routing_load import Answered, chat, slowest, statuses
from bench.routing_system import REGIONS, SICK, Row, System


async def dying(system: System, streams: int, wait: float = 2.5) -> Row:
    """Half of the streams have received content when the region goes down, the other half have not."""
    await system.warm("streams", streams // 2)
    await system.warm("long-streams", streams // 2)
    # Both pauses must last until the region is down. Streams that start again elsewhere wait once more.
    pause = system.fault("stall", "long-streams", seconds=wait + 1, after_chunks=4)
    with pause, system.fault("slow_first_token", "streams", seconds=wait):
        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(system.callers.call(chat("long-streams", stream=True))) for _ in range(streams // 2)
            ]
            await asyncio.sleep(1.5)
            waiting = [
                group.create_task(system.callers.call(chat("streams", stream=True))) for _ in range(streams // 2)
            ]
            await asyncio.sleep(1.0)
            system.simulator.down(REGIONS[SICK])
    system.simulator.up(REGIONS[SICK])
    shown, unshown = [call.result() for call in running], [call.result() for call in waiting]
    log = system.log("long-streams") + system.log("streams")
    broken = sum(entry["chunks_sent"] > 0 and not entry["completed"] for entry in log)
    moved = sum(not entry["chunks_sent"] and not entry["completed"] for entry in log)
    failed = [call for call in shown if call.ended == "error event"]
    good = _all_served(unshown) and len(failed) == broken > 0 and moved > 0
    good = good and all(call.served for call in shown if call not in failed)
    return Row(
        f"a region goes down during {streams} streams",
        "its streams without content finish elsewhere; its other streams break off behind an error event",
        f"{moved} of {len(unshown)} without content lost their region: {statuses(unshown)}, "
        f"slowest {slowest(unshown):.1f} s; {broken} of {len(shown)} with content: {statuses(shown)}",
        good,
    )


def _all_served(calls: list[Answered]) -> bool:
    return all(call.served for call in calls)
