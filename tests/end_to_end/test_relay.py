"""Bodies in both directions, events and headers pass through the gateway byte for byte."""

import json
import re
from typing import Any

import pytest

from tests.harness.functions_host_http import CLIENT_SPAN
from tests.harness.system import System, chat_body

USAGE_CHUNK = re.compile(rb'data: \{"choices":\[\],[^\n]*"usage":\{[^\n]*\n\n')


def lasting(body: bytes) -> bytes:
    """Without what differs from call to call."""
    return re.sub(rb'"id":"(chatcmpl|cmpl)-\w+"|"created":\d+', b"", body)


@pytest.mark.parametrize(
    ("path", "there", "model", "deployment", "fields"),
    [
        ("/v1/chat/completions", "/openai/v1/chat/completions", "gpt-4o", "gpt-4o-prod", {"n": 2}),
        ("/openai/v1/chat/completions", "/openai/v1/chat/completions", "gpt-4o-mini", "gpt-4o-mini", {"max_tokens": 3}),
        ("/v1/chat/completions", "/openai/v1/chat/completions", "o4-mini", "thinker", {"max_completion_tokens": 18}),
    ],
)
def test_the_caller_receives_the_answer_of_the_backend(
    gateway: System, path: str, there: str, model: str, deployment: str, fields: dict[str, Any]
) -> None:
    answer = gateway.post(path, chat_body(model, **fields))
    expected = gateway.direct(there, chat_body(deployment, **fields))
    assert answer.status == expected.status == 200
    assert lasting(answer.body) == lasting(expected.body)
    assert answer.headers["content-type"] == expected.headers["content-type"]


def test_embeddings_pass_byte_for_byte(gateway: System) -> None:
    fields = {"input": ["a", "b"], "encoding_format": "base64", "dimensions": 16}
    answer = gateway.post("/v1/embeddings", {"model": "text-embedding-3-small", **fields})
    assert answer.body == gateway.direct("/openai/v1/embeddings", {"model": "embed", **fields}).body


def test_a_body_of_many_megabytes_passes_whole(gateway: System) -> None:
    """Larger than what is held back before the answer is committed: its usage is read from the part that follows."""
    texts = [f"text {number}" for number in range(300)]
    answer = gateway.post("/v1/embeddings", {"model": "text-embedding-3-small", "input": texts})
    expected = gateway.direct("/openai/v1/embeddings", {"model": "embed", "input": texts})
    assert len(expected.body) > 5_000_000
    assert answer.body == expected.body
    row = gateway.usage_rows()[-1]
    assert row["e_input"] == expected.json()["usage"]["prompt_tokens"]
    assert not row.get("e_est")


@pytest.mark.parametrize(
    ("path", "there", "model", "deployment"),
    [
        ("/v1/chat/completions", "/openai/v1/chat/completions", "gpt-4o", "gpt-4o-prod"),
        ("/v1/chat/completions", "/openai/v1/chat/completions", "o4-mini", "thinker"),
        (
            "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
            "/openai/deployments/gpt-4o-prod/chat/completions?api-version=2024-10-21",
            "gpt-4o",
            "gpt-4o-prod",
        ),
    ],
)
@pytest.mark.parametrize("asked", [True, False], ids=["asked", "not-asked"])
def test_the_caller_receives_the_events_of_the_backend_without_an_unrequested_usage_chunk(
    gateway: System, path: str, there: str, model: str, deployment: str, asked: bool
) -> None:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if asked else {}
    answer = gateway.post(path, chat_body(model, stream=True, **options))
    expected = gateway.direct(there, chat_body(deployment, stream=True, stream_options={"include_usage": True})).body
    if not asked:
        expected, taken_out = USAGE_CHUNK.subn(b"", expected)
        assert taken_out == 1
    assert lasting(answer.body) == lasting(expected)
    assert answer.body.endswith(b"data: [DONE]\n\n")


def test_text_completions_pass_byte_for_byte_whole_and_streamed(gateway: System) -> None:
    for stream in ({}, {"stream": True, "stream_options": {"include_usage": True}}):
        answer = gateway.post("/v1/completions", {"model": "gpt-35-turbo-instruct", "prompt": "Where?", **stream})
        expected = gateway.direct("/openai/v1/completions", {"model": "instruct", "prompt": "Where?", **stream})
        assert lasting(answer.body) == lasting(expected.body)


