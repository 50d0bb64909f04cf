"""Legacy completions as chats: prompts, parameters, answers and streams, both ways."""

import asyncio
import json
import tracemalloc
from typing import Any

import pytest
from starlette.types import Message

from shared.azure_openai.completions_as_chat import Rendering, messages, translated
from shared.azure_openai.operations import match
from shared.azure_openai.requests import parse_call
from shared.errors import InvalidRequest
from shared.responses.as_completions import CompletionsResponse
from shared.responses.rendering import JsonResponse
from shared.types import Call
from tests.harness.in_process import Exchange, Tables, backend, gateway, key
from tests.harness.in_process import call as called
from tests.harness.in_process import chat as chat_answer

CHATML = (
    "<|im_start|>system\nYou are kind.<|im_end|>\n"
    "<|im_start|>system name=example_user\nHello\n<|im_end|>\n"
    "<|im_start|>user\nWho\nare you?\n<|im_end|>\n<|im_start|>assistant\n"
)


def call(path: str = "/v1/completions", query: str = "", **fields: Any) -> Call:
    return parse_call(match("POST", path), query, {}, json.dumps({"model": "m", **fields}).encode())


def chat(**fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(translated(call(**fields))[0].body)
    return body


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Hi", [("user", "Hi")]),
        (CHATML, [("system", "You are kind."), ("system", "Hello"), ("user", "Who\nare you?")]),
        ("<|im_start|>user\nHi", [("user", "Hi")]),
        ("<|im_start|>user\nHi<|im_start|>assistant\nSure, ", [("user", "Hi"), ("assistant", "Sure, ")]),
        ("Be brief.\n<|im_start|>user\nHi<|im_end|>", [("user", "Be brief."), ("user", "Hi")]),
    ],
)
def test_a_prompt_becomes_messages(prompt: str, expected: list[tuple[str, str]]) -> None:
    assert [(one["role"], one["content"]) for one in messages(prompt)] == expected


def test_chatml_keeps_names_and_refuses_what_is_none() -> None:
    assert messages(CHATML)[1]["name"] == "example_user"
    with pytest.raises(InvalidRequest, match="expected one of system, developer, user, assistant"):
        messages("<|im_start|>robot\nHi<|im_end|>")
    with pytest.raises(InvalidRequest, match="has no message"):
        messages("<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("<|im_start|>user a name=" * 2000, "a line feed"),  # seconds, for a pattern that looks for it again and again
        ("<|im_start|>user name=" + "x" * 1_000_000, "a line feed"),
        ("<|im_start|>user\n" * 2049, "at most 2048 turns"),
        ("<|im_start|>user\nhi<|im_end|><|im_start|>user hi\nthere<|im_end|>", "number 2"),
    ],
    ids=lambda text: text[:20],
)
def test_chatml_that_cannot_be_read_is_refused_at_once(prompt: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        messages(prompt)


@pytest.mark.parametrize("prompt", ["<|im_start|>Mueller\nx", "<|im_start|>user Mueller\nx", "<|im_start|>Mueller"])
def test_a_refusal_names_no_text_of_the_prompt(prompt: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        messages(prompt)
    assert "Mueller" not in refused.value.message


def test_parameters_are_those_of_a_chat() -> None:
    body = chat(
        prompt=["Hi"], max_tokens=5, temperature=0.1, n=2, best_of=2, stop=["<|im_end|>", "END"], logprobs=3, user="u"
    )
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_completion_tokens": 5,
        "temperature": 0.1,
        "n": 2,
        "stop": ["END"],
        "logprobs": True,
        "top_logprobs": 3,
        "user": "u",
    }
    assert "stop" not in chat(prompt="Hi", stop="<|im_end|>")
    made, _ = translated(call("/openai/deployments/m/completions", "api-version=2023-05-15", prompt="Hi", max_tokens=5))
    assert (made.path, made.operation.name, made.max_output_tokens) == ("chat/completions", "chat.completions", 5)
    assert json.loads(made.body)["max_tokens"] == 5


def test_a_stream_asks_for_its_usage_as_a_chat_does() -> None:
    made, _ = translated(call(prompt="Hi", stream=True))
    assert made.usage_injected
    assert made.edits["stream_options"] == b'{"include_usage":true}'
    named, _ = translated(call(prompt="Hi", stream=True, stream_options={"include_usage": True}))
    assert not named.usage_injected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
        ({"prompt": "a", "best_of": "3"}, "best_of"),
        ({"prompt": "a", "logprobs": True}, "logprobs"),
        ({"prompt": "a", "logprobs": 1, "echo": True}, "logprobs"),
        ({"prompt": "a", "stop": 3}, "stop"),
        ({"prompt": "a", "echo": 3}, "echo"),
        ({"prompt": json.loads("[" * 500 + "]" * 500)}, "prompt"),
    ],
)
def test_what_a_chat_cannot_do_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        translated(call(**fields))
    assert refused.value.param == param


