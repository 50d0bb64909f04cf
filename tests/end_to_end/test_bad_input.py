"""Requests that are wrong are refused in OpenAI's shape, at once, without a traceback and without asking a backend."""

import json
import socket
from collections.abc import Callable
from typing import Any

import openai
import pytest

from shared.auth import keys
from shared.auth.authenticator import Authenticator
from shared.auth.consumers import Consumers
from shared.config.limits import Limits
from shared.errors import InvalidApiKey
from tests.harness.consumer_changes import change
from tests.harness.consumers import create_consumer
from tests.harness.gateway_process import Answer, cli
from tests.harness.memory_store import MemoryStore
from tests.harness.system import System, chat_body

CHAT = "/v1/chat/completions"
DATED = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
IN_PATH = "/gateway/chat/completions/gpt-4o"


def assert_refused(system: System, answer: Answer, status: int, code: str, param: str | None = None) -> None:
    """OpenAI's shape with this status and code, traceable, and no backend was asked."""
    error = answer.error()
    assert (answer.status, error["code"], error["param"]) == (status, code, param), answer.body
    assert answer.headers["x-gateway-request-id"]
    assert system.simulator.log()["requests"] == []
    system.no_invocation_is_left()


def assert_refused_by_the_host(system: System, answer: Answer, status: int) -> None:
    """The Functions host answered by itself, with nothing but a status, and no invocation is left."""
    assert (answer.status, answer.body) == (status, b"")
    assert system.simulator.log()["requests"] == []
    system.no_invocation_is_left()


def as_it_is(key: str) -> str:
    return key


WRONG_KEYS: dict[str, Callable[[str], str]] = {
    "unknown consumer": lambda _: keys.make("0000000000")[0],
    "unknown key of a known consumer": lambda key: keys.make(key.split("_")[1])[0],
    "mistyped": lambda key: key[:20] + ("a" if key[20] != "a" else "b") + key[21:],
    "cut short": lambda key: key[:-1],
    "too long": lambda key: key + "x",
    "another gateway's": lambda _: "sk-proj-0123456789abcdefghijklmnopqrstuvwxyz",
    "Azure's": lambda _: "0123456789abcdef0123456789abcdef",
    "a token": lambda _: "eyJhbGciOiJub25lIn0.e30.",
    "very long": lambda _: "tg_" + "x" * 20_000,
    "punctuation": lambda _: "';drop table--/\\#?%00",
}


@pytest.mark.parametrize("wrong", WRONG_KEYS)
def test_a_key_that_is_none_is_unauthorised(gateway: System, wrong: str) -> None:
    text = WRONG_KEYS[wrong](gateway.key)
    answer = gateway.post(CHAT, chat_body(), key=text)
    assert_refused(gateway, answer, 401, "invalid_api_key")
    assert text not in answer.body.decode()
    assert text not in gateway.gateway.logs()
    if len(text) < 100:
        with gateway.openai(text) as client, pytest.raises(openai.AuthenticationError) as refused:
            client.models.list()
        assert refused.value.code == "invalid_api_key"
        with gateway.azure(text) as azure, pytest.raises(openai.AuthenticationError):
            azure.chat.completions.create(**chat_body())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Basic dXNlcjpwYXNz"},
        {"authorization": "tg_"},
        {"api-key": ""},
        {"ocp-apim-subscription-key": ";product=x"},
    ],
)
@pytest.mark.parametrize("path", [CHAT, DATED, IN_PATH, "/v1/models", "/nowhere", "/"])
def test_without_a_key_every_path_is_unauthorised(gateway: System, headers: dict[str, str], path: str) -> None:
    method = "GET" if path in ("/v1/models", "/nowhere", "/") else "POST"
    answer = gateway.gateway.request(method, path, b"{}" if method == "POST" else None, headers)
    assert_refused(gateway, answer, 401, "invalid_api_key")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_an_expired_key_is_unauthorised(gateway: System) -> None:
    expired = gateway.make_key("expired", expires=1.0)
    assert_refused(gateway, gateway.post(CHAT, chat_body(), key=expired), 401, "invalid_api_key")