ODD = (
    b' {\n\t"messages" : [ {"role":"user","content":"caf\\u00e9 \xc3\xa9 \\"model\\": \\"x\\" \\ud83d\\ude00"} ],\r\n'
    b'  "temperature":1.0, "top_p" : 1e0,"seed":12345678901234567890,"n":1,'
    b'"metadata":{"model":"gpt-4o","stream":{"a":[1,2.50,null]}},\n "model" : %s , "user":""%s}\n '
)


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (ODD % (b'"gpt-4o"', b""), ODD % (b'"gpt-4o-prod"', b"")),
        (ODD % (b'"gpt-4o-mini"', b""), ODD % (b'"gpt-4o-mini"', b"")),
        (ODD % (b'"gpt\\u002d4o"', b""), ODD % (b'"gpt-4o-prod"', b"")),
        (ODD % (b'"gpt-4o"', b',"stream":false'), ODD % (b'"gpt-4o-prod"', b',"stream":false')),
        (
            ODD % (b'"gpt-4o"', b',"stream":true'),
            ODD % (b'"gpt-4o-prod"', b',"stream":true,"stream_options":{"include_usage":true}'),
        ),
        (
            ODD % (b'"gpt-4o-mini"', b',"stream_options": {"include_usage" : true},"stream":true'),
            ODD % (b'"gpt-4o-mini"', b',"stream_options": {"include_usage" : true},"stream":true'),
        ),
        (
            ODD % (b'"gpt-4o"', b',"stream_options": {"include_usage" : false} , "stream":true'),
            ODD % (b'"gpt-4o-prod"', b',"stream_options": {"include_usage":true} , "stream":true'),
        ),
        (
            ODD % (b'"gpt-4o"', b',"stream_options":null,"stream":true'),
            ODD % (b'"gpt-4o-prod"', b',"stream_options":{"include_usage":true},"stream":true'),
        ),
    ],
)
def test_the_backend_receives_the_callers_bytes_but_for_model_and_usage(
    gateway: System, sent: bytes, received: bytes
) -> None:
    answer = gateway.post("/v1/chat/completions", sent)
    assert answer.status == 200, answer.body
    assert gateway.simulator.last_body() == received


def test_a_dated_path_keeps_the_body_as_it_is(gateway: System) -> None:
    sent = ODD % (b'"whatever"', b"")
    path = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
    assert gateway.post(path, sent).status == 200
    assert gateway.simulator.last_body() == sent


def test_no_more_custom_headers_pass_than_azure_takes(gateway: System) -> None:
    custom = {f"{prefix}{number}": "1" for number in range(30) for prefix in ("aoai-", "x-mine-", "x-ms-mine-")}
    answer = gateway.post("/v1/chat/completions", chat_body(), custom)
    assert answer.status == 200  # the simulator answers 431 beyond ten, as Azure does
    passed = [name.lower() for name, _ in gateway.simulator.last_headers()]
    assert 0 < sum(name.startswith("aoai-") for name in passed) <= 10
    assert not [name for name in passed if "mine" in name]


def test_nothing_that_identifies_the_caller_reaches_the_backend(gateway: System) -> None:
    given = {
        "api-key": gateway.key,
        "ocp-apim-subscription-key": f"{gateway.key};product=shop",
        "cookie": "session=secret",
        "proxy-authorization": "Basic c2VjcmV0",
        "x-api-key": gateway.key,
        "x-functions-key": gateway.key,
        "x-forwarded-for": "10.1.2.3",
        "forwarded": "for=10.1.2.3",
        "referer": "https://intranet.example/secret",
        "origin": "https://intranet.example",
        "user-agent": "secret-agent/1.0",
        "x-ms-client-principal": "secret",
        "x-ms-token-aad-access-token": "secret",
    }
    assert gateway.post("/v1/chat/completions", chat_body(), given).status == 200
    received = gateway.simulator.last_headers()
    header_text = json.dumps([pair for pair in received if pair[0].lower() != "authorization"])
    assert gateway.key not in header_text
    assert "secret" not in header_text
    assert "10.1.2.3" not in header_text
    names = {name.lower() for name, _ in received}
    assert not names & {"cookie", "api-key", "ocp-apim-subscription-key", "x-forwarded-for", "x-ms-invocation-id"}
    assert ("Authorization", "Bearer") in received or ("authorization", "Bearer") in received


def test_useful_headers_of_the_caller_pass(gateway: System) -> None:
    given = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "x-ms-client-request-id": "mine"}
    answer = gateway.post("/v1/chat/completions", chat_body(), given)
    received = {name.lower(): value for name, value in gateway.simulator.last_headers()}
    if gateway.edge == "functions":  # the host puts its own span between
        given["traceparent"] = given["traceparent"].replace("b7ad6b7169203331", CLIENT_SPAN)
    assert {name: received[name] for name in given} == given
    assert answer.headers["x-ms-client-request-id"] == "mine"


def test_headers_of_the_backend_that_are_not_for_callers_stay_behind(gateway: System) -> None:
    leaky = {
        "set-cookie": "affinity=1",
        "x-ms-deployment-name": "gpt-4o-prod",
        "www-authenticate": "Bearer",
        "server": "secret-server",
        "x-gateway-backend": "forged",
    }
    body = {"object": "chat.completion", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    gateway.simulator.fault("status", status=200, headers=leaky, body=body, times=1)
    answer = gateway.chat()
    assert answer.status == 200
    assert json.loads(answer.body) == body
    assert not answer.headers.keys() & {"set-cookie", "x-ms-deployment-name", "www-authenticate"}
    assert answer.headers.get("server") != "secret-server"
    assert answer.headers["x-gateway-backend"] in ("sweden", "virginia", "japan")


def test_the_query_of_the_caller_passes_without_what_is_the_gateways(gateway: System) -> None:
    path = "/v1/chat/completions?api-version=preview&systemId=shop"
    answer = gateway.post(path, chat_body())
    assert answer.status == 200
    assert gateway.simulator.log()["requests"][0]["path"] == "/openai/v1/chat/completions"
