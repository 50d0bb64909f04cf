"""`make bench-limits`, third part: the cost of limits, in CPU per request and memory per key."""

import asyncio
import gc
import time
import tracemalloc

from shared.azure_openai import operations
from shared.config.document import Configuration
from shared.config.limits import Limits
from shared.limits.limiter import Limiter
from shared.storage import names
from shared.types import Call, Consumer, Usage
from tests.harness.memory_store import MemoryStore

CALLS = 20_000
KEYS = 10_000
CALL = Call(
    operation=operations.OPERATIONS[0], surface="openai", model="gpt-4o", body=b"x" * 4000, max_output_tokens=1000
)
LIMITS = {
    "none": Limits(),
    "requests and tokens per minute": Limits(requests_per_minute=10**8, tokens_per_minute=10**9),
    "... with quota, budget, concurrency": Limits(
        requests_per_minute=10**8, tokens_per_minute=10**9, token_quota=10**12, budget_usd=10**6, max_concurrent=10**6
    ),
}


def make_limiter(store: MemoryStore) -> Limiter:
    return Limiter(store, Configuration(backends=[]), lambda *_: None)


async def cpu(limits: Limits) -> float:
    """Microseconds to reserve, render the headers and settle, at 1,000 requests per second. Includes exchanges with the
    table, but not the table's own work."""
    limiter, consumer, spent = make_limiter(MemoryStore()), Consumer("k", "bench", limits=limits), 0.0
    for number in range(CALLS):
        started = time.process_time()
        reservation = await limiter.reserve(consumer, CALL)
        limiter.headers(reservation)
        limiter.settle(reservation, Usage(900, 200))
        await asyncio.sleep(0)
        spent += time.process_time() - started
        if number % 10 == 0:
            await asyncio.sleep(0.01)
    await limiter.close()
    return spent / CALLS * 1e6


async def memory() -> float:
    """Bytes per key that has been used for one call."""
    store = MemoryStore()
    limiter = make_limiter(store)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    waiting = []
    for number in range(KEYS):
        limits = Limits(requests_per_minute=60, tokens_per_minute=10_000)
        waiting.append(await limiter.reserve(Consumer(f"k{number}", "bench", limits=limits), CALL))
    for reservation in waiting:
        limiter.settle(reservation, Usage(900, 200))
    waiting.clear()
    await store.drop(names.LIMITS)  # in production the rows are not in this process
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / KEYS


def main() -> None:
    for name, limits in LIMITS.items():
        print(f"CPU per request, limits: {name:38} {asyncio.run(cpu(limits)):6.1f} µs")
    print(f"memory per key, {KEYS:,} keys: {asyncio.run(memory()):,.0f} bytes")


if __name__ == "__main__":
    main()
