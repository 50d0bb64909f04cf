"""Streams: intact however many run at once, relayed as they come, and counted to the token."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable
from contextlib import ExitStack
from typing import Any

import pytest
from openai import AsyncOpenAI

from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.system import SECONDS_PER_CHUNK, Caller, System, chat_body, configuration, eventually, system

MANY = 200
LONG_PROMPT = "every toll that is paid on the road north " * 200  # long enough for the prompt cache
TOKENS = ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens")


def charged(system: System) -> dict[str, Counter[str]]:
    """The simulator's charges per region, in the fields of the usage report."""
    totals = system.simulator.log(summary=True)["totals"]
    return {
        region: Counter({name: counts["cached_tokens" if name == "cached_input_tokens" else name] for name in TOKENS})
        for region, counts in totals.items()
    }


def together(counters: dict[str, Counter[str]]) -> dict[str, int]:
    return {name: sum(counter[name] for counter in counters.values()) for name in TOKENS}


async def text_of(client: AsyncOpenAI, body: dict[str, Any]) -> str:
    stream = await client.chat.completions.create(**body, stream=True)
    pieces = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
    return "".join(pieces)


async def test_200_streams_at_once_are_each_intact(gateway: System) -> None:
    model = gateway.slow()
    words = [f"road {number} simulate_output_tokens={20 + number % 50}" for number in range(MANY)]
    simulator = gateway.simulator
    async with AsyncOpenAI(base_url=f"{simulator.regions['japaneast']}/openai/v1", api_key=simulator.api_key) as client:
        expected = await asyncio.gather(*(text_of(client, chat_body("gpt-4o-prod", text)) for text in words))
    assert [len(text.split()) for text in expected] == [20 + number % 50 for number in range(MANY)]
    async with gateway.async_openai() as client:
        texts = await asyncio.gather(*(text_of(client, chat_body(model, text)) for text in words))
    assert texts == expected
    gateway.no_invocation_is_left()


def test_chunks_are_relayed_one_by_one_as_they_come(gateway: System) -> None:
    body = chat_body(gateway.slow(), "simulate_output_tokens=100", stream=True)
    arrivals: list[float] = []
    with Caller(gateway, gateway.key, body) as caller:
        caller.send()
        for count in range(1, 51):
            caller.read_until(count)
            arrivals.append(time.monotonic())
        caller.read_until(1, b"[DONE]")
    assert arrivals[-1] - arrivals[0] > 0.7 * 50 * SECONDS_PER_CHUNK
    assert len(set(arrivals)) == 50
    pauses = [after - before for before, after in itertools.pairwise(arrivals)]
    assert sum(pause > SECONDS_PER_CHUNK / 3 for pause in pauses) > 12  # a busy machine joins some


def test_the_first_content_arrives_while_the_backend_still_thinks_of_the_rest(gateway: System) -> None:
    model = gateway.lone()
    gateway.simulator.fault("stall", deployment=model, after_chunks=1, seconds=3.0)
    with Caller(gateway, gateway.key, chat_body(model, stream=True)) as caller:
        caller.send().read_until(1)
        first = time.monotonic()
        caller.read_until(1, b"[DONE]")
    assert time.monotonic() - first > 0.5


async def test_the_tokens_of_the_report_are_those_that_were_charged(gateway: System) -> None:
    """Over every operation, surface and manner of answering, all at once."""
    key = await asyncio.to_thread(gateway.make_key, "accounts")
    before = await asyncio.to_thread(gateway.usage, "region")
    async with gateway.async_openai(key) as client:

        def chat(model: str, text: str, **fields: Any) -> Awaitable[Any]:
            return client.chat.completions.create(**chat_body(model, text, **fields))

        async def drained(model: str, text: str, **fields: Any) -> None:
            async for _ in await client.chat.completions.create(**chat_body(model, text, stream=True, **fields)):
                pass

        async def drained_text(text: str) -> None:
            async for _ in await client.completions.create(model="gpt-35-turbo-instruct", prompt=text, stream=True):
                pass

        calls: list[Awaitable[Any]] = []
        for number in range(8):
            text = f"call {number} simulate_output_tokens={number + 1}"
            calls += [
                chat("gpt-4o", text),
                chat("gpt-4o", text + LONG_PROMPT, n=2),
                chat("o4-mini", text, max_completion_tokens=17 + number),
                chat("gpt-4o", "simulate_output_tokens=5000", max_tokens=3),
                drained("gpt-4o", text),
                drained("gpt-4o", LONG_PROMPT + text),
                drained("o4-mini", text),
                drained("gpt-4o-mini", text, stream_options={"include_usage": True}),
                client.completions.create(model="gpt-35-turbo-instruct", prompt=[text, "and another"]),
                drained_text(text),
                client.embeddings.create(model="text-embedding-3-small", input=[text, "b", "c"]),
                asyncio.to_thread(azure_stream, gateway, key, text),
            ]
        await asyncio.gather(*calls)
    expected, calls_made = charged(gateway), len(calls)
    usage = await asyncio.to_thread(gateway.usage_of, key)
    assert {name: usage[name] for name in TOKENS} == together(expected)
    assert (usage["requests"], usage["errors"], usage["estimated"]) == (calls_made, 0, 0)
    assert min(together(expected).values()) > 0
    after = await asyncio.to_thread(gateway.usage, "region")
    for region, counter in expected.items():
        reported = {
            name: after[region][name] - before.get(region, Counter())[name] for name in TOKENS if counter.total()
        }
        assert Counter(reported) == +counter or counter.total() == 0


def azure_stream(system: System, key: str, text: str) -> None:
    with system.azure(key) as client:
        list(client.chat.completions.create(**chat_body("gpt-4o", text, stream=True)))


@pytest.mark.parametrize("stream", [False, True])
def test_no_answer_that_a_caller_has_in_full_dies_with_the_process(
    azurite: Azurite, simulator: SimulatorProcess, stream: bool
) -> None:
    """Forty at once; when half of them have their answers, the process is killed: what was answered is on record."""
    simulator.clear()
    with ExitStack() as stack:
        settings = configuration(simulator)
        running = stack.enter_context(system("uvicorn", settings, simulator, azurite.connection_string))
        assert running.chat().status == 200
        key = running.make_key("a crash")
        body = chat_body("gpt-4o", stream=stream)
        callers = [stack.enter_context(Caller(running, key, body)).send() for _ in range(40)]
        end = b"[DONE]" if stream else b"total_tokens"
        for caller in callers[:20]:
            caller.read_until(1, end)
        running.gateway.kill()
        for caller in callers[20:]:
            caller.read_to_the_end(20)
        answered = {caller.request_id for caller in callers if end in caller.received}
        complete = {row["id"] for row in running.usage_rows(key) if row.get("e_output") == 32}
        assert len(answered) >= 20
        assert answered <= complete


def test_refusals_are_counted_and_cost_nothing(gateway: System) -> None:
    key = gateway.make_key("refusals")
    model = gateway.lone()
    gateway.simulator.fault("status", deployment=model, status=500)
    assert gateway.post("/v1/chat/completions", chat_body(model), key=key).status == 500
    assert gateway.post("/v1/chat/completions", chat_body("o4-mini", max_tokens=1), key=key).status == 400
    eventually(lambda: sum("e_ended" in row for row in gateway.usage_rows(key)) == 2)
    usage = gateway.usage_of(key)
    assert (usage["errors"], usage["total_tokens"]) == (2, 0)
