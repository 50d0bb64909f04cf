"""The emulated Functions host behaves as the real one was seen to behave; each test is named after one such point."""

import asyncio
import json
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.harness.functions_host_http import CLIENT_SPAN, HOST_SPAN
from tests.harness.functions_host_log import Log
from tests.harness.gateway_process import Answer, GatewayProcess
from tests.harness.system import eventually

# Microsoft's own web extension and coordinator. `?ticks=` streams for so many tenths of a second after the invocation.
APP = """
import asyncio, json, logging, os
import azure.functions as func
from azurefunctions.extensions.http.fastapi import Request, StreamingResponse
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
received = HttpToolsProtocol.data_received

def close_at_the_second(self, data):
    if getattr(self, "used", False):
        self.transport.abort()  # as a server that closes an idle connection at the moment when a request comes
    else:
        self.used = True
        received(self, data)

if "CLOSE_AT_THE_SECOND" in os.environ:
    HttpToolsProtocol.data_received = close_at_the_second

async def answer(seen, query):
    yield json.dumps(seen).encode() + b"\\n"
    for _ in range(int(query.get("ticks", 0))):
        await asyncio.sleep(0.1)
        yield b"tick\\n"
    await asyncio.sleep(float(query.get("pause", 0)))
    if "late" in query:
        logging.warning("a late line")
        print("a line on stderr", file=__import__("sys").stderr, flush=True)

@app.route(route="{*path}", methods=["GET", "POST"])
async def everything(req: Request) -> StreamingResponse:
    query = req.query_params
    if "crash" in query:
        os._exit(3)
    seen = {"path": req.scope["path"], "headers": req.headers.items(), "body": len(await req.body())}
    await asyncio.sleep(float(query.get("hold", 0)))
    if "early" in query:
        logging.warning("an early line")
    return StreamingResponse(answer(seen, query))
"""
SETTINGS = {"version": "2.0", "extensions": {"http": {"routePrefix": ""}}}


@contextmanager
def hosting(
    folder: Path, *options: str, app: str = APP, environment: dict[str, str] | None = None
) -> Iterator[GatewayProcess]:
    (folder / "function_app.py").write_text(app)
    (folder / "host.json").write_text(json.dumps(SETTINGS))
    command = ["-m", "tests.harness.functions_host", str(folder), *options]
    with GatewayProcess("functions", environment or {}, command=command, wait=False) as running:
        yield running


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A host with short times, for tests that leave no invocation behind."""
    environment = {"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": "100000", "AzureWebJobsDisableHomepage": "false"}
    with hosting(tmp_path_factory.mktemp("app"), "--silence", "1", environment=environment) as running:
        yield running
        eventually(lambda: running.invocations()["running"] == [])


def connect(host: GatewayProcess, data: bytes) -> socket.socket:
    connection = socket.create_connection(host.address, timeout=15)
    connection.sendall(data)
    return connection


def everything(connection: socket.socket) -> bytes:
    """The bytes that come until the connection ends."""
    received = bytearray()
    with connection:
        while data := connection.recv(65_536):
            received += data
    return bytes(received)


def raw(host: GatewayProcess, *lines: bytes, body: bytes = b"") -> bytes:
    return everything(connect(host, b"\r\n".join([*lines, b"", b""]) + body))


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def seen(answer: Answer) -> dict[str, Any]:
    """The request as the function saw it."""
    request: dict[str, Any] = json.loads(answer.body.partition(b"\n")[0])
    return request


def headers_of(answer: Answer) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for name, value in seen(answer)["headers"]:
        fields.setdefault(name, []).append(value)
    return fields


def lines(host: GatewayProcess, text: str) -> list[str]:
    return [line for line in host.logs().splitlines() if text in line]


def test_a_connection_to_the_worker_is_pooled_and_a_post_on_a_closed_one_cannot_be_repeated(tmp_path: Path) -> None:
    with hosting(tmp_path, environment={"CLOSE_AT_THE_SECOND": "1"}) as host:
        assert host.request("POST", "/first", b"x").status == 200
        assert host.request("GET", "/a-get-is-repeated").status == 200
        with connect(host, b"POST /lost HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx"):
            eventually(lambda: "closed the connection (POST /lost)" in host.logs())
            time.sleep(0.3)
            assert host.invocations()["running"] == ["POST /lost"]


def test_the_callers_own_invocation_id_is_kept(tmp_path: Path) -> None:
    with hosting(tmp_path) as host:
        own = b"POST /own HTTP/1.1\r\nhost: x\r\nx-ms-invocation-id: 0\r\ncontent-length: 1\r\n\r\nx"
        with connect(host, own):
            eventually(lambda: host.invocations()["running"] == ["POST /own"])


@pytest.mark.parametrize(
    ("value", "forwarded"), [("Zoë".encode(), False), (b"a\x01b", True)], ids=["beyond ASCII", "control byte"]
)
def test_a_header_that_http_forbids_leaves_its_invocation_waiting(
    tmp_path: Path, value: bytes, forwarded: bool
) -> None:
    with hosting(tmp_path) as host, connect(host, b"GET /x HTTP/1.1\r\nhost: x\r\nuser-agent: " + value + b"\r\n\r\n"):
        eventually(lambda: host.invocations()["running"] == ["GET /x"])
        if not forwarded:
            eventually(lambda: "beyond ASCII" in host.logs())
        time.sleep(0.3)
        assert host.invocations()["running"] == ["GET /x"]
        assert ("beyond ASCII" in host.logs()) != forwarded


def test_a_caller_that_leaves_early_leaves_its_invocation_waiting_until_the_host_kills_the_worker(
    tmp_path: Path,
) -> None:
    with hosting(tmp_path, "--lag", "0.2", "--function-timeout", "4") as host:
        connect(host, b"GET /left HTTP/1.1\r\nhost: x\r\n\r\n").close()
        eventually(lambda: host.invocations()["running"] == ["GET /left"])
        with connect(host, b"GET /stream?ticks=100 HTTP/1.1\r\nhost: x\r\n\r\n") as stream:
            assert stream.recv(12) == b"HTTP/1.1 200"
            with pytest.raises(ConnectionResetError):  # an honest stream is cut
                everything(stream)
        eventually(lambda: host.request("GET", "/again").status == 200)


def test_the_timeout_of_a_function_counts_the_time_of_its_stream(tmp_path: Path) -> None:
    with hosting(tmp_path, "--function-timeout", "4") as host:
        with connect(host, b"GET /stream?ticks=100 HTTP/1.1\r\nhost: x\r\n\r\n") as stream:
            assert stream.recv(12) == b"HTTP/1.1 200"
            with pytest.raises(ConnectionResetError):
                everything(stream)
        eventually(lambda: "functionTimeout exceeded: GET /stream?ticks=100" in host.logs())


def test_an_app_that_does_not_stream_answers_by_its_invocation(tmp_path: Path) -> None:
    app = """
