"""The traps of Microsoft's worker library (azure-facts, B.2), each avoided by the function app of this project."""

import ast
import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from shared import bootstrap
from shared.config.environment import Storage
from shared.storage import Properties
from shared.storage.conditional import update
from shared.storage.names import CONTROL
from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.gateway_process import HURRIED_COMMAND, HURRIED_PAIRING, ROOT, Answer, GatewayFailed, GatewayProcess
from tests.harness.system import Caller, System, chat_body, configuration, eventually, system, watched

TRACED = ("-m", "tests.harness.functions_host", "--worker", "tests.harness.traced_functions_worker")


@pytest.fixture(scope="module")
def host(azurite: Azurite, simulator: SimulatorProcess) -> Iterator[System]:
    """The function app in a process with a tracer provider."""
    command = [*TRACED, str(ROOT)]
    settings = configuration(simulator)
    with system("functions", settings, simulator, azurite.connection_string, command=command) as running:
        yield running


@pytest.fixture
def app(host: System) -> Iterator[System]:
    yield from watched(host)


def get(gateway: GatewayProcess, path: str, key: str = "", method: str = "GET", **headers: str) -> Answer:
    authorization = {"authorization": f"Bearer {key}"} if key else {}
    return gateway.request(method, path, None, authorization | headers, timeout=10)


UNGUARDED = """
import azure.functions as func
from azurefunctions.extensions.http.fastapi import Request, Response

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

@app.route(route="{*path}")
async def everything(req: Request) -> Response:
    return Response("mine")
"""


OWN = "from starlette.requests import Request\nfrom starlette.responses import Response"
RENAMED = """
import logging
import shared.functions_http
from azure_functions_runtime import http_v2
from shared.telemetry.console import log_to_stderr

class Other(http_v2.HttpCoordinator):
    def set_http_response(self, invocation, http_response):
        super().set_http_response(invocation, http_response)

http_v2.http_coordinator.__class__ = Other
log_to_stderr()
"""


def test_the_traps_are_there_for_an_app_with_microsofts_web_extension(tmp_path: Path) -> None:
    """So that the tests below would notice: there /docs is not the app's own, and its invocation never ends."""
    (tmp_path / "function_app.py").write_text(UNGUARDED)
    shutil.copy(ROOT / "host.json", tmp_path)
    with GatewayProcess("functions", {}, command=[*TRACED, str(tmp_path)], wait=False) as unguarded:
        assert get(unguarded, "/elsewhere").body == b"mine"
        assert b"swagger" in get(unguarded, "/docs").body.lower()
        assert get(unguarded, "/", method="PROPFIND").status == 405
        eventually(lambda: unguarded.invocations()["running"] == ["GET /docs", "PROPFIND /"])
        eventually(lambda: "SPAN fastapi" in unguarded.logs())


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect", "/docs/"])
def test_the_pages_of_the_workers_inner_app_are_not_served(app: System, path: str) -> None:
    anonymous, known = get(app.gateway, path), get(app.gateway, path, app.key)
    assert (anonymous.status, anonymous.error()["code"]) == (401, "invalid_api_key")
    assert (known.status, known.error()["code"]) == (404, "unknown_path")
    app.no_invocation_is_left()


@pytest.mark.parametrize("method", ["PROPFIND", "QUERY", "PURGE", "TRACE", "X"])
def test_a_method_that_the_workers_inner_app_does_not_know_leaves_no_invocation(app: System, method: str) -> None:
    for path in ("/v1/chat/completions", "/", "/docs"):
        assert get(app.gateway, path, app.key, method).status in (204, 400, 404, 405, 501)
    app.no_invocation_is_left()


@pytest.mark.parametrize(
    "path", ["/v1/%0A/models", "/%0D%0Ax", "/v1/models%0A", "/%00", "/%ff%fe", "/%2e%2e/docs", "//"]
)
def test_a_path_that_the_workers_inner_app_does_not_match_leaves_no_invocation(app: System, path: str) -> None:
    answer = get(app.gateway, path, app.key)
    assert answer.status in (400, 404)
    app.no_invocation_is_left()


