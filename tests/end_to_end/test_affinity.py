"""Objects live in the region that made them: calls that name them go there, and only their owner sees them."""

import io
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI
from openai.types.responses import Response

from tests.harness.gateway_process import cli
from tests.harness.system import System, eventually


@pytest.fixture
def client(gateway: System) -> Iterator[OpenAI]:
    with gateway.openai(gateway.make_key("objects")) as client:
        yield client


@pytest.fixture
def stranger(gateway: System) -> Iterator[OpenAI]:
    with gateway.openai(gateway.make_key("a stranger")) as client:
        yield client


def upload(client: OpenAI, text: str = "the road north", name: str = "roads.txt") -> openai.types.FileObject:
    return client.files.create(file=(name, io.BytesIO(text.encode())), purpose="assistants")


def test_a_file_is_available_to_its_owner_alone(client: OpenAI, stranger: OpenAI) -> None:
    file = upload(client)
    for _ in range(6):  # a rotation would ask every region
        assert client.files.retrieve(file.id).id == file.id
    assert client.files.content(file.id).read() == b"the road north"
    for call in (stranger.files.retrieve, stranger.files.content, stranger.files.delete):
        with pytest.raises(openai.NotFoundError) as refused:
            call(file.id)
        assert refused.value.code == "not_found"
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_lists_show_the_callers_own_across_pages(gateway: System, client: OpenAI, stranger: OpenAI) -> None:
    others = [upload(stranger) for _ in range(4)]
    own = [upload(client, name=f"{number}.txt").id for number in range(5)]
    assert {file.id for file in client.files.list()} == set(own)
    assert {file.id for file in stranger.files.list()} == {file.id for file in others}
    first = client.files.list(limit=2)
    assert len(first.data) == 2
    assert first.has_more
    paged = [file.id for file in client.files.list(limit=2)]  # the client follows `after`
    assert sorted(paged) == sorted(own)
    assert len(set(paged)) == 5
    with pytest.raises(openai.NotFoundError):
        client.files.list(after=others[0].id)
    stores = [client.vector_stores.create(name=str(number)) for number in range(3)]
    newest_first = [store.id for store in client.vector_stores.list()]
    assert sorted(newest_first) == sorted(store.id for store in stores)
    before = client.vector_stores.list(before=newest_first[2], limit=1)
    assert [store.id for store in before.data] == [newest_first[1]]


def test_a_chain_of_responses_stays_in_its_region(client: OpenAI, stranger: OpenAI) -> None:
    response: Response = client.responses.create(model="gpt-4o", input="How long is the road?")
    for number in range(4):
        if number % 2:
            with client.responses.stream(model="gpt-4o", input="And then?", previous_response_id=response.id) as stream:
                for _ in stream:
                    pass
                following: Response = stream.get_final_response()
        else:
            following = client.responses.create(model="gpt-4o", input="And then?", previous_response_id=response.id)
        assert following.previous_response_id == response.id
        response = following
    assert client.responses.retrieve(response.id).id == response.id
    with pytest.raises(openai.NotFoundError):
        stranger.responses.create(model="gpt-4o", input="Mine", previous_response_id=response.id)
    with pytest.raises(openai.NotFoundError):
        stranger.responses.retrieve(response.id)


