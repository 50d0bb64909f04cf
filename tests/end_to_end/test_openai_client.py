"""OpenAI's official client talks to the gateway as it would to OpenAI and to Azure OpenAI."""

import asyncio
import base64
import struct
from typing import Any

import openai
import pytest
from openai import AsyncAzureOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam

from tests.harness.gateway_process import cli
from tests.harness.system import BACKENDS, DEPLOYMENTS, REGIONS, System

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Where does the road lead?"}]


def direct(system: System, region: str = "swedencentral") -> OpenAI:
    """The same client on a simulated region, without the gateway."""
    simulator = system.simulator
    return OpenAI(base_url=f"{simulator.regions[region]}/openai/v1", api_key=simulator.api_key, max_retries=0)


def text_of_direct_call(system: System) -> str:
    with direct(system) as client:
        answer = client.chat.completions.create(model="gpt-4o-prod", messages=MESSAGES)
    return answer.choices[0].message.content or ""


@pytest.mark.parametrize("path", ["/v1", "/openai/v1", "/v1/"])
def test_openai_gets_the_answer_of_a_direct_call(gateway: System, path: str) -> None:
    with gateway.openai(base_url=gateway.url + path) as client:
        answer = client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert answer.choices[0].message.content == text_of_direct_call(gateway)
    assert answer.model == "gpt-4o-2024-11-20"
    assert answer.usage
    assert answer.usage.completion_tokens == 32


def test_azure_openai_gets_the_dated_api_with_its_own_version(gateway: System) -> None:
    with gateway.azure(api_version="2025-01-01-preview") as client:
        answer = client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert answer.choices[0].message.content == text_of_direct_call(gateway)
    request = gateway.simulator.log()["requests"][0]
    assert request["path"] == "/openai/deployments/gpt-4o-prod/chat/completions"
    assert request["api_version"] == "2025-01-01-preview"


def test_the_model_may_stand_in_the_path(gateway: System) -> None:
    answer = gateway.post("/gateway/chat/completions/gpt-4o", {"messages": MESSAGES})
    assert answer.status == 200
    assert answer.json()["choices"][0]["message"]["content"] == text_of_direct_call(gateway)
    assert gateway.simulator.log()["requests"][0]["deployment"] == "gpt-4o-prod"


def test_the_model_of_the_path_wins_over_that_of_the_body(gateway: System) -> None:
    answer = gateway.post("/gateway/chat/completions/gpt-4o-mini", {"model": "gpt-4o", "messages": MESSAGES})
    assert answer.json()["model"] == "gpt-4o-mini-2024-07-18"


def test_a_stream_says_what_the_whole_answer_says(gateway: System) -> None:
    with gateway.openai() as client:
        chunks = list(client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text_of_direct_call(gateway)
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_caller_who_did_not_ask_sees_no_usage_chunk(gateway: System) -> None:
    with gateway.openai() as client:
        chunks = list(client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True))
    assert all(chunk.usage is None for chunk in chunks)
    assert [index for index, chunk in enumerate(chunks) if not chunk.choices] == [0]  # Azure's prompt_filter_results
    assert gateway.usage_rows()[-1]["e_output"] == 32


def test_a_caller_who_asked_sees_the_usage_chunk(gateway: System) -> None:
    with gateway.openai() as client:
        asked: Any = {"include_usage": True}
        chunks = list(
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True, stream_options=asked)
        )
    usage = chunks[-1].usage
    assert usage
    charged = gateway.simulator.log(summary=True)["totals"]
    assert usage.prompt_tokens == sum(region["input_tokens"] for region in charged.values())
    assert usage.completion_tokens == sum(region["output_tokens"] for region in charged.values()) == 32


async def test_the_async_client_streams_many_answers_at_once(gateway: System) -> None:
    async with gateway.async_openai() as client:

        async def ask(number: int) -> str:
            content = f"number {number} simulate_output_tokens={10 + number}"
            messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": content}]
            stream = await client.chat.completions.create(model="gpt-4o", messages=messages, stream=True)
            return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

        texts = await asyncio.gather(*map(ask, range(10)))
        assert [len(text.split()) for text in texts] == [10 + number for number in range(10)]
        whole = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        assert whole.usage


async def test_the_async_azure_client_streams(gateway: System) -> None:
    async with AsyncAzureOpenAI(
        azure_endpoint=gateway.url, api_key=gateway.key, api_version="2024-10-21", max_retries=0
    ) as client:
        stream = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
        text = "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])
    assert text == text_of_direct_call(gateway)


