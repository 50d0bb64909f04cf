"""Evenness of routing across backends, in a fleet of short-lived instances in simulated time.

Runs the gateway's rotation on a table with Azure's latencies. `python -m bench.routing_fleet` prints a line per case;
`tests/end_to_end/test_rotation_fleet.py` asserts the bounds.
"""

import asyncio
import heapq
import random
from collections.abc import Callable, Sequence

import msgspec

from bench.limits_simulation import DistantStore, SimulatedLoop
from shared.routing.rotation import Rotation, smooth_order
from shared.storage import Table, names

INSTANCES = 200
LIFETIME = 30.0  # mean seconds until an instance is replaced
RATE = 400.0  # calls per second of the fleet
SECONDS = 300.0
WINDOW = 10.0
TICK = 0.02

type Make = Callable[[Table, random.Random], Rotation]


class Evenness(msgspec.Struct, frozen=True):
    """Largest deviation of a backend from its share, in a window and in total."""

    window: float
    total: float
    instances: int  # in total


def simulate(weights: Sequence[int], seed: int, make: Make = Rotation, instances: int = INSTANCES) -> Evenness:
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(_run(weights, random.Random(seed), make, instances))


async def _run(weights: Sequence[int], rng: random.Random, make: Make, instances: int) -> Evenness:
    loop = asyncio.get_running_loop()
    order = smooth_order(weights)
    store = DistantStore(rng.getrandbits(32))

    def start() -> Rotation:
        return make(store.table(names.ROTATION), random.Random(rng.getrandbits(64)))

    fleet = [start() for _ in range(instances)]
    ends = [(rng.expovariate(1 / LIFETIME), number) for number in range(instances)]
    heapq.heapify(ends)
    windows = [[0] * len(weights) for _ in range(int(SECONDS / WINDOW))]
    started, at = instances, rng.expovariate(RATE)
    while at < SECONDS:
        if at > loop.time() + TICK:
            await asyncio.sleep(TICK)
        while ends[0][0] <= at:
            end, number = heapq.heappop(ends)
            await fleet[number].close()
            fleet[number], started = start(), started + 1
            heapq.heappush(ends, (end + rng.expovariate(1 / LIFETIME), number))
        ticket = fleet[rng.randrange(instances)].ticket("pool", len(order))
        windows[int(at / WINDOW)][order[ticket % len(order)]] += 1
        at += rng.expovariate(RATE)
    await asyncio.gather(*(rotation.close() for rotation in fleet))
    totals = [sum(counts) for counts in zip(*windows, strict=True)]
    return Evenness(max(_deviation(counts, weights) for counts in windows), _deviation(totals, weights), started)


def _deviation(counts: Sequence[int], weights: Sequence[int]) -> float:
    expected = [sum(counts) * weight / sum(weights) for weight in weights]
    return max(abs(count - due) / due for count, due in zip(counts, expected, strict=True))


def main() -> None:
    print(f"{RATE:.0f} calls/s, mean instance lifetime {LIFETIME:.0f} s: largest deviation of a backend from its share")
    for weights in ((1, 1), (1, 1, 1), (1, 1, 1, 1), (3, 1), (2, 2, 1, 1)):
        for instances in (1, 20, INSTANCES):
            runs = [simulate(weights, seed, instances=instances) for seed in range(1, 4)]
            window, total = max(run.window for run in runs), max(run.total for run in runs)
            print(
                f"weights {weights!s:13} {instances:4} instances ({runs[0].instances} in total)   "
                f"in {WINDOW:.0f} s {window:6.2%}   in {SECONDS:.0f} s {total:6.2%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
