"""Anthropic's official clients talk to the gateway as they would to Anthropic and to a Foundry resource."""

import json
from typing import Any

import anthropic
import pytest
from anthropic import AnthropicFoundry
from anthropic.types import MessageParam, TextBlock, ToolParam, ToolUseBlock

from tests.harness import node_clients
from tests.harness.system import CLAUDES, PATIENT, System, eventually

MODEL = "claude-sonnet-5-5"
MESSAGES: list[MessageParam] = [{"role": "user", "content": "Where does the road lead?"}]
ASKED: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "max_tokens": 256}
PLACES: list[ToolParam] = [{"name": "look", "description": "Look there.", "input_schema": {"type": "object"}}]


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if isinstance(block, TextBlock))


def direct(system: System) -> str:
    """The text that a simulated region gives to the same call, without the gateway."""
    url, key = system.simulator.regions["swedencentral"], system.simulator.api_key
    with AnthropicFoundry(base_url=f"{url}/anthropic", api_key=key, **PATIENT) as client:
        return text_of(client.messages.create(**ASKED | {"model": CLAUDES[MODEL]}))


def test_anthropic_gets_the_answer_of_a_direct_call(gateway: System) -> None:
    with gateway.anthropic() as client:
        message = client.messages.create(**ASKED)
    assert text_of(message) == direct(gateway)
    assert message.usage.output_tokens == 32
    request = gateway.simulator.log()["requests"][0]
    assert request["path"] == "/anthropic/v1/messages"
    assert request["deployment"] == "claude-prod"


def test_foundrys_client_needs_another_address_alone(gateway: System) -> None:
    with AnthropicFoundry(base_url=f"{gateway.url}/anthropic", api_key=gateway.key, **PATIENT) as client:
        assert text_of(client.messages.create(**ASKED)) == direct(gateway)


@pytest.mark.parametrize("given", [{"authorization": "Bearer {}"}, {"x-api-key": "{}"}, {"api-key": "{}"}])
def test_the_key_may_stand_in_each_header_of_the_clients(gateway: System, given: dict[str, str]) -> None:
    headers = {name: value.format(gateway.key) for name, value in given.items()}
    body = b'{"model": "%s", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}' % MODEL.encode()
    answer = gateway.gateway.request("POST", "/v1/messages?beta=true", body, headers)
    assert answer.status == 200, answer.body
    assert answer.headers["request-id"]


def test_nodes_clients_get_the_same(gateway: System) -> None:
    lines = [json.loads(line) for line in node_clients.run("claude.mjs", gateway.url, gateway.key, MODEL)]
    outputs = {line.pop("name"): line for line in lines}
    expected = direct(gateway)
    assert outputs["whole"]["text"] == outputs["streamed"]["text"] == outputs["foundry"]["text"] == expected
    assert outputs["streamed"]["usage"]["output_tokens"] == 32
    assert outputs["counted"]["tokens"] == outputs["whole"]["usage"]["input_tokens"]
    assert {MODEL, *CLAUDES} <= set(outputs["models"]["models"])
    assert (outputs["refused"]["status"], outputs["refused"]["type"]) == (404, "not_found_error")
    assert outputs["refused"]["id"]


def test_a_stream_says_what_the_whole_answer_says(gateway: System) -> None:
    with gateway.anthropic() as client, client.messages.stream(**ASKED) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    assert text_of(message) == direct(gateway)
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert message.usage.output_tokens == 32
    row = gateway.usage_rows()[-1]
    assert (row["e_input"], row["e_output"]) == (message.usage.input_tokens, 32)
    assert not row.get("e_est")


def test_a_beta_and_its_header_pass(gateway: System) -> None:
    with gateway.anthropic() as client:
        client.beta.messages.create(**ASKED, betas=["context-1m-2025-08-07"])
    received = {name.lower(): value for name, value in gateway.simulator.last_headers()}
    assert received["anthropic-beta"] == "context-1m-2025-08-07"
    assert received["anthropic-version"].startswith("20")
    assert not any(name.startswith("x-stainless") for name in received)


def test_thinking_and_tools_pass_in_streams(gateway: System) -> None:
    asked = ASKED | {"messages": [{"role": "user", "content": "simulate_tool_call"}]}
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    with gateway.anthropic() as client, client.messages.stream(**asked, tools=PLACES, thinking=thinking) as stream:
        message = stream.get_final_message()
    assert message.stop_reason == "tool_use"
    assert [block.type for block in message.content] == ["thinking", "tool_use"]
    [used] = [block for block in message.content if isinstance(block, ToolUseBlock)]
    assert used.input == {"place": "harbour"}
    row = gateway.usage_rows()[-1]
    assert row["e_reasoning"] == 16
    assert row["e_output"] == message.usage.output_tokens


