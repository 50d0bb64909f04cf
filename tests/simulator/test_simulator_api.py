"""The simulator's state, a family of operations after the other, as the official client meets it on both surfaces."""

import time
from typing import Any

import openai
import pytest

from simulator.process import SimulatorProcess
from tests.harness.simulated import REGION, Client, region_client, totals, until

TOOL: Any = {
    "type": "function",
    "name": "tide",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    "strict": False,
}
ASSISTANT_TOOL: Any = {"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}


# --- Responses --------------------------------------------------------------------------------------------------------


def test_a_chain_of_responses_holds_what_was_said(client: Client, stranger: Client) -> None:
    previous: Any = openai.NOT_GIVEN
    counts = []
    for number in range(10):
        text = f"word{number}" + (" simulate_recall" if number == 9 else "")
        answer = client.responses.create(model="gpt-4o", input=text, previous_response_id=previous)
        previous = answer.id
        assert answer.usage is not None
        counts.append(answer.usage.input_tokens)

    assert counts == sorted(counts)
    assert [f"word{number}" in answer.output_text for number in range(10)] == [True] * 10
    with pytest.raises(openai.BadRequestError) as refused:
        stranger.responses.create(model="gpt-4o", input="a", previous_response_id=previous)
    assert refused.value.code == "previous_response_not_found"


def test_a_response_is_found_where_it_was_made(client: Client, stranger: Client) -> None:
    answer = client.responses.create(model="gpt-4o", input="a", metadata={"mine": "1"})

    assert client.responses.retrieve(answer.id).output_text == answer.output_text
    assert [item.type for item in client.responses.input_items.list(answer.id)] == ["message"]
    with pytest.raises(openai.NotFoundError, match="not found"):
        stranger.responses.retrieve(answer.id)
    client.responses.delete(answer.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)
    unstored = client.responses.create(model="gpt-4o", input="a", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unstored.id)


def test_a_streamed_response_comes_in_order_and_is_charged(regions: SimulatorProcess, client: Client) -> None:
    events = list(client.responses.create(model="o4-mini", input="a", stream=True))

    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    last: Any = events[-1]
    assert last.type == "response.completed"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == last.response.output_text
    assert last.response.usage.output_tokens == totals(regions)["output_tokens"] == 48
    assert last.response.usage.output_tokens_details.reasoning_tokens == totals(regions)["reasoning_tokens"] == 16
    assert last.response.usage.input_tokens == totals(regions)["input_tokens"]
    assert [item.type for item in last.response.output] == ["reasoning", "message"]


def test_a_cut_response_says_so(client: Client) -> None:
    answer = client.responses.create(model="gpt-4o", input="a", max_output_tokens=16)

    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"


def test_a_background_response_completes_and_its_stream_is_taken_up_again(
    regions: SimulatorProcess, client: Client
) -> None:
    answer = client.responses.create(model="gpt-4o", input="a", background=True)
    assert (answer.status, answer.output) == ("queued", [])
    done = until(lambda: client.responses.retrieve(answer.id), lambda latest: latest.status == "completed")
    assert done.usage is not None
    assert totals(regions)["output_tokens"] == done.usage.output_tokens == 32

    with client.responses.create(model="gpt-4o", input="b", background=True, stream=True) as stream:
        begun = [next(stream) for _ in range(4)]
    created: Any = begun[0]
    rest = list(client.responses.retrieve(created.response.id, stream=True, starting_after=begun[-1].sequence_number))
    assert [event.sequence_number for event in rest] == list(range(4, 4 + len(rest)))
    assert rest[-1].type == "response.completed"


def test_a_background_response_can_be_cancelled(regions: SimulatorProcess, client: Client) -> None:
    answer = client.responses.create(model="gpt-4o", input="simulate_seconds=60", background=True)

    assert client.responses.cancel(answer.id).status == "cancelled"
    assert client.responses.retrieve(answer.id).status == "cancelled"
    assert totals(regions)["output_tokens"] == 0
    whole = client.responses.create(model="gpt-4o", input="a")
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(whole.id)


def test_a_function_is_called_and_its_output_must_belong_to_a_call(client: Client) -> None:
    asked = client.responses.create(model="gpt-4o", input="simulate_tool_call", tools=[TOOL])
    call: Any = asked.output[0]
    assert (call.type, call.name) == ("function_call", "tide")
    output: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "high"}]
    answer = client.responses.create(model="gpt-4o", input=output, previous_response_id=asked.id, tools=[TOOL])
    assert answer.output_text
    with pytest.raises(openai.BadRequestError, match="No tool call found"):
        client.responses.create(model="gpt-4o", input=output)
    events = list(client.responses.create(model="gpt-4o", input="simulate_tool_call", tools=[TOOL], stream=True))
    arguments = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    assert arguments == call.arguments


