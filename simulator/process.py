"""Runs the simulator in a child process and calls its control endpoint; for tests and the local run."""

import http.client
import json
import os
import select
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

_PROJECT = Path(__file__).resolve().parent.parent


class SimulatorFailed(Exception):
    """The process did not start, or its control endpoint returned an error; the message has the output."""


class SimulatorProcess:
    """A running simulator.

        with SimulatorProcess() as simulator:
            simulator.fault("status", region="eastus2", status=429, headers={"retry-after": "1"}, times=1)
            simulator.regions["eastus2"]        # "http://127.0.0.1:41234"
            simulator.log()["totals"]["eastus2"]["output_tokens"]

    It ends with its parent, even if that is killed. `config` has the shape of the configuration file. Raises
    SimulatorFailed with the process's stderr if it dies or is not ready after `timeout` seconds.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        *,
        ports: Sequence[int] = (),
        control_port: int = 0,
        timeout: float = 60.0,
    ) -> None:
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        self._configuration: Path | None = None
        command = [sys.executable, "-m", "simulator", "--until-input-ends", "--control-port", str(control_port)]
        if ports:
            command += ["--ports", ",".join(map(str, ports))]
        if config is not None:
            self._configuration = _write_temporary(config)
            command += ["--config", str(self._configuration)]
        self._process = subprocess.Popen(
            command, cwd=_PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr
        )
        try:
            places = self._wait_until_ready(timeout)
        except BaseException:
            self.stop()
            raise
        self.regions: dict[str, str] = places["regions"]
        self.control: str = places["control"]
        self._control_address = urllib.parse.urlsplit(self.control).netloc
        self.identity_endpoint: str = places["identity"]["endpoint"]
        self.identity_header: str = places["identity"]["header"]
        self.tenant: dict[str, Any] = places["tenant"]
        self.api_key: str = places["api_key"]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def identity_environment(self) -> dict[str, str]:
        """Environment variables of azure-identity's ManagedIdentityCredential."""
        return {"IDENTITY_ENDPOINT": self.identity_endpoint, "IDENTITY_HEADER": self.identity_header}

    def fault(
        self, kind: str, *, region: str | None = None, deployment: str | None = None, operation: str | None = None,
        times: int | None = None, share: float = 1.0, **fields: Any,
    ) -> int:  # fmt: skip
        """Queue a fault and return its id. `fields` are those of its kind. Without `times` it stays until deleted;
        `share` is the probability that a matching call is struck."""
        scope = {"region": region, "deployment": deployment, "operation": operation, "times": times, "share": share}
        request = {**scope, "fault": {"kind": kind, **fields}}
        return int(self._call("POST", "/faults", request)["id"])

    def faults(self) -> list[dict[str, Any]]:
        """Faults that are still queued."""
        return list(self._call("GET", "/faults")["faults"])

    def delete_fault(self, fault_id: int) -> None:
        self._call("DELETE", f"/faults/{fault_id}")

    def clear(self) -> None:
        """Restore the initial state: no faults, regions up, configured limits, empty caches, an empty log."""
        self._call("POST", "/reset")

    def log(self, *, summary: bool = False) -> dict[str, Any]:
        """`{"requests": […], "totals": {region: {…}}, "tokens_issued": n}`; a summary has no requests."""
        return self._call("GET", "/log?summary=1" if summary else "/log")

    def last_body(self, region: str | None = None) -> bytes:
        return self._fetch("GET", "/log/bodies/last" + _region_query(region))

    def last_headers(self, region: str | None = None) -> list[tuple[str, str]]:
        """Names and values in order of arrival; credentials are redacted to their scheme."""
        headers = self._call("GET", "/log/headers/last" + _region_query(region))["headers"]
        return [(name, value) for name, value in headers]

    def limits(
        self,
        *,
        region: str | None = None,
        deployment: str | None = None,
        tokens_per_minute: int | None = None,
        requests_per_minute: int | None = None,
        window_seconds: float = 60.0,
    ) -> None:
        """Replace the limits of all matching deployments; the new ones start unused."""
        request = {
            "region": region,
            "deployment": deployment,
            "tokens_per_minute": tokens_per_minute,
            "requests_per_minute": requests_per_minute,
            "window_seconds": window_seconds,
        }
        self._call("POST", "/limits", request)

    def identity(self, *, token_lifetime_seconds: float = 86_400, failing_status: int | None = None) -> None:
        """Set how tokens are issued; without arguments, restore the defaults."""
        request = {"token_lifetime_seconds": token_lifetime_seconds, "failing_status": failing_status}
        self._call("POST", "/identity", request)

    def token(self, name: str = "someone", **fields: Any) -> str:
        """A token of the tenant. `fields`: those of `simulator.tenant.Mint`."""
        return str(self._call("POST", "/tenant/tokens", {"name": name, **fields})["access_token"])

    def roll_keys(self, *, withdraw: bool = False) -> None:
        """Sign with new keys; with `withdraw`, publish the old ones no longer."""
        self._call("POST", "/tenant/keys", {"withdraw": withdraw})

    def set_tenant(self, *, failing_status: int | None = None, delay_seconds: float = 0.0) -> None:
        """Set how the signing keys are published; without arguments, restore the defaults."""
        self._call("POST", "/tenant", {"failing_status": failing_status, "delay_seconds": delay_seconds})

    def set_sign_ins(self, *, code_seconds: float = 600, token_seconds: float = 3600, renews: bool = True) -> None:
        """Set how people sign in; without arguments, restore the defaults."""
        self._call(
            "POST", "/tenant/sign-ins", {"code_seconds": code_seconds, "token_seconds": token_seconds, "renews": renews}
        )

    def add_person(self, name: str, *roles: str, groups: Sequence[str] = ()) -> None:
        """Let somebody with these app roles sign in."""
        self._call("POST", "/tenant/people", {"name": name, "roles": list(roles), "groups": list(groups)})

    def key_reads(self) -> int:
        """The reads of a list of signing keys since the last `clear`."""
        return int(self._call("GET", "/tenant")["key_reads"])

    def down(self, region: str) -> None:
        self._call("POST", f"/regions/{region}/down")

    def up(self, region: str) -> None:
        self._call("POST", f"/regions/{region}/up")

    def stderr(self) -> str:
        """Standard error so far. Requests of clients, even invalid ones, write nothing there."""
        # The child shares this file's offset, so reading must not move it.
        descriptor = self._stderr.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace").strip()

    def stop(self, timeout: float = 5.0) -> int:
        """Terminate the process, and kill it after `timeout` seconds. Returns its exit code."""
        self._process.terminate()
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._stderr.close()
        if self._configuration is not None:
            self._configuration.unlink(missing_ok=True)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _wait_until_ready(self, timeout: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        line = b""
        deadline = time.monotonic() + timeout
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([output], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(output, 65_536) if ready else b""
            if not piece:
                self._process.kill()
                self._process.wait()
                raise SimulatorFailed(f"the simulator did not start: {self.stderr() or 'no output'}")
            line += piece
        places: dict[str, Any] = json.loads(line)
        return places

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._fetch(method, path, body))
        return answer

    def _fetch(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        # Not by urllib: each of its openers reads the authorities of the machine, 30 ms of CPU.
        connection = http.client.HTTPConnection(self._control_address, timeout=30)
        try:
            connection.request(method, path, None if body is None else json.dumps(body).encode())
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status >= 400:
            raise SimulatorFailed(f"{method} {path}: {content.decode(errors='replace')}")
        return content


def _region_query(region: str | None) -> str:
    return "" if region is None else "?" + urllib.parse.urlencode({"region": region})


def _write_temporary(config: Mapping[str, Any]) -> Path:
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        json.dump(config, file)
    return Path(file.name)
