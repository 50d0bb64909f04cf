"""Anthropic's official client makes batches and files through the gateway, as it would at Anthropic, on both edges."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic
from anthropic.types.messages import MessageBatch

from simulator.process import SimulatorProcess
from tests.harness import node_clients
from tests.harness.azurite import Azurite
from tests.harness.gateway_process import Edge
from tests.harness.system import System, eventually, watched
from tests.harness.system import system as start_system

MODEL = "claude-sonnet-5-5"
REGIONS = [{"name": "anthropic", "api": "anthropic", "deployments": [{"name": MODEL, "model": MODEL}]}]
PARAMS: Any = {"model": MODEL, "max_tokens": 40, "messages": [{"role": "user", "content": "Where does the road lead?"}]}
ROADS = b"The road leads north."


@pytest.fixture(scope="module")
def simulated() -> Iterator[SimulatorProcess]:
    with SimulatorProcess({"regions": REGIONS}) as running:
        yield running


@pytest.fixture(scope="module")
def started(edge: Edge, azurite: Azurite, simulated: SimulatorProcess) -> Iterator[System]:
    backend = {"name": "anthropic", "endpoint": simulated.regions["anthropic"], "kind": "anthropic"}
    backends = [{**backend, "auth": {"api_key_env": "JAPAN_KEY"}, "models": {MODEL: MODEL}}]
    with start_system(edge, {"backends": backends}, simulated, azurite.connection_string) as running:
        yield running


@pytest.fixture
def gateway(started: System) -> Iterator[System]:
    yield from watched(started)


@pytest.fixture(params=["", "/anthropic"])
def client(gateway: System, request: pytest.FixtureRequest) -> Iterator[Anthropic]:
    """A caller by either path."""
    with gateway.anthropic(gateway.make_key("objects"), base_url=gateway.url + request.param) as opened:
        yield opened


def requests(count: int, **more: Any) -> Any:
    return [{"custom_id": f"request-{number}", "params": PARAMS | more} for number in range(count)]


def ended(client: Anthropic, batch: str) -> MessageBatch:
    """The batch, once it has ended."""
    eventually(lambda: client.messages.batches.retrieve(batch).processing_status == "ended")
    return client.messages.batches.retrieve(batch)


def test_a_batch_is_made_read_listed_and_deleted(gateway: System, client: Anthropic) -> None:
    batches = client.messages.batches
    made = [batches.create(requests=requests(3)), batches.create(requests=requests(1))]
    assert made[0].processing_status == "in_progress"
    assert ended(client, made[0].id).request_counts.succeeded == 3
    lines = list(batches.results(made[0].id))
    assert [line.custom_id for line in lines] == ["request-0", "request-1", "request-2"]
    assert all(line.result.type == "succeeded" and line.result.message.usage.output_tokens for line in lines)
    assert [one.id for one in batches.list(limit=1)] == [made[1].id, made[0].id]  # page by page
    assert batches.delete(made[0].id).id == made[0].id
    with pytest.raises(anthropic.NotFoundError):
        batches.retrieve(made[0].id)
    key = str(client.api_key)

    def row() -> dict[str, Any]:
        return next(row for row in gateway.usage_rows(key) if row["s_op"] == "messages.batches.create")

    eventually(lambda: "e_input" in row())
    charged = next(one for one in gateway.simulator.log()["requests"] if one["operation"].endswith("/batches"))
    assert (row()["e_input"], row()["e_output"]) == (charged["input_tokens"], charged["output_tokens"])
    assert row()["e_tier"] == "batch"


def test_a_beta_batch_is_canceled(client: Anthropic) -> None:
    held = requests(2, messages=[{"role": "user", "content": "simulate_held"}])
    batch = client.beta.messages.batches.create(requests=held, betas=["message-batches-2024-09-24"])
    assert client.beta.messages.batches.cancel(batch.id).processing_status == "canceling"
    assert ended(client, batch.id).request_counts.canceled == 2
    assert {line.result.type for line in client.beta.messages.batches.results(batch.id)} == {"canceled"}


def test_a_batch_is_its_keys_alone(gateway: System, client: Anthropic) -> None:
    batch = client.messages.batches.create(requests=requests(1))
    with gateway.anthropic(gateway.make_key("others")) as other:
        assert list(other.messages.batches.list()) == []
        for use in (other.messages.batches.retrieve, other.messages.batches.cancel, other.messages.batches.delete):
            with pytest.raises(anthropic.NotFoundError) as raised:
                use(batch.id)
            assert raised.value.type == "not_found_error"


def test_files_are_uploaded_listed_used_read_and_deleted(gateway: System, client: Anthropic) -> None:
    made = [client.files.upload(file=(f"made_{number}.txt", ROADS, "text/plain")) for number in range(3)]
    beta = client.beta.files.upload(file=("roads.txt", ROADS, "text/plain"), betas=["files-api-2025-04-14"])
    assert (beta.filename, beta.size_bytes, beta.mime_type) == ("roads.txt", len(ROADS), "text/plain")
    newest = [beta.id, *(one.id for one in made[::-1])]
    assert [one.id for one in client.files.list(limit=2)] == newest
    assert {one.id for one in client.files.list(ids=[made[1].id, "file_of_others"])} == {made[1].id}
    assert client.files.retrieve_metadata(made[0].id).filename == "made_0.txt"
    assert client.files.download(made[0].id).read() == ROADS
    source = {"type": "document", "source": {"type": "file", "file_id": beta.id}}
    asked: Any = PARAMS | {"messages": [{"role": "user", "content": [source]}]}
    assert client.messages.create(**asked).usage.output_tokens
    batch = client.messages.batches.create(requests=[{"custom_id": "x", "params": asked}])
    assert ended(client, batch.id).request_counts.succeeded == 1
    with gateway.anthropic(gateway.make_key("others")) as other:
        assert list(other.files.list()) == []
        for use in (other.files.retrieve_metadata, other.files.download, other.files.delete):
            with pytest.raises(anthropic.NotFoundError):
                use(beta.id)
        with pytest.raises(anthropic.NotFoundError):
            other.messages.create(**asked)
        with pytest.raises(anthropic.NotFoundError):
            other.messages.batches.create(requests=[{"custom_id": "x", "params": asked}])
    assert client.files.delete(beta.id).id == beta.id
    with pytest.raises(anthropic.NotFoundError):
        client.files.retrieve_metadata(beta.id)


def test_openais_files_are_others(gateway: System, client: Anthropic) -> None:
    """The header of a client tells whose files a path without a prefix means."""
    made, key = client.files.upload(file=("roads.txt", ROADS, "text/plain")), str(client.api_key)
    answer = gateway.gateway.request("GET", f"/v1/files/{made.id}", None, {"x-api-key": key})
    assert (answer.status, answer.error()["code"]) == (404, "not_found")
    assert client.files.retrieve_metadata(made.id).id == made.id


def test_nodes_client_makes_batches_and_files(gateway: System) -> None:
    key = gateway.make_key("node")
    lines = [json.loads(line) for line in node_clients.run("claude_objects.mjs", gateway.url, key, MODEL)]
    outputs = {line.pop("name"): line for line in lines}
    assert outputs["batch"] == {"status": "ended", "succeeded": 2}
    assert outputs["results"]["ids"] == ["a", "b"]
    assert outputs["file"] == {"filename": "roads.txt", "listed": 1}