LOGPROBS = {
    "content": [
        {"token": "Hel", "logprob": -0.1, "top_logprobs": [{"token": "Hel", "logprob": -0.1}]},
        {"token": "lo", "logprob": -0.2, "top_logprobs": []},
    ]
}


def test_an_answer_becomes_a_completion() -> None:
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 7,
        "model": "gpt-4o-2024-11-20",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello"},
                "finish_reason": "stop",
                "logprobs": LOGPROBS,
                "content_filter_results": {"hate": {"filtered": False}},
            },
            {
                "index": 1,
                "message": {"role": "assistant", "content": None, "refusal": "No."},
                "finish_reason": "length",
            },
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
    rendered = json.loads(Rendering("Say: ").whole(json.dumps(answer).encode()))
    assert rendered | {"choices": []} == answer | {"id": "cmpl-1", "object": "text_completion", "choices": []}
    first, second = rendered["choices"]
    assert first == {
        "text": "Say: Hello",
        "index": 0,
        "content_filter_results": {"hate": {"filtered": False}},
        "finish_reason": "stop",
        "logprobs": {
            "tokens": ["Hel", "lo"],
            "token_logprobs": [-0.1, -0.2],
            "top_logprobs": [{"Hel": -0.1}, {}],
            "text_offset": [0, 3],
        },
    }
    assert (second["text"], second["finish_reason"], second["logprobs"]) == ("Say: No.", "length", None)


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "no"}}',
        b"<html>",
        b"[1]",
        b'{"choices": 3}',
        b"",
        b'{"choices": [1]}',
        b'{"choices": [{"index": [], "message": {}}]}',
        b'{"choices": [{"message": 1}]}',
        b'{"choices": [{"message": {"content": [1]}}]}',
        b'{"choices": [{"logprobs": {"content": [{"token": 1}]}}]}',
        b'{"choices": [{"logprobs": {"content": {"token": 1}}}]}',
        b'{"choices": [{"logprobs": {"content": [{"token": "a", "logprob": 1, "top_logprobs": [{"token": []}]}]}}]}',
        b'{"choices": [{"logprobs": {"content": [{"token": "a", "logprob": 1, "top_logprobs": 1}]}}]}',
        b'{"choices": [' + b"[" * 5000 + b"]" * 5000 + b"]}",
    ],
    ids=lambda body: body[:60].decode(),
)
def test_what_is_no_answer_of_a_chat_stays_as_it_is(body: bytes) -> None:
    assert Rendering("x").whole(body) == body
    event = b"data: " + body.replace(b"message", b"delta") + b"\n\n"
    assert Rendering("x").feed(event) == event


def test_numbers_of_any_size_are_rendered() -> None:
    for number in (b"1" * 30, b"1e999", b"-" + b"9" * 400):
        Rendering("x").whole(b'{"choices": [{"index": ' + number + b', "message": {"content": "Hi"}}]}')


async def test_a_large_answer_is_rendered_when_no_other_body_is_worked_on() -> None:
    answer = {"choices": [{"index": 0, "message": {"content": "x" * 300_000}}]}
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def respond(size: int) -> None:
        answer["choices"][0]["message"] = {"content": "x" * size}
        response = CompletionsResponse(JsonResponse(answer), Rendering(""), lock)
        await response({"type": "http"}, receive, send)

    lock = asyncio.Lock()
    async with lock:
        await respond(10)  # a small one waits for nobody
        large = asyncio.create_task(respond(300_000))
        await asyncio.sleep(0)
        assert lock.locked()
        assert len(sent) == 2
    await large
    assert [len(json.loads(one["body"])["choices"][0]["text"]) for one in sent[1::2]] == [10, 300_000]