import azure.functions as func
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
@app.route(route="{*path}")
async def everything(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse("of the worker", status_code=418, mimetype="text/tea")
"""
    with hosting(tmp_path, app=app) as host:
        answer = host.request("GET", "/")
        assert (answer.status, answer.headers["content-type"], answer.body) == (
            418,
            "text/tea; charset=utf-8",
            b"of the worker",
        )


def test_an_invocation_ends_with_its_answer(host: GatewayProcess) -> None:
    eventually(lambda: not host.invocations()["running"])
    before = host.invocations()["completed"]
    assert host.request("GET", "/").status == 200
    eventually(lambda: host.invocations() == {"running": [], "failed": [], "completed": before + 1})


def test_log_lines_outside_of_an_invocation_are_dropped(host: GatewayProcess) -> None:
    assert host.request("GET", "/?late=1&ticks=1").status == 200
    eventually(lambda: lines(host, "a late line") == ["[dropped] Warning root: a late line"])
    eventually(lambda: len(lines(host, "a line on stderr")) == 1)
    assert lines(host, "a line on stderr") == ["[console+otel] Information Host.Function.Console: a line on stderr"]


async def test_log_lines_go_to_the_invocation_that_was_started_last(tmp_path: Path) -> None:
    with hosting(tmp_path) as host:
        first = asyncio.create_task(asyncio.to_thread(host.request, "GET", "/first?early=1&hold=2"))
        await asyncio.to_thread(eventually, lambda: bool(host.invocations()["running"]))
        second = await asyncio.to_thread(host.request, "GET", "/second?hold=4")
        number = headers_of(second)["x-ms-invocation-id"][0]
        assert headers_of(await first)["x-ms-invocation-id"] != [number]
        assert lines(host, "an early line") == [
            f"[console+otel] Warning Function.everything.User: an early line (Id={number})"
        ]


def test_records_pass_by_the_levels_of_host_json(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(
        {
            "logLevel": {"default": "Warning", "Function": "Information", "Function.quiet": "None"},
            "OpenTelemetry": {"logLevel": {"Host.Function.Console": "None"}},
        }
    )
    log.write("Information", "Function.loud", "1")
    log.write("Critical", "Function.quiet", "2")
    log.write("Information", "Host.Results", "3")
    log.of_console("WARNING: 4")
    log.of_console("it failed: 5")
    log.of_console("6")
    assert capsys.readouterr().err.splitlines() == [
        "[console+otel] Information Function.loud: 1",
        "[console] Warning Host.Function.Console: WARNING: 4",
        "[console] Error Host.Function.Console: it failed: 5",
    ]


STOPPING = APP.replace("import asyncio", "import atexit, signal, asyncio", 1) + (
    "\natexit.register(print, 'an orderly end')\n"
)


@pytest.mark.parametrize(("grace", "whole"), [("30", True), ("0.3", False)])
def test_the_end_leaves_streams_their_time_and_kills_the_worker(tmp_path: Path, grace: str, whole: bool) -> None:
    with hosting(tmp_path, "--grace", grace, app=STOPPING) as host:
        stream = connect(host, b"GET /?ticks=10 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert stream.recv(10) == b"HTTP/1.1 2"
        started = time.monotonic()
        assert host.stop() == 0
        assert time.monotonic() - started < 9.5
        assert everything(stream).endswith(b"0\r\n\r\n") == whole
        assert "an orderly end" not in host.logs()  # neither `WebApp.stop` nor anything else runs


def test_a_body_with_a_length_is_read_whole_before_the_worker_sees_anything(host: GatewayProcess) -> None:
    with connect(host, b"POST /half HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf ") as connection:
        time.sleep(0.2)
        assert host.invocations()["running"] == []
        connection.sendall(b"other")
        received = b""
        while b'"body": 10' not in received:
            received += connection.recv(65_536)


def test_a_body_over_the_limit_is_a_bare_500(host: GatewayProcess) -> None:
    answer = host.request("POST", "/", b"x" * 100_001)
    assert (answer.status, answer.body) == (500, b"")
    assert host.request("POST", "/", b"x" * 100_000).status == 200


def test_a_body_that_trickles_is_a_bare_500_after_five_seconds(host: GatewayProcess) -> None:
    started = time.monotonic()
    answer = raw(host, b"POST / HTTP/1.1", b"host: x", b"content-length: 10", body=b"x")
    assert status(answer) == 500
    assert 4.9 < time.monotonic() - started < 15


def test_a_chunked_body_is_forwarded_at_once_and_answered_when_it_has_ended(host: GatewayProcess) -> None:
    head = b"POST /chunked HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    with connect(host, head + b"3\r\nabc\r\n") as connection:
        eventually(lambda: host.invocations()["running"] == ["POST /chunked"])
        time.sleep(0.2)
        connection.sendall(b"2\r\nde\r\n0\r\n\r\n")
        assert b'"body": 5' in everything(connection)


def test_an_answer_is_not_read_before_the_body_has_been_sent(tmp_path: Path) -> None:
    """As .NET's HttpClient, which sends first and reads then."""
    app = APP.replace("len(await req.body())", "0")
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n"
    with hosting(tmp_path, app=app) as host, connect(host, head) as connection:
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        eventually(lambda: host.invocations()["running"] == [])  # the function has answered
        connection.settimeout(10)
        connection.sendall(b"0\r\n\r\n")
        assert status(everything(connection)) == 200


def test_duplicate_headers_are_joined(host: GatewayProcess) -> None:
    answer = raw(host, b"GET / HTTP/1.1", b"host: x", b"api-key: a", b"Api-Key: b")
    assert b'["api-key", "a, b"]' in answer


def test_the_host_names_itself_and_its_caller_in_the_forwarded_headers(host: GatewayProcess) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    given = {
        "host": "gateway.example",
        "x-forwarded-for": "203.0.113.9",
        "x-forwarded-host": "forged",
        "x-forwarded-proto": "https",
        "traceparent": f"00-{trace}-b7ad6b7169203331-01",
    }
    headers = headers_of(host.request("GET", "/", None, given))
    assert re.fullmatch(r"127\.0\.0\.1:\d+", headers["host"][0])
    assert headers["host"] != [f"127.0.0.1:{host.address[1]}"]
    assert headers["x-forwarded-for"] == ["127.0.0.1"]
    assert headers["x-forwarded-host"] == ["gateway.example"]
    assert headers["x-forwarded-proto"] == ["http"]
    assert headers["traceparent"] == [f"00-{trace}-{CLIENT_SPAN}-01"]
    assert CLIENT_SPAN != HOST_SPAN


@pytest.mark.parametrize(
    ("sent", "handled"),
    [
        ("/a%2Fb", "/a%2Fb"),
        ("/a%2fb%20c", "/a%2fb c"),
        ("/a/../b/./c", "/b/c"),
        ("/a/%2e%2e/b", "/b"),
        ("/a/..", "/"),
        ("/z%C3%BC", "/zü"),
        ("/%ff", "/%ff"),
        ("/a//b", "/a//b"),
    ],
)
def test_paths_arrive_as_the_host_decodes_them(host: GatewayProcess, sent: str, handled: str) -> None:
    assert seen(host.request("GET", sent))["path"] == handled


@pytest.mark.parametrize(
    ("request_lines", "expected"),
    [
        ([b"GET /" + b"x" * 8200 + b" HTTP/1.1", b"host: x"], 414),
        ([b"GET / HTTP/1.1", b"host: x", b"a: " + b"x" * 33_000], 431),
        ([b"GET / HTTP/1.1", b"host: x", *(b"h%d: x" % number for number in range(100))], 431),
        ([b"GET / HTTP/1.1"], 400),
        ([b"GET / HTTP/1.1", b"host: a b"], 400),
        ([b"GET / HTTP/1.1", b"host: x", b"host: y"], 400),
        ([b"GET / HTTP/1.1", b"host: x", b"no colon"], 400),
        ([b"GET / HTTP/1.1", b"host: x", b"a: \xff"], 400),
        ([b"GET /%00 HTTP/1.1", b"host: x"], 400),
        ([b"POST / HTTP/1.1", b"host: x", b"content-length: 1", b"transfer-encoding: chunked"], 400),
        ([b"GET //x HTTP/1.1", b"host: x"], 404),
        ([b"PROPFIND /x HTTP/1.1", b"host: x"], 404),
    ],
)
def test_heads_that_the_host_refuses_are_answered_bare(
    host: GatewayProcess, request_lines: Sequence[bytes], expected: int
) -> None:
    eventually(lambda: not host.invocations()["running"])
    before = host.invocations()
    answer = raw(host, *request_lines)
    assert (status(answer), answer.partition(b"\r\n\r\n")[2]) == (expected, b"")
    assert host.invocations() == before


def test_an_upgrade_is_passed_on(host: GatewayProcess) -> None:
    answer = raw(host, b"GET / HTTP/1.1", b"host: x", b"connection: Upgrade", b"upgrade: other")
    assert b'["connection", "Upgrade"]' in answer
    assert b'["upgrade", "other"]' in answer


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/admin/host/ping", 200),
        ("GET", "/admin/host/status", 401),
        ("GET", "/admin/invocations", 401),
        ("POST", "/runtime/webhooks/x", 401),
        ("PUT", "/x", 404),
    ],
)
def test_the_hosts_own_paths_are_answered_bare(host: GatewayProcess, method: str, path: str, expected: int) -> None:
    answer = host.request(method, path)
    assert (answer.status, answer.body) == (expected, b"")


