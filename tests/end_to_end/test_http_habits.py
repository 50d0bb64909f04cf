"""HTTP as callers of many kinds speak it: compressed bodies, odd paths, other methods, browsers; and ids of answers."""

import gzip
import json
import socket
import zlib
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.gateway_process import Answer, Edge, cli
from tests.harness.system import System, chat_body, configuration
from tests.harness.system import system as start_system

CHAT = "/v1/chat/completions"
DATED = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
ORIGIN = "https://app.contoso.com"


def as_json(**fields: Any) -> bytes:
    return json.dumps(chat_body() | fields).encode()


def form(model: str) -> tuple[bytes, dict[str, str]]:
    """A multipart body with a sound, and its headers."""
    parts = (
        f'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\n{model}\r\n'
        '--x\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\ncontent-type: audio/wav\r\n\r\n'
    )
    sound = b"RIFF\x24\x08\x00\x00WAVE" + bytes(2000)
    return parts.encode() + sound + b"\r\n--x--\r\n", {"content-type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
@pytest.mark.parametrize("path", [CHAT, DATED])
def test_a_compressed_body_is_served(gateway: System, path: str, coding: str, compress: Any) -> None:
    body = as_json()
    answer = gateway.post(path, compress(body), {"content-encoding": coding})
    assert answer.status == 200, answer.body
    assert json.loads(gateway.simulator.last_body())["messages"] == chat_body()["messages"]
    assert "content-encoding" not in {name.lower() for name, _ in gateway.simulator.last_headers()}


def test_a_compressed_upload_is_served(gateway: System) -> None:
    body, headers = form("whisper")
    plain = gateway.post("/v1/audio/transcriptions", body, headers)
    packed = gateway.post("/v1/audio/transcriptions", gzip.compress(body), headers | {"content-encoding": "gzip"})
    assert (plain.status, packed.status) == (200, 200), packed.body
    assert packed.json()["text"] == plain.json()["text"]


@pytest.mark.parametrize("coding", ["br", "zstd"])
def test_another_encoding_is_refused_by_its_name(gateway: System, coding: str) -> None:
    for path, body, headers in ((CHAT, as_json(), {}), ("/v1/audio/transcriptions", *form("whisper"))):
        answer = gateway.post(path, body, headers | {"content-encoding": coding})
        assert (answer.status, answer.error()["code"]) == (415, "unsupported_encoding")
        assert coding in answer.error()["message"]
        assert answer.headers["accept-encoding"] == "gzip, deflate"
    assert gateway.simulator.log()["requests"] == []


def test_the_bounds_of_a_body_hold_for_what_it_unpacks_to(gateway: System) -> None:
    bomb = gzip.compress(b'{"model": "gpt-4o", "messages": [], "x": "' + b" " * 40_000_000 + b'"}')
    assert len(bomb) < 100_000
    answer = gateway.post(CHAT, bomb, {"content-encoding": "gzip"})
    assert (answer.status, answer.error()["code"]) == (413, "request_too_large")


def test_a_body_that_is_not_what_its_encoding_says_is_a_bad_request(gateway: System) -> None:
    answer = gateway.post(CHAT, as_json(), {"content-encoding": "gzip"})
    assert (answer.status, answer.error()["code"]) == (400, "invalid_request")
    assert "gzip" in answer.error()["message"]


@pytest.mark.parametrize("path", [CHAT, DATED])
def test_a_byte_order_mark_and_integers_with_a_point_are_accepted(gateway: System, path: str) -> None:
    assert gateway.post(path, b"\xef\xbb\xbf" + as_json()).status == 200
    assert gateway.post(path, as_json(max_tokens=100.0)).status == 200
    assert json.loads(gateway.simulator.last_body())["max_tokens"] == 100
    assert b"100.0" not in gateway.simulator.last_body()
    refused = gateway.post(path, as_json(max_tokens=100.5))
    assert (refused.status, refused.error()["param"]) == (400, "max_tokens")


@pytest.mark.parametrize("half", ["\\ud83d", "\\ude00", "\\uD83Dx", "\\\\\\ud83d and more"])
def test_half_a_character_is_named_as_such(gateway: System, half: str) -> None:
    body = as_json().replace(b"Hello", half.encode())
    assert half.encode() in body
    answer = gateway.post(CHAT, body)
    assert (answer.status, answer.error()["code"]) == (400, "invalid_request")
    assert "lone surrogate" in answer.error()["message"]
    assert half.strip("\\x")[:5].lower() in answer.error()["message"].lower()


def test_an_escaped_pair_and_an_escaped_backslash_are_characters(gateway: System) -> None:
    for text in ("\\ud83d\\ude00", "\\\\ud83d"):
        assert gateway.post(CHAT, as_json().replace(b"Hello", text.encode())).status == 200


@pytest.mark.parametrize("body", [b"{}", b"null", b" {} \n", b"\xef\xbb\xbf{}"])
def test_an_empty_body_is_ignored_where_none_is_expected(gateway: System, body: bytes) -> None:
    """Clients in Go and Java send one with GET and DELETE."""
    head = {"authorization": f"Bearer {gateway.key}", "content-type": "application/json"}
    assert gateway.gateway.request("GET", "/v1/models", body, head).status == 200
    missing = gateway.gateway.request("DELETE", "/v1/files/file-doesnotexist", body, head)
    assert (missing.status, missing.error()["code"]) == (404, "not_found")
    assert gateway.gateway.request("GET", "/v1/models", b'{"a": 1}', head).status == 400


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/gpt-4o", "/healthz", "/v1/nothing"])
def test_head_answers_as_get_does_without_the_body(gateway: System, path: str) -> None:
    key = {"authorization": f"Bearer {gateway.key}"}
    got, head = (gateway.gateway.request(method, path, None, key) for method in ("GET", "HEAD"))
    assert (head.status, head.body) == (got.status, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    wrong = gateway.gateway.request("PUT", "/v1/models", None, key)
    assert (wrong.status, wrong.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "path",
    [
        "/OpenAI/Deployments/gpt-4o/Chat/Completions?Api-Version=2024-10-21",
        "/openai/deployments/gpt-4o/chat/completions?API-VERSION=2024-10-21&api-version=2024-10-21",
        "/OPENAI/V1/CHAT/COMPLETIONS",
        "/V1/chat/Completions",
    ],
)
def test_paths_and_names_in_the_query_have_any_case(gateway: System, path: str) -> None:
    assert gateway.post(path, chat_body()).status == 200
    (request,) = gateway.simulator.log()["requests"]
    assert request["path"].endswith("/chat/completions")
    assert request["path"].islower()


def test_two_versions_of_the_api_are_a_bad_request(gateway: System) -> None:
    answer = gateway.post(DATED + "&API-Version=2025-01-01", chat_body())
    assert (answer.status, answer.error()["param"]) == (400, "api-version")
    assert gateway.simulator.log()["requests"] == []


def test_empty_segments_of_a_path_are_left_out(gateway: System) -> None:
    """`https://gateway/` as an endpoint gives `//openai/…` in some clients. The Functions host answers such paths."""
    if gateway.edge == "functions":
        return
    for path in ("/" + DATED, "//v1//chat/completions", "/v1/chat/completions//"):
        assert gateway.post(path, chat_body()).status == 200, path
    assert gateway.gateway.request("GET", "//healthz").status == 200


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/models/chat/completions?api-version=2024-05-01-preview", "/v1/chat/completions"),
        ("/api/projects/mine/openai/v1/responses", "/v1/responses"),
    ],
)
def test_the_refusal_of_a_related_api_names_the_path_to_use(gateway: System, path: str, hint: str) -> None:
    """Whatever the key: these clients send it in headers of their own."""
    for headers in ({"x-api-key": gateway.key}, {"authorization": f"Bearer {gateway.key}"}, {}):
        answer = gateway.gateway.request("POST", path, b"{}", headers)
        assert (answer.status, answer.error()["code"]) == (404, "unknown_path")
        assert hint in answer.error()["message"]