def test_a_key_that_was_revoked_before_its_first_use_is_unauthorised(gateway: System) -> None:
    key = gateway.make_key("revoked")
    assert cli(gateway.gateway.environment, "keys", "revoke", key.split("_")[1], "--json")["revoked"]
    answer = gateway.post(CHAT, chat_body(), key=key)
    assert_refused(gateway, answer, 401, "invalid_api_key")


async def test_a_key_in_use_ends_within_60_seconds_of_its_revocation() -> None:
    clock = [1000.0]
    store = MemoryStore()
    consumers = Consumers(store)
    _, text = await create_consumer(consumers, "shop", models=None, limits=Limits())
    authenticator = Authenticator(consumers, store.now, lambda: clock[0])
    headers = {"authorization": f"Bearer {text}"}
    assert (await authenticator.authenticate(headers)).name == "shop"
    clock[0] += 25  # in the middle of what is known
    await change(consumers, text.split("_")[1], revoked=store.now())
    clock[0] += 60
    with pytest.raises(InvalidApiKey):
        await authenticator.authenticate(headers)


DEEP = 100_000
BODIES: dict[str, tuple[bytes, str, str | None]] = {
    "empty": (b"", "invalid_request", None),
    "blank": (b"  \n", "invalid_request", None),
    "not JSON": (b"model=gpt-4o", "invalid_request", None),
    "cut short": (b'{"model": "gpt-4o", "messages": [', "invalid_request", None),
    "two documents": (b'{"model": "gpt-4o"}{"model": "gpt-4o"}', "invalid_request", None),
    "model not UTF-8": (b'{"model": "\xff\xfe"}', "invalid_request", "model"),
    "UTF-16": ('{"model": "gpt-4o"}'.encode("utf-16"), "invalid_request", None),
    "NUL": (b"\x00" * 100, "invalid_request", None),
    "NaN": (b'{"model": "gpt-4o", "temperature": NaN}', "invalid_request", None),
    "a list": (b'[{"model": "gpt-4o"}]', "invalid_request", None),
    "a string": (b'"gpt-4o"', "invalid_request", None),
    "null": (b"null", "invalid_request", None),
    "a number": (b"12", "invalid_request", None),
    "no model": (b'{"messages": []}', "missing_model", "model"),
    "an empty object": (b"{}", "missing_model", "model"),
    "model null": (b'{"model": null, "messages": []}', "missing_model", "model"),
    "model empty": (b'{"model": "", "messages": []}', "missing_model", "model"),
    "model a number": (b'{"model": 4, "messages": []}', "invalid_request", "model"),
    "model a list": (b'{"model": ["gpt-4o"], "messages": []}', "invalid_request", "model"),
    "model an object": (b'{"model": {"id": "gpt-4o"}, "messages": []}', "invalid_request", "model"),
    "stream a string": (b'{"model": "gpt-4o", "messages": [], "stream": "yes"}', "invalid_request", "stream"),
    "stream a number": (b'{"model": "gpt-4o", "messages": [], "stream": 1}', "invalid_request", "stream"),
    "stream_options a string": (
        b'{"model": "gpt-4o", "messages": [], "stream": true, "stream_options": "usage"}',
        "invalid_request",
        "stream_options",
    ),
    "max_tokens a string": (b'{"model": "gpt-4o", "messages": [], "max_tokens": "9"}', "invalid_request", "max_tokens"),
    "deep list": (
        b'{"model": "gpt-4o", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "invalid_request",
        None,
    ),
    "thousands of digits": (
        b'{"model": "gpt-4o", "messages": [], "file_id": "file-1", "n": ' + b"9" * 5000 + b"}",
        "invalid_request",
        None,
    ),
    "deep object": (b'{"a":' * DEEP + b"1" + b"}" * DEEP, "invalid_request", None),
    "deep and open": (b"[" * DEEP, "invalid_request", None),
}