def test_an_upgrade_to_a_websocket_leaves_no_invocation(app: System) -> None:
    upgrade = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    answer = get(app.gateway, "/openai/v1/realtime?model=gpt-4o", app.key, **upgrade)
    assert answer.status == 501
    app.no_invocation_is_left()


OWN_ID = "0b5f9a52-2a4c-4f0e-9c6a-0d7ad0a8b3c1"
ALONE = {  # headers that leave a request or an invocation alone, and the status for their caller
    f"x-ms-invocation-id: {OWN_ID}": 400,
    "x-ms-invocation-id: mine": 400,
    "user-agent: Zoë": 500,
    "user-agent: a\x01b": 400,
    "user-agent: a\x7fb": 400,
}


@pytest.fixture
def slow_host(azurite: Azurite, simulator: SimulatorProcess) -> Iterator[System]:
    """The function app under a host that takes a while between an invocation and its request; a half of a call that is
    left alone waits for less."""
    command = [*HURRIED_COMMAND, "--lag", "0.02"]
    with system(
        "functions", configuration(simulator), simulator, azurite.connection_string, command=command
    ) as running:
        yield running


async def test_a_half_that_is_left_alone_ends_in_time_and_no_stream_with_it(slow_host: System) -> None:
    running = slow_host

    def alone(header: str) -> int:
        with Caller(running, running.key, chat_body()) as caller:
            caller.request = caller.request.replace(b"host:", header.encode() + b"\r\nhost:", 1)
            assert caller.send().read_to_the_end(20)
            status = int(caller.received.split(b" ", 2)[1])
            identified = b"\r\nx-request-id: " in caller.received.lower()
            assert identified == (status != 500), caller.received  # 500 is the host's own answer
            return status

    def leave() -> None:
        for _ in range(10):
            Caller(running, running.key, chat_body()).send().leave()

    stream = asyncio.create_task(
        asyncio.to_thread(running.chat, running.slow(), "simulate_output_tokens=1000", stream=True)
    )
    started = time.monotonic()
    _, *statuses = await asyncio.gather(asyncio.to_thread(leave), *(asyncio.to_thread(alone, h) for h in ALONE))
    assert statuses == [*ALONE.values()]
    eventually(lambda: len(running.gateway.invocations()["running"]) <= 1)
    assert time.monotonic() - started < HURRIED_PAIRING + 15
    assert (await stream).body.endswith(b"data: [DONE]\n\n")
    assert time.monotonic() - started > HURRIED_PAIRING + 1  # it lasted longer than any half waits
    await asyncio.to_thread(running.no_invocation_is_left)
    assert running.gateway.logs().count("the worker has died") == 0


def test_a_post_that_asks_for_another_protocol_is_served_with_its_body(app: System) -> None:
    with Caller(app, app.key, chat_body()) as caller:
        caller.request = caller.request.replace(b"host:", b"connection: Upgrade\r\nupgrade: h2c\r\nhost:", 1)
        assert caller.send().read_to_the_end(8)
    assert caller.received.startswith(b"HTTP/1.1 200")
    app.no_invocation_is_left()


def test_a_request_that_the_workers_server_refuses_ends_its_invocation_at_once(app: System) -> None:
    started = time.monotonic()
    with Caller(app, app.key, chat_body()) as caller:
        caller.request = caller.request.replace(b"host:", b"user-agent: a\x01b\r\nhost:", 1)
        assert caller.send().read_to_the_end(8)
    assert caller.received.startswith(b"HTTP/1.1 400")
    assert b"\r\nx-request-id: " in caller.received.lower()
    app.no_invocation_is_left()
    assert time.monotonic() - started < 9  # its request would be waited for during ten seconds


