"""Answers that reasoning has left without content, as callers and operators see them on both edges."""

from typing import Any

from tests.harness.system import System, chat_body, eventually

MODEL = "o4-mini"  # which takes 16 tokens for its reasoning
WARNING = "x-gateway-warning"


def empty(system: System, key: str) -> int:
    return int(system.get(f"/gateway/usage?key={key.split('_')[1]}").json()["total"]["empty"])


def test_a_whole_answer_without_content_has_a_warning_and_is_counted(gateway: System) -> None:
    key = gateway.make_key("in thought")
    answer = gateway.post("/v1/chat/completions", chat_body(MODEL, max_completion_tokens=10), key=key)
    assert answer.json()["choices"][0]["message"]["content"] == ""
    assert "max_completion_tokens" in answer.headers[WARNING]
    response = gateway.post("/v1/responses", {"model": MODEL, "input": "a", "max_output_tokens": 16}, key=key)
    assert response.json()["status"] == "incomplete"
    assert WARNING in response.headers
    for model, most in ((MODEL, 17), ("gpt-4o", 1)):
        said = gateway.post("/v1/chat/completions", chat_body(model, max_completion_tokens=most), key=key)
        assert said.json()["choices"][0]["finish_reason"] == "length"
        assert WARNING not in said.headers
    assert empty(gateway, key) == 2

    path = f"/gateway/requests/{answer.headers['x-gateway-request-id']}"
    eventually(lambda: gateway.get(path).status == 200)
    assert gateway.get(path).json()["empty"] is True


def test_a_stream_has_the_warning_where_it_still_can(gateway: System) -> None:
    key = gateway.make_key("streams in thought")
    streamed: dict[str, Any] = {"stream": True}
    chat = gateway.post("/v1/chat/completions", chat_body(MODEL, max_completion_tokens=10, **streamed), key=key)
    assert WARNING in chat.headers
    assert WARNING.encode() not in chat.body
    said = gateway.post("/v1/chat/completions", chat_body(MODEL, **streamed), key=key)
    assert WARNING not in said.headers

    body = {"model": MODEL, "input": "a", "max_output_tokens": 16, **streamed}
    response = gateway.post("/v1/responses", body, key=key)
    assert WARNING not in response.headers
    *_, comment, last, end = response.body.split(b"\n\n")
    assert comment.startswith(b": x-gateway-warning: empty_answer: ")
    assert last.startswith(b"event: response.incomplete\n")
    assert end == b""
    with gateway.openai(key) as client:
        kinds = [event.type for event in client.responses.create(**body)]
    assert kinds[-1] == "response.incomplete"
    assert empty(gateway, key) == 3
