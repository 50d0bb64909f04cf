"""Routing scenario: calls with the same prompt prefix should reach a warm prompt cache."""

import asyncio
import random
from typing import Any

from bench.routing_load import chat
from bench.routing_system import Row, System

SAME = 100
WORDS = 1_600  # of the prefix; Azure caches prompts from 1,024 tokens


async def prefix(system: System, others: int = 1_500) -> Row:
    """A hundred calls with one prefix, among many with other prefixes or short prompts."""
    await system.warm("prefix", 16)
    rng = random.Random(5)
    favourite = _prefix_text("favourite")
    bodies = [_body(favourite, number) for number in range(SAME)]
    bodies += [_body(_prefix_text(f"other {number % (others // 10)}"), number) for number in range(others // 2)]
    bodies += [chat("prefix", f"short {number}", max_tokens=4) for number in range(others - others // 2)]
    rng.shuffle(bodies)
    queue = iter(bodies)
    calls = []

    async def worker() -> None:
        for body in queue:
            calls.append((body["messages"][0]["content"] == favourite, await system.callers.call(body)))
            await asyncio.sleep(rng.random() * 0.05)

    async with asyncio.TaskGroup() as group:
        for _ in range(24):
            group.create_task(worker())
    backends = sorted({call.backend for _, call in calls})
    same = {backend: sum(favoured and call.backend == backend for favoured, call in calls) for backend in backends}
    load = {backend: sum(call.backend == backend for _, call in calls) for backend in backends}
    most, heaviest = max(same.values()) / SAME, max(load.values()) / (len(calls) / 4)
    log = [entry for entry in system.log("prefix") if entry["input_tokens"] > 1_024]
    cached = sum(entry["cached_tokens"] for entry in log) / sum(entry["input_tokens"] for entry in log)
    return Row(
        f"the same prefix {SAME} times over 4 backends, among {len(calls)} calls",
        "≥ 95 % on one backend; none over 1.25 times its fair share of all calls; all answered",
        f"{most:.0%} on one; highest load {heaviest:.2f} times the fair share ({load}); "
        f"{cached:.0%} of the long prompts' tokens from the cache",
        most >= 0.95 and heaviest <= 1.25 and all(call.served for _, call in calls),
    )


def _prefix_text(seed: str) -> str:
    rng = random.Random(seed)
    return " ".join(f"{rng.randrange(10_000)}" for _ in range(WORDS))


def _body(prefix_text: str, number: int) -> dict[str, Any]:
    messages = [{"role": "system", "content": prefix_text}, {"role": "user", "content": f"Question {number}"}]
    return {"model": "prefix", "messages": messages, "max_tokens": 4}
