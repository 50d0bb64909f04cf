"""A hostile caller with a key, and a backend that repeats what the caller has said: nobody gets what is not theirs."""

import json
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.harness.gateway_process import cli
from tests.harness.system import System, eventually


@pytest.fixture
def owner(gateway: System) -> str:
    return gateway.make_key("an owner")


@pytest.fixture
def stranger(gateway: System) -> str:
    return gateway.make_key("a stranger")


def message_of(client: OpenAI) -> str:
    """The id of a message that the backend has made for this caller."""
    answer = client.responses.create(model="o4-mini", input="the road north")
    return next(one.id for one in answer.output if one.type == "message")


def test_an_id_that_a_caller_plants_in_a_conversation_stays_its_owners(
    gateway: System, owner: str, stranger: str
) -> None:
    with gateway.openai(owner) as client:
        foreign = message_of(client)
    item: Any = {"type": "message", "id": foreign, "role": "user", "content": "mine"}
    with gateway.openai(stranger) as client:
        conversation = client.conversations.create(items=[item])
        assert [one.id for one in client.conversations.items.list(conversation.id)] == [foreign]
        other = client.conversations.create()
        assert client.conversations.items.create(other.id, items=[item]).data[0].id == foreign
        client.conversations.items.retrieve(foreign, conversation_id=other.id)
        answer = client.responses.create(model="o4-mini", input=[item])
        list(client.responses.input_items.list(answer.id))
        client.responses.compact(model="o4-mini", input=[item])
        for named in ({"type": "item_reference", "id": foreign}, {"id": foreign}):
            with pytest.raises(openai.NotFoundError) as refused:
                client.responses.create(model="o4-mini", input=[named])  # type: ignore[list-item]
            assert refused.value.code == "not_found"
        reference: Any = {"type": "item_reference", "id": message_of(client)}
        client.responses.create(model="o4-mini", input=[reference, {"role": "user", "content": "So?"}])


def test_a_backend_that_names_another_callers_file_gives_it_to_nobody(
    gateway: System, owner: str, stranger: str
) -> None:
    with gateway.openai(owner) as client:
        foreign = client.files.create(file=("a.txt", b"secret"), purpose="assistants").id
    answer = {
        "id": foreign,
        "object": "file",
        "bytes": 6,
        "created_at": 1,
        "filename": "a.txt",
        "purpose": "assistants",
    }
    with gateway.openai(stranger) as client:
        gateway.simulator.fault("status", status=200, body=answer, times=1)
        assert client.files.create(file=("b.txt", b"mine"), purpose="assistants").id == foreign
        for look in (client.files.retrieve, client.files.content, client.files.delete):
            with pytest.raises(openai.NotFoundError):
                look(foreign)
        assert foreign not in [file.id for file in client.files.list()]
    with gateway.openai(owner) as client:
        assert client.files.content(foreign).read() == b"secret"
        assert foreign in [file.id for file in client.files.list()]
    eventually(
        lambda: f"ALERT backend {gateway_of(gateway, foreign)} returned file {foreign}" in gateway.gateway.logs()
    )


def gateway_of(gateway: System, file: str) -> str:
    """The backend that keeps a file, as the log has it."""
    return gateway.gateway.logs().partition(f" returned file {file}")[0].rpartition(" ")[2]


def test_an_id_in_the_free_json_of_a_tool_server_is_not_read(gateway: System, owner: str, stranger: str) -> None:
    with gateway.openai(owner) as client:
        foreign = client.containers.create(name="mine").id
    hostile = {"container_id": foreign, "annotations": [{"container_id": foreign, "file_id": foreign}]}
    tools = [{"name": "a", "input_schema": hostile, "annotations": hostile}]
    answer = {
        "id": f"resp_{foreign}",
        "object": "response",
        "status": "completed",
        "model": "gpt-4o",
        "output": [{"type": "mcp_list_tools", "id": f"mcpl_{foreign}", "server_label": "x", "tools": tools}],
        "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
    }
    gateway.simulator.fault("status", status=200, body=answer, times=1)
    with gateway.openai(stranger) as client:
        client.responses.create(model="gpt-4o", input="x")
        with pytest.raises(openai.NotFoundError):
            client.containers.retrieve(foreign)
    with gateway.openai(owner) as client:
        assert client.containers.retrieve(foreign).id == foreign
    assert json.dumps(foreign) not in gateway.gateway.logs()


