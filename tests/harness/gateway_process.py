"""The gateway as a process of its own, on either edge: uvicorn, or the function app under its host."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from local.processes import free_port
from shared import bootstrap
from shared.auth.consumers import Consumers
from shared.config.environment import Storage
from shared.config.limits import Limits
from shared.edges.http_protocol import UVICORN_OPTIONS
from tests.harness.consumers import create_consumer
from tests.harness.functions_host import MASTER_KEY
from tests.harness.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
Edge = Literal["uvicorn", "functions"]
EDGES: tuple[Edge, ...] = ("uvicorn", "functions")

_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT", "SSL_CERT_FILE")
_OF_THE_HOST = {"AzureWebJobsDisableHomepage": "true"}  # as infra/bicep sets it

# Either edge with short periods, of which this is one: the seconds that a half of a call waits for the other.
HURRIED_PAIRING = 3.0
HURRIED_APP = "tests.harness.hurried:app"
HURRIED_COMMAND = ("-m", "tests.harness.functions_host", "--worker", "tests.harness.hurried", str(ROOT))


class GatewayFailed(Exception):
    """The process did not start; the message is what it wrote."""


class GatewayProcess:
    """A running gateway. `url` without a slash at its end; `logs()` is all that it has written so far.

    `command` replaces what starts the functions host, for tests that prepare its process; `app` what uvicorn serves.
    """

    def __init__(
        self,
        edge: Edge,
        environment: Mapping[str, str],
        *,
        command: Sequence[str] | None = None,
        app: str = "shared.asgi:app",
        wait: bool = True,
    ) -> None:
        self.edge = edge
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        self.environment = inherited | (_OF_THE_HOST if edge == "functions" else {}) | dict(environment)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        port = 0 if edge == "functions" else free_port()
        uvicorn = ["uvicorn", app, "--host", "127.0.0.1", "--port", str(port), *UVICORN_OPTIONS]
        words = command or ["-m", *(uvicorn if edge == "uvicorn" else ["tests.harness.functions_host", str(ROOT)])]
        self._process = subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        try:
            self.announcement = self._announced() if edge == "functions" else {"url": f"http://127.0.0.1:{port}"}
            self.url: str = self.announcement["url"]
            if wait:
                self._wait_until_it_answers()
        except BaseException:
            self.kill()
            self._log.close()
            raise

    @property
    def pid(self) -> int:
        """Of the process that the gateway runs in: under the functions host, the worker."""
        return int(self.announcement.get("worker", self._process.pid))

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def logs(self) -> str:
        # Not by seeking: the process writes through the same file position.
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def shown(self, since: int = 0) -> list[str]:
        """The lines of the log that reach the operator, from this position on: the functions host drops some."""
        whole = self.logs()[since:].rpartition("\n")[0]  # a line may be half written
        return [line for line in whole.splitlines() if not line.startswith(("[dropped]", "[otel]"))]

    def records(self, since: int = 0) -> list[dict[str, Any]]:
        """The structured lines of the log, one a request, from this position on."""
        lines = (line[line.index("{") :] for line in self.shown(since) if '{"request":' in line)
        return [json.loads(line) for line in lines]

    def record(self, request: str) -> dict[str, Any]:
        """The one structured line of this request; it may follow its answer a moment later."""
        deadline = time.monotonic() + PATIENCE
        while not (records := [record for record in self.records() if record["request"] == request]):
            assert time.monotonic() < deadline, f"the log has no record of {request}"
            time.sleep(0.03)
        (record,) = records
        return record

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> "Answer":
        return request(self.address, method, path, body, headers, timeout)

    def invocations(self) -> dict[str, Any]:
        """The state of the functions host's invocations."""
        invocations: dict[str, Any] = self.administer("GET", "/admin/invocations").json()
        return invocations

    def administer(self, method: str, path: str) -> "Answer":
        """A request to the functions host itself, with its master key."""
        return self.request(method, path, None, {"x-functions-key": MASTER_KEY})

    def stop(self, patience: float = 15.0) -> int:
        """Ends the process in an orderly way; its exit code."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()

    def kill(self) -> int:
        if self._process.poll() is None:
            self._process.kill()
        return self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._log.close()

    def _announced(self) -> dict[str, Any]:
        """The line that says that the host is ready. Not through a pipe, which would fill up when nobody reads it."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            if line := re.search(r"^{\"url\":.*$", self.logs(), re.M):
                announcement: dict[str, Any] = json.loads(line[0])
                return announcement
            time.sleep(0.03)
        raise GatewayFailed(f"the functions host did not start: {self.logs()}")

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.request("GET", "/healthz", timeout=5).status == 200:
                    return
            time.sleep(0.03)
        raise GatewayFailed(f"the gateway on {self.edge} does not answer: {self.logs()}")


def hurried(edge: Edge, environment: Mapping[str, str]) -> GatewayProcess:
    """A gateway with short periods."""
    command = HURRIED_COMMAND if edge == "functions" else None
    return GatewayProcess(edge, environment, command=command, app=HURRIED_APP)


class Answer:
    """An answer. Header names are in lower case. `finished`: the body has come to its end."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes, finished: bool = True) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.finished = finished

    def json(self) -> Any:
        return json.loads(self.body)

    def error(self) -> dict[str, Any]:
        """The error in OpenAI's shape, which every refusal has: exactly these four keys."""
        assert self.headers["content-type"] == "application/json"
        body = self.json()
        assert body.keys() == {"error"}
        error: dict[str, Any] = body["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)
        assert error["message"]
        assert isinstance(error["type"], str)
        assert "Traceback" not in self.body.decode()
        return error


def request(
    address: tuple[str, int],
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 30.0,
) -> Answer:
    """One request on a connection of its own, by the standard library. A body may be unfinished."""
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        received = {k.lower(): v for k, v in response.getheaders()}
        return Answer(response.status, received, *_read(response))
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse) -> tuple[bytes, bool]:
    """The body, and whether it has come to its end. Python's own `read` forgets what came before a reset."""
    body = b""
    try:
        while piece := response.read1(1_000_000):
            body += piece
    except http.client.IncompleteRead as broken:
        return body + broken.partial, False
    except ConnectionResetError:
        return body, False
    return body, response.length in (None, 0)


def cli(environment: Mapping[str, str], *words: str) -> Any:
    """The JSON that the command line prints."""
    done = subprocess.run(
        [sys.executable, "-m", "shared.cli", *words],
        cwd=ROOT,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def run_apart[T](coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine on an event loop and a thread of its own: a test may have a loop running already."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, coroutine).result()


def make_key(storage: str, name: str, *, models: Sequence[str] | None = None, expires: float = 0.0) -> str:
    async def create() -> str:
        async with bootstrap.open_store(Storage(connection_string=storage)) as store:
            allowed = None if models is None else frozenset(models)
            _, text = await create_consumer(Consumers(store), name, models=allowed, limits=Limits(), expires=expires)
            return text

    return run_apart(create())