def test_the_workers_server_keeps_connections_longer_than_the_hosts_pool(app: System) -> None:
    process = psutil.Process(app.gateway.pid)
    port = next(c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN)
    with socket.create_connection(("127.0.0.1", port), timeout=6.5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        received = b""
        while not received.endswith(b"}"):  # head and body come apart on a busy machine
            received += connection.recv(65_536)
        assert received.startswith(b"HTTP/1.1 400")  # it names no invocation
        with pytest.raises(TimeoutError):  # where uvicorn's default of 5 s would close it
            connection.recv(1)


def test_a_runtime_library_that_is_not_as_known_is_named_on_stderr_and_serves(tmp_path: Path) -> None:
    own = UNGUARDED.replace("from azurefunctions.extensions.http.fastapi import Request, Response", OWN)
    (tmp_path / "function_app.py").write_text(RENAMED + own)
    shutil.copy(ROOT / "host.json", tmp_path)
    with GatewayProcess("functions", {}, command=[*TRACED, str(tmp_path)], wait=False) as other:
        assert get(other, "/elsewhere").body == b"mine"
        expected = "unsupported worker runtime library: expected azure-functions-runtime"
        eventually(lambda: expected in "".join(other.shown()))


def test_the_worker_records_no_spans_of_its_own(app: System) -> None:
    assert app.chat().status == 200
    assert app.chat(stream=True).status == 200
    assert "SPAN" not in app.gateway.logs()


def test_a_request_costs_one_line_of_log(app: System) -> None:
    answer = app.chat()  # what is warm now: token, tables, consumer
    app.gateway.record(answer.headers["x-gateway-request-id"])
    time.sleep(0.3)
    before = len(app.gateway.logs())
    for stream in (False, True, False):
        answer = app.chat(stream=stream)
        assert answer.status == 200
        app.gateway.record(answer.headers["x-gateway-request-id"])
    time.sleep(0.3)
    lines = app.gateway.logs()[before:].splitlines()
    assert len(lines) == 3
    assert all(line.startswith('[console] Information Host.Function.Console: {"request":') for line in lines)


def test_what_runs_after_the_handler_has_returned_still_knows_its_call(app: System) -> None:
    """The stream is sent by another task than the handler's: its record and its log line are whole all the same."""
    key = app.make_key("afterwards")
    answer = app.post("/v1/chat/completions", chat_body(app.slow(), stream=True), key=key)
    request = answer.headers["x-gateway-request-id"]
    row = app.usage_rows(key)[0]
    assert (row["id"], row["e_output"], row["e_ended"]) == (request, 32, "complete")
    record = app.gateway.record(request)
    assert (record["consumer"], record["output_tokens"]) == (key.split("_")[1], 32)
    assert record["ms"] > 100


def test_all_functions_are_indexed(app: System) -> None:
    assert app.gateway.announcement["functions"] == ["gateway", "rollup"]


def test_every_function_says_what_it_returns_and_none_mixes_the_kinds_of_response() -> None:
    source = (ROOT / "function_app.py").read_text()
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.AsyncFunctionDef)]
    returned = {node.name: ast.unparse(node.returns) if node.returns else "" for node in functions}
    # The worker's own response is that of an app which cannot start, and has no other function.
    assert returned == {"unavailable": "func.HttpResponse", "gateway": "Response", "rollup": "None"}


def test_the_timer_rolls_the_usage_up(app: System) -> None:
    key = app.make_key("rolled up")
    for stream in (False, True):
        assert app.post("/v1/chat/completions", chat_body(stream=stream), key=key).status == 200
    before = app.usage_of(key)
    ran = app.gateway.administer("POST", "/admin/functions/rollup")
    assert (ran.status, ran.json()) == (202, {"problem": ""})
    eventually(lambda: "roll-up" in app.gateway.logs())
    assert app.usage_of(key) == before
    assert before["output_tokens"] == 64