def test_what_a_response_refers_to_must_be_in_its_region(client: Client, stranger: Client) -> None:
    file = client.files.create(file=("a.txt", b"the tide is high"), purpose="assistants")
    store = client.vector_stores.create(file_ids=[file.id])
    search: Any = {"type": "file_search", "vector_store_ids": [store.id]}
    part: Any = [{"role": "user", "content": [{"type": "input_file", "file_id": file.id}]}]
    for given in ({"input": "a", "tools": [search]}, {"input": part}):
        assert client.responses.create(model="gpt-4o", **given).output_text
        with pytest.raises(openai.NotFoundError):
            stranger.responses.create(model="gpt-4o", **given)


def test_encrypted_reasoning_is_opened_only_where_it_was_made(client: Client, stranger: Client) -> None:
    answer = client.responses.create(model="o4-mini", input="a", store=False, include=["reasoning.encrypted_content"])
    items: Any = [{"role": "user", "content": "a"}, *(item.to_dict() for item in answer.output)]
    assert client.responses.create(model="o4-mini", input=items, store=False).output_text
    with pytest.raises(openai.BadRequestError) as refused:
        stranger.responses.create(model="o4-mini", input=items, store=False)
    assert refused.value.code == "invalid_encrypted_content"


def test_a_context_over_its_threshold_is_compacted_into_content_that_opens_only_there(
    client: Client, stranger: Client
) -> None:
    given: Any = {"model": "gpt-4o", "input": "one two three " * 20, "store": False}
    most: Any = [{"type": "compaction", "compact_threshold": 20}]
    assert [one.type for one in client.responses.create(**given).output] == ["message"]
    events: Any = list(client.responses.create(**given, context_management=most, stream=True))
    added, done = (
        [one.item for one in events if one.type == f"response.output_item.{kind}"] for kind in ("added", "done")
    )
    assert [item.type for item in done] == ["compaction", "message"]
    assert added[0].encrypted_content != done[0].encrypted_content  # incomplete, as at OpenAI
    items: Any = [done[0].to_dict(), {"role": "user", "content": "a"}]
    assert client.responses.create(model="gpt-4o", input=items, store=False).output_text
    with pytest.raises(openai.BadRequestError) as refused:
        stranger.responses.create(model="gpt-4o", input=items, store=False)
    assert refused.value.code == "invalid_encrypted_content"


def test_a_context_is_counted_and_compacted(client: Client) -> None:
    answer = client.responses.create(model="gpt-4o", input="one two three")
    counted = client.responses.input_tokens.count(model="gpt-4o", input="one two three")
    compacted = client.responses.compact(model="gpt-4o", input="more", previous_response_id=answer.id)

    assert answer.usage is not None
    assert counted.input_tokens == answer.usage.input_tokens
    assert compacted.output[-1].type == "compaction"
    assert compacted.usage.output_tokens == 16


def test_a_conversation_keeps_its_items(client: Client, stranger: Client) -> None:
    hello: Any = {"type": "message", "role": "user", "content": "hello"}
    conversation = client.conversations.create(items=[hello], metadata={"mine": "1"})
    answer = client.responses.create(model="gpt-4o", input="simulate_recall", conversation=conversation.id)

    assert "hello" in answer.output_text
    items = list(client.conversations.items.list(conversation.id, order="asc", limit=1))
    assert [item.type for item in items] == ["message"] * 3
    first: Any = items[0]
    assert client.conversations.items.retrieve(first.id, conversation_id=conversation.id) == first
    client.conversations.items.delete(first.id, conversation_id=conversation.id)
    added = client.conversations.items.create(conversation.id, items=[hello])
    assert len(added.data) == 1
    assert client.conversations.update(conversation.id, metadata={"a": "b"}).metadata == {"a": "b"}
    for refused in (
        lambda: stranger.conversations.retrieve(conversation.id),
        lambda: stranger.responses.create(model="gpt-4o", input="a", conversation=conversation.id),
        lambda: client.conversations.items.retrieve(first.id, conversation_id=conversation.id),
    ):
        with pytest.raises(openai.NotFoundError):
            refused()
    assert client.conversations.delete(conversation.id).deleted