@pytest.mark.parametrize("likely", [0, 1, 20])
def test_probabilities_are_rendered_in_four_times_their_bytes(likely: int) -> None:
    top = [{"token": f"t{number}", "logprob": -1.5, "bytes": [116]} for number in range(likely)]
    token = json.dumps({"token": "abc", "logprob": -0.5, "bytes": [97, 98, 99], "top_logprobs": top})
    tokens = ",".join([token] * (500_000 // len(token)))
    body = f'{{"choices": [{{"index": 0, "message": {{}}, "logprobs": {{"content": [{tokens}]}}}}]}}'.encode()
    tracemalloc.start()
    try:
        rendered = Rendering("").whole(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert json.loads(rendered)["choices"][0]["logprobs"]["tokens"] == ["abc"] * (500_000 // len(token))
    assert peak < 4 * len(body)


async def test_an_answer_that_is_too_large_is_refused_and_accounted_for() -> None:
    text = ""

    async def script(exchange: Exchange) -> None:
        exchange.answer(200, chat_answer(choices=[{"index": 0, "message": {"content": text}, "finish_reason": "stop"}]))

    tables, fields = Tables(), {"model": "m", "prompt": "Hi"}
    async with (
        backend("a", {"m": "m"}, script) as one,
        gateway(tables, [one], models={"m": {"completions_as_chat": True}}) as application,
    ):
        caller = await key(tables)
        text = "x" * (8 * 1024 * 1024 - 1000)
        whole = await called(application, caller, "/v1/completions", fields)
        text = "x" * (8 * 1024 * 1024)
        refused = await called(application, caller, "/v1/completions", fields)
    assert (whole.status, json.loads(whole.body)["choices"][0]["text"]) == (200, text[:-1000])
    assert (refused.status, refused.headers["x-should-retry"]) == (502, "false")
    assert refused.headers["content-length"] == str(len(refused.body))
    error = json.loads(refused.body)["error"]
    assert error["code"] == "answer_too_large"
    assert "Ask for less (`n`, `logprobs`, `max_tokens`), or stream." in error["message"]
    assert refused.headers["x-gateway-request-id"] in error["message"]
    assert [row["e_output"] for row in tables.usage().values()] == [3, 3]


def test_a_stream_becomes_that_of_a_completion_however_it_is_cut() -> None:
    def chunk(*choices: Any, **more: Any) -> bytes:
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
        return b"data: " + json.dumps({**head, "choices": choices, **more}).encode() + b"\n\n"

    stream = b"".join(
        [
            chunk(prompt_filter_results=[]),
            chunk({"index": 0, "delta": {"role": "assistant", "content": ""}}),
            b": keep-alive\n\n",
            chunk({"index": 0, "delta": {"content": "Hel"}, "logprobs": {"content": LOGPROBS["content"][:1]}}),
            chunk({"index": 0, "delta": {"content": "lo"}, "logprobs": {"content": LOGPROBS["content"][1:]}}),
            chunk({"index": 0, "delta": {}, "finish_reason": "stop"}),
            chunk(usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}),
            b'data: {"error": {"message": "late"}}\n\n',
            b"data: [DONE]\n\n",
        ]
    )
    whole = Rendering("")
    expected = whole.feed(stream) + whole.finish()
    for size in (1, 7, 64):
        rendering = Rendering("")
        pieces = (rendering.feed(stream[at : at + size]) for at in range(0, len(stream), size))
        assert b"".join(pieces) + rendering.finish() == expected
    comment, *events, error, done = expected.removesuffix(b"\n\n").split(b"\n\n")
    assert (comment, done) == (b": keep-alive", b"data: [DONE]")
    assert json.loads(error[6:]) == {"error": {"message": "late"}}
    read = [json.loads(event[6:]) for event in events]
    assert {one["object"] for one in read} == {"text_completion"}
    assert [c["text"] for one in read for c in one["choices"]] == ["Hel", "lo", ""]
    assert [c["logprobs"]["text_offset"] for one in read[:2] for c in one["choices"]] == [[0], [3]]
    assert (read[2]["choices"][0]["finish_reason"], read[3]["usage"]["total_tokens"]) == ("stop", 3)


def test_an_echo_comes_once_before_the_text_of_each_choice() -> None:
    rendering = Rendering("Say: ")
    deltas = [(0, "a"), (1, "b"), (0, "c")]
    events = [
        json.dumps({"id": "1", "choices": [{"index": index, "delta": {"content": text}}]}).encode()
        for index, text in deltas
    ]
    stream = b"".join(rendering.feed(b"data: " + event + b"\n\n") for event in events)
    texts = [json.loads(line[6:])["choices"][0]["text"] for line in stream.split(b"\n\n") if line]
    assert texts == ["Say: a", "Say: b", "c"]


@pytest.mark.parametrize("rest", ["completions", "chat/completions", "embeddings"])
def test_engines_are_models_in_the_path(rest: str) -> None:
    route = match("POST", f"/v1/engines/text-davinci-003/{rest}")
    assert (route.surface, route.model, route.path) == ("openai", "text-davinci-003", rest)