def test_every_class_of_a_prompt_cache_is_booked(gateway: System) -> None:
    """For five minutes and for an hour, written and read; and searches of the web beside the tokens."""
    model, key = gateway.claude(), gateway.make_key("caches")
    system: Any = [
        {"type": "text", "text": "old rules " * 800, "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "text", "text": "new rules " * 800, "cache_control": {"type": "ephemeral"}},
    ]
    search: Any = [{"type": "web_search_20250305", "name": "web_search"}]
    messages: Any = [{"role": "user", "content": "simulate_web_searches=2"}]
    asked = ASKED | {"model": model, "system": system, "tools": search, "messages": messages}
    with gateway.anthropic(key) as client:
        first = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            stream.get_final_message()
    assert first.usage.cache_creation is not None
    assert first.usage.cache_creation.ephemeral_1h_input_tokens > 1600
    wrote, read = gateway.usage_rows(key)
    charged, charged_again = gateway.simulator.log()["requests"]
    for row, entry in ((wrote, charged), (read, charged_again)):
        assert row["e_input"] == entry["input_tokens"]
        assert row.get("e_cached", 0) == entry["cached_tokens"]
        assert row.get("e_cache_write", 0) == entry["cache_write_tokens"]
        assert row.get("e_cache_write_1h", 0) == entry["cache_write_1h_tokens"]
        assert row["e_output"] == entry["output_tokens"]
        assert row["e_web_search"] == entry["web_searches"] == 2
    assert (wrote["e_cache_write"], wrote["e_cache_write_1h"]) == (
        1600,
        first.usage.cache_creation.ephemeral_1h_input_tokens,
    )
    assert read["e_cached"] == 1600 + first.usage.cache_creation.ephemeral_1h_input_tokens


def test_tokens_are_counted_by_the_backend(gateway: System) -> None:
    with gateway.anthropic() as client:
        counted = client.messages.count_tokens(model=MODEL, messages=MESSAGES).input_tokens
        assert client.messages.create(**ASKED).usage.input_tokens == counted


def test_models_have_anthropics_shape_for_anthropics_clients(gateway: System) -> None:
    key = gateway.make_key("few", models=["claude-sonnet-5-5", "claude-haiku-5-5", "gpt-4o"])
    with gateway.anthropic(key) as client:
        assert [model.id for model in client.models.list(limit=1)] == list(CLAUDES)
        assert client.models.retrieve(MODEL).display_name == MODEL
        with pytest.raises(anthropic.NotFoundError):
            client.models.retrieve("gpt-4o")
    with gateway.openai(key) as others:
        assert [model.id for model in others.models.list()] == ["gpt-4o"]


@pytest.mark.parametrize(
    ("fields", "status", "kind"),
    [
        ({"model": "claude-unknown"}, 404, "not_found_error"),
        ({"model": "gpt-4o"}, 404, "not_found_error"),
        ({"max_tokens": "many"}, 400, "invalid_request_error"),
    ],
)
def test_the_gateways_errors_have_anthropics_shape(
    gateway: System, fields: dict[str, Any], status: int, kind: str
) -> None:
    with gateway.anthropic() as client, pytest.raises(anthropic.APIStatusError) as raised:
        client.messages.create(**ASKED | fields)
    error = raised.value
    assert error.status_code == status
    assert error.type == kind
    assert error.request_id == error.response.headers["x-gateway-request-id"]


def test_a_wrong_key_is_an_authentication_error(gateway: System) -> None:
    with gateway.anthropic("tg_wrong") as client, pytest.raises(anthropic.AuthenticationError) as raised:
        client.messages.create(**ASKED)
    assert raised.value.type == "authentication_error"


def test_claude_does_not_exist_for_openais_clients(gateway: System) -> None:
    answer = gateway.chat(MODEL)
    assert answer.status == 404
    assert "POST /v1/messages" in answer.json()["error"]["message"]


def test_limits_are_told_in_anthropics_words(gateway: System) -> None:
    limits = {"name": f"claude-{gateway.edge}", "limits": {"requests_per_minute": 1}}
    made = gateway.manage("POST", "/gateway/consumers", limits)
    key = made.json()["key"]
    with gateway.anthropic(key) as client, pytest.raises(anthropic.RateLimitError) as raised:
        allowed = client.messages.with_raw_response.create(**ASKED)
        assert allowed.headers["anthropic-ratelimit-requests-limit"] == "1"
        assert not any(name.startswith("x-ratelimit") for name in allowed.headers)
        client.messages.create(**ASKED)
    error = raised.value
    assert error.type == "rate_limit_error"
    assert error.response.headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert error.response.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
    assert int(error.response.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 529},
        {"kind": "status", "status": 500},
        {"kind": "error_in_stream", "error": "overloaded_error"},
        {"kind": "error_in_stream", "error": "rate_limit_error"},
        {"kind": "cut_stream"},
        {"kind": "reset"},
    ],
    ids=lambda fault: fault.get("error") or fault["kind"],
)
def test_a_stream_fails_over_before_its_first_content(gateway: System, fault: dict[str, Any]) -> None:
    model, key = gateway.claude(), gateway.make_key("failover")
    gateway.simulator.fault(**fault, deployment=model, times=1)
    with gateway.anthropic(key) as client, client.messages.stream(**ASKED | {"model": model}) as stream:
        message = stream.get_final_message()
        request = stream.response.headers["x-gateway-request-id"]
    assert text_of(message) == direct(gateway)
    assert sum(row["e_output"] for row in gateway.usage_rows(key)) == 32
    assert gateway.gateway.record(request)["attempts"] == 2


def test_a_stream_that_breaks_after_that_is_visibly_broken(gateway: System) -> None:
    model, key = gateway.claude(), gateway.make_key("broken")
    gateway.simulator.fault("cut_stream", after_chunks=3, deployment=model, times=1)
    with (
        gateway.anthropic(key) as client,
        pytest.raises(anthropic.APIStatusError) as raised,
        client.messages.stream(**ASKED | {"model": model}) as stream,
    ):
        stream.get_final_message()
    assert raised.value.type == "api_error"
    assert "closed the connection" in str(raised.value)
    eventually(lambda: "e_status" in gateway.usage_rows(key)[-1])
    row, [entry] = gateway.usage_rows(key)[-1], gateway.simulator.log()["requests"]
    assert row["e_input"] == entry["input_tokens"]
    assert row["e_est"]
    assert entry["output_tokens"] / 2 <= row["e_output"] <= entry["output_tokens"] * 3
