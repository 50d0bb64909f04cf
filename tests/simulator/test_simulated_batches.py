"""Anthropic's official client makes batches and files directly at the simulator's Anthropic, to the token."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, omit

from simulator.process import SimulatorProcess
from tests.harness.simulated import totals, until

MODEL = "claude-sonnet-5-5"
DEPLOYMENTS = [{"name": MODEL, "model": MODEL}]
REGIONS = [
    {"name": "anthropic", "api": "anthropic", "deployments": DEPLOYMENTS},
    {"name": "eastus2", "deployments": DEPLOYMENTS},
]
PARAMS: Any = {"model": MODEL, "max_tokens": 40, "messages": [{"role": "user", "content": "Where to?"}]}


@pytest.fixture(scope="module")
def simulated() -> Iterator[SimulatorProcess]:
    with SimulatorProcess({"regions": REGIONS}) as running:
        yield running
        assert running.stderr() == ""


def client(simulated: SimulatorProcess, address: str) -> Anthropic:
    """A client with the key in the headers that Anthropic and Foundry read; a resource rejects it as a bearer token."""
    headers: Any = {"x-api-key": simulated.api_key, "api-key": simulated.api_key, "authorization": omit}
    return Anthropic(base_url=address, api_key=simulated.api_key, default_headers=headers, max_retries=0, timeout=10.0)


def test_a_batch_is_charged_to_the_call_that_made_it(simulated: SimulatorProcess) -> None:
    simulated.clear()
    words = ["Where to?", "simulate_expired", "simulate_content_filter"]
    requests: Any = [
        {"custom_id": str(number), "params": PARAMS | {"messages": [{"role": "user", "content": text}]}}
        for number, text in enumerate(words)
    ]
    with client(simulated, simulated.regions["anthropic"]) as caller:
        batches = caller.messages.batches
        made = batches.create(requests=requests)
        assert (made.processing_status, made.request_counts.processing, made.results_url) == ("in_progress", 3, None)
        with pytest.raises(anthropic.BadRequestError):
            batches.delete(made.id)
        ended = until(lambda: batches.retrieve(made.id), lambda batch: batch.processing_status == "ended")
        assert ended.results_url == f"https://api.anthropic.com/v1/messages/batches/{made.id}/results"
        counts = ended.request_counts
        assert (counts.succeeded, counts.expired, counts.errored, counts.processing) == (1, 1, 1, 0)
        charged = totals(simulated, "anthropic")
        assert (charged["output_tokens"], charged["input_tokens"]) == (32, 6)
        with pytest.raises(anthropic.BadRequestError, match="custom_id"):
            batches.create(requests=[requests[0], requests[0]])


def test_a_foundry_resource_has_files_and_no_batches(simulated: SimulatorProcess) -> None:
    simulated.clear()
    with client(simulated, f"{simulated.regions['eastus2']}/anthropic") as caller:
        with pytest.raises(anthropic.NotFoundError):
            caller.messages.batches.list()
        made = caller.files.upload(file=("a.txt", b"north", "text/plain"), expires_in_seconds=3600)
        assert made.expires_at is not None
        with pytest.raises(anthropic.BadRequestError, match="not downloadable"):
            caller.files.download(made.id)
        document = {"type": "document", "source": {"type": "file", "file_id": made.id}}
        asked: Any = PARAMS | {"messages": [{"role": "user", "content": [document]}]}
        assert caller.messages.create(**asked).usage.inference_geo == "global"
        caller.files.delete(made.id)
        with pytest.raises(anthropic.NotFoundError):
            caller.messages.create(**asked)