def test_a_dated_version_that_knows_no_usage_chunk_is_not_asked_for_one(gateway: System) -> None:
    with gateway.azure(api_version="2024-06-01") as client:
        chunks = list(client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True))
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert b"stream_options" not in gateway.simulator.last_body()


def test_a_raw_response_tells_the_way_of_the_call(gateway: System) -> None:
    with gateway.openai() as client:
        raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=MESSAGES)
    assert raw.parse().choices[0].message.content
    headers, request = raw.headers, gateway.simulator.log()["requests"][0]
    region = request["region"]
    assert headers["x-gateway-region"] == region
    assert BACKENDS[headers["x-gateway-backend"]] == region
    assert headers["x-ms-region"] == REGIONS[region]
    assert headers["x-gateway-attempts"] == "1"
    assert headers["apim-request-id"]
    assert 0 <= float(headers["x-gateway-overhead-ms"]) < 5000
    assert headers["x-gateway-request-id"] == request["client_request_id"]
    assert gateway.gateway.record(headers["x-gateway-request-id"])["status"] == 200


def test_a_streamed_response_has_the_same_headers(gateway: System) -> None:
    with gateway.openai() as client:
        raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=MESSAGES, stream=True)
        assert len(list(raw.parse())) > 16
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert raw.headers["x-gateway-region"] in REGIONS
    assert raw.headers["x-gateway-attempts"] == "1"
    assert raw.headers["x-gateway-request-id"]
    assert "content-length" not in raw.headers


def test_the_limits_of_the_backend_are_not_told_as_the_callers(gateway: System) -> None:
    gateway.simulator.limits(tokens_per_minute=1_000_000, requests_per_minute=6_000)
    answer = gateway.chat()
    assert answer.status == 200
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


@pytest.mark.parametrize("count", [1, 3])
def test_embeddings_are_those_of_a_direct_call_in_either_format(gateway: System, count: int) -> None:
    texts = [f"road number {number}" for number in range(count)]
    with direct(gateway) as client:
        expected = client.embeddings.create(model="embed", input=texts, encoding_format="float")
    with gateway.openai() as client:
        as_numbers = client.embeddings.create(model="text-embedding-3-small", input=texts, encoding_format="float")
        decoded = client.embeddings.create(model="text-embedding-3-small", input=texts)  # the client asks for base64
        coded = client.embeddings.create(model="text-embedding-3-small", input=texts, encoding_format="base64")
    assert [item.embedding for item in as_numbers.data] == [item.embedding for item in expected.data]
    assert len(decoded.data[0].embedding) == 1536
    assert decoded.data[0].embedding == pytest.approx(expected.data[0].embedding, abs=1e-7)
    text: Any = coded.data[0].embedding
    assert struct.unpack("<1536f", base64.b64decode(text)) == pytest.approx(expected.data[0].embedding, abs=1e-7)
    assert as_numbers.usage == expected.usage


def test_azure_embeddings_go_to_the_dated_api(gateway: System) -> None:
    with gateway.azure() as client:
        answer = client.embeddings.create(model="text-embedding-3-small", input="a road", dimensions=8)
    assert len(answer.data[0].embedding) == 8
    assert gateway.simulator.log()["requests"][0]["path"] == "/openai/deployments/embed/embeddings"


def test_text_completions_are_served_whole_and_streamed(gateway: System) -> None:
    with gateway.openai() as client:
        whole = client.completions.create(model="gpt-35-turbo-instruct", prompt="Where to?")
        chunks = list(client.completions.create(model="gpt-35-turbo-instruct", prompt="Where to?", stream=True))
    assert whole.choices[0].text
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert all(chunk.usage is None for chunk in chunks)


def test_reasoning_tokens_reach_the_caller_and_the_record(gateway: System) -> None:
    with gateway.openai() as client:
        answer = client.chat.completions.create(model="o4-mini", messages=MESSAGES, max_completion_tokens=40)
    assert answer.usage
    assert answer.usage.completion_tokens_details
    assert answer.usage.completion_tokens_details.reasoning_tokens == 16
    row = gateway.usage_rows()[-1]
    assert (row["e_output"], row["e_reasoning"]) == (40, 16)