def test_the_home_page_is_there_for_other_methods_unless_it_is_switched_off(
    host: GatewayProcess, tmp_path: Path
) -> None:
    for path in ("/", "/favicon.ico"):
        answer = host.request("PUT", path)
        assert (answer.status, answer.headers["content-type"]) == (200, "text/html")
    with hosting(tmp_path) as other:  # as tests start it
        answer = other.request("PUT", "/")
        assert (answer.status, answer.body) == (204, b"")


def test_an_import_that_fails_is_a_bare_404_and_the_reason_is_nowhere(tmp_path: Path) -> None:
    with hosting(tmp_path, app="raise ValueError('the reason')") as host:
        assert host.announcement["functions"] == []
        answer = host.request("GET", "/")
        assert (answer.status, answer.body) == (204, b"")
        answer = host.request("GET", "/healthz")
        assert (answer.status, answer.body) == (404, b"")
        assert host.request("GET", "/admin/host/ping").status == 200
        assert "the reason" not in host.logs()


def crash(host: GatewayProcess) -> int:
    try:
        return host.request("GET", "/?crash=1").status
    except OSError:
        return 0


def test_three_crashes_of_the_worker_end_the_host(tmp_path: Path) -> None:
    with hosting(tmp_path) as host:
        for _ in range(2):
            assert crash(host) == 500
            assert host.request("GET", "/").status == 200
        crash(host)
        eventually(lambda: not host.running)


def test_silence_resets_an_answer_that_has_begun_and_is_a_500_before_that(host: GatewayProcess) -> None:
    assert host.request("GET", "/?hold=3").status == 500
    started = time.monotonic()
    with pytest.raises(ConnectionResetError):
        everything(connect(host, b"GET /?pause=3 HTTP/1.1\r\nhost: x\r\n\r\n"))
    assert time.monotonic() - started > 0.9