@pytest.mark.parametrize("body", BODIES)
def test_a_body_that_makes_no_call_is_a_bad_request(gateway: System, body: str) -> None:
    data, code, param = BODIES[body]
    assert_refused(gateway, gateway.post(CHAT, data), 400, code, param)


def test_an_idempotency_key_is_the_callers_own_at_the_backend(gateway: System) -> None:
    other = gateway.make_key("another")
    for key in (gateway.key, other):
        assert gateway.post(CHAT, chat_body(), {"idempotency-key": "order-1"}, key=key).status == 200
        sent = dict(gateway.simulator.last_headers())
        assert sent["idempotency-key"] == f"{key.split('_')[1]}:order-1"


@pytest.mark.parametrize("session", [b"hello", b"", b"[" * 10_000, b' {"model": "gpt-4o"}'])
def test_a_form_of_realtime_whose_session_is_none_or_names_another_model_is_a_bad_request(
    gateway: System, session: bytes
) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    form = part % (b"sdp", b"v=0\r\n") + part % (b"session", session) + b"--x--\r\n"
    kind = {"content-type": "multipart/form-data; boundary=x"}
    answer = gateway.post("/v1/realtime/calls?model=gpt-realtime", form, kind)
    assert_refused(gateway, answer, 400, "invalid_request", answer.error()["param"])


@pytest.mark.parametrize("body", ["empty", "not JSON", "a list", "deep list", "stream a string"])
@pytest.mark.parametrize("path", [DATED, IN_PATH, "/openai/v1/chat/completions"])
def test_it_is_one_on_every_surface(gateway: System, path: str, body: str) -> None:
    data, code, param = BODIES[body]
    assert_refused(gateway, gateway.post(path, data), 400, code, param)


@pytest.mark.parametrize(
    "repeated",
    [
        b'{"model": "gpt-4o", "messages": [], "model": "gpt-4o-mini"}',
        b'{"model": "o4-mini", "messages": [], "model": "gpt-4o-mini"}',
        b'{"model": "gpt-4o-mini", "messages": [], "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "gpt-4o", "messages": [], "max_tokens": 1, "max_tokens": 100000}',
        b'{"model": "gpt-4o-mini", "messages": [], "stream": false, "stream": true}',
        b'{"model": "gpt-4o", "messages": [], "\\u006dodel": "gpt-4o"}',
    ],
)
@pytest.mark.parametrize("path", [CHAT, DATED])
def test_a_key_that_stands_twice_is_refused_because_two_readers_may_see_two_requests(
    gateway: System, repeated: bytes, path: str
) -> None:
    assert_refused(gateway, gateway.post(path, repeated), 400, "invalid_request")


def test_a_body_that_is_no_utf_8_text_is_a_bad_request_whoever_says_so(gateway: System) -> None:
    answer = gateway.post(CHAT, b'{"model": "gpt-4o", "messages": [], "user": "\xff\xfe"}')
    assert answer.status == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_the_client_raises_bad_request_for_what_is_missing(gateway: System) -> None:
    with gateway.openai() as client, pytest.raises(openai.BadRequestError) as refused:
        client.post("/chat/completions", body={"messages": []}, cast_to=object)
    assert refused.value.code == "missing_model"
    assert refused.value.type == "invalid_request_error"


@pytest.mark.parametrize("model", ["gpt-2", "GPT-4O", "gpt-4o ", "gpt-4o-prod", "../gpt-4o", "é", "x" * 5000])
def test_a_model_that_does_not_exist_is_not_found(gateway: System, model: str) -> None:
    assert_refused(gateway, gateway.chat(model), 404, "model_not_found", "model")
    with gateway.openai() as client, pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**chat_body(model))


