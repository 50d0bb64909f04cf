"""With three regions: what a caller has made is found again where it was made, while new calls go round; nobody else
sees any of it."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.harness.programs import ASSISTANT_TOOL
from tests.harness.system import BACKENDS, System, eventually


@contextmanager
def chats_meanwhile(gateway: System) -> Iterator[set[str]]:
    """Other calls of other callers go on at the same time; the regions that have answered them."""
    stopped, seen = Event(), set[str]()

    def chat() -> None:
        while not stopped.is_set():
            seen.add(gateway.chat("gpt-4o-mini", "a word meanwhile").headers["x-gateway-backend"])
            time.sleep(0.02)

    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(chat)
        try:
            yield seen
            eventually(lambda: len(seen) == len(BACKENDS))
        finally:
            stopped.set()
        task.result(10)


def run_once(client: OpenAI, made: dict[str, str]) -> None:
    """From a file to the answer of an assistant that searches it and asks for a tool's output; `made`: all ids."""
    threads = client.beta.threads
    made["file"] = client.files.create(file=("tide.txt", b"The tide is high at noon."), purpose="assistants").id
    made["vector_store"] = client.vector_stores.create(file_ids=[made["file"]]).id
    resources: Any = {"file_search": {"vector_store_ids": [made["vector_store"]]}}
    tools: Any = [{"type": "file_search"}, ASSISTANT_TOOL]
    made["assistant"] = client.beta.assistants.create(model="gpt-4o", tools=tools, tool_resources=resources).id
    attachments: Any = [{"file_id": made["file"], "tools": [{"type": "file_search"}]}]
    messages: Any = [{"role": "user", "content": "When is the tide high?", "attachments": attachments}]
    made["thread"] = threads.create(messages=messages).id
    run: Any = threads.runs.create_and_poll(
        thread_id=made["thread"], assistant_id=made["assistant"], poll_interval_ms=30
    )
    assert run.status == "requires_action"
    made["run"] = run.id
    call = run.required_action.submit_tool_outputs.tool_calls[0]
    done = threads.runs.submit_tool_outputs_and_poll(
        run_id=run.id,
        thread_id=made["thread"],
        tool_outputs=[{"tool_call_id": call.id, "output": "noon"}],
        poll_interval_ms=30,
    )
    assert done.status == "completed"
    assert len(list(threads.runs.steps.list(run.id, thread_id=made["thread"]))) == 2
    assert [message.role for message in threads.messages.list(made["thread"])] == ["assistant", "user"]


def delete_all(client: OpenAI, made: dict[str, str]) -> None:
    assert client.beta.threads.delete(made["thread"]).deleted
    assert client.beta.assistants.delete(made["assistant"]).deleted
    assert client.vector_stores.delete(made["vector_store"]).deleted
    assert client.files.delete(made["file"]).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made["file"])


def sees_nothing(stranger: OpenAI, made: dict[str, str]) -> None:
    """Neither by its id nor in a list nor named in a call of its own."""
    threads = stranger.beta.threads
    own = threads.create().id
    search: Any = [{"type": "file_search", "vector_store_ids": [made["vector_store"]]}]
    part: Any = [{"role": "user", "content": [{"type": "input_file", "file_id": made["file"]}]}]
    for look in (
        lambda: stranger.files.retrieve(made["file"]),
        lambda: stranger.files.content(made["file"]),
        lambda: stranger.files.delete(made["file"]),
        lambda: stranger.vector_stores.search(made["vector_store"], query="tide"),
        lambda: stranger.vector_stores.create(file_ids=[made["file"]]),
        lambda: stranger.beta.assistants.retrieve(made["assistant"]),
        lambda: threads.retrieve(made["thread"]),
        lambda: threads.messages.list(made["thread"]),
        lambda: threads.runs.retrieve(made["run"], thread_id=made["thread"]),
        lambda: threads.runs.create(own, assistant_id=made["assistant"]),
        lambda: stranger.responses.create(model="gpt-4o", input="a", tools=search),
        lambda: stranger.responses.create(model="gpt-4o", input=part),
    ):
        with pytest.raises(openai.NotFoundError):
            look()
    assert list(stranger.files.list()) == []
    assert list(stranger.vector_stores.list()) == []
    assert list(stranger.beta.assistants.list()) == []
    threads.delete(own)


def test_an_assistant_works_from_its_file_to_its_answer_and_nobody_else_sees_it(gateway: System) -> None:
    with gateway.openai() as client, gateway.openai(gateway.make_key("stranger")) as stranger:
        made: dict[str, str] = {}
        with chats_meanwhile(gateway) as regions:
            run_once(client, made)
            sees_nothing(stranger, made)
            delete_all(client, made)
    assert regions == set(BACKENDS)


def test_responses_are_chained_ten_deep_streamed_and_in_the_background(gateway: System) -> None:
    with gateway.openai() as client, gateway.openai(gateway.make_key("stranger")) as stranger:
        previous: Any = openai.NOT_GIVEN
        ids = []
        with chats_meanwhile(gateway) as regions:
            for turn in range(10):
                given: Any = {"model": "gpt-4o", "input": f"word{turn}", "previous_response_id": previous}
                previous = respond(client, turn % 3, given)
                ids.append(previous)
            last = client.responses.create(model="gpt-4o", input="simulate_recall", previous_response_id=previous)
            for made in ids:
                with pytest.raises(openai.NotFoundError):
                    stranger.responses.retrieve(made)
                with pytest.raises(openai.NotFoundError):
                    stranger.responses.create(model="gpt-4o", input="a", previous_response_id=made)
            for made in ids:
                assert client.responses.retrieve(made).status == "completed"
                client.responses.delete(made)
    assert [f"word{turn}" in last.output_text for turn in range(10)] == [True] * 10
    assert regions == set(BACKENDS)


def respond(client: OpenAI, way: int, given: Any) -> str:
    """The id of a response that is done: at once, streamed, or in the background and streamed from the middle on."""
    if way == 0:
        return str(client.responses.create(**given).id)
    if way == 1:
        return str(list(client.responses.create(**given, stream=True))[-1].response.id)
    begun = client.responses.create(**given, background=True)
    events = list(client.responses.retrieve(begun.id, stream=True, starting_after=2))
    assert events[-1].type == "response.completed"
    return str(begun.id)