def test_a_background_response_is_charged_once(gateway: System) -> None:
    key = gateway.make_key("background")
    with gateway.openai(key) as client:
        response = client.responses.create(model="gpt-4o", input="Take your time", background=True)
        deadline = time.monotonic() + 20
        while response.status in ("queued", "in_progress"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
            response = client.responses.retrieve(response.id)
        assert response.status == "completed"
        for _ in range(3):
            client.responses.retrieve(response.id)
    assert response.usage
    eventually(lambda: all("e_ended" in row and "e_input" in row for row in gateway.usage_rows(key)))
    rows = gateway.usage_rows(key)
    assert sum(row["e_input"] for row in rows) == response.usage.input_tokens
    assert sum(row["e_output"] for row in rows) == response.usage.output_tokens


def test_a_batch_is_charged_once_when_it_has_ended_and_as_a_batch(gateway: System) -> None:
    key = gateway.make_key("batches")
    message = {"role": "user", "content": "What does it cost to pass?"}
    line: dict[str, Any] = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions"}
    line["body"] = {"model": "gpt-4o-mini", "messages": [message]}
    with gateway.openai(key) as client:
        file = client.files.create(file=("b.jsonl", json.dumps(line).encode()), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        eventually(lambda: client.batches.retrieve(batch.id).status == "completed")
        for _ in range(3):
            client.batches.retrieve(batch.id)
    (truth,) = [one for one in gateway.simulator.log()["requests"] if one["output_tokens"]]
    eventually(lambda: all("e_ended" in row and "e_input" in row for row in gateway.usage_rows(key)))
    charged = [row for row in gateway.usage_rows(key) if row["e_input"] or row["e_output"]]
    assert [(row["e_input"], row["e_output"], row["e_tier"]) for row in charged] == [
        (truth["input_tokens"], truth["output_tokens"], "batch")
    ]


def test_an_assistant_works_from_file_to_answer(client: OpenAI, stranger: OpenAI) -> None:
    file = upload(client)
    store = client.vector_stores.create(file_ids=[file.id])
    assistant = client.beta.assistants.create(
        model="gpt-4o",
        tools=[{"type": "file_search"}],
        tool_resources={"file_search": {"vector_store_ids": [store.id]}},
    )
    thread = client.beta.threads.create(
        messages=[
            {
                "role": "user",
                "content": "What is in it?",
                "attachments": [{"file_id": file.id, "tools": [{"type": "file_search"}]}],
            }
        ]
    )
    run = client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=50)
    assert run.status == "completed"
    assert client.beta.threads.messages.list(thread.id).data
    for call in (
        lambda: stranger.beta.threads.messages.list(thread.id),
        lambda: stranger.beta.assistants.retrieve(assistant.id),
        lambda: stranger.beta.threads.runs.retrieve(run.id, thread_id=thread.id),
        lambda: stranger.beta.threads.create_and_run(assistant_id=assistant.id),
        lambda: stranger.vector_stores.files.create(store.id, file_id=file.id),
        lambda: stranger.vector_stores.create(file_ids=[file.id]),
    ):
        with pytest.raises(openai.NotFoundError):
            call()
    assert list(stranger.beta.assistants.list()) == []
    client.beta.assistants.delete(assistant.id)


def test_a_streamed_run_is_relayed_and_counted(gateway: System) -> None:
    key = gateway.make_key("streamed runs")
    with gateway.openai(key) as client:
        assistant = client.beta.assistants.create(model="gpt-4o")
        with client.beta.threads.create_and_run_stream(
            assistant_id=assistant.id, thread={"messages": [{"role": "user", "content": "Hello"}]}
        ) as stream:
            stream.until_done()
            run = stream.current_run
        assert run
        assert run.usage
        for _ in range(2):
            client.beta.threads.runs.retrieve(run.id, thread_id=run.thread_id)
    eventually(lambda: all("e_ended" in row for row in gateway.usage_rows(key)))
    assert sum(row["e_output"] for row in gateway.usage_rows(key)) == run.usage.completion_tokens


def test_a_run_whose_listener_leaves_at_its_end_is_charged_once(gateway: System) -> None:
    key, used = gateway.make_key("leaving runs"), 0
    with gateway.openai(key) as client:
        assistant = client.beta.assistants.create(model="gpt-4o")
        for _ in range(6):
            thread: Any = {"messages": [{"role": "user", "content": "Hello"}]}
            with client.beta.threads.create_and_run(assistant_id=assistant.id, thread=thread, stream=True) as stream:
                ended = next(event.data for event in stream if event.event == "thread.run.completed")
            run: Any = ended
            used += run.usage.completion_tokens
            for _ in range(2):
                client.beta.threads.runs.retrieve(run.id, thread_id=run.thread_id)
    eventually(lambda: all("e_ended" in row for row in gateway.usage_rows(key)))
    assert sum(row["e_output"] for row in gateway.usage_rows(key)) == used


def test_objects_of_a_region_that_is_down_are_unavailable_and_not_missing(gateway: System, client: OpenAI) -> None:
    file = upload(client)
    region = client.files.with_raw_response.retrieve(file.id).headers["x-gateway-region"]
    backend = {"swedencentral": "sweden", "eastus2": "virginia", "japaneast": "japan"}[region]
    gateway.simulator.down(region)
    try:
        with pytest.raises(openai.InternalServerError) as refused:
            client.files.retrieve(file.id)
    finally:
        gateway.simulator.up(region)
    assert refused.value.status_code == 503
    assert refused.value.code == "state_unavailable"
    assert backend in str(refused.value)
    assert file.id in str(refused.value)


def test_an_unknown_model_is_rejected_before_a_home_is_chosen(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.responses.create(model="nothing", input="Hello")
    assert refused.value.code == "model_not_found"


def test_a_realtime_call_is_controlled_in_its_region_by_its_owner_alone(client: OpenAI, stranger: OpenAI) -> None:
    session: Any = {"type": "realtime", "model": "gpt-realtime"}
    offer = "v=0\r\ns=-\r\n"
    made = client.realtime.calls.create(sdp=offer, session=session).response
    assert (made.status_code, made.text[:3]) == (201, "v=0")
    path = made.headers["location"]
    call = path.rpartition("/")[2]
    assert path == f"/v1/realtime/calls/{call}"
    steps: list[Callable[[OpenAI], object]] = [
        lambda caller: caller.realtime.calls.accept(call, **session),
        lambda caller: caller.realtime.calls.refer(call, target_uri="tel:+14155550123"),
        lambda caller: caller.realtime.calls.hangup(call),
    ]
    for step in steps:
        with pytest.raises(openai.NotFoundError):
            step(stranger)
        step(client)
    alone = {"content-type": "application/sdp"}
    raw = client.post(
        "/realtime/calls?model=gpt-realtime", cast_to=str, content=offer.encode(), options={"headers": alone}
    )
    assert raw.startswith("v=0")


def test_a_checkpoint_belongs_to_whoever_trained_it(client: OpenAI, stranger: OpenAI) -> None:
    file = client.files.create(file=("t.jsonl", b"{}\n" * 10), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file.id)
    eventually(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "succeeded")
    [checkpoint] = client.fine_tuning.jobs.checkpoints.list(job.id)
    name = checkpoint.fine_tuned_model_checkpoint
    permissions = client.fine_tuning.checkpoints.permissions
    [made] = permissions.create(name, project_ids=["proj_1"])
    assert [one.id for one in permissions.list(name)] == [made.id]
    others = stranger.fine_tuning.checkpoints.permissions
    for look in (
        lambda: others.list(name),
        lambda: others.create(name, project_ids=["proj_2"]),
        lambda: others.delete(made.id, fine_tuned_model_checkpoint=name),
    ):
        with pytest.raises(openai.NotFoundError):
            look()
    copied = client.get(f"/fine_tuning/jobs/{job.id}/checkpoints/{checkpoint.id}/copy", cast_to=dict[str, Any])
    assert copied["status"] == "Completed"
    assert permissions.delete(made.id, fine_tuned_model_checkpoint=name).deleted
    assert client.delete(f"/fine_tuning/jobs/{job.id}", cast_to=dict[str, Any])["deleted"]


def test_a_file_that_azure_imports_is_the_callers(gateway: System, stranger: OpenAI) -> None:
    blob = {"purpose": "fine-tune", "filename": "t.jsonl", "content_url": "https://blob.invalid/t.jsonl?sig=x"}
    key = gateway.make_key("an importer")
    cli(gateway.gateway.environment, "keys", "set", key.split("_")[1], "--whole-account", "--json")
    with gateway.openai(key) as client:
        file = client.post("/files/import", cast_to=dict[str, Any], body=blob)
        assert client.files.retrieve(file["id"]).filename == "t.jsonl"
    with pytest.raises(openai.NotFoundError):
        stranger.files.retrieve(file["id"])


def test_an_item_of_an_earlier_answer_is_read_in_its_region_by_its_owner_alone(
    client: OpenAI, stranger: OpenAI
) -> None:
    answers = [client.responses.create(model="o4-mini", input="the road north") for _ in range(2)]
    answers.append(list(client.responses.create(model="o4-mini", input="and south", stream=True))[-1].response)  # type: ignore[union-attr]
    for answer in answers:
        thought, said = (next(one for one in answer.output if one.type == kind) for kind in ("reasoning", "message"))
        named: list[Any] = [
            {"type": "item_reference", "id": said.id},
            {"id": said.id},
            {"type": "reasoning", "id": thought.id, "summary": []},
        ]
        for item in named:
            given: Any = {"model": "o4-mini", "input": [item, {"role": "user", "content": "And then?"}]}
            for _ in range(3):  # a rotation would ask every region
                assert client.responses.create(**given).status == "completed"
            with pytest.raises(openai.NotFoundError) as refused:
                stranger.responses.create(**given)
            assert refused.value.code == "not_found"


THINKING: dict[str, Any] = {"model": "o4-mini", "store": False, "include": ["reasoning.encrypted_content"]}
COMPACTING: dict[str, Any] = {
    "model": "gpt-4o",
    "store": False,
    "context_management": [{"type": "compaction", "compact_threshold": 10}],
}
SO: Any = {"role": "user", "content": "So?"}


def sealed_output(client: OpenAI, asked: dict[str, Any], *, stream: bool = False) -> tuple[str, list[dict[str, Any]]]:
    """The backend of a stateless call, and the items with the content that it has sealed."""
    text = " ".join(["the road north"] * 20)
    if stream:
        with client.responses.with_streaming_response.create(**asked, input=text, stream=True) as made:
            events = [json.loads(line[6:]) for line in made.iter_lines() if line.startswith("data: ")]
        output = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    elif "model" in asked:
        made = client.responses.with_raw_response.create(**asked, input=text)
        output = json.loads(made.text)["output"]
    else:
        made = client.responses.with_raw_response.compact(model="gpt-4o", input=text)
        output = json.loads(made.text)["output"]
    assert any("encrypted_content" in item for item in output)
    return made.headers["x-gateway-backend"], output


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("asked", [THINKING, COMPACTING, {}], ids=["reasoning", "compaction", "compact"])
@pytest.mark.parametrize("with_ids", [True, False])
def test_sealed_content_goes_back_to_the_backend_that_can_open_it(
    client: OpenAI, asked: dict[str, Any], *, stream: bool, with_ids: bool
) -> None:
    seen = set()
    for _ in range(6):
        backend, output = sealed_output(client, asked, stream=stream and bool(asked))
        seen.add(backend)
        given: Any = [item if with_ids else {key: item[key] for key in item if key != "id"} for item in output]
        again = client.responses.with_raw_response.create(model="o4-mini", store=False, input=[*given, SO])
        assert (again.headers["x-gateway-backend"], again.headers["x-gateway-attempts"]) == (backend, "1")
    assert len(seen) > 1  # calls that store nothing rotate


@pytest.mark.parametrize("long", [False, True])
def test_the_last_items_of_a_long_history_say_where_it_goes(client: OpenAI, *, long: bool) -> None:
    for _ in range(4):
        backend, output = sealed_output(client, THINKING)
        text = "x" * 300 if long else "x"  # more than 256 kB: read in pieces
        history: Any = [{"role": "user", "content": text}, *output] * 501
        assert len(history) > 1001
        body = {"model": "o4-mini", "store": False, "input": [*history, SO]}
        # Not by `create`, which spends seconds on comparing each item with all types of items.
        made = client.post("/responses", cast_to=httpx2.Response, body=body)
        assert (made.headers["x-gateway-backend"], made.headers["x-gateway-attempts"]) == (backend, "1")


def test_only_its_owner_is_led_to_where_content_was_sealed(client: OpenAI, stranger: OpenAI) -> None:
    backend, output = sealed_output(client, THINKING)
    given: Any = {"model": "o4-mini", "store": False, "input": [*output, SO]}
    tried = set()
    for _ in range(6):
        made = stranger.responses.with_raw_response.create(**given)
        assert made.headers["x-gateway-backend"] == backend  # the content opens there alone, whoever brings it
        tried.add(made.headers["x-gateway-attempts"])
    assert tried > {"1"}  # its calls began elsewhere, as any other
    for _ in range(3):
        assert client.responses.with_raw_response.create(**given).headers["x-gateway-attempts"] == "1"


def test_content_that_no_backend_can_open_is_refused_in_the_words_of_one(client: OpenAI) -> None:
    item = {"type": "reasoning", "id": "rs_unknown", "summary": [], "encrypted_content": "c2VhbGVk"}
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="o4-mini", store=False, input=[item, {"role": "user", "content": "a"}])  # type: ignore[list-item]
    assert refused.value.code == "invalid_encrypted_content"
    assert refused.value.response.headers["x-gateway-attempts"] == "3"