# --- Stored chat completions ------------------------------------------------------------------------------------------


def test_a_stored_chat_is_kept_and_another_is_not(client: Client, stranger: Client) -> None:
    messages: Any = [{"role": "user", "content": "hello"}]
    kept = client.chat.completions.create(model="gpt-4o", messages=messages, store=True, metadata={"mine": "1"})
    client.chat.completions.create(model="gpt-4o", messages=messages)
    for _ in client.chat.completions.create(model="gpt-4o", messages=messages, store=True, stream=True):
        pass

    assert len(list(client.chat.completions.list())) == 2
    assert [listed.id for listed in client.chat.completions.list(metadata={"mine": "1"})] == [kept.id]
    assert client.chat.completions.retrieve(kept.id).choices == kept.choices
    assert [message.content for message in client.chat.completions.messages.list(kept.id)] == ["hello"]
    assert client.chat.completions.update(kept.id, metadata={"a": "b"}).to_dict()["metadata"] == {"a": "b"}
    with pytest.raises(openai.NotFoundError):
        stranger.chat.completions.retrieve(kept.id)
    assert client.chat.completions.delete(kept.id).deleted


@pytest.mark.parametrize("stream", [False, True])
def test_a_prediction_is_charged_where_it_was_wrong(regions: SimulatorProcess, client: Client, stream: bool) -> None:
    create: Any = client.chat.completions.create
    given: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
    text = create(**given).choices[0].message.content
    before = totals(regions)["output_tokens"]
    given["prediction"] = {"type": "content", "content": f"{text} wrong words"}
    if stream:
        *_, last = create(**given, stream=True, stream_options={"include_usage": True})
    else:
        last = create(**given)

    assert last.usage.completion_tokens == totals(regions)["output_tokens"] - before == 34
    assert last.usage.completion_tokens_details.accepted_prediction_tokens == 32
    assert last.usage.completion_tokens_details.rejected_prediction_tokens == 2
    assert totals(regions)["accepted_prediction_tokens"] == 32


def test_a_spoken_question_is_charged_in_tokens_of_sound(regions: SimulatorProcess, client: Client) -> None:
    part: Any = {"type": "input_audio", "input_audio": {"data": "A" * 8_000, "format": "wav"}}
    usage = client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": [part]}]).usage

    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.audio_tokens == totals(regions)["audio_input_tokens"] == 4


def test_a_stream_comes_in_the_pieces_that_were_asked_for(regions: SimulatorProcess, client: Client) -> None:
    given: Any = {"model": "gpt-4o", "input": "a"}
    whole = [event.type for event in client.responses.create(**given, stream=True)]
    regions.fault("rechunk", seed=7, largest=5, crlf=True, comments=True, operation="POST responses")
    assert [event.type for event in client.responses.create(**given, stream=True)] == whole
    client.models.list()
    assert [entry["fault"] for entry in regions.log()["requests"]] == [None, "rechunk", None]


# --- Files and vector stores ------------------------------------------------------------------------------------------


def test_a_file_comes_back_byte_for_byte(client: Client, stranger: Client) -> None:
    content = bytes(range(256)) * 10_000 + b"\r\n--"  # more than is kept in memory
    file = client.files.create(file=("a b.bin", content), purpose="user_data")

    assert (file.bytes, file.filename, file.status) == (len(content), "a b.bin", "processed")
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == content
    with pytest.raises(openai.NotFoundError, match="No such File object"):
        stranger.files.content(file.id)
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_lists_are_told_in_pages(client: Client) -> None:
    made = [client.files.create(file=(f"{n}.txt", b"a"), purpose="user_data").id for n in range(5)]
    client.files.create(file=("b.jsonl", b"{}"), purpose="batch")

    assert [file.id for file in client.files.list(purpose="user_data", order="asc", limit=2)] == made
    assert [file.id for file in client.files.list(purpose="user_data", after=made[3])] == made[2::-1]
    stores = [client.vector_stores.create(name=str(n)).id for n in range(4)]
    assert [store.id for store in client.vector_stores.list(limit=3, order="asc")] == stores
    page = client.vector_stores.list(before=stores[0], limit=2)
    assert [store.id for store in page.data] == [stores[2], stores[1]]
    for given in ({"limit": 0}, {"limit": 101}, {"after": "vs_other"}):
        with pytest.raises(openai.BadRequestError):
            client.vector_stores.list(**given)