def test_a_call_wakes_the_roll_up_where_the_timer_does_not_run(azurite: Azurite, simulator: SimulatorProcess) -> None:
    """The emulated host has no timers, as one with `AzureWebJobs.rollup.Disabled`, or without its storage."""

    async def end_last_pass(age: float) -> None:
        async with bootstrap.open_store(Storage(connection_string=azurite.connection_string)) as store:
            row: Properties = {"owner": "a test", "expiry": store.now() - age}
            await update(store.table(CONTROL), "rollup", "lease", lambda _: row)

    for age, wakes in ((300.0, False), (700.0, True)):
        asyncio.run(end_last_pass(age))
        with system("functions", configuration(simulator), simulator, azurite.connection_string) as running:
            assert running.chat().status == 200
            if wakes:
                eventually(lambda: "roll-up: Summary(" in running.gateway.logs())
            else:
                time.sleep(1)
            assert running.chat().status == 200  # within five minutes of the first look
            assert running.gateway.logs().count("roll-up: Summary(") == int(wakes)


async def test_requests_run_side_by_side(app: System) -> None:
    model = app.slow()
    started = time.monotonic()
    text = "simulate_output_tokens=400"  # two seconds
    answers = await asyncio.gather(*(asyncio.to_thread(app.chat, model, text, stream=bool(n % 2)) for n in range(8)))
    assert {answer.status for answer in answers} == {200}
    assert time.monotonic() - started < 10  # one after the other they would take 16 s
    app.no_invocation_is_left()


def test_a_store_that_cannot_be_opened_is_an_error_in_openais_shape(simulator: SimulatorProcess) -> None:
    settings = json.dumps(configuration(simulator))
    environment = {"GATEWAY_CONFIG": settings, "GATEWAY_STORAGE": "AccountName=x;AccountKey=!", "JAPAN_KEY": "x"}
    with GatewayProcess("functions", environment, wait=False) as broken:
        for _ in range(2):
            answer = get(broken, "/v1/models", "tg_anything")
            assert answer.status in (500, 503)
            assert answer.error()["type"] == "server_error"
            assert "AccountKey" not in answer.body.decode()
        eventually(lambda: broken.invocations()["running"] == [])