def test_a_model_that_the_key_may_not_use_is_forbidden_on_every_surface(gateway: System) -> None:
    key = gateway.make_key("one model", models=["gpt-4o-mini"])
    for path in (CHAT, DATED, IN_PATH):
        answer = gateway.post(path, chat_body("gpt-4o"), key=key)
        assert_refused(gateway, answer, 403, "model_not_allowed", "model")


OF_THE_HOST = {"//v1/chat/completions": 404, "/v1/chat/completions%00": 400}


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v1/chat",
        "/v1/chat/completions/extra/more",
        "/v2/chat/completions",
        "/v1/audio",
        "/openai/deployments/gpt-4o",
        "/openai/deployments/gpt-4o/files?api-version=2024-10-21",
        "/gateway/chat/completions",
        "/v1/../v1/chat/completions",
        "/v1/chat%2Fcompletions",
        "/v1/chat/completions%00",
        "/" + "a" * 4000,
    ],
)
def test_an_unknown_path_is_not_found(gateway: System, path: str) -> None:
    answer = gateway.post(path, chat_body())
    if gateway.edge == "functions" and path in OF_THE_HOST:
        assert_refused_by_the_host(gateway, answer, OF_THE_HOST[path])
    elif gateway.edge == "functions" and "/../" in path:  # which the host resolves
        assert answer.status == 200
    else:
        assert_refused(gateway, answer, 404, "unknown_path")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_a_method_that_the_path_does_not_have_is_refused(gateway: System, method: str) -> None:
    headers = {"authorization": f"Bearer {gateway.key}"}
    answer = gateway.gateway.request(method, CHAT, None, headers)
    assert (answer.status, answer.headers["allow"]) == (405, "POST, GET, HEAD")
    assert_refused(gateway, answer, 405, "method_not_allowed")
    answer = gateway.post("/v1/models", {})
    assert_refused(gateway, answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD"


def test_a_dated_path_without_a_version_is_a_bad_request(gateway: System) -> None:
    answer = gateway.post("/openai/deployments/gpt-4o/chat/completions", chat_body())
    assert_refused(gateway, answer, 400, "invalid_request", "api-version")


@pytest.mark.parametrize("system", ["x" * 65, "a\tb", "né", "<script>", "a;b", " "])
def test_a_calling_system_with_an_odd_name_is_a_bad_request(gateway: System, system: str) -> None:
    answer = gateway.gateway.request(
        "POST", CHAT, b"{}", {"authorization": f"Bearer {gateway.key}", "systemid": system.encode().decode("latin-1")}
    )
    if gateway.edge == "functions" and not system.isascii():  # which the host does not forward
        assert_refused_by_the_host(gateway, answer, 500)
    elif system.strip():
        assert_refused(gateway, answer, 400, "invalid_request", "systemId")


def exchange(system: System, request: bytes) -> Answer:
    """Send these bytes and read the answer until the connection ends."""
    with socket.create_connection(system.gateway.address, timeout=15) as connection:
        connection.sendall(request)
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(status.split()[1]), headers, body)


@pytest.mark.parametrize(
    "line",
    [
        b"x-name: J\xfcrgen",
        b"x-name: \xff\xfe\xfd",
        b"x-ms-name: \xc3\xa9\xf0\x9f\x98\x80",
        b"traceparent: \xff",
        b"content-type: application/json; charset=\xe9",
        b"user-agent: \xe4\xb8\xad",
    ],
)
def test_a_header_with_other_bytes_than_ascii_does_no_harm(gateway: System, line: bytes) -> None:
    body = json.dumps(chat_body()).encode()
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer %s\r\n%s\r\n"
        b"content-length: %d\r\n\r\n%s" % (gateway.key.encode(), line, len(body), body)
    )
    answer = exchange(gateway, request)
    if gateway.edge == "functions":  # the host refuses what is not UTF-8, and does not forward what is not ASCII
        assert_refused_by_the_host(gateway, answer, 500 if is_utf8(line) else 400)
    else:
        assert answer.status == 200, answer.body