def test_a_vector_store_holds_files_of_its_region(client: Client, stranger: Client) -> None:
    files = [
        client.files.create(file=(f"{text}.txt", text.encode()), purpose="assistants").id
        for text in ("the tide is high", "ships wait", "quiet roads")
    ]
    store = client.vector_stores.create(name="mine", file_ids=files[:1])
    added = client.vector_stores.files.create(store.id, file_id=files[1], attributes={"kind": "ship"})
    assert added.attributes == {"kind": "ship"}
    batch = client.vector_stores.file_batches.create_and_poll(store.id, file_ids=files[2:], poll_interval_ms=20)
    assert (batch.status, batch.file_counts.completed) == ("completed", 1)
    done = until(lambda: client.vector_stores.retrieve(store.id), lambda latest: latest.status == "completed")
    assert (done.file_counts.completed, done.file_counts.total) == (3, 3)

    results = list(client.vector_stores.search(store.id, query="high tide"))
    assert (results[0].file_id, results[0].score) == (files[0], 1.0)
    assert next(iter(client.vector_stores.files.content(files[1], vector_store_id=store.id))).text == "ships wait"
    assert len(list(client.vector_stores.files.list(store.id, limit=1))) == 3
    assert len(list(client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id))) == 1
    assert client.vector_stores.files.update(files[1], vector_store_id=store.id, attributes={}).attributes == {}
    assert client.vector_stores.update(store.id, name="other").name == "other"
    client.vector_stores.files.delete(files[1], vector_store_id=store.id)
    for refused in (
        lambda: stranger.vector_stores.retrieve(store.id),
        lambda: stranger.vector_stores.create(file_ids=files),
        lambda: client.vector_stores.files.retrieve(files[1], vector_store_id=store.id),
    ):
        with pytest.raises(openai.NotFoundError):
            refused()
    assert client.vector_stores.delete(store.id).deleted


def test_an_upload_without_its_parts_is_refused(regions: SimulatorProcess, client: Client) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/files", body={"purpose": "batch"}, cast_to=object)
    assert refused.value.status_code == 400
    with pytest.raises(openai.BadRequestError):
        client.files.create(file=b"a", purpose="nonsense")  # type: ignore[arg-type]


# --- Assistants -------------------------------------------------------------------------------------------------------


def test_a_run_requires_a_tool_and_then_completes(regions: SimulatorProcess, client: Client) -> None:
    assistant = client.beta.assistants.create(model="gpt-4o", tools=[ASSISTANT_TOOL], instructions="Be brief.")
    thread = client.beta.threads.create(messages=[{"role": "user", "content": "How is the tide?"}])
    runs = client.beta.threads.runs
    run = runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=20)
    assert run.status == "requires_action"
    assert run.required_action is not None
    call = run.required_action.submit_tool_outputs.tool_calls[0]
    assert call.function.name == "tide"
    with pytest.raises(openai.BadRequestError, match="already has an active run"):
        runs.create(thread.id, assistant_id=assistant.id)
    with pytest.raises(openai.BadRequestError, match="Expected tool outputs"):
        runs.submit_tool_outputs(run.id, thread_id=thread.id, tool_outputs=[{"tool_call_id": "x", "output": "a"}])
    outputs: Any = [{"tool_call_id": call.id, "output": "high"}]
    done = runs.submit_tool_outputs_and_poll(
        run_id=run.id, thread_id=thread.id, tool_outputs=outputs, poll_interval_ms=20
    )

    assert done.status == "completed"
    assert done.usage is not None
    assert done.usage.prompt_tokens == totals(regions)["input_tokens"]
    assert done.usage.completion_tokens == totals(regions)["output_tokens"]
    steps = list(runs.steps.list(run.id, thread_id=thread.id, order="asc"))
    assert [step.type for step in steps] == ["tool_calls", "message_creation"]
    assert runs.steps.retrieve(steps[0].id, thread_id=thread.id, run_id=run.id).status == "completed"
    messages = list(client.beta.threads.messages.list(thread.id, order="asc", limit=1))
    assert [message.role for message in messages] == ["user", "assistant"]
    assert [message.run_id for message in client.beta.threads.messages.list(thread.id, run_id=run.id)] == [run.id]