def test_a_store_out_of_reach_is_a_503_and_never_a_401(app: System, simulator: SimulatorProcess) -> None:
    nowhere = "AccountName=a;AccountKey=YQ==;TableEndpoint=http://127.0.0.1:9/a"
    environment = {
        "GATEWAY_CONFIG": json.dumps(configuration(simulator)),
        "GATEWAY_STORAGE": nowhere,
        "JAPAN_KEY": "x",
        **simulator.identity_environment,
    }
    with GatewayProcess("functions", environment) as lost:
        answer = get(lost, "/v1/models", app.key)
        assert (answer.status, answer.error()["code"]) == (503, "store_unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert "Traceback" not in lost.logs()


# Out of reach: where something was served before, a start goes back to it.
NOBODY_SERVED = "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=YQ==;TableEndpoint=http://127.0.0.1:9/a"


def test_a_wrong_configuration_stops_the_start_and_says_where(simulator: SimulatorProcess) -> None:
    settings = configuration(simulator)
    settings["backends"][1]["endpoint"] = "http://contoso.openai.azure.com"
    environment = {"GATEWAY_CONFIG": json.dumps(settings), "GATEWAY_STORAGE": NOBODY_SERVED}
    with pytest.raises(GatewayFailed, match=r"backends\[1\]\.endpoint: expected https"):
        GatewayProcess("uvicorn", environment)


@pytest.fixture
def misconfigured(simulator: SimulatorProcess) -> Iterator[GatewayProcess]:
    """The function app with two mistakes in its configuration."""
    settings = configuration(simulator)
    for backend in settings["backends"][1:3]:
        backend["endpoint"] = "http://contoso.openai.azure.com"
    environment = {
        "GATEWAY_CONFIG": json.dumps(settings),
        "GATEWAY_STORAGE": NOBODY_SERVED,
        "GATEWAY_MANAGEMENT_KEY": "the operator's 0123456789abcdefghi",
        "JAPAN_KEY": "x",
    }
    with GatewayProcess("functions", environment, wait=False) as running:
        yield running


COMPLAINTS = ("backends[1].endpoint: expected https", "backends[2].endpoint: expected https")


def test_a_wrong_configuration_is_one_line_with_every_complaint(misconfigured: GatewayProcess) -> None:
    assert misconfigured.announcement["functions"] == ["gateway", "rollup"]
    eventually(lambda: any("ERROR: " in line for line in misconfigured.shown()))
    (line,) = (line for line in misconfigured.shown() if "ERROR: " in line)
    assert line.startswith("[console+otel] Error Host.Function.Console: ERROR: GATEWAY_CONFIG: ")
    assert all(complaint in line for complaint in COMPLAINTS)
    assert misconfigured.administer("POST", "/admin/functions/rollup").status == 202


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/healthz", "/readyz", "/gateway/usage", "/"])
def test_without_a_configuration_every_path_is_a_503_that_gives_no_reason(
    misconfigured: GatewayProcess, path: str
) -> None:
    answer = get(misconfigured, path, "tg_anything", **{"x-ms-client-request-id": "mine"})
    assert (answer.status, answer.error()["code"], answer.error()["type"]) == (503, "misconfigured", "server_error")
    assert b"endpoint" not in answer.body
    assert answer.error()["message"].endswith(f" (request {answer.headers['x-request-id']})")
    assert answer.headers["x-ms-client-request-id"] == "mine"


def test_without_a_configuration_readyz_has_the_reason_for_the_management_key(misconfigured: GatewayProcess) -> None:
    answer = get(misconfigured, "/readyz", "the operator's 0123456789abcdefghi")
    body = answer.json()
    assert (answer.status, body["status"]) == (503, "not ready")
    assert {complaint.partition(": expected")[0] for complaint in body["configuration"]} == {
        "GATEWAY_CONFIG: backends[1].endpoint",
        "GATEWAY_CONFIG: backends[2].endpoint",
    }
    assert answer.headers["x-request-id"] == answer.headers["x-gateway-request-id"]
    assert all(complaint in "".join(body["configuration"]) for complaint in COMPLAINTS)


def test_a_package_that_does_not_fit_is_an_error_on_stderr_and_a_503(tmp_path: Path) -> None:
    for name in ("function_app.py", "host.json"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "shared").symlink_to(ROOT / "shared")
    (tmp_path / "msgspec.py").write_text("raise ImportError('built for another machine')")
    with GatewayProcess("functions", {}, command=[*TRACED, str(tmp_path)], wait=False) as broken:
        answer = broken.request("POST", "/v1/chat/completions", b"{}")
        assert (answer.status, answer.error()["code"], answer.error()["type"]) == (503, "misconfigured", "server_error")
        assert answer.headers["x-request-id"] == answer.headers["x-gateway-request-id"]
        assert get(broken, "/healthz").status == 503
        error = "ERROR: the gateway cannot start: ImportError: built for another machine"
        eventually(lambda: f"[console+otel] Error Host.Function.Console: {error}" in broken.shown())


def test_a_python_that_does_not_fit_is_an_error_on_stderr() -> None:
    program = (
        "import sys; sys.version_info = (3, 12, 1, 'final', 0)\n"
        "import function_app; print([f.get_function_name() for f in function_app.app.get_functions()])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "['unavailable']\n"
    assert done.stderr.startswith("ERROR: the gateway cannot start: RuntimeError: expected Python 3.13 or newer, got")


def test_a_kill_costs_deferred_rows_of_the_last_second_alone(azurite: Azurite, simulator: SimulatorProcess) -> None:
    """The host knows no other end for the worker."""
    settings = configuration(simulator, ledger={"durability": "deferred"})
    with system("functions", settings, simulator, azurite.connection_string) as running:
        key = running.make_key("deferred")
        for _ in range(10):
            assert running.post("/v1/chat/completions", chat_body(), key=key).status == 200
        eventually(lambda: [row.get("e_ended") for row in running.usage_rows(key)] == ["complete"] * 10)
        os.kill(running.gateway.pid, signal.SIGKILL)
        assert [row.get("e_ended") for row in running.usage_rows(key)] == ["complete"] * 10


def test_a_body_that_stops_arriving_ends_its_invocation(azurite: Azurite, simulator: SimulatorProcess) -> None:
    """In the time that bodies have. The host reads the 408 when the body has ended, so its caller waits."""
    settings = configuration(simulator, timeouts={"request_body": 1.0})
    with system("functions", settings, simulator, azurite.connection_string) as running:
        with Caller(running, running.key, chat_body()) as caller:
            caller.request = (
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
                b"authorization: Bearer %s\r\n\r\n1\r\n{\r\n" % running.key.encode()
            )
            caller.send()
            eventually(lambda: any(record["status"] == 408 for record in running.gateway.records()))
            running.no_invocation_is_left()
            caller.request = b"0\r\n\r\n"
            assert caller.send().read_to_the_end(20)
            assert caller.received.startswith(b"HTTP/1.1 408")
            assert b'"code":"request_timeout"' in caller.received
        assert running.chat().status == 200


@pytest.mark.parametrize("server", ["tollgate", "microsoft"])
@pytest.mark.parametrize("options", [[], ["--placeholder"]], ids=["started with the app", "placeholder"])
def test_either_server_serves_in_a_placeholder_too_and_reads_a_relative_configuration(
    azurite: Azurite, simulator: SimulatorProcess, tmp_path: Path, options: list[str], server: str
) -> None:
    """Flex Consumption starts the worker without the app, and changes to the app's folder when it has been read."""
    for name in ("function_app.py", "host.json"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "shared", tmp_path / "shared", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "packaged.json").write_text(json.dumps(configuration(simulator)))
    environment = {
        "GATEWAY_CONFIG": "packaged.json",
        "GATEWAY_HTTP_SERVER": server,
        "GATEWAY_STORAGE": azurite.connection_string,
        "JAPAN_KEY": "x",
        **simulator.identity_environment,
    }
    command = ["-m", "tests.harness.functions_host", str(tmp_path), *options]
    with GatewayProcess("functions", environment, command=command) as gateway:
        running = System(gateway, simulator, azurite.connection_string)
        assert b'"choices"' in running.chat().body
        assert running.chat(stream=True).body.endswith(b"data: [DONE]\n\n")
        assert get(gateway, "/v1/models", "wrong").error()["code"] == "invalid_api_key"
        running.no_invocation_is_left()
        assert str(tmp_path) in Path(f"/proc/{gateway.pid}/cwd").readlink().as_posix() or not options
        if server == "microsoft":
            eventually(lambda: 'HTTP/1.1" 200' in gateway.logs())
        assert ('HTTP/1.1" 200' in gateway.logs()) == (server == "microsoft")  # ours leaves that line out


def test_a_server_that_does_not_exist_is_an_error_on_stderr() -> None:
    with GatewayProcess("functions", {"GATEWAY_HTTP_SERVER": "theirs"}, wait=False) as broken:
        assert get(broken, "/healthz").error()["code"] == "misconfigured"
        expected = "GATEWAY_HTTP_SERVER: expected tollgate or microsoft, got theirs"
        eventually(lambda: expected in "".join(broken.shown()))


def test_the_host_ends_when_it_is_told_to(azurite: Azurite, simulator: SimulatorProcess) -> None:
    """Although the worker's own uvicorn takes the signals of the process."""
    with system("functions", configuration(simulator), simulator, azurite.connection_string) as running:
        assert running.chat().status == 200
        started = time.monotonic()
        assert running.gateway.stop() == 0
        assert time.monotonic() - started < 10