def test_a_request_without_a_key_is_told_the_headers_for_it(gateway: System) -> None:
    answer = gateway.gateway.request("POST", CHAT, b"{}", {"x-other-key": gateway.key})
    assert (answer.status, answer.error()["code"]) == (401, "invalid_api_key")
    assert "x-api-key" in answer.error()["message"]
    assert gateway.key not in answer.body.decode()


def assert_identified(answer: Answer) -> str:
    request_id = answer.headers["x-gateway-request-id"]
    assert answer.headers["x-request-id"]
    assert answer.headers["apim-request-id"]
    return request_id


def test_every_answer_has_the_ids_that_azures_have(gateway: System) -> None:
    own = {"x-ms-client-request-id": "my-own-id"}
    key = {"authorization": f"Bearer {gateway.key}"}
    answers = [
        gateway.post(CHAT, chat_body(), own),
        gateway.post(CHAT, b"{", own),
        gateway.post(CHAT, chat_body("gpt-nothing"), own),
        gateway.gateway.request("GET", "/v1/models", None, key | own),
        gateway.gateway.request("GET", "/nothing", None, own),
        gateway.gateway.request("GET", "/healthz", None, own),
        gateway.gateway.request("GET", "/gateway/limits", None, own),
    ]
    for answer in answers:
        request_id = assert_identified(answer)
        assert answer.headers["x-ms-client-request-id"] == "my-own-id"
        if answer.status >= 400:
            assert answer.headers["x-request-id"] == answer.headers["apim-request-id"] == request_id
            assert answer.error()["message"].endswith(f" (request {request_id})")
    assert [answer.status for answer in answers] == [200, 400, 404, 200, 401, 200, 401]