def test_a_streamed_run_says_every_step(regions: SimulatorProcess, client: Client) -> None:
    assistant = client.beta.assistants.create(model="gpt-4o", tools=[ASSISTANT_TOOL])
    with client.beta.threads.create_and_run_stream(
        assistant_id=assistant.id, thread={"messages": [{"role": "user", "content": "a"}]}
    ) as stream:
        events = list(stream)
    assert [events[0].event, events[-1].event] == ["thread.created", "thread.run.requires_action"]
    run: Any = events[-1].data
    call = run.required_action.submit_tool_outputs.tool_calls[0]
    with client.beta.threads.runs.submit_tool_outputs_stream(
        run_id=run.id, thread_id=run.thread_id, tool_outputs=[{"tool_call_id": call.id, "output": "high"}]
    ) as stream:
        text = "".join(stream.text_deltas)
        message: Any = stream.get_final_messages()[0]
    assert text == message.content[0].text.value
    finished = client.beta.threads.runs.retrieve(run.id, thread_id=run.thread_id)
    assert finished.status == "completed"
    assert finished.usage is not None
    assert finished.usage.completion_tokens == totals(regions)["output_tokens"]


def test_a_run_can_be_cancelled(client: Client) -> None:
    assistant = client.beta.assistants.create(model="gpt-4o")
    thread = client.beta.threads.create()
    run = client.beta.threads.runs.create(thread.id, assistant_id=assistant.id, metadata={"simulate_seconds": "3"})
    assert client.beta.threads.runs.cancel(run.id, thread_id=thread.id).status == "cancelled"
    time.sleep(3.1)
    assert client.beta.threads.runs.retrieve(run.id, thread_id=thread.id).status == "cancelled"


def test_assistants_and_threads_are_kept_and_checked(client: Client, stranger: Client) -> None:
    file = client.files.create(file=("a.txt", b"the tide"), purpose="assistants")
    store = client.vector_stores.create()
    resources: Any = {"file_search": {"vector_store_ids": [store.id]}, "code_interpreter": {"file_ids": [file.id]}}
    attachments: Any = [{"file_id": file.id, "tools": [{"type": "file_search"}]}]
    assistant = client.beta.assistants.create(model="gpt-4o", name="a", tool_resources=resources)
    thread = client.beta.threads.create(tool_resources=resources)
    message = client.beta.threads.messages.create(thread.id, role="user", content="hi", attachments=attachments)

    assert client.beta.assistants.update(assistant.id, name="b").name == "b"
    assert [listed.id for listed in client.beta.assistants.list()] == [assistant.id]
    assert client.beta.threads.update(thread.id, metadata={"a": "b"}).metadata == {"a": "b"}
    assert client.beta.threads.messages.retrieve(message.id, thread_id=thread.id).attachments
    updated = client.beta.threads.messages.update(message.id, thread_id=thread.id, metadata={"a": "b"})
    assert updated.metadata == {"a": "b"}
    elsewhere = stranger.beta.threads.create().id
    for refused in (
        lambda: stranger.beta.assistants.retrieve(assistant.id),
        lambda: stranger.beta.threads.retrieve(thread.id),
        lambda: stranger.beta.assistants.create(model="gpt-4o", tool_resources=resources),
        lambda: stranger.beta.threads.messages.create(elsewhere, role="user", content="a", attachments=attachments),
        lambda: stranger.beta.threads.runs.create(elsewhere, assistant_id=assistant.id),
    ):
        with pytest.raises(openai.NotFoundError):
            refused()
    client.beta.threads.messages.delete(message.id, thread_id=thread.id)
    assert client.beta.threads.delete(thread.id).deleted
    assert client.beta.assistants.delete(assistant.id).deleted


# --- The code interpreter ---------------------------------------------------------------------------------------------

WIND = b"time,power_kw\n" + b"".join(f"2026-11-02T{hour:02d}:00,{hour * hour}\n".encode() for hour in range(24))
TABLE_TOOL: Any = {"name": "create_table", "parameters": {"type": "object", "properties": {"sql": {"type": "string"}}}}


