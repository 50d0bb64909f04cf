"""Work that the simulator does in parts or in the background: uploads, batches, containers, fine-tuning, evals."""

import hashlib
import json
from typing import Any

import openai
import pytest

from simulator.process import SimulatorProcess
from tests.harness.programs import BRIEF, LASTING
from tests.harness.simulated import Client, totals, until


def test_an_upload_of_parts_becomes_a_file(client: Client, stranger: Client) -> None:
    parts = [b"first " * 1_000, b"second"]
    whole = b"".join(parts)
    upload = client.uploads.create(filename="a.txt", purpose="user_data", bytes=len(whole), mime_type="text/plain")
    ids = [client.uploads.parts.create(upload.id, data=part).id for part in parts]
    with pytest.raises(openai.BadRequestError):
        client.uploads.complete(upload.id, part_ids=ids[:1])
    with pytest.raises(openai.NotFoundError):
        stranger.uploads.complete(upload.id, part_ids=ids)
    md5 = hashlib.md5(whole, usedforsecurity=False).hexdigest()
    done = client.uploads.complete(upload.id, part_ids=ids, md5=md5)

    assert done.status == "completed"
    assert done.file is not None
    assert client.files.content(done.file.id).read() == whole
    pending = client.uploads.create(filename="a", purpose="batch", bytes=1, mime_type="text/plain")
    assert client.uploads.cancel(pending.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError):
        client.uploads.parts.create(pending.id, data=b"a")


