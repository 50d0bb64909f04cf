"""`make bench-limits`, third part: what limits cost a process, in CPU per request and memory per key."""

import asyncio
import gc
import time
import tracemalloc

from shared.azure_openai import operations
from shared.config.document import Configuration, Limits
from shared.limits.limiter import Limiter
from shared.storage import names
from shared.storage.memory import MemoryStore
from shared.types import Call, Consumer, Usage

CALLS = 20_000
KEYS = 10_000
CALL = Call(
    operation=operations.OPERATIONS[0], surface="openai", model="gpt-4o", body=b"x" * 4000, max_output_tokens=1000
)
HELD = {
    "none": Limits(),
    "requests and tokens per minute": Limits(requests_per_minute=10**8, tokens_per_minute=10**9),
    "... with quota, budget, concurrency": Limits(
        requests_per_minute=10**8, tokens_per_minute=10**9, token_quota=10**12, budget_usd=10**6, max_concurrent=10**6
    ),
}


def limiter(store: MemoryStore) -> Limiter:
    return Limiter(store, Configuration(backends=[]), lambda *_: None)


async def cpu(limits: Limits) -> float:
    """Microseconds to reserve, tell the headers and settle, 1,000 requests a second, exchanges included but for the
    table's own work."""
    held, consumer, spent = limiter(MemoryStore()), Consumer("k", "bench", limits=limits), 0.0
    for number in range(CALLS):
        started = time.process_time()
        reservation = await held.reserve(consumer, CALL)
        held.headers(reservation)
        held.settle(reservation, Usage(900, 200))
        await asyncio.sleep(0)
        spent += time.process_time() - started
        if number % 10 == 0:
            await asyncio.sleep(0.01)
    await held.stop()
    return spent / CALLS * 1e6


async def memory() -> float:
    """Bytes per key, each of which has been used, and has an unsettled call."""
    store = MemoryStore()
    held = limiter(store)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    waiting = []
    for number in range(KEYS):
        limits = Limits(requests_per_minute=60, tokens_per_minute=10_000)
        waiting.append(await held.reserve(Consumer(f"k{number}", "bench", limits=limits), CALL))
    for reservation in waiting:
        held.settle(reservation, Usage(900, 200))
    waiting.clear()
    await store.drop(names.LIMITS)  # the rows are elsewhere
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / KEYS


def main() -> None:
    for name, limits in HELD.items():
        print(f"CPU per request, limits: {name:38} {asyncio.run(cpu(limits)):6.1f} µs")
    print(f"memory per key, {KEYS:,} keys: {asyncio.run(memory()):,.0f} bytes")


if __name__ == "__main__":
    main()