def is_utf8(line: bytes) -> bool:
    return "\ufffd" not in line.decode(errors="replace")


@pytest.mark.parametrize("line", [b"authorization: Bearer tg_\xff\xfe", b"api-key: \xe9\xe9", b"authorization: \xff"])
def test_a_key_with_other_bytes_than_ascii_is_unauthorised(gateway: System, line: bytes) -> None:
    request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n%s\r\ncontent-length: 2\r\n\r\n{}"
    answer = exchange(gateway, request % line)
    if gateway.edge == "functions":
        assert_refused_by_the_host(gateway, answer, 400)
    else:
        assert_refused(gateway, answer, 401, "invalid_api_key")


def test_20_megabytes_of_json_are_served(gateway: System) -> None:
    body = chat_body(metadata={"padding": "x" * 20_000_000})
    answer = gateway.post(CHAT, body)
    assert answer.status == 200
    assert gateway.simulator.log()["requests"][0]["body_bytes"] > 20_000_000


def test_20_megabytes_that_are_no_json_are_a_bad_request(gateway: System) -> None:
    body = b'{"model": "gpt-4o", "messages": [' + b'"x",' * 5_000_000
    assert_refused(gateway, gateway.post(CHAT, body), 400, "invalid_request")


def test_a_body_over_the_limit_is_too_large(impatient: System) -> None:
    body = chat_body(metadata={"padding": "x" * 2_000_000})
    assert_refused(impatient, impatient.post(CHAT, body), 413, "request_too_large")
    with impatient.openai() as client, pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(**chat_body(extra_body=body))
    assert (refused.value.status_code, refused.value.code) == (413, "request_too_large")


def test_a_body_over_the_limit_that_does_not_tell_its_length_is_too_large(impatient: System) -> None:
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer %s\r\n"
        b"transfer-encoding: chunked\r\n\r\n" % impatient.key.encode()
    )
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    answer = exchange(impatient, head + chunk * 17 + b"0\r\n\r\n")
    assert_refused(impatient, answer, 413, "request_too_large")


def test_a_huge_body_is_refused_before_it_is_sent(gateway: System) -> None:
    """By its length alone: a caller who waits for `100 Continue` never sends it."""
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer %s\r\n"
        b"expect: 100-continue\r\ncontent-length: 99999999999\r\n\r\n" % gateway.key.encode()
    )
    answer = exchange(gateway, head)
    if gateway.edge == "functions":
        assert_refused_by_the_host(gateway, answer, 500)
    else:
        assert_refused(gateway, answer, 413, "request_too_large")


def test_a_wrong_key_is_refused_before_its_body_is_read(gateway: System) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1000000\r\n\r\n{"
    answer = exchange(gateway, head)
    if gateway.edge == "functions":  # the host reads bodies with a length before anybody sees the key
        assert_refused_by_the_host(gateway, answer, 500)
    else:
        assert_refused(gateway, answer, 401, "invalid_api_key")


@pytest.mark.parametrize("length", ["-1", "abc", "1e3", "", "99999999999999999999999999999999999"])
def test_a_length_that_is_none_harms_nobody(gateway: System, length: str) -> None:
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        f"authorization: Bearer {gateway.key}\r\ncontent-length: {length}\r\n\r\n"
    )
    answer = exchange(gateway, head.encode())
    assert answer.status in (400, 413, 500)  # 500: the Functions host's word for a body over its limit
    assert gateway.chat().status == 200


def test_query_parameters_of_any_kind_do_no_harm(gateway: System) -> None:
    for query in ("?", "?%", "?a=%ff%fe", "?api-version=%00", "?" + "a=b&" * 500, "?systemId"):
        answer: Any = gateway.post(CHAT + query, chat_body())
        assert answer.status in (200, 400), query
        if answer.status == 400:
            assert answer.json()["error"]["message"]