ELSEWHERE: list[tuple[str, str, dict[str, Any]]] = [
    ("/v1/responses", "gpt-4o", {"input": "x", "tools": [{"type": "image_generation", "model": "gpt-image-1"}]}),
    ("/v1/responses", "gpt-4o", {"input": "x", "tools": [{"type": "image_generation", "Model": "gpt-image-1"}]}),
    ("/v1/responses", "gpt-4o", {"input": [{"type": "additional_tools", "tools": [{"model": "gpt-image-1"}]}]}),
    ("/v1/responses", "gpt-4o", {"input": "x", "moderation": {"model": "omni-moderation-latest"}}),
    (
        "/v1/realtime/client_secrets",
        "gpt-realtime",
        {"session": {"model": "gpt-realtime", "audio": {"input": {"transcription": {"model": "whisper"}}}}},
    ),
    ("/v1/realtime/sessions", "gpt-realtime", {"input_audio_transcription": {"model": "whisper"}}),
    (
        "/v1/chat/completions",
        "gpt-4o",
        {
            "messages": [],
            "data_sources": [
                {
                    "parameters": {
                        "authentication": {"type": "api_key", "key": "k"},
                        "embedding_dependency": {"deployment_name": "text-embedding-3-small"},
                    }
                }
            ],
        },
    ),
]


@pytest.mark.parametrize(("path", "model", "body"), ELSEWHERE)
def test_a_key_for_some_models_reaches_no_other_one_at_any_place(
    gateway: System, path: str, model: str, body: dict[str, Any]
) -> None:
    key = gateway.make_key("some models", models=[model])
    given = body if "session" in body else {"model": model, **body}
    answer = gateway.post(path, given, key=key)
    assert (answer.status, answer.error()["code"]) == (403, "model_not_allowed")
    assert gateway.simulator.log()["requests"] == []
    gateway.post(path, given)  # a key for all models
    assert len(gateway.simulator.log()["requests"]) == 1


def test_twins_of_a_field_by_case_are_refused(gateway: System) -> None:
    key = gateway.make_key("one model", models=["gpt-4o"])
    for body in ({"model": "gpt-4o", "Model": "o4-mini", "messages": []}, {"MODEL": "o4-mini", "messages": []}):
        answer = gateway.post("/v1/chat/completions", body, key=key)
        assert (answer.status, answer.error()["type"]) == (400, "invalid_request_error")
    assert gateway.simulator.log()["requests"] == []


LINE = b'{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-4o-mini","messages":[]}}\n'
GIVEN: dict[str, Any] = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
SOURCES: list[dict[str, Any]] = [
    {"type": "completions", "source": {"type": "stored_completions"}},
    {"type": "responses", "source": {"type": "responses"}},
    {"type": "jsonl", "source": {"type": "a source of tomorrow"}},
    {"type": "jsonl", "source": {"Type": "file_content"}},
    {"type": "stored_completions"},
]


def may_read_all(system: System, key: str) -> None:
    """Give a key the operator's permission."""
    cli(system.gateway.environment, "keys", "set", key.split("_")[1], "--whole-account", "--json")


@pytest.mark.parametrize("source", SOURCES)
def test_an_eval_of_what_all_callers_have_stored_needs_the_operators_permission(
    gateway: System, stranger: str, source: dict[str, Any]
) -> None:
    criteria: Any = [{"type": "string_check", "name": "a", "input": "a", "reference": "b", "operation": "eq"}]
    config: Any = {"type": "custom", "item_schema": {"type": "object"}}
    with gateway.openai(stranger) as client:
        eval_ = client.evals.create(data_source_config=config, testing_criteria=criteria).id
    answer = gateway.post(f"/v1/evals/{eval_}/runs", {"data_source": source}, key=stranger)
    if "Type" in source.get("source", {}):
        assert answer.status == 400
    else:
        assert (answer.status, answer.error()["code"]) == (403, "whole_account_not_allowed")
    assert len(gateway.simulator.log()["requests"]) == 1