def test_the_models_are_those_of_the_configuration(gateway: System) -> None:
    key = gateway.make_key("few models", models=["gpt-4o-mini", "gpt-4o"])
    with gateway.openai(key) as client, gateway.azure(key) as azure:
        assert [model.id for model in client.models.list()] == ["gpt-4o", "gpt-4o-mini"]
        assert [model.id for model in azure.models.list()] == ["gpt-4o", "gpt-4o-mini"]
        assert client.models.retrieve("gpt-4o").object == "model"
        listed = client.models.with_raw_response.list(extra_query={"client_version": "0.171.0"}).http_response.json()
        assert (listed["models"], [model["id"] for model in listed["data"]]) == ([], ["gpt-4o", "gpt-4o-mini"])
        assert "models" not in client.models.with_raw_response.list().http_response.json()
        with pytest.raises(openai.PermissionDeniedError) as refused:
            client.models.retrieve("o4-mini")
        assert refused.value.code == "model_not_allowed"
        with pytest.raises(openai.NotFoundError) as missing:
            client.models.retrieve("gpt-2")
        assert missing.value.code == "model_not_found"
    with gateway.openai() as client:
        assert {model.id for model in client.models.list()} >= DEPLOYMENTS.keys()


def test_a_key_made_by_the_command_line_opens_the_gateway_at_once(gateway: System) -> None:
    name = f"the shop on {gateway.edge}"
    created = cli(gateway.gateway.environment, "keys", "create", name, "--models", "gpt-4o", "--json")
    assert created.keys() == {"id", "key", "name"}
    with gateway.openai(created["key"]) as client:
        assert client.chat.completions.create(model="gpt-4o", messages=MESSAGES).choices
        with pytest.raises(openai.PermissionDeniedError):
            client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
    usage = gateway.usage_of(created["key"])
    assert (usage["requests"], usage["name"]) == (1, name)


@pytest.mark.parametrize(
    ("headers", "product"),
    [
        ({"authorization": "Bearer KEY"}, ""),
        ({"authorization": "bearer   KEY"}, ""),
        ({"api-key": "KEY"}, ""),
        ({"ocp-apim-subscription-key": "KEY"}, ""),
        ({"Ocp-Apim-Subscription-Key": "KEY;product=checkout"}, "checkout"),
        ({"authorization": "Bearer eyJhbGciOiJub25lIn0.e30.", "api-key": "KEY"}, ""),
        ({"api-key": "0123456789abcdef0123456789abcdef", "authorization": "Bearer KEY"}, ""),
        ({"api-key": "another", "authorization": "Basic abc", "ocp-apim-subscription-key": "KEY;product=a b"}, "a b"),
    ],
)
def test_the_key_is_found_in_every_header_of_the_contract(
    gateway: System, headers: dict[str, str], product: str
) -> None:
    key = gateway.make_key("headers")
    headers = {name: value.replace("KEY", key) for name, value in headers.items()}
    body = b'{"model":"gpt-4o","messages":[{"role":"user","content":"x"}]}'
    answer = gateway.gateway.request("POST", "/v1/chat/completions", body, headers)
    assert answer.status == 200, answer.body
    assert gateway.usage_rows(key)[0].get("s_product", "") == product


@pytest.mark.parametrize("where", ["header", "query"])
def test_the_calling_system_stands_in_the_record_and_stays_here(gateway: System, where: str) -> None:
    key = gateway.make_key("systems")
    path = "/v1/chat/completions" + ("?systemId=billing-7" if where == "query" else "")
    headers = {"systemId": "billing-7"} if where == "header" else {}
    answer = gateway.post(path, {"model": "gpt-4o", "messages": MESSAGES}, headers, key=key)
    assert answer.status == 200
    assert gateway.usage_rows(key)[0]["s_system"] == "billing-7"
    assert "systemid" not in dict(gateway.simulator.last_headers())
    assert "systemId" not in gateway.simulator.log()["requests"][0]["path"]


def test_a_caller_of_v1_may_be_served_by_a_backend_of_the_dated_api(gateway: System) -> None:
    with gateway.openai() as client:
        chunks = list(client.chat.completions.create(model="gpt-4o-dated", messages=MESSAGES, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text_of_direct_call(gateway)
    request = gateway.simulator.log()["requests"][0]
    assert (request["surface"], request["api_version"]) == ("dated", "2024-10-21")
    assert "api-key" in request["headers"]


def test_a_mistake_of_the_caller_raises_the_clients_typed_exception_with_azures_words(gateway: System) -> None:
    with gateway.openai() as client, pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="o4-mini", messages=MESSAGES, max_tokens=5)
    assert refused.value.code == "unsupported_parameter"
    assert refused.value.param == "max_tokens"
    assert refused.value.request_id
