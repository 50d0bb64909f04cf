"""The head of a request means the same on both edges."""

import socket

import pytest

from shared.azure_openai.operations import match
from shared.errors import InvalidRequest
from shared.requests.head import headers_of, path_of
from tests.harness.system import System, chat_body


@pytest.mark.parametrize(
    ("raw", "decoded", "expected"),
    [
        (b"/v1/models", "/v1/models", "/v1/models"),
        (b"/v1/a%20b", "/v1/a b", "/v1/a b"),
        (b"/v1/models/meta%2Fllama", "/v1/models/meta/llama", "/v1/models/meta%2Fllama"),
        (b"/v1/models/meta%2fllama%20x", "/v1/models/meta/llama x", "/v1/models/meta%2Fllama x"),
        (b"/v1/models/meta%252Fllama", "/v1/models/meta%2Fllama", "/v1/models/meta%2Fllama"),  # the host's spelling
    ],
)
def test_an_encoded_slash_separates_nothing(raw: bytes, decoded: str, expected: str) -> None:
    assert path_of({"path": decoded, "raw_path": raw}) == expected


@pytest.mark.parametrize(
    "path", ["/openai/deployments/meta%2Fllama/chat/completions", "/gateway/chat/completions/meta%2fllama"]
)
def test_an_encoded_slash_is_part_of_a_models_name(path: str) -> None:
    assert match("POST", path).model == "meta/llama"


@pytest.mark.parametrize(
    ("headers", "name", "value"),
    [
        ([("authorization", "Bearer tg_a"), ("authorization", "Bearer tg_a")], "authorization", "Bearer tg_a"),
        ([("authorization", "Bearer tg_a, Bearer tg_a")], "authorization", "Bearer tg_a"),
        ([("authorization", "Bearer a, secret")], "authorization", "Bearer a, secret"),
        ([("api-key", "tg_a"), ("api-key", "tg_a")], "api-key", "tg_a"),
        (
            [("content-type", "application/json"), ("content-type", "application/json")],
            "content-type",
            "application/json",
        ),
        (
            [("content-type", 'multipart/form-data; boundary="a,b"')],
            "content-type",
            'multipart/form-data; boundary="a,b"',
        ),
        ([("x-other", "a"), ("x-other", "b")], "x-other", "a, b"),
    ],
)
def test_a_header_that_comes_twice_is_one(headers: list[tuple[str, str]], name: str, value: str) -> None:
    assert headers_of([(n.encode(), v.encode()) for n, v in headers])[name] == value


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("authorization", "Bearer tg_a", "Bearer tg_b"),
        ("api-key", "tg_a", "tg_b"),
        ("content-type", "application/json", "multipart/form-data; boundary=x"),
    ],
)
def test_two_different_values_of_a_single_header_are_refused(name: str, first: str, second: str) -> None:
    twice = [(name.encode(), first.encode()), (name.encode(), second.encode())]
    for headers in (twice, [(name.encode(), f"{first}, {second}".encode())]):
        with pytest.raises(InvalidRequest, match=name):
            headers_of(headers)


def test_both_edges_read_a_key_that_is_sent_twice(gateway: System) -> None:
    for keys, status in (((gateway.key, gateway.key), 200), ((gateway.key, "tg_other"), 400)):
        lines = b"".join(b"authorization: Bearer %s\r\n" % key.encode() for key in keys)
        answer = raw(gateway, b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + lines + b"\r\n")
        assert int(answer.split(b" ", 2)[1]) == status


@pytest.mark.parametrize(
    ("path", "code"), [("/v1/models/meta%2Fllama", "model_not_found"), ("/v1/files/a%2Fb", "unknown_path")]
)
def test_both_edges_read_an_encoded_slash(gateway: System, path: str, code: str) -> None:
    answer = gateway.get(path, gateway.key)
    assert (answer.status, answer.error()["code"]) == (404, code)


def test_an_encoded_slash_in_an_operation_is_no_path_on_either_edge(gateway: System) -> None:
    answer = gateway.post("/v1/chat%2Fcompletions", chat_body())
    assert (answer.status, answer.error()["code"]) == (404, "unknown_path")


def raw(system: System, data: bytes) -> bytes:
    with socket.create_connection(system.gateway.address, timeout=10) as connection:
        connection.sendall(data)
        received = b""
        while piece := connection.recv(65_536):
            received += piece
    return received