def test_a_batch_whose_lines_name_objects_or_are_unknown_needs_the_operators_permission(
    gateway: System, stranger: str
) -> None:
    foreign = LINE.replace(b"[]", b'[{"role":"user","content":[{"type":"file","file":{"file_id":"file-x"}}]}]')
    answers = LINE.replace(b"chat/completions", b"responses")
    with gateway.openai(stranger) as client:
        for lines in (foreign, answers, LINE * 2 + foreign):
            file = client.files.create(file=("b.jsonl", lines), purpose="batch")
            with pytest.raises(openai.PermissionDeniedError) as refused:
                client.batches.create(input_file_id=file.id, **GIVEN)
            assert refused.value.code == "whole_account_not_allowed"
        clean = client.files.create(file=("b.jsonl", LINE * 3), purpose="batch")
        assert client.batches.create(input_file_id=clean.id, **GIVEN).input_file_id == clean.id
        with pytest.raises(openai.PermissionDeniedError):
            client.batches.create(input_file_id=clean.id, **{**GIVEN, "endpoint": "/v1/responses"})
        in_parts = client.uploads.create(bytes=len(LINE), filename="b.jsonl", mime_type="text/plain", purpose="batch")
        part = client.uploads.parts.create(in_parts.id, data=LINE)
        unseen = client.uploads.complete(in_parts.id, part_ids=[part.id]).file
        assert unseen is not None
        with pytest.raises(openai.PermissionDeniedError):
            client.batches.create(input_file_id=unseen.id, **GIVEN)


def test_a_key_of_the_whole_account_may_send_any_batch_and_eval(gateway: System) -> None:
    key = gateway.make_key("an auditor")
    may_read_all(gateway, key)
    with gateway.openai(key) as client:
        file = client.files.create(file=("b.jsonl", LINE.replace(b"chat/completions", b"responses")), purpose="batch")
        client.batches.create(input_file_id=file.id, **GIVEN)


ON_YOUR_DATA: dict[str, Any] = {
    **{"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]},
    "data_sources": [
        {"type": "azure_search", "parameters": {"authentication": {"type": "system_assigned_managed_identity"}}}
    ],
}
CONNECTOR = {"type": "mcp", "server_label": "mail", "connector_id": "connector_gmail"}
BY_IDENTITY: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/chat/completions", ON_YOUR_DATA, "data_sources[0].parameters.authentication"),
    ("/v1/responses", {"model": "gpt-4o", "input": "hi", "tools": [CONNECTOR]}, "tools[0]"),
    ("/v1/files/import", {"purpose": "batch", "filename": "a", "content_url": "https://a.invalid/a"}, "content_url"),
    ("/v1/batches", {**GIVEN, "input_blob": "https://a.invalid/a"}, "input_blob"),
    ("/v1/fine_tuning/jobs", {"model": "gpt-4o", "integrations": [{"type": "wandb"}]}, "integrations"),
]


@pytest.mark.parametrize(("path", "body", "param"), BY_IDENTITY, ids=[path for path, _, _ in BY_IDENTITY])
def test_what_a_backend_reads_as_itself_needs_the_operators_permission(
    gateway: System, stranger: str, path: str, body: dict[str, Any], param: str
) -> None:
    answer = gateway.post(path, body, key=stranger)
    assert (answer.status, answer.error()["code"]) == (403, "whole_account_not_allowed")
    assert answer.error()["param"] == param
    assert "--whole-account" in answer.error()["message"]
    assert gateway.simulator.log()["requests"] == []


def test_a_key_of_the_whole_account_may_let_a_backend_read_as_itself(gateway: System) -> None:
    key = gateway.make_key("an importer")
    may_read_all(gateway, key)
    assert gateway.post("/v1/chat/completions", ON_YOUR_DATA, key=key).status == 200


GRADER: dict[str, Any] = {"type": "score_model", "name": "a", "model": "gpt-4o", "input": []}
UNMETERED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/fine_tuning/alpha/graders/run", {"grader": GRADER, "model_sample": "x"}),
    ("/v1/fine_tuning/jobs", {"model": "gpt-4o-mini", "training_file": "file-x"}),
    ("/v1/realtime/client_secrets", {"session": {"type": "realtime", "model": "gpt-realtime"}}),
]


@pytest.mark.parametrize("limit", [["--token-quota", "1000"], ["--budget-usd", "5"]])
@pytest.mark.parametrize(("path", "body"), UNMETERED)
def test_what_cannot_be_counted_is_refused_to_a_key_with_a_quota(
    gateway: System, limit: list[str], path: str, body: dict[str, Any]
) -> None:
    key = gateway.make_key("with a quota")
    assert gateway.post(path, body, key=gateway.make_key("without one")).status != 403
    before = len(gateway.simulator.log()["requests"])
    cli(gateway.gateway.environment, "keys", "set", key.split("_")[1], *limit, "--json")
    answer = gateway.post(path, body, key=key)
    assert (answer.status, answer.error()["code"]) == (403, "unmetered_operation")
    assert len(gateway.simulator.log()["requests"]) == before
