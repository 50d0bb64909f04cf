"""A region that plays OpenAI itself: its paths, credentials, headers, errors and bodies."""

import re
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from simulator.dialects import duration
from simulator.process import SimulatorProcess

MODELS = ("gpt-4o", "text-embedding-3-small", "gpt-35-turbo-instruct")
CONFIG = {"regions": [{"name": "openai", "api": "openai", "deployments": [{"name": m, "model": m} for m in MODELS]}]}
HELLO: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def process() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(CONFIG) as running:
        yield running
        assert running.stderr() == ""


@pytest.fixture
def simulator(process: SimulatorProcess) -> SimulatorProcess:
    process.clear()
    return process


@pytest.fixture
def client(simulator: SimulatorProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{simulator.regions['openai']}/v1", api_key=simulator.api_key, max_retries=0) as opened:
        yield opened


def test_a_completion_has_nothing_of_azures(simulator: SimulatorProcess, client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HELLO)
    assert raw.parse().choices[0].message.content
    assert "content_filter" not in raw.text
    assert {"openai-organization", "openai-version", "openai-processing-ms", "x-request-id"} <= raw.headers.keys()
    assert not [name for name in raw.headers if name.startswith(("x-ms-", "apim"))]
    events = client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
    chunks = list(events)
    assert all(chunk.choices for chunk in chunks)  # Azure's begins with the results of its filter
    assert client.embeddings.create(model="text-embedding-3-small", input="Hi").data


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        ("/openai/v1/chat/completions", {}, 404, None),
        ("/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21", {}, 404, None),
        ("/v1/files/import", {}, 404, None),
        ("/v1/chat/completions", {"authorization": "Bearer nonsense"}, 401, "invalid_api_key"),
        ("/v1/chat/completions", {"authorization": ""}, 401, None),
    ],
)
def test_azures_paths_and_credentials_are_refused(
    simulator: SimulatorProcess, path: str, headers: dict[str, str], status: int, code: str | None
) -> None:
    head = {"authorization": f"Bearer {simulator.api_key}", "api-key": simulator.api_key} | headers
    answer = httpx2.post(simulator.regions["openai"] + path, json={"model": "gpt-4o", "messages": HELLO}, headers=head)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_model_that_does_not_exist_or_has_another_kind_is_refused_as_openai_does(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-9", messages=HELLO)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match="This is a chat model") as chat:
        client.completions.create(model="gpt-4o", prompt="Hi")
    assert chat.value.code is None
    with pytest.raises(openai.NotFoundError, match="not a chat model"):
        client.chat.completions.create(model="gpt-35-turbo-instruct", messages=HELLO)


def test_limits_are_told_as_durations(simulator: SimulatorProcess, client: OpenAI) -> None:
    simulator.limits(requests_per_minute=1, window_seconds=90.0)
    raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HELLO)
    assert raw.headers["x-ratelimit-remaining-requests"] == "0"
    assert re.fullmatch(r"1m\d+s", raw.headers["x-ratelimit-reset-requests"])
    with pytest.raises(openai.RateLimitError, match=r"Please try again in 1m\d+(\.\d+)?s") as limited:
        client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert (limited.value.code, limited.value.type) == ("rate_limit_exceeded", "requests")
    assert float(limited.value.response.headers["retry-after-ms"]) > 80_000


def test_durations() -> None:
    assert [duration(s) for s in (0.12, 8.64, 360, 3600, 86_340.5)] == [
        "120ms",
        "8.64s",
        "6m0s",
        "1h0m0s",
        "23h59m0.5s",
    ]
