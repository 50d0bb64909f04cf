"""The simulator answers as Azure OpenAI does, breaks when told to, and logs exactly what it told its clients."""

import base64
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import ManagedIdentityCredential
from openai import AzureOpenAI, OpenAI
from openai.types.chat import ChatCompletionUserMessageParam

from simulator.process import SimulatorFailed, SimulatorProcess
from simulator.tokens import tokenize
from tests.harness.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
REGION = "eastus2"
CHAT = "/openai/v1/chat/completions"
DATED_CHAT = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"

Client = OpenAI | AzureOpenAI


@pytest.fixture(scope="module")
def process() -> Iterator[SimulatorProcess]:
    with SimulatorProcess() as running:
        yield running
        assert running.stderr() == ""


@pytest.fixture
def simulator(process: SimulatorProcess) -> SimulatorProcess:
    process.clear()
    return process


@pytest.fixture(params=["v1", "dated"])
def client(request: pytest.FixtureRequest, simulator: SimulatorProcess) -> Iterator[Client]:
    made = v1_client(simulator) if request.param == "v1" else dated_client(simulator)
    with made as opened:
        yield opened


def v1_client(simulator: SimulatorProcess, region: str = REGION) -> OpenAI:
    return OpenAI(base_url=f"{simulator.regions[region]}/openai/v1", api_key=simulator.api_key, max_retries=0)


def dated_client(simulator: SimulatorProcess, region: str = REGION) -> AzureOpenAI:
    return AzureOpenAI(
        azure_endpoint=simulator.regions[region],
        api_key=simulator.api_key,
        api_version="2024-10-21",
        max_retries=0,
    )


def user(text: str) -> list[ChatCompletionUserMessageParam]:
    return [{"role": "user", "content": text}]