def test_the_code_of_a_response_draws_what_its_container_has(
    regions: SimulatorProcess, client: Client, stranger: Client
) -> None:
    file = client.files.create(file=("wind.csv", WIND), purpose="user_data")
    tools: Any = [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": [file.id]}}]
    asked: dict[str, Any] = {"model": "gpt-4o", "tools": tools, "include": ["code_interpreter_call.outputs"]}
    described = client.responses.create(input="What is in this file?", **asked)
    code: Any = described.output[0]
    assert (code.type, code.status) == ("code_interpreter_call", "completed")
    assert "24 rows, 2 columns" in code.outputs[0].logs
    assert "wind.csv has 24 rows" in described.output_text

    events = list(client.responses.create(input="Plot it", previous_response_id=described.id, stream=True, **asked))
    drawn: Any = events[-1]
    item, message = drawn.response.output
    assert item.container_id == code.container_id  # the chain keeps its container
    written = "".join(event.delta for event in events if event.type == "response.code_interpreter_call_code.delta")
    assert written == item.code
    (cited,) = message.content[0].annotations
    assert message.content[0].text[cited.start_index : cited.end_index] == f"sandbox:/mnt/data/{cited.filename}"
    content = client.containers.files.content.retrieve(cited.file_id, container_id=cited.container_id).read()
    assert content.startswith(b"\x89PNG")
    files = client.containers.files.list(cited.container_id)
    assert {(listed.path, listed.source) for listed in files} == {
        ("/mnt/data/wind.csv", "user"),
        (f"/mnt/data/{cited.filename}", "assistant"),
    }
    usages = [described.usage, drawn.response.usage]
    assert sum(usage.output_tokens for usage in usages if usage) == totals(regions)["output_tokens"]
    with pytest.raises(openai.NotFoundError):
        stranger.containers.files.list(cited.container_id)


def test_a_response_calls_the_function_that_its_question_needs(client: Client) -> None:
    file = client.files.create(file=("wind.csv", WIND), purpose="user_data")
    container = client.containers.create(name="a", file_ids=[file.id])
    tools: Any = [{"type": "code_interpreter", "container": container.id}, {"type": "function", **TABLE_TOOL}]
    asked = client.responses.create(model="gpt-4o", input="Create a table of it", tools=tools)
    (call,) = [item for item in asked.output if item.type == "function_call"]
    assert call.arguments == '{"sql": "CREATE TABLE wind (time TEXT, power_kw REAL)"}'
    output: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "24 rows"}]
    answered = client.responses.create(model="gpt-4o", input=output, tools=tools, previous_response_id=asked.id)
    assert answered.output_text == "The function answers: 24 rows"


@pytest.mark.parametrize("version", ["2024-02-15-preview", "2024-05-01-preview", "v1"])
def test_an_assistant_of_each_version_draws_what_its_file_has(regions: SimulatorProcess, version: str) -> None:
    with region_client(regions, "v1" if version == "v1" else version, REGION) as client:
        beta = client.beta
        file = client.files.create(file=("wind.csv", WIND), purpose="assistants")
        old, new = {"file_ids": [file.id]}, {"tool_resources": {"code_interpreter": {"file_ids": [file.id]}}}
        given, wrong = (old, new) if version == "2024-02-15-preview" else (new, old)
        tools: Any = [{"type": "code_interpreter"}, {"type": "function", "function": TABLE_TOOL}]
        with pytest.raises(openai.BadRequestError, match=f"Unknown parameter: '{next(iter(wrong))}'"):
            beta.assistants.create(model="gpt-4o", tools=tools, extra_body=wrong)
        assistant = beta.assistants.create(model="gpt-4o", tools=tools, extra_body=given)
        thread = beta.threads.create(messages=[{"role": "user", "content": "Draw the power over time"}])
        with beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id) as stream:
            message = stream.get_final_messages()[0]
        image, text = message.content
        assert (image.type, text.type) == ("image_file", "text")
        assert image.type == "image_file"
        assert client.files.content(image.image_file.file_id).read().startswith(b"\x89PNG")
        run_id = message.run_id or ""
        first, *_ = beta.threads.runs.steps.list(run_id, thread_id=thread.id, order="asc")
        details: Any = first.step_details
        (tool,) = details.tool_calls
        assert [output.type for output in tool.code_interpreter.outputs] == ["image"]

        beta.threads.messages.create(thread.id, role="user", content="Create a table of it")
        runs = beta.threads.runs
        run = runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=20)
        assert run.required_action is not None
        (call,) = run.required_action.submit_tool_outputs.tool_calls
        assert call.function.arguments.startswith('{"sql": "CREATE TABLE wind ')
        usage = runs.retrieve(run_id, thread_id=thread.id).usage
        assert usage is not None
        assert usage.completion_tokens + len(call.function.arguments.split()) <= totals(regions)["output_tokens"]