def test_a_batch_answers_every_line_of_its_file(regions: SimulatorProcess, client: Client, stranger: Client) -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
    lines = [{"custom_id": f"c{n}", "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(3)]
    lines.append({"custom_id": "bad", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt-4o"}})
    file = client.files.create(file=("b.jsonl", "\n".join(map(json.dumps, lines)).encode()), purpose="batch")
    given: Any = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = client.batches.create(**given)
    assert batch.status == "validating"
    done = until(lambda: client.batches.retrieve(batch.id), lambda latest: latest.status == "completed")

    assert done.request_counts is not None
    assert (done.request_counts.completed, done.request_counts.failed) == (3, 1)
    answers = [json.loads(line) for line in client.files.content(done.output_file_id or "").text.splitlines()]
    assert [answer["custom_id"] for answer in answers] == ["c0", "c1", "c2"]
    assert answers[0]["response"]["body"]["usage"]["completion_tokens"] == 32
    refused = json.loads(client.files.content(done.error_file_id or "").text)
    assert refused["response"]["status_code"] == 400
    assert totals(regions)["output_tokens"] == 96
    assert [listed.id for listed in client.batches.list()] == [batch.id]
    with pytest.raises(openai.NotFoundError):
        stranger.batches.create(**given)
    cancelled = client.batches.create(**given, metadata=LASTING)
    assert client.batches.cancel(cancelled.id).status == "cancelling"
    assert client.batches.retrieve(cancelled.id).status == "cancelled"


def test_a_container_holds_files(client: Client, stranger: Client) -> None:
    file = client.files.create(file=("a.txt", b"tide"), purpose="user_data")
    container = client.containers.create(name="mine", file_ids=[file.id])
    added = client.containers.files.create(container.id, file=("b.txt", b"ships"))
    linked = client.containers.files.create(container.id, file_id=file.id)

    assert len(list(client.containers.files.list(container.id, limit=1))) == 3
    assert client.containers.files.content.retrieve(added.id, container_id=container.id).read() == b"ships"
    assert client.containers.files.retrieve(linked.id, container_id=container.id).path == "/mnt/data/a.txt"
    client.containers.files.delete(added.id, container_id=container.id)
    assert [listed.id for listed in client.containers.list()] == [container.id]
    tool: Any = [{"type": "code_interpreter", "container": container.id}]
    assert client.responses.create(model="gpt-4o", input="a", tools=tool).output_text
    for refused in (
        lambda: stranger.containers.retrieve(container.id),
        lambda: stranger.responses.create(model="gpt-4o", input="a", tools=tool),
    ):
        with pytest.raises(openai.NotFoundError):
            refused()
    client.containers.delete(container.id)
    with pytest.raises(openai.NotFoundError):
        client.containers.retrieve(container.id)


def test_a_fine_tuning_job_succeeds(client: Client, stranger: Client) -> None:
    file = client.files.create(file=("t.jsonl", b'{"messages":[]}\n' * 10), purpose="fine-tune")
    given: Any = {"model": "gpt-4o-mini", "training_file": file.id}
    job = client.fine_tuning.jobs.create(**given, suffix="mine", metadata=BRIEF)
    assert client.fine_tuning.jobs.pause(job.id).to_dict()["status"] == "paused"
    assert client.fine_tuning.jobs.resume(job.id).status == "running"
    done = until(lambda: client.fine_tuning.jobs.retrieve(job.id), lambda latest: latest.status == "succeeded")

    assert (done.fine_tuned_model or "").endswith("-mine")
    assert done.trained_tokens == 40
    events = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=1)]
    assert (events[0], events[-1]) == ("Training completed.", "Created fine-tune.")
    checkpoint = next(iter(client.fine_tuning.jobs.checkpoints.list(job.id))).fine_tuned_model_checkpoint
    permissions = client.fine_tuning.checkpoints.permissions
    made = next(iter(permissions.create(checkpoint, project_ids=["proj_1"])))
    assert permissions.delete(made.id, fine_tuned_model_checkpoint=checkpoint).deleted
    assert [listed.id for listed in client.fine_tuning.jobs.list()] == [job.id]
    with pytest.raises(openai.NotFoundError):
        stranger.fine_tuning.jobs.retrieve(job.id)
    with pytest.raises(openai.NotFoundError):
        stranger.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file.id)
    second = client.fine_tuning.jobs.create(**given, metadata=LASTING)
    assert client.fine_tuning.jobs.cancel(second.id).status == "cancelled"
    grader: Any = {"type": "string_check", "name": "a", "input": "a", "reference": "a", "operation": "eq"}
    assert client.fine_tuning.alpha.graders.run(grader=grader, model_sample="a").reward == 1.0
    assert client.fine_tuning.alpha.graders.validate(grader=grader).grader is not None


def test_an_eval_runs_over_its_items(regions: SimulatorProcess, client: Client, stranger: Client) -> None:
    config: Any = {"type": "custom", "item_schema": {"type": "object"}}
    criteria: Any = [
        {"type": "string_check", "name": "a", "input": "{{item.a}}", "reference": "b", "operation": "eq"},
    ]
    created = client.evals.with_raw_response.create(name="mine", data_source_config=config, testing_criteria=criteria)
    assert created.status_code == 201
    evaluation = created.parse()
    items = [{"item": {"a": "b"}}, {"item": {"a": "c"}}]
    source: Any = {"type": "completions", "model": "gpt-4o", "source": {"type": "file_content", "content": items}}
    run = client.evals.runs.create(evaluation.id, data_source=source)
    done = until(
        lambda: client.evals.runs.retrieve(run.id, eval_id=evaluation.id), lambda latest: latest.status == "completed"
    )

    assert done.result_counts.passed == 2
    assert done.per_model_usage[0].completion_tokens == totals(regions)["output_tokens"] == 64
    outputs = list(client.evals.runs.output_items.list(run.id, eval_id=evaluation.id, limit=1))
    assert len(outputs) == 2
    output = client.evals.runs.output_items.retrieve(outputs[0].id, eval_id=evaluation.id, run_id=run.id)
    assert output.id == outputs[0].id
    assert client.evals.update(evaluation.id, name="other").name == "other"
    assert [listed.id for listed in client.evals.list()] == [evaluation.id]
    with pytest.raises(openai.NotFoundError):
        stranger.evals.retrieve(evaluation.id)
    second = client.evals.runs.create(evaluation.id, data_source=source, metadata=LASTING)
    assert client.evals.runs.cancel(second.id, eval_id=evaluation.id).status == "canceled"
    assert [listed.id for listed in client.evals.runs.list(evaluation.id, status="completed")] == [run.id]
    client.evals.runs.delete(run.id, eval_id=evaluation.id)
    assert client.evals.delete(evaluation.id).deleted


def test_a_moderation_tells_what_is_flagged(client: Client) -> None:
    answer = client.moderations.create(model="omni-moderation-latest", input=["hello", "simulate_content_filter"])

    assert [result.flagged for result in answer.results] == [False, True]


def test_a_secret_for_realtime_is_made(client: Client) -> None:
    secret = client.realtime.client_secrets.create(session={"type": "realtime", "model": "gpt-realtime"})

    assert secret.value.startswith("ek_")
    with pytest.raises(openai.NotFoundError):
        client.realtime.client_secrets.create(session={"type": "realtime", "model": "unknown"})
    call = client.realtime.calls.with_raw_response.create(sdp="v=0\r\n")
    call_id = call.headers["location"].rpartition("/")[2]
    client.realtime.calls.hangup(call_id)
    with pytest.raises(openai.NotFoundError):
        client.realtime.calls.hangup(call_id)