def test_a_browser_runs_nothing_of_an_answer_that_it_shows(gateway: System) -> None:
    """The page is on the same origin, and keeps what its user has signed in with."""
    key = {"authorization": f"Bearer {gateway.key}"}
    answers = [
        gateway.post(CHAT, chat_body()),
        gateway.post(CHAT, chat_body() | {"stream": True}),
        gateway.post(CHAT, b"{"),
        gateway.gateway.request("GET", "/v1/models", None, key),
        gateway.gateway.request("GET", "/nothing", None),
        gateway.gateway.request("GET", "/gateway/limits", None),
    ]
    assert [answer.status for answer in answers] == [200, 200, 400, 200, 401, 401]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    page = gateway.get("/gateway/")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" not in page.headers["content-security-policy"]


def test_the_official_client_shows_the_id(gateway: System) -> None:
    with gateway.openai() as client, pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(**chat_body("gpt-nothing"))
    assert refused.value.request_id
    assert refused.value.request_id in str(refused.value)


def test_the_log_line_of_a_refusal_names_consumer_and_model(gateway: System) -> None:
    limited = gateway.make_key("narrow", models=["gpt-4o-mini"])
    answer = gateway.post(CHAT, chat_body("gpt-4o"), key=limited)
    assert answer.status == 403
    line = gateway.gateway.record(answer.headers["x-gateway-request-id"])
    assert (line["consumer"], line["model"], line["code"]) == (limited.split("_")[1], "gpt-4o", "model_not_allowed")


def exchange(system: System, request: bytes) -> tuple[bytes, bytes]:
    """Send these bytes; the head and the rest of what comes until the connection ends."""
    with socket.create_connection(system.gateway.address, timeout=15) as connection:
        connection.sendall(request)
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
    head, _, rest = received.partition(b"\r\n\r\n")
    return head, rest


def head_of(key: str, *lines: str, version: str = "1.1") -> bytes:
    common = ("host: x", "connection: close", f"authorization: Bearer {key}", "content-type: application/json")
    return "\r\n".join([f"POST {CHAT} HTTP/{version}", *common, *lines, "", ""]).encode()


