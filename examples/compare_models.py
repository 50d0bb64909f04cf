"""The same question to several models: time to the first word, whole time, tokens, reasoning, and what it cost."""

import os
import time
from typing import Any, NamedTuple

from openai import OpenAI

MODELS = ("gpt-5.4-mini", "gpt-5.4", "gpt-4o-mini")
QUESTION = "Three ships sail at three tides. Which one is last?"


class Measured(NamedTuple):
    model: str
    first: float
    whole: float
    tokens_in: int
    tokens_out: int
    reasoning: int


def measure(client: OpenAI, model: str) -> Measured:
    """One streamed call. The usage comes in the last chunk, which has no choices."""
    start = time.perf_counter()
    first = 0.0
    usage = None
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": QUESTION}],
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        usage = chunk.usage or usage
        if any(choice.delta.content for choice in chunk.choices):
            first = first or time.perf_counter() - start
    whole = time.perf_counter() - start
    assert usage is not None
    details = usage.completion_tokens_details
    reasoning = (details and details.reasoning_tokens) or 0
    return Measured(model, first, whole, usage.prompt_tokens, usage.completion_tokens, reasoning)


def costs(client: OpenAI) -> dict[str, float | None]:
    """USD of this key by model, this month, as the gateway prices them; None: no price is known."""
    gateway = client.with_options(base_url=os.environ["OPENAI_BASE_URL"].removesuffix("/v1"))
    usage = gateway.get("/gateway/usage/me?by=model", cast_to=dict[str, Any])
    return {line["model"]: line["cost_usd"] for line in usage["lines"]}


with OpenAI() as client:
    before = costs(client)
    lines = [measure(client, model) for model in MODELS]
    after = costs(client)
print(f"{'model':<14}{'first s':>9}{'whole s':>9}{'in':>6}{'out':>6}{'reasoning':>11}{'USD':>12}")
for line in lines:
    cost = after.get(line.model)
    spent = "unknown" if cost is None else f"{cost - (before.get(line.model) or 0):.6f}"
    print(
        f"{line.model:<14}{line.first:>9.2f}{line.whole:>9.2f}{line.tokens_in:>6}{line.tokens_out:>6}"
        f"{line.reasoning:>11}{spent:>12}"
    )
