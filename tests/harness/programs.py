"""A caller's programs with the official client, one per family of operations."""

import io
import json
import time
import wave
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, cast

import httpx2
import openai
from openai import AzureOpenAI, OpenAI

from tests.harness.patience import PATIENCE
from tests.harness.recording import Exchange, Recorder

# Metadata of work that the simulator ends by itself: not before it is canceled; not before it is paused.
LASTING, BRIEF = {"simulate_seconds": "60"}, {"simulate_seconds": "3"}
PNG = b"\x89PNG\r\n\x1a\n"
OFFER = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\n"
TOOL: Any = {"type": "function", "name": "tide", "parameters": {"type": "object"}, "strict": False}
ASSISTANT_TOOL: Any = {"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}


class Caller:
    """A client whose exchanges are recorded. `names`: what this side calls the models."""

    def __init__(self, make: Callable[[httpx2.Client], OpenAI | AzureOpenAI], names: Mapping[str, str]) -> None:
        self._recorder = Recorder()
        self._http = httpx2.Client(event_hooks={"response": [self._recorder.note]}, timeout=30.0)
        self.client = make(self._http)
        self._names = names

    def model(self, name: str) -> str:
        return self._names.get(name, name)

    @property
    def exchanges(self) -> list[Exchange]:
        return self._recorder.exchanges

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        """For what depends on the time that passes."""
        with self._recorder.pause():
            yield

    def wait(self, read: Callable[[], Any], *statuses: str) -> None:
        with self.unrecorded():
            deadline = time.monotonic() + PATIENCE
            while read().status not in statuses:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def close(self) -> None:
        self._http.close()


def refused(call: Callable[[], Any]) -> None:
    """A call whose refusal is what is looked at."""
    with suppress(openai.APIStatusError):
        call()


def recording(seconds: float = 1.0) -> tuple[str, bytes, str]:
    """Silence as a WAV file, the way the client takes files."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8_000)
        file.writeframes(b"\0\0" * int(8_000 * seconds))
    return "a.wav", buffer.getvalue(), "audio/wav"


def chats(caller: Caller) -> None:
    create: Any = caller.client.chat.completions.create
    given = {"model": caller.model("gpt-4o"), "messages": [{"role": "user", "content": "Grüße, 東京! 🚢"}]}
    create(**given, n=2, max_tokens=5)
    list(create(**given, stream=True))
    list(create(**given, stream=True, stream_options={"include_usage": True}))
    create(**given | {"model": caller.model("o4-mini")})
    refused(lambda: create(**given | {"model": caller.model("o4-mini"), "max_tokens": 5}))
    refused(lambda: create(**given | {"messages": []}))
    filtered = [{"role": "user", "content": "simulate_content_filter"}]
    refused(lambda: create(**given | {"messages": filtered}))
    caller.client.completions.create(model=caller.model("gpt-35-turbo-instruct"), prompt=["a", "b"], max_tokens=3)
    list(caller.client.completions.create(model=caller.model("gpt-35-turbo-instruct"), prompt="a", stream=True))
    embed: Any = caller.client.embeddings.create
    embed(model=caller.model("text-embedding-3-small"), input=["a", "b"], dimensions=8)


def stored_chats(caller: Caller) -> None:
    completions = caller.client.chat.completions
    given: Any = {"model": caller.model("gpt-4o"), "messages": [{"role": "user", "content": "hello"}], "store": True}
    kept = completions.create(**given, metadata={"mine": "1"})
    completions.retrieve(kept.id)
    completions.update(kept.id, metadata={"mine": "2"})
    list(completions.messages.list(kept.id))
    list(completions.list(limit=1))
    completions.delete(kept.id)
    refused(lambda: completions.retrieve(kept.id))


def responses(caller: Caller) -> None:
    create: Any = caller.client.responses.create
    model = caller.model("gpt-4o")
    first = create(model=model, input="hello", metadata={"mine": "1"})
    list(create(model=model, input="and on", previous_response_id=first.id, stream=True))
    create(model=caller.model("o4-mini"), input="a", include=["reasoning.encrypted_content"], store=False)
    asked = create(model=model, input="simulate_tool_call", tools=[TOOL])
    output = [{"type": "function_call_output", "call_id": asked.output[0].call_id, "output": "high"}]
    list(create(model=model, input=output, previous_response_id=asked.id, tools=[TOOL], stream=True))
    create(model=model, input="a", max_output_tokens=16)
    refused(lambda: create(model=model, input="a", max_output_tokens=1))
    caller.client.responses.retrieve(first.id)
    list(caller.client.responses.input_items.list(first.id, limit=1))
    caller.client.responses.input_tokens.count(model=model, input="one two")
    caller.client.responses.compact(model=model, input="one two", previous_response_id=first.id)
    caller.client.responses.delete(first.id)


def background(caller: Caller) -> None:
    create: Any = caller.client.responses.create
    retrieve: Any = caller.client.responses.retrieve
    begun = create(model=caller.model("gpt-4o"), input="hello", background=True)
    caller.wait(lambda: retrieve(begun.id), "completed")
    retrieve(begun.id)
    list(retrieve(begun.id, stream=True, starting_after=3))
    list(create(model=caller.model("gpt-4o"), input="hello", background=True, stream=True))
    endless = create(model=caller.model("gpt-4o"), input="simulate_seconds=60", background=True)
    caller.client.responses.cancel(endless.id)


def conversations(caller: Caller) -> None:
    client = caller.client
    hello: Any = {"type": "message", "role": "user", "content": "hello"}
    made = client.conversations.create(items=[hello], metadata={"mine": "1"})
    client.responses.create(model=caller.model("gpt-4o"), input="simulate_recall", conversation=made.id)
    items: Any = list(client.conversations.items.list(made.id, order="asc", limit=2))
    client.conversations.items.retrieve(items[0].id, conversation_id=made.id)
    client.conversations.items.create(made.id, items=[hello])
    client.conversations.items.delete(items[0].id, conversation_id=made.id)
    client.conversations.update(made.id, metadata={})
    client.conversations.retrieve(made.id)
    client.conversations.delete(made.id)


def files(caller: Caller) -> None:
    client = caller.client
    content = bytes(range(256)) * 1_000 + b"\r\n--"
    made = [client.files.create(file=(f"a{n} é.bin", content), purpose="user_data").id for n in range(3)]
    client.files.retrieve(made[0])
    client.files.content(made[0]).read()
    list(client.files.list(purpose="user_data", order="asc", limit=2))
    refused(lambda: client.files.create(file=b"a", purpose="nonsense"))  # type: ignore[arg-type]
    client.files.delete(made[0])
    upload = client.uploads.create(filename="b", purpose="user_data", bytes=6, mime_type="text/plain")
    parts = [client.uploads.parts.create(upload.id, data=data).id for data in (b"one", b"two")]
    client.uploads.complete(upload.id, part_ids=parts)
    other = client.uploads.create(filename="b", purpose="user_data", bytes=6, mime_type="text/plain")
    client.uploads.cancel(other.id)


def batches(caller: Caller) -> None:
    client = caller.client
    line: Any = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions"}
    line["body"] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
    file = client.files.create(file=("b.jsonl", json.dumps(line).encode()), purpose="batch")
    given: Any = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = client.batches.create(**given)
    caller.wait(lambda: client.batches.retrieve(batch.id), "completed")
    done = client.batches.retrieve(batch.id)
    client.files.content(done.output_file_id or "").read()
    list(client.batches.list(limit=1))
    with caller.unrecorded():
        other = client.batches.create(**given, metadata=LASTING)
    client.batches.cancel(other.id)


def vector_stores(caller: Caller) -> None:
    client = caller.client
    ids = [client.files.create(file=(f"{n}.txt", f"ship {n}".encode()), purpose="assistants").id for n in range(3)]
    store = client.vector_stores.create(name="mine", file_ids=ids[:1])
    client.vector_stores.files.create(store.id, file_id=ids[1], attributes={"kind": "ship"})
    batch = client.vector_stores.file_batches.create(store.id, file_ids=ids[2:])
    caller.wait(lambda: client.vector_stores.retrieve(store.id), "completed")
    client.vector_stores.retrieve(store.id)
    list(client.vector_stores.search(store.id, query="ship 1"))
    list(client.vector_stores.files.list(store.id, limit=2))
    list(client.vector_stores.files.content(ids[1], vector_store_id=store.id))
    client.vector_stores.files.retrieve(ids[1], vector_store_id=store.id)
    client.vector_stores.files.update(ids[1], vector_store_id=store.id, attributes={})
    client.vector_stores.file_batches.retrieve(batch.id, vector_store_id=store.id)
    list(client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id))
    client.vector_stores.files.delete(ids[1], vector_store_id=store.id)
    client.vector_stores.update(store.id, name="other")
    list(client.vector_stores.list(limit=1))
    search: Any = [{"type": "file_search", "vector_store_ids": [store.id]}]
    client.responses.create(model=caller.model("gpt-4o"), input="a", tools=search)
    client.vector_stores.delete(store.id)


def containers(caller: Caller) -> None:
    client = caller.client
    file = client.files.create(file=("a.txt", b"tide"), purpose="user_data")
    made = client.containers.create(name="mine", file_ids=[file.id])
    added = client.containers.files.create(made.id, file=("b.txt", b"ships"))
    client.containers.files.create(made.id, file_id=file.id)
    list(client.containers.files.list(made.id, limit=2))
    client.containers.files.content.retrieve(added.id, container_id=made.id).read()
    client.containers.files.retrieve(added.id, container_id=made.id)
    client.containers.files.delete(added.id, container_id=made.id)
    client.containers.retrieve(made.id)
    list(client.containers.list(limit=1))
    client.containers.delete(made.id)


def images(caller: Caller) -> None:
    client, model = caller.client, caller.model("gpt-image-1")
    picture = ("a.png", PNG, "image/png")
    client.images.generate(model=model, prompt="a harbour", n=2, quality="low")
    client.images.generate(model=caller.model("dall-e-3"), prompt="a harbour")
    list(client.images.generate(model=model, prompt="simulate_bytes=200000", stream=True, partial_images=2))
    client.images.edit(model=model, image=[picture, picture], prompt="ships")
    list(client.images.edit(model=model, image=picture, prompt="ships", stream=True, partial_images=1))
    client.images.create_variation(model=caller.model("dall-e-3"), image=picture)
    refused(lambda: client.images.generate(model=model, prompt="a", n=11))


def audio(caller: Caller) -> None:
    client = caller.client
    sound = recording()
    client.audio.speech.create(model=caller.model("tts"), voice="alloy", input="The toll is paid.").read()
    sse: Any = {"model": caller.model("gpt-4o-mini-tts"), "stream_format": "sse"}
    client.audio.speech.create(voice="alloy", input="The toll is paid.", **sse).read()
    for form in ("json", "verbose_json", "srt"):
        client.audio.transcriptions.create(model=caller.model("whisper"), file=sound, response_format=form)
    client.audio.translations.create(model=caller.model("whisper"), file=sound)
    heard = caller.model("gpt-4o-mini-transcribe")
    client.audio.transcriptions.create(model=heard, file=sound, include=["logprobs"])
    list(client.audio.transcriptions.create(model=heard, file=sound, stream=True))


def moderations(caller: Caller) -> None:
    client = caller.client
    client.moderations.create(model=caller.model("omni-moderation-latest"), input=["a", "simulate_content_filter"])


def realtime(caller: Caller) -> None:
    client, session = caller.client.realtime, {"type": "realtime", "model": caller.model("gpt-realtime")}
    client.client_secrets.create(session=cast(Any, session))
    made = client.calls.create(sdp=OFFER, session=cast(Any, session | {"instructions": "Be brief. " * 500}))
    call = made.response.headers["location"].rpartition("/")[2]
    client.calls.accept(call, **cast(Any, session))
    client.calls.refer(call, target_uri="tel:+14155550123")
    client.calls.hangup(call)
    refused(lambda: client.calls.create(sdp="nonsense", session=cast(Any, session)))
    other = client.calls.create(sdp=OFFER, session=cast(Any, session)).response.headers["location"]
    client.calls.reject(other.rpartition("/")[2], status_code=486)


def fine_tuning(caller: Caller) -> None:
    jobs = caller.client.fine_tuning.jobs
    file = caller.client.files.create(file=("t.jsonl", b"{}\n" * 10), purpose="fine-tune")
    job = jobs.create(model="gpt-4o-mini", training_file=file.id, suffix="mine", metadata=BRIEF)
    jobs.pause(job.id)
    jobs.resume(job.id)
    caller.wait(lambda: jobs.retrieve(job.id), "succeeded")
    jobs.retrieve(job.id)
    list(jobs.list_events(job.id, limit=2))
    checkpoint = next(iter(jobs.checkpoints.list(job.id)))
    permissions, name = caller.client.fine_tuning.checkpoints.permissions, checkpoint.fine_tuned_model_checkpoint
    permission = next(iter(permissions.create(name, project_ids=["proj_1", "proj_2"])))
    list(permissions.list(name, limit=1))
    permissions.delete(permission.id, fine_tuned_model_checkpoint=name)
    list(jobs.list(limit=1))
    refused(lambda: jobs.cancel(job.id))


def evals(caller: Caller) -> None:
    client = caller.client.evals
    config: Any = {"type": "custom", "item_schema": {"type": "object"}}
    criteria: Any = [{"type": "string_check", "name": "a", "input": "a", "reference": "b", "operation": "eq"}]
    made = client.create(name="mine", data_source_config=config, testing_criteria=criteria)
    content = {"type": "file_content", "content": [{"item": {"a": "b"}}, {"item": {"a": "c"}}]}
    source: Any = {"type": "jsonl", "source": content}
    run = client.runs.create(made.id, data_source=source)
    caller.wait(lambda: client.runs.retrieve(run.id, eval_id=made.id), "completed")
    client.runs.retrieve(run.id, eval_id=made.id)
    items = list(client.runs.output_items.list(run.id, eval_id=made.id, limit=1))
    client.runs.output_items.retrieve(items[0].id, eval_id=made.id, run_id=run.id)
    with caller.unrecorded():
        other = client.runs.create(made.id, data_source=source, metadata=LASTING)
    client.runs.cancel(other.id, eval_id=made.id)
    list(client.runs.list(made.id))
    client.runs.delete(run.id, eval_id=made.id)
    client.update(made.id, name="other")
    client.retrieve(made.id)
    list(client.list(limit=1))
    client.delete(made.id)


def assistants(caller: Caller) -> None:
    client, threads = caller.client, caller.client.beta.threads
    store = client.vector_stores.create()
    resources: Any = {"file_search": {"vector_store_ids": [store.id]}}
    made = client.beta.assistants.create(
        model=caller.model("gpt-4o"), tools=[ASSISTANT_TOOL], tool_resources=resources, instructions="Be brief."
    )
    thread = threads.create(messages=[{"role": "user", "content": "How is the tide?"}])
    message = threads.messages.create(thread.id, role="user", content="Tell me.")
    run = threads.runs.create(thread.id, assistant_id=made.id)
    caller.wait(lambda: threads.runs.retrieve(run.id, thread_id=thread.id), "requires_action")
    waiting: Any = threads.runs.retrieve(run.id, thread_id=thread.id)
    call = waiting.required_action.submit_tool_outputs.tool_calls[0]
    outputs: Any = [{"tool_call_id": call.id, "output": "high"}]
    refused(lambda: threads.runs.create(thread.id, assistant_id=made.id))
    threads.runs.submit_tool_outputs(run.id, thread_id=thread.id, tool_outputs=outputs)
    caller.wait(lambda: threads.runs.retrieve(run.id, thread_id=thread.id), "completed")
    threads.runs.retrieve(run.id, thread_id=thread.id)
    steps = list(threads.runs.steps.list(run.id, thread_id=thread.id, limit=1))
    threads.runs.steps.retrieve(steps[0].id, thread_id=thread.id, run_id=run.id)
    list(threads.runs.list(thread.id))
    list(threads.messages.list(thread.id, limit=2))
    threads.messages.update(message.id, thread_id=thread.id, metadata={"a": "b"})
    threads.messages.retrieve(message.id, thread_id=thread.id)
    threads.messages.delete(message.id, thread_id=thread.id)
    threads.runs.update(run.id, thread_id=thread.id, metadata={"a": "b"})
    threads.update(thread.id, metadata={"a": "b"})
    threads.retrieve(thread.id)
    threads.delete(thread.id)
    client.beta.assistants.update(made.id, name="other")
    client.beta.assistants.retrieve(made.id)
    list(client.beta.assistants.list(limit=1))
    client.beta.assistants.delete(made.id)


def streamed_runs(caller: Caller) -> None:
    runs = caller.client.beta.threads.runs
    made = caller.client.beta.assistants.create(model=caller.model("gpt-4o"), tools=[ASSISTANT_TOOL])
    thread: Any = {"messages": [{"role": "user", "content": "a"}]}
    events: Any = list(caller.client.beta.threads.create_and_run(assistant_id=made.id, thread=thread, stream=True))
    run = events[-2].data if events[-1].event == "done" else events[-1].data
    call = run.required_action.submit_tool_outputs.tool_calls[0]
    outputs: Any = [{"tool_call_id": call.id, "output": "high"}]
    list(runs.submit_tool_outputs(run.id, thread_id=run.thread_id, tool_outputs=outputs, stream=True))
    other = runs.create(run.thread_id, assistant_id=made.id, metadata=LASTING)
    runs.cancel(other.id, thread_id=run.thread_id)


PROGRAMS = (
    chats,
    stored_chats,
    responses,
    background,
    conversations,
    files,
    batches,
    vector_stores,
    containers,
    images,
    audio,
    moderations,
    realtime,
    fine_tuning,
    evals,
    assistants,
    streamed_runs,
)