def body_of(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": user(text), **more}


class Answer:
    """The answer over a plain connection."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def error(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.body)["error"]
        return content

    @property
    def events(self) -> list[str]:
        return [line.removeprefix("data: ") for line in self.body.decode().split("\n\n") if line]

    @property
    def chunks(self) -> list[dict[str, Any]]:
        return [json.loads(event) for event in self.events if event != "[DONE]"]


def call(
    simulator: SimulatorProcess,
    path: str = CHAT,
    body: Any = None,
    *,
    method: str = "POST",
    region: str = REGION,
    timeout: float = 5.0,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One request without a client's help; `body` is sent as it is when it is bytes, else as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body_of() if body is None else body).encode()
    with connect(simulator, region, timeout) as connection:
        connection.request(method, path, data, {"api-key": simulator.api_key} if headers is None else headers)
        response = connection.getresponse()
        received = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, received, response.read())


def connect(
    simulator: SimulatorProcess, region: str = REGION, timeout: float = 5.0
) -> closing[http.client.HTTPConnection]:
    return closing(http.client.HTTPConnection(urlsplit(simulator.regions[region]).netloc, timeout=timeout))


def address(simulator: SimulatorProcess, region: str = REGION) -> tuple[str, int]:
    parts = urlsplit(simulator.regions[region])
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def request_bytes(simulator: SimulatorProcess, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: a\r\napi-key: {simulator.api_key}\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


def totals(simulator: SimulatorProcess, region: str = REGION) -> dict[str, Any]:
    charges: dict[str, Any] = simulator.log(summary=True)["totals"][region]
    return charges


def last_entry(simulator: SimulatorProcess) -> dict[str, Any]:
    entry: dict[str, Any] = simulator.log()["requests"][-1]
    return entry


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


# --- Answers ----------------------------------------------------------------------------------------------------------


def test_a_chat_is_answered_with_its_usage_and_azures_headers(simulator: SimulatorProcess, client: Client) -> None:
    raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=user("Who goes there?"))
    chat = raw.parse()

    assert chat.model == "gpt-4o-2024-11-20"
    assert chat.choices[0].finish_reason == "stop"
    assert chat.usage is not None
    assert chat.usage.prompt_tokens == len(tokenize("Who goes there?")) + 3
    assert chat.usage.completion_tokens == len(tokenize(chat.choices[0].message.content or "")) == 32
    assert raw.headers["x-ms-region"] == "East US 2"
    assert raw.headers["x-ms-deployment-name"] == "gpt-4o"
    assert {"apim-request-id", "x-request-id"} <= set(raw.headers)
    assert "x-ratelimit-limit-tokens" not in raw.headers


def test_the_same_prompt_gets_the_same_text_and_another_choice_another(client: Client) -> None:
    first = client.chat.completions.create(model="gpt-4o", messages=user("a"), n=2)
    second = client.chat.completions.create(model="gpt-4o", messages=user("a"), n=2)

    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert texts[0] != texts[1]
    assert first.usage is not None
    assert first.usage.completion_tokens == 64


def test_max_tokens_cuts_and_the_prompt_may_ask_for_a_length(client: Client) -> None:
    cut = client.chat.completions.create(model="gpt-4o", messages=user("a"), max_tokens=5)
    long = client.chat.completions.create(model="gpt-4o", messages=user("simulate_output_tokens=100"), max_tokens=500)

    assert (cut.choices[0].finish_reason, cut.usage and cut.usage.completion_tokens) == ("length", 5)
    assert (long.choices[0].finish_reason, long.usage and long.usage.completion_tokens) == ("stop", 100)


def test_parts_of_a_message_count(simulator: SimulatorProcess) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.invalid/a.png"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "two words"}, image]}]
    answer = call(simulator, body={"model": "gpt-4o", "messages": messages})

    assert json.loads(answer.body)["usage"]["prompt_tokens"] == 3 + 2 + 85


def test_a_stream_comes_in_azures_order(simulator: SimulatorProcess) -> None:
    body = body_of(stream=True, max_tokens=5, stream_options={"include_usage": True})
    answer = call(simulator, DATED_CHAT, body)

    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.events[-1] == "[DONE]"
    opening, role, *content, finish, usage = answer.chunks
    assert (opening["choices"], opening["id"], opening["model"], opening["object"], opening["created"]) == (
        [], "", "", "", 0,
    )  # fmt: skip
    assert opening["prompt_filter_results"][0]["prompt_index"] == 0
    assert role["choices"][0]["delta"] == {"content": "", "refusal": None, "role": "assistant"}
    assert [len(tokenize(chunk["choices"][0]["delta"]["content"])) for chunk in content] == [2, 2, 1]
    assert finish["choices"][0]["finish_reason"] == "length"
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 5)
    assert all(chunk["usage"] is None for chunk in (opening, role, *content, finish))
    assert list(role) == sorted(role)


def test_a_stream_says_no_usage_unless_it_is_asked_for(simulator: SimulatorProcess) -> None:
    answer = call(simulator, body=body_of(stream=True))

    assert not any("usage" in chunk for chunk in answer.chunks)
    assert last_entry(simulator)["output_tokens"] == 32


def test_a_stream_says_what_the_whole_answer_says(client: Client) -> None:
    whole = client.chat.completions.create(model="gpt-4o", messages=user("a"), n=2)
    texts = {0: "", 1: ""}
    for chunk in client.chat.completions.create(model="gpt-4o", messages=user("a"), n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""

    assert texts == {choice.index: choice.message.content for choice in whole.choices}


def test_every_chunk_is_a_write_of_its_own(simulator: SimulatorProcess) -> None:
    def count_pieces() -> int:
        """Fewer than were written when this process is slow to read; never more."""
        count, received = 0, b""
        with socket.create_connection(address(simulator), timeout=PATIENCE) as raw:
            raw.sendall(request_bytes(simulator, body_of(stream=True)))
            while not received.endswith(b"0\r\n\r\n"):
                received = raw.recv(65_536)
                count += 1
        return count

    assert any(count_pieces() > 5 for _ in range(50))


def test_a_reasoning_model_thinks_within_its_limit(client: Client) -> None:
    chat = client.chat.completions.create(model="o4-mini", messages=user("a"), max_completion_tokens=20)
    short = client.chat.completions.create(model="o4-mini", messages=user("a"), max_completion_tokens=10)

    for answer, reasoning, completion in ((chat, 16, 20), (short, 10, 10)):
        assert answer.usage is not None
        assert answer.usage.completion_tokens_details is not None
        assert answer.usage.completion_tokens_details.reasoning_tokens == reasoning
        assert answer.usage.completion_tokens == completion
    assert short.choices[0].message.content == ""
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="o4-mini", messages=user("a"), max_tokens=20)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "max_tokens")


def test_a_long_prompt_is_cached_per_region_in_steps_of_128_tokens(simulator: SimulatorProcess) -> None:
    def cached(text: str, region: str = REGION) -> int:
        with v1_client(simulator, region) as client:
            usage = client.chat.completions.create(model="gpt-4o", messages=user(text)).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        return usage.prompt_tokens_details.cached_tokens or 0

    beginning = "word " * 1_300
    assert cached(beginning) == 0
    assert cached(beginning) == 1_280
    assert cached(beginning + "and another end") == 1_280
    assert cached("other " + beginning) == 0
    assert cached(beginning, "japaneast") == 0
    assert cached("short") == cached("short") == 0
    assert totals(simulator)["cached_tokens"] == 2 * 1_280


def test_completions_answer_every_prompt(client: Client) -> None:
    answer = client.completions.create(model="gpt-35-turbo-instruct", prompt=["a", "b c"], n=2, max_tokens=3)
    text = ""
    usage = None
    for chunk in client.completions.create(
        model="gpt-35-turbo-instruct", prompt=[1, 2, 3], stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        text += "".join(choice.text for choice in chunk.choices)

    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 12)
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, len(tokenize(text)))


@pytest.mark.parametrize(
    ("given", "tokens"), [("a b", [2]), (["a b", "c"], [2, 1]), ([[1, 2], [3]], [2, 1]), ([1, 2], [2])]
)
def test_embeddings_take_every_form_of_input(client: Client, given: Any, tokens: list[int]) -> None:
    answer = client.embeddings.create(model="text-embedding-3-small", input=given, dimensions=8)

    assert [len(item.embedding) for item in answer.data] == [8] * len(tokens)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(tokens)


def test_embeddings_are_the_same_as_floats_and_as_base64(simulator: SimulatorProcess) -> None:
    def embedding(encoding: str) -> Any:
        body = {"model": "text-embedding-3-small", "input": "a", "encoding_format": encoding}
        return json.loads(call(simulator, "/openai/v1/embeddings", body).body)["data"][0]["embedding"]

    floats = embedding("float")
    assert len(floats) == 1_536
    assert struct.unpack("<1536f", base64.b64decode(embedding("base64"))) == pytest.approx(floats)
    assert sum(value * value for value in floats) == pytest.approx(1.0, abs=1e-4)


def test_models_are_listed(client: Client) -> None:
    names = [model.id for model in client.models.list()]

    assert "gpt-4o-2024-11-20" in names
    assert client.models.retrieve("gpt-4o").id == "gpt-4o-2024-11-20"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-1")


def test_a_connection_is_kept_for_further_requests(simulator: SimulatorProcess) -> None:
    with connect(simulator) as connection:
        for _ in range(3):
            connection.request("POST", CHAT, json.dumps(body_of()), {"api-key": simulator.api_key})
            response = connection.getresponse()
            response.read()
            assert response.status == 200
            assert connection.sock is not None


# --- Who may ask ------------------------------------------------------------------------------------------------------


def credential(simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch) -> ManagedIdentityCredential:
    for name, value in simulator.identity_environment.items():
        monkeypatch.setenv(name, value)
    return ManagedIdentityCredential(client_id="11111111-2222-3333-4444-555555555555")


@pytest.mark.parametrize("audience", ["https://cognitiveservices.azure.com", "https://ai.azure.com"])
def test_a_managed_identitys_token_opens_both_surfaces(
    simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch, audience: str
) -> None:
    with credential(simulator, monkeypatch) as identity:
        token = identity.get_token(f"{audience}/.default")
    assert token.expires_on > time.time() + 86_000
    assert simulator.log(summary=True)["tokens_issued"] == 1
    for path in (CHAT, DATED_CHAT):
        assert call(simulator, path, headers={"authorization": f"Bearer {token.token}"}).status == 200


def test_a_token_for_another_audience_or_past_its_time_is_refused(
    simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    with credential(simulator, monkeypatch) as identity:
        stranger = identity.get_token("https://vault.azure.net/.default").token
        simulator.identity(token_lifetime_seconds=6)
        brief = identity.get_token("https://ai.azure.com/.default").token
    assert call(simulator, headers={"authorization": f"Bearer {brief}"}).status == 200
    time.sleep(6.1)
    for token in (stranger, brief, "made-up", ""):
        answer = call(simulator, headers={"authorization": f"Bearer {token}"})
        assert answer.status == 401
        assert json.loads(answer.body)["statusCode"] == 401


def test_the_identity_endpoint_can_fail_and_checks_its_secret(
    simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.identity(failing_status=400)
    with credential(simulator, monkeypatch) as identity, pytest.raises(ClientAuthenticationError):
        identity.get_token("https://ai.azure.com/.default")
    simulator.identity()
    monkeypatch.setattr(simulator, "identity_header", "wrong")
    with credential(simulator, monkeypatch) as identity, pytest.raises(ClientAuthenticationError):
        identity.get_token("https://cognitiveservices.azure.com/.default")
    assert simulator.log(summary=True)["tokens_issued"] == 0


def test_without_a_valid_key_nothing_is_answered(simulator: SimulatorProcess) -> None:
    for headers in ({}, {"api-key": "wrong"}, {"authorization": "Basic YTpi"}):
        answer = call(simulator, headers=headers)
        assert (answer.status, answer.error["code"]) == (401, "401")
    assert totals(simulator)["by_status"] == {"401": 3}


# --- Refusals ---------------------------------------------------------------------------------------------------------


def test_an_unknown_deployment_is_not_found_on_both_surfaces(client: Client) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="gpt-9", messages=user("a"))
    assert refused.value.code == "DeploymentNotFound"


def test_a_filtered_prompt_is_refused_and_its_reading_is_billed(simulator: SimulatorProcess, client: Client) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="gpt-4o", messages=user("simulate_content_filter"))

    assert refused.value.code == "content_filter"
    body: Any = refused.value.body
    assert body["inner_error"]["code"] == "ResponsibleAIPolicyViolation"
    assert body["inner_error"]["content_filter_results"]["violence"] == {"filtered": True, "severity": "high"}
    assert totals(simulator)["input_tokens"] == len(tokenize("simulate_content_filter")) + 3
    assert totals(simulator)["output_tokens"] == 0


def test_a_prompt_beyond_the_context_window_is_refused(client: Client) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="gpt-4o", messages=user("word " * 130_000))
    assert refused.value.code == "context_length_exceeded"


def test_a_model_refuses_what_is_not_its_operation(client: Client) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="text-embedding-3-small", messages=user("a"))
    assert refused.value.code == "OperationNotSupported"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"\xff\xfe", None),
        (b'{"model":"gpt-4o","messages":[{"role":"user","content":"\xfa"}]}', None),
        (b"[" * 100_000, None),
        (b"[]", None),
        ({"model": "gpt-4o"}, "messages"),
        ({"model": "gpt-4o", "messages": []}, "messages"),
        ({"model": "gpt-4o", "messages": "hello"}, "messages"),
        ({"model": "gpt-4o", "messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": user("a")}, "model"),
        (body_of(max_tokens=0), "max_tokens"),
        (body_of(max_tokens=10**30), "max_tokens"),
        (body_of(n=1_000), "n"),
        (body_of(stream="yes"), "stream"),
        (body_of(stream_options={"include_usage": True}), "stream_options"),
    ],
)
def test_a_body_that_does_not_fit_is_refused_with_the_parameters_name(
    simulator: SimulatorProcess, body: Any, param: str | None
) -> None:
    answer = call(simulator, body=body)

    assert (answer.status, answer.error["param"], answer.error["type"]) == (400, param, "invalid_request_error")


@pytest.mark.parametrize(
    "given",
    [
        b'""',
        b"[]",
        b'["a", 1]',
        b"null",
        b'{"a":1}',
        b'["\\ud800"]',
        b'"a","encoding_format":"hex"',
        b'"a","dimensions":9999',
        json.dumps(["a"] * 2_049).encode(),
        json.dumps("word " * 9_000).encode(),
    ],
)
def test_an_input_that_does_not_fit_is_refused(simulator: SimulatorProcess, given: bytes) -> None:
    body = b'{"model":"text-embedding-3-small","input":' + given + b"}"
    assert call(simulator, "/openai/v1/embeddings", body).status == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/openai/deployments/gpt-4o/chat/completions"),
        ("POST", "/openai/deployments/gpt-4o/chat/completions?api-version=soon"),
        ("POST", "/openai/deployments/gpt-4o/models?api-version=2024-10-21"),
        ("GET", "/openai/models"),
        ("PUT", CHAT),
        ("GET", "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"),
        ("POST", "/openai/chat/completions?api-version=2024-10-21"),
        ("DELETE", "/openai/v1/models/gpt-4o"),
        ("POST", "/openai/v1/responses/resp_1/input_items"),
        ("GET", "/openai/v1/files//content"),
        ("POST", "/openai/v1/"),
        ("POST", "/"),
        ("POST", "/%ff/%00?%zz"),
        ("POST", "//openai//v1"),
        ("PROPFIND", "/openai/v1/models"),
    ],
)
def test_a_path_azure_does_not_know_is_not_found(simulator: SimulatorProcess, method: str, path: str) -> None:
    answer = call(simulator, path, method=method)

    assert (answer.status, answer.error) == (404, {"code": "404", "message": "Resource not found"})


def test_a_dated_version_is_refused_on_v1_and_an_old_one_knows_no_stream_options(simulator: SimulatorProcess) -> None:
    streamed = body_of(stream=True, stream_options={"include_usage": True})
    old = DATED_CHAT.replace("2024-10-21", "2024-06-01")

    assert call(simulator, CHAT + "?api-version=2024-10-21").error["message"] == "API version not supported"
    assert call(simulator, CHAT + "?api-version=preview").status == 200
    assert call(simulator, old, streamed).error["message"] == "Unrecognized request argument supplied: stream_options"
    assert call(simulator, old).status == 200


def test_more_than_ten_custom_headers_are_refused(simulator: SimulatorProcess) -> None:
    usual = {
        "api-key": simulator.api_key,
        "traceparent": "00-0-0-00",
        "Accept-Language": "en",
        "x-stainless-os": "Linux",
    }
    custom = {f"x-custom-{number}": "1" for number in range(11)}

    assert call(simulator, headers={**usual, **custom}).status == 431
    del custom["x-custom-0"]
    assert call(simulator, headers={**usual, **custom}).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"POST /openai/v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n",
        b"POST /openai/v1/chat/completions HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nhost: a\r\n" + b"x" * 100_000 + b": 1\r\n\r\n",
    ],
)
def test_what_is_no_http_is_answered_with_a_client_error(simulator: SimulatorProcess, sent: bytes) -> None:
    with socket.create_connection(address(simulator), timeout=PATIENCE) as raw:
        raw.sendall(sent)
        answer = raw.recv(65_536)

    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))


def test_a_body_over_64_megabytes_is_refused(simulator: SimulatorProcess) -> None:
    assert call(simulator, body=b" " * (64 * 1_024 * 1_024 + 1), timeout=PATIENCE).status == 413


# --- Limits -----------------------------------------------------------------------------------------------------------


def test_over_the_token_limit_azure_answers_429_until_the_window_ends(simulator: SimulatorProcess) -> None:
    simulator.limits(region=REGION, deployment="gpt-4o", tokens_per_minute=100, window_seconds=6)
    body = body_of("12345678", max_tokens=60)
    first, second = call(simulator, body=body), call(simulator, body=body)

    assert first.status == 200
    assert first.headers["x-ratelimit-limit-tokens"] == "100"
    assert first.headers["x-ratelimit-remaining-tokens"] == "38"
    assert "x-ratelimit-limit-requests" not in first.headers
    assert second.status == 429
    assert second.error["code"] == "RateLimitReached"
    assert "for gpt-4o in East US 2 have exceeded the token rate limit" in second.error["message"]
    assert 1 <= int(second.headers["retry-after"]) <= 6
    assert 0 < int(second.headers["retry-after-ms"]) <= 6_000
    assert second.headers["x-ratelimit-remaining-tokens"] == "38"
    assert call(simulator, body={**body, "model": "gpt-4o-mini"}).status == 200
    assert call(simulator, body=body, region="japaneast").status == 200
    time.sleep(int(second.headers["retry-after-ms"]) / 1_000)
    assert call(simulator, body=body).status == 200


def test_refused_calls_count_towards_the_limit_of_requests() -> None:
    deployments = [
        {"name": "shared", "model": "gpt-4o", "requests_per_minute": 2},
        {"name": "ours", "model": "gpt-4o", "tokens_per_minute": 1, "sku": "ProvisionedManaged"},
    ]
    with SimulatorProcess({"regions": [{"name": "here", "deployments": deployments}], "api_key": "k"}) as simulator:
        path = "/openai/deployments/{}/chat/completions?api-version=2024-10-21"
        shared = [
            call(simulator, path.format("shared"), body, region="here")
            for body in (body_of(max_tokens=5, stream_options={}), body_of(), body_of())
        ]
        ours = [call(simulator, path.format("ours"), region="here") for _ in range(2)]

    assert [answer.status for answer in shared] == [400, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in shared] == ["1", "0", "0"]
    assert 0 < int(shared[2].headers["retry-after"]) <= 60
    assert "call rate limit" in shared[2].error["message"]
    assert [answer.status for answer in ours] == [200, 429]
    assert not any(name.startswith("x-ratelimit") for answer in ours for name in answer.headers)
    assert int(ours[1].headers["retry-after-ms"]) > 0


# --- Faults -----------------------------------------------------------------------------------------------------------


def test_a_status_is_answered_as_often_as_it_was_asked_for(simulator: SimulatorProcess) -> None:
    simulator.fault("status", status=429, headers={"Retry-After": "7"}, body={"error": {"code": "429"}}, times=2)
    simulator.fault("status", status=503, times=1)
    answers = [call(simulator) for _ in range(4)]

    assert [answer.status for answer in answers] == [429, 429, 503, 200]
    assert answers[0].headers["retry-after"] == "7"
    assert answers[0].headers["x-ms-region"] == "East US 2"
    assert answers[0].body == b'{"error":{"code":"429"}}'
    assert answers[2].error["type"] == "server_error"
    assert [entry["fault"] for entry in simulator.log()["requests"]] == ["status", "status", "status", None]
    assert totals(simulator)["output_tokens"] == 32


def test_a_status_takes_any_body(simulator: SimulatorProcess) -> None:
    for status in (200, 204, 301, 304, 418, 599):
        simulator.fault("status", status=status, body="plain", headers={"Content-Type": "text/x"}, times=1)
        answer = call(simulator)
        assert answer.status == status
        assert answer.headers.get("content-type") == "text/x"


def test_a_fault_strikes_only_its_region_and_deployment(simulator: SimulatorProcess) -> None:
    simulator.fault("status", region=REGION, deployment="gpt-4o", status=500)

    assert call(simulator).status == 500
    assert call(simulator, DATED_CHAT).status == 500
    assert call(simulator, region="japaneast").status == 200
    assert call(simulator, body=body_of() | {"model": "gpt-4o-mini"}).status == 200
    assert simulator.faults()[0]["applied"] == 2


def test_a_deleted_fault_strikes_no_more(simulator: SimulatorProcess) -> None:
    first = simulator.fault("status", status=500)
    simulator.fault("status", status=502, times=1)
    simulator.delete_fault(first)

    assert [call(simulator).status for _ in range(2)] == [502, 200]
    with pytest.raises(SimulatorFailed, match="there is no fault"):
        simulator.delete_fault(first)


def test_a_delay_answers_late(simulator: SimulatorProcess) -> None:
    simulator.fault("delay", seconds=0.3, times=1)
    started = time.monotonic()

    assert call(simulator).status == 200
    assert time.monotonic() - started >= 0.3


def test_a_hanging_call_is_answered_when_its_fault_is_deleted(simulator: SimulatorProcess) -> None:
    fault = simulator.fault("hang", times=1)
    with pytest.raises(TimeoutError):
        call(simulator, timeout=0.2)
    wait_for(lambda: totals(simulator)["requests"] == 1)
    assert last_entry(simulator)["status"] is None

    fault = simulator.fault("hang", times=1)
    with ThreadPoolExecutor(1) as threads:
        hanging = threads.submit(call, simulator)
        wait_for(lambda: not simulator.faults())
        simulator.delete_fault(fault)
        assert hanging.result().status == 200


def test_a_reset_is_seen_as_one(simulator: SimulatorProcess) -> None:
    simulator.fault("reset", times=1)

    with pytest.raises(ConnectionResetError):
        call(simulator)
    assert last_entry(simulator)["status"] is None
    assert call(simulator).status == 200


def test_an_answer_can_be_no_json(simulator: SimulatorProcess) -> None:
    simulator.fault("not_json", body="<html>", times=1)
    answer = call(simulator)

    assert (answer.status, answer.body) == (200, b"<html>")
    assert totals(simulator)["output_tokens"] == 0


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_can_be_shorter_than_its_length(simulator: SimulatorProcess, stream: bool) -> None:
    simulator.fault("wrong_length", times=1)

    with pytest.raises(http.client.IncompleteRead) as broken:
        call(simulator, body=body_of(stream=stream))
    assert len(broken.value.partial) > 500
    assert (last_entry(simulator)["output_tokens"], last_entry(simulator)["completed"]) == (32, False)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_can_be_endless(simulator: SimulatorProcess, stream: bool) -> None:
    simulator.fault("endless", times=1)
    with connect(simulator) as connection:
        connection.request("POST", CHAT, json.dumps(body_of(stream=stream)), {"api-key": simulator.api_key})
        response = connection.getresponse()
        assert response.status == 200
        assert len(response.read(5_000_000)) == 5_000_000
        response.close()
    wait_for(lambda: totals(simulator)["requests"] == 1)
    assert not last_entry(simulator)["completed"]


@pytest.mark.parametrize("done", [True, False])
def test_a_stream_can_be_empty(simulator: SimulatorProcess, done: bool) -> None:
    simulator.fault("empty_stream", done=done, times=1)

    assert call(simulator).status == 200
    answer = call(simulator, body=body_of(stream=True))
    assert answer.body == (b"data: [DONE]\n\n" if done else b"")
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_the_first_token_can_be_slow_after_headers_and_role(simulator: SimulatorProcess) -> None:
    simulator.fault("slow_first_token", seconds=3.0, times=1)
    with v1_client(simulator) as client:
        started = time.monotonic()
        arrivals = [
            (time.monotonic() - started, bool(chunk.choices and chunk.choices[0].delta.content))
            for chunk in client.chat.completions.create(model="gpt-4o", messages=user("a"), stream=True)
        ]

    assert [content for _, content in arrivals[:3]] == [False, False, True]
    assert arrivals[2][0] - arrivals[1][0] > 0.5
    assert arrivals[2][0] >= 3.0


def test_a_stream_can_stall_and_go_on(simulator: SimulatorProcess) -> None:
    simulator.fault("stall", after_chunks=3, seconds=0.4, times=1)
    started = time.monotonic()
    answer = call(simulator, body=body_of(stream=True))

    assert time.monotonic() - started >= 0.4
    assert answer.events[-1] == "[DONE]"


@pytest.mark.parametrize("after_chunks", [0, 3, 99])
def test_an_error_can_come_inside_a_stream(simulator: SimulatorProcess, after_chunks: int) -> None:
    simulator.fault("error_in_stream", after_chunks=after_chunks, times=1)
    answer = call(simulator, body=body_of(stream=True, max_tokens=10))
    content = [chunk for chunk in answer.chunks if chunk.get("choices") and chunk["choices"][0]["delta"].get("content")]

    assert answer.status == 200
    assert len(content) == min(after_chunks, 5)
    assert answer.chunks[-1]["error"]["type"] == "server_error"
    assert last_entry(simulator)["output_tokens"] == 2 * len(content)
    assert last_entry(simulator)["chunks_sent"] == len(content)


@pytest.mark.parametrize("after_chunks", [0, 3])
def test_a_cut_stream_is_billed_as_far_as_it_came(simulator: SimulatorProcess, after_chunks: int) -> None:
    simulator.fault("cut_stream", after_chunks=after_chunks, times=1)
    received: list[str] = []

    def read_all(client: OpenAI) -> None:
        for chunk in client.chat.completions.create(model="gpt-4o", messages=user("a"), stream=True):
            received.extend(choice.delta.content for choice in chunk.choices if choice.delta.content)

    with v1_client(simulator) as client, pytest.raises(openai.APIConnectionError):
        read_all(client)

    entry = last_entry(simulator)
    assert len(received) == after_chunks
    assert entry["output_tokens"] == len(tokenize("".join(received)))
    assert (entry["status"], entry["completed"], entry["input_tokens"]) == (200, False, 4)


def test_a_fault_inside_a_stream_waits_for_one_that_begins(simulator: SimulatorProcess) -> None:
    simulator.fault("cut_stream", times=1)

    assert call(simulator).status == 200
    assert call(simulator, body=body_of(stream=True, max_tokens=0)).status == 400
    assert last_entry(simulator)["fault"] is None
    with pytest.raises(http.client.IncompleteRead):
        call(simulator, body=body_of(stream=True))
    assert simulator.faults() == []


@pytest.mark.parametrize(
    "request_body",
    [
        b"{",
        b'{"region":"\xfa"}',
        b'{"fault":{"kind":"unheard_of"}}',
        b'{"fault":{"kind":"status","status":99}}',
        b'{"fault":{"kind":"status","status":500,"headers":{"a":"b\\r\\nc"}}}',
        b'{"fault":{"kind":"status","status":500,"headers":{"Content-Length":"5"}}}',
        b'{"fault":{"kind":"delay"}}',
        b'{"fault":{"kind":"hang","seconds":1}}',
        b'{"fault":{"kind":"hang"},"times":0}',
        b'{"fault":{"kind":"hang"},"when":"now"}',
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(simulator: SimulatorProcess, request_body: bytes) -> None:
    request = urllib.request.Request(simulator.control + "/faults", request_body, method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    with refused.value as answer:
        assert answer.status == 400
        assert json.loads(answer.read())["error"]
    assert simulator.faults() == []


def test_a_region_goes_down_and_comes_back_on_its_port(simulator: SimulatorProcess) -> None:
    simulator.fault("hang")
    with ThreadPoolExecutor(1) as threads:
        caught = threads.submit(call, simulator)
        wait_for(lambda: simulator.faults()[0]["applied"] == 1)
        simulator.down(REGION)
        with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
            caught.result()
    simulator.down(REGION)
    simulator.delete_fault(simulator.faults()[0]["id"])

    with pytest.raises(ConnectionRefusedError):
        call(simulator)
    assert call(simulator, region="japaneast").status == 200
    simulator.up(REGION)
    simulator.up(REGION)
    assert call(simulator).status == 200
    with pytest.raises(SimulatorFailed, match="there is no region"):
        simulator.down("atlantis")


# --- The log ----------------------------------------------------------------------------------------------------------


def test_what_clients_were_told_is_what_is_billed(simulator: SimulatorProcess) -> None:
    """Many calls of every kind at once: the sum of all usage reported is the sum logged."""

    def ask(number: int) -> tuple[int, int, int]:
        text = f"word {number} " * (number * 40)
        model = "o4-mini" if number % 3 else "gpt-4o"
        body = {"model": model, "messages": user(text), "n": 1 + number % 2, "max_completion_tokens": 5 + number}
        if number % 2:
            answer = call(simulator, body={**body, "stream": True, "stream_options": {"include_usage": True}})
            usage = answer.chunks[-1]["usage"]
        else:
            usage = json.loads(call(simulator, body=body).body)["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
        return usage["prompt_tokens"], usage["completion_tokens"], reasoning

    with ThreadPoolExecutor(8) as threads:
        reported = [sum(column) for column in zip(*threads.map(ask, range(40)), strict=True)]

    summed = totals(simulator)
    entries = simulator.log()["requests"]
    assert [summed["input_tokens"], summed["output_tokens"], summed["reasoning_tokens"]] == reported
    assert sum(entry["output_tokens"] for entry in entries) == summed["output_tokens"]
    assert (summed["requests"], summed["completed"], summed["by_status"]) == (40, 40, {"200": 40})


def test_an_entry_says_what_was_asked(simulator: SimulatorProcess) -> None:
    headers = {"api-key": simulator.api_key, "X-MS-Client-Request-Id": "abc", "X-Mine": "1"}
    answer = call(simulator, DATED_CHAT, body_of(stream=True), headers=headers)
    entry = last_entry(simulator)

    assert answer.headers["x-ms-client-request-id"] == "abc"
    assert {key: entry[key] for key in ("region", "deployment", "operation", "surface", "api_version", "method")} == {
        "region": REGION,
        "deployment": "gpt-4o",
        "operation": "chat/completions",
        "surface": "dated",
        "api_version": "2024-10-21",
        "method": "POST",
    }
    assert (entry["status"], entry["stream"], entry["completed"], entry["chunks_sent"]) == (200, True, True, 16)
    assert entry["client_request_id"] == "abc"
    assert {"x-mine", "api-key"} <= set(entry["headers"])
    assert abs(entry["time"] - time.time()) < 60


def test_a_header_that_is_no_text_does_not_spoil_the_log(simulator: SimulatorProcess) -> None:
    sent = request_bytes(simulator, body_of()).replace(b"host: a", b"host: a\r\nx-ms-client-request-id: \xff")
    with socket.create_connection(address(simulator), timeout=PATIENCE) as raw:
        raw.sendall(sent)
        assert raw.recv(65_536).startswith(b"HTTP/1.1 200")

    assert last_entry(simulator)["client_request_id"] == "?"
    assert simulator.last_headers()


def test_the_last_request_is_kept_byte_for_byte(simulator: SimulatorProcess) -> None:
    body = b'{ "messages":[{"role":"user", "content":"\\u00e9 \xc3\xa9"}],\n"model":"gpt-4o" }'
    call(simulator, body=body, headers={"Authorization": f"Bearer {simulator.api_key}", "X-Mine": "1"})
    call(simulator, region="japaneast")

    assert simulator.last_body(REGION) == body
    assert simulator.last_body() == json.dumps(body_of()).encode()
    assert ("X-Mine", "1") in simulator.last_headers(REGION)
    assert ("Authorization", "Bearer") in simulator.last_headers(REGION)
    assert ("api-key", "redacted") in simulator.last_headers()


def test_a_client_that_hangs_up_is_billed_for_what_was_generated() -> None:
    region = {"name": "slow", "first_token_seconds": 0.05, "seconds_per_chunk": 0.05}
    with SimulatorProcess({"regions": [region]}) as simulator:
        with v1_client(simulator, "slow") as client:
            stream = client.chat.completions.create(model="gpt-4o", messages=user("a"), stream=True)
            for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    break
            stream.close()
        wait_for(lambda: totals(simulator, "slow")["requests"] == 1)
        entry = last_entry(simulator)
        assert not entry["completed"]
        assert 2 <= entry["output_tokens"] == 2 * entry["chunks_sent"] < 32
        started = time.monotonic()
        assert call(simulator, body=body_of(max_tokens=8), region="slow").status == 200
        assert time.monotonic() - started >= 0.05 + 4 * 0.05


# --- The process ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly_even_while_calls_hang(number: int) -> None:
    command = [sys.executable, "-m", "simulator"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        addresses = json.loads(running.stdout.readline())
        fault = json.dumps({"fault": {"kind": "hang"}}).encode()
        urllib.request.urlopen(addresses["control"] + "/faults", fault).close()
        where = urlsplit(addresses["regions"][REGION])
        with socket.create_connection((where.hostname, where.port)) as hanging:
            hanging.sendall(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
            time.sleep(0.1)
            os.kill(running.pid, number)
            assert running.wait(5) == 0
        assert running.stderr.read() == b""


def test_the_helper_stops_what_it_started() -> None:
    with SimulatorProcess() as simulator:
        assert urllib.request.urlopen(simulator.control + "/healthz").status == 200
        assert set(simulator.regions) == {"swedencentral", "eastus2", "japaneast"}
    with pytest.raises(ConnectionRefusedError):
        call(simulator)


def test_it_ends_with_a_parent_that_is_killed() -> None:
    program = """
import os, signal
from simulator.process import SimulatorProcess
print(SimulatorProcess().control, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    parent = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    address = urlsplit(parent.stdout.strip())

    def is_gone() -> bool:
        try:
            socket.create_connection((address.hostname, address.port), timeout=1).close()
        except ConnectionRefusedError:
            return True
        return False

    assert parent.returncode == -signal.SIGKILL
    wait_for(is_gone)


@pytest.mark.parametrize("which", ["region", "control"])
def test_a_taken_port_is_said_in_one_sentence(which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports, control_port = ((0, port, 0), 0) if which == "region" else ((), port)
        with pytest.raises(SimulatorFailed) as failed:
            SimulatorProcess(ports=ports, control_port=control_port)

    said = str(failed.value).splitlines()
    assert said == [
        f"the simulator did not start: simulator: port {port} of 127.0.0.1 cannot be used: Address already in use"
    ]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"regions": [{"name": "a", "colour": "red"}]}, "Object contains unknown field `colour` - at `$.regions[0]`"),
        ({"regions": []}, "Expected `array` of length >= 1 - at `$.regions`"),
        ({"regions": [{"name": "a"}, {"name": "a"}]}, "duplicate region: 'a'"),
        ({"regions": [{"name": "a", "deployments": [{"name": "d", "model": "m", "tokens_per_minute": 0}]}]}, ">= 1"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(SimulatorFailed) as failed:
        SimulatorProcess(config)
    assert said in str(failed.value)
    assert "Traceback" not in str(failed.value)


def test_ports_can_be_chosen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with SimulatorProcess(ports=(port, 0, 0)) as simulator:
        assert simulator.regions["swedencentral"] == f"http://127.0.0.1:{port}"
    with pytest.raises(SimulatorFailed, match="--ports names 1 ports for 3 regions"):
        SimulatorProcess(ports=(port,))


def test_the_control_endpoint_lists_what_it_can_do(simulated_process: SimulatorProcess) -> None:
    def call(method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(
            urllib.request.Request(simulated_process.control + path, data, method=method)
        ) as done:
            return json.load(done)

    index = call("GET", "/")
    for operation, described in index["operations"].items():
        method, path = operation.split()
        if "example" in described:  # each runs as it stands
            call(method, path, described["example"])
    assert call("GET", "/faults")["faults"][0]["region"] in index["regions"]
    call("POST", "/reset")
    assert set(index["kinds of faults"]["status"]) == {"status", "headers", "body"}
    with pytest.raises(urllib.error.HTTPError) as missing:
        call("GET", "/nothing")
    assert "GET / lists" in missing.value.read().decode()
