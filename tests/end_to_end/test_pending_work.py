"""Work that goes on after its call is charged once, whoever reads it or nobody, and whatever fails meanwhile."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiohttp import web
from openai import OpenAI

from bench.faulty_tables import Faults, faulty_tables
from simulator.process import SimulatorProcess
from tests.harness.azurite import azurite
from tests.harness.gateway_process import EDGES, Edge, cli
from tests.harness.system import System, configuration, eventually, system

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of assistants

QUICK = "simulate_seconds=0 Tell me of the harbour."
LASTING = "simulate_seconds=600 Tell me of the harbour."


@contextmanager
def timed(edge: Edge, simulator: SimulatorProcess, storage: str, tables: str = "") -> Iterator[System]:
    """A gateway whose timer need not be waited for."""
    app, settings = "tests.harness.quick_timer:app", configuration(simulator)
    with system(edge, settings, simulator, storage, app=app, tables=tables) as running:
        yield running


def fire(running: System) -> None:
    """Fire the timer of the functions host; that of the container edge fires by itself."""
    if running.edge == "functions":
        running.gateway.administer("POST", "/admin/functions/rollup")


def recorded(running: System, key: str) -> tuple[int, int]:
    """The tokens on record for a key."""
    rows = running.usage_rows(key)
    return sum(row.get("e_input", 0) for row in rows), sum(row.get("e_output", 0) for row in rows)


def charged(running: System, since: int) -> tuple[int, int]:
    """The tokens that the simulator has charged for requests after the first so many."""
    requests = running.simulator.log()["requests"][since:]
    return sum(one["input_tokens"] for one in requests), sum(one["output_tokens"] for one in requests)


def received(running: System) -> int:
    return len(running.simulator.log()["requests"])


def assistant_of(client: OpenAI, **fields: Any) -> str:
    return client.beta.assistants.create(model="gpt-4o-mini", **fields).id


def test_background_responses_that_are_read_by_their_conversation_are_charged(gateway: System) -> None:
    key, since = gateway.make_key("a reader of conversations"), received(gateway)
    with gateway.openai(key) as client:
        conversation = client.conversations.create().id
        for _ in range(12):
            client.responses.create(model="gpt-4o-mini", input=QUICK, background=True, conversation=conversation)
        eventually(lambda: len(list(client.conversations.items.list(conversation, limit=100))) == 24)

        def settled() -> bool:
            client.conversations.items.list(conversation)
            return recorded(gateway, key) == charged(gateway, since) != (0, 0)

        eventually(settled)
    usage = gateway.usage_of(key)
    assert usage["cost_usd"] > 0
    assert (usage["input_tokens"], usage["output_tokens"]) == charged(gateway, since)


def test_runs_that_are_read_by_their_thread_are_charged(gateway: System) -> None:
    key, since = gateway.make_key("a reader of threads"), received(gateway)
    with gateway.openai(key) as client:
        assistant = assistant_of(client)
        threads = []
        for _ in range(12):
            message: Any = {"role": "user", "content": "Tell me of the harbour."}
            run = client.beta.threads.create_and_run(assistant_id=assistant, thread={"messages": [message]})
            threads.append(run.thread_id)

        def settled() -> bool:
            for thread in threads:
                client.beta.threads.messages.list(thread)
            return recorded(gateway, key) == charged(gateway, since) != (0, 0)

        eventually(settled)
    usage = gateway.usage_of(key)
    assert usage["cost_usd"] > 0
    assert usage["output_tokens"] == 12 * 32


def work_unread(client: OpenAI) -> None:
    """Begin work of every kind, and read nothing of it."""
    for _ in range(3):
        client.responses.create(model="gpt-4o-mini", input=QUICK, background=True)
    with client.responses.create(model="gpt-4o-mini", input=QUICK, background=True, stream=True) as stream:
        next(iter(stream))  # and the caller leaves
    hosted: list[Any] = [{"type": "code_interpreter"}, {"type": "file_search"}]
    message: Any = {"role": "user", "content": "simulate_hosted_tools"}
    thread: Any = {"messages": [message]}
    client.beta.threads.create_and_run(assistant_id=assistant_of(client, tools=hosted), thread=thread)
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions"}
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
    file = client.files.create(file=("b.jsonl", json.dumps({**line, "body": body}).encode()), purpose="batch")
    client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")


def test_what_nobody_reads_is_charged_by_the_timer(edge: Edge, simulator: SimulatorProcess) -> None:
    with azurite() as own, timed(edge, simulator, own.connection_string) as running:
        key, since = running.make_key("a reader of nothing"), received(running)
        with running.openai(key) as client:
            work_unread(client)

        def settled() -> bool:
            fire(running)
            rows = running.usage_rows(key)
            return all("e_input" in row for row in rows) and recorded(running, key) == charged(running, since)

        eventually(settled)
        rows = running.usage_rows(key)
        usage = running.usage_of(key)
        asked = received(running)
        for _ in range(3):
            fire(running)
            time.sleep(0.6)
        assert received(running) == asked  # nothing is asked for twice
        assert recorded(running, key) == charged(running, since)
        running.assert_no_defect()
    assert usage["cost_usd"] > 0
    (run,) = [row for row in rows if row["s_op"] == "threads.create_and_run"]
    assert (run["e_code_session"], run["e_file_search"], run["e_model"]) == (1, 1, "gpt-4o-mini")
    (batch,) = [row for row in rows if row["s_op"] == "batches.create"]
    assert batch["e_tier"] == "batch"
    assert sum(row["s_op"] == "responses.create" and row["e_output"] == 32 for row in rows) == 4


def test_what_is_admitted_on_one_quota_is_what_it_covers(gateway: System) -> None:
    body = {"model": "gpt-5.4", "input": LASTING, "background": True}
    quotas = {"quota_exceeded": ("--token-quota", "20000"), "budget_exceeded": ("--budget-usd", "0.1")}
    admitted: dict[str, list[str]] = {}
    for code, limit in quotas.items():
        key = gateway.make_key("with a quota")
        cli(gateway.gateway.environment, "keys", "set", key.split("_")[1], *limit, "--json")
        answers = [gateway.post("/v1/responses", body, key=key) for _ in range(60)]
        admitted[key] = [answer.json()["id"] for answer in answers if answer.status == 200]
        assert 3 < len(admitted[key]) < 45
        assert answers[-1].error()["code"] == code
    time.sleep(5)  # longer than a lease
    for key, responses in admitted.items():
        assert gateway.post("/v1/responses", body, key=key).status == 403
        with gateway.openai(key) as client:
            for response in responses:
                client.responses.cancel(response)
                client.responses.delete(response)  # which settles it first
        eventually(lambda key=key: gateway.post("/v1/responses", body, key=key).status == 200)  # type: ignore[misc]


@pytest.mark.parametrize("edge", EDGES)
async def test_a_gateway_that_is_killed_between_charge_and_mark_leaves_the_mark_to_the_next(
    edge: Edge, simulator: SimulatorProcess
) -> None:
    with azurite() as own:

        def marks(request: web.BaseRequest) -> bool:
            return request.method == "PUT" and "/pending(" in request.path

        stalled = Faults(refused=0, lost=0, stalled=1, seconds=5)
        async with faulty_tables(own.port, stalled, 1, marks) as tables:

            def kill_within() -> str:
                stores: Any = {"storage": own.connection_string, "tables": tables.connection_string}
                with system(edge, configuration(simulator), simulator, **stores) as dying:
                    key = dying.make_key("of the dying")
                    with dying.openai(key) as client:
                        response = client.responses.create(model="gpt-4o-mini", input=QUICK, background=True)
                        client.responses.retrieve(response.id)
                    eventually(lambda: tables.done["stalled"] > 0)
                    dying.gateway.kill()
                    assert recorded(dying, key)[1] == 32
                return key

            key = await asyncio.to_thread(kill_within)

        def settle_again() -> None:
            with timed(edge, simulator, own.connection_string) as heir:

                def marked() -> bool:
                    fire(heir)
                    return "settlement: Summary(settled=1" in heir.gateway.logs()

                eventually(marked)
                assert recorded(heir, key)[1] == 32
                assert heir.usage_of(key)["output_tokens"] == 32
                heir.assert_no_defect()

        await asyncio.to_thread(settle_again)


async def test_two_edges_on_tables_that_lose_answers_charge_once(simulator: SimulatorProcess) -> None:
    with azurite() as own:
        async with faulty_tables(own.port, Faults(refused=0.1, lost=0.2, stalled=0), 3) as tables:

            def race() -> None:
                stores = own.connection_string, tables.connection_string
                with timed("uvicorn", simulator, *stores) as one, timed("functions", simulator, *stores) as two:
                    key, since = one.make_key("racing"), received(one)
                    made = []
                    with one.openai(key, max_retries=5) as client, two.openai(key, max_retries=5) as other:
                        for number in range(12):
                            at = (client, other)[number % 2]
                            made.append(at.responses.create(model="gpt-4o-mini", input=QUICK, background=True).id)
                        for response in made:
                            for at in (client, other):
                                at.responses.retrieve(response)
                    truth = charged(one, since)

                    def settled() -> bool:
                        fire(two)
                        return recorded(one, key) == truth != (0, 0)

                    eventually(settled, 60)
                    for _ in range(3):
                        time.sleep(0.6)
                        assert settled()
                    for running in (one, two):
                        running.assert_no_defect()

            await asyncio.to_thread(race)
        assert tables.done["lost"] > 10