@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "api-key"])
def test_what_a_caller_writes_in_a_trailer_or_a_header_is_not_its_address(gateway: System, name: str) -> None:
    plant = f"plant of {gateway.edge} for {name}"
    made = cli(gateway.gateway.environment, "keys", "create", plant, "--addresses", "10.0.0.0/8", "--json")
    body = as_json()
    chunk = b"%x\r\n%s\r\n0\r\n" % (len(body), body)
    trailer = f"{name}: 10.0.0.1\r\n\r\n".encode()
    in_trailer = head_of(made["key"], "transfer-encoding: chunked", f"trailer: {name}") + chunk + trailer
    in_header = head_of(made["key"], f"{name}: 10.0.0.1", f"content-length: {len(body)}") + body
    if gateway.edge == "functions" and name == "X-Forwarded-For":
        return  # the host writes it, and the worker's server trusts entries of the loopback, where tests call from
    for request in (in_header, in_trailer):
        head, rest = exchange(gateway, request)
        assert head.startswith(b"HTTP/1.1 403 "), head
        assert b"address_not_allowed" in rest
    open_to_all, rest = exchange(gateway, in_trailer.replace(made["key"].encode(), gateway.key.encode()))
    assert open_to_all.startswith(b"HTTP/1.1 200 "), rest


def test_a_stream_for_http_1_0_ends_with_the_connection_and_has_no_chunks(gateway: System) -> None:
    if gateway.edge == "functions":  # whose host serves such callers itself
        return
    body = as_json(stream=True)
    head, rest = exchange(gateway, head_of(gateway.key, f"content-length: {len(body)}", version="1.0") + body)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"transfer-encoding" not in head.lower()
    events = rest.split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    assert all(event.startswith(b"data: ") for event in events[:-1])


def test_javas_offer_of_h2c_changes_nothing(gateway: System) -> None:
    if gateway.edge == "functions":  # whose host ignores such offers itself
        return
    body = as_json()
    offer = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAEAAEAA")
    request = head_of(gateway.key, *offer, f"content-length: {len(body)}").replace(b"connection: close\r\n", b"") + body
    last = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    head, rest = exchange(gateway, request + last)
    assert head.startswith(b"HTTP/1.1 200 "), rest
    assert b'"object":"chat.completion"' in rest
    assert b'{"status":"ok"}' in rest


@pytest.fixture(scope="module")
def open_to_browsers(edge: Edge, azurite: Azurite, simulator: SimulatorProcess) -> Iterator[System]:
    """A gateway that pages of one origin may call."""
    settings = configuration(simulator, cors={"origins": [ORIGIN]})
    with start_system(edge, settings, simulator, azurite.connection_string) as running:
        yield running


PREFLIGHT = {
    "origin": ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-lang",
}


def test_a_page_of_a_configured_origin_may_call(open_to_browsers: System) -> None:
    gateway = open_to_browsers.gateway
    permission = gateway.request("OPTIONS", CHAT, None, PREFLIGHT)
    assert (permission.status, permission.body) == (204, b"")
    assert permission.headers["access-control-allow-origin"] == ORIGIN
    assert permission.headers["access-control-allow-headers"] == PREFLIGHT["access-control-request-headers"]
    assert "POST" in permission.headers["access-control-allow-methods"].split(", ")
    answers = [
        open_to_browsers.post(CHAT, chat_body(), {"origin": ORIGIN}),
        open_to_browsers.post(CHAT, chat_body(stream=True), {"origin": ORIGIN}),
        gateway.request("POST", CHAT, b"{}", {"origin": ORIGIN}),
    ]
    assert [answer.status for answer in answers] == [200, 200, 401]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "origin" in answer.headers["vary"].lower()
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        assert {name for name in answer.headers if name.startswith("x-")} <= set(exposed)
        assert {"x-gateway-request-id", "x-request-id"} <= set(exposed)
    assert "x-gateway-backend" in answers[0].headers["access-control-expose-headers"]


def test_a_page_of_another_origin_may_not(open_to_browsers: System) -> None:
    other = {"origin": "https://evil.example"}
    refused = open_to_browsers.gateway.request("OPTIONS", CHAT, None, PREFLIGHT | other)
    answer = open_to_browsers.post(CHAT, chat_body(), other)
    assert (refused.status, answer.status) == (401, 200)
    for one in (refused, answer):
        assert not [name for name in one.headers if name.startswith("access-control-")]


def test_without_origins_no_page_may_call(gateway: System) -> None:
    refused = gateway.gateway.request("OPTIONS", CHAT, None, PREFLIGHT)
    answer = gateway.post(CHAT, chat_body(), {"origin": ORIGIN})
    assert (refused.status, answer.status) == (401, 200)
    for one in (refused, answer):
        assert not [name for name in one.headers if name.startswith("access-control-")]
