"""Tries an upgrade and a rollback between two versions on the same tables, with calls at every step.

    git worktree add /tmp/before v0.1.0
    .venv/bin/python -m tests.infra.upgrade /tmp/before

The version before makes a key and serves; then both versions serve at once, as in a rolling update; then the new one
alone, which makes a key and runs the roll-up; then the version before again. At the end the command lines of both must
report the same usage, to the call and the token. Exit code 1: something differed.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from local.processes import free_port
from simulator.process import SimulatorProcess
from tests.harness.azurite import azurite
from tests.harness.gateway_process import request
from tests.infra.snapshots import ROOT

CALLS = 5
MODEL = "gpt-4o"


class Version:
    """A tree of the repository, run with this one's packages."""

    def __init__(self, name: str, tree: Path, environ: dict[str, str]) -> None:
        self.name = name
        self._tree = tree
        self._environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tree)} | environ

    @contextmanager
    def serving(self) -> Iterator[tuple[str, int]]:
        """A running gateway of this version."""
        port = free_port()
        words = ["-m", "uvicorn", "shared.asgi:app", "--host", "127.0.0.1", "--port", str(port), "--no-access-log"]
        process = subprocess.Popen(
            [sys.executable, *words], cwd=self._tree, env=self._environ, stdin=subprocess.DEVNULL
        )
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and process.poll() is None:
                with contextlib.suppress(OSError):
                    if request(("127.0.0.1", port), "GET", "/healthz").status == 200:
                        break
                time.sleep(0.2)
            yield "127.0.0.1", port
        finally:
            process.terminate()
            process.wait(30)

    def cli(self, *words: str) -> Any:
        """The JSON that a command of this version prints."""
        done = subprocess.run(
            [sys.executable, "-m", "shared.cli", *words, "--json"],
            cwd=self._tree,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode:
            raise SystemExit(f"{self.name}: tollgate {' '.join(words)}: {done.stderr}")
        return json.loads(done.stdout)

    def usage(self) -> dict[str, tuple[int, int, int]]:
        """Requests, input tokens and output tokens of each key, by its name."""
        lines = self.cli("usage", "--by", "key")
        return {line["name"]: (line["requests"], line["input_tokens"], line["output_tokens"]) for line in lines}


def call(address: tuple[str, int], key: str) -> None:
    """Some calls with a key, each of which must be answered."""
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}).encode()
    for _ in range(CALLS):
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        answer = request(address, "POST", "/v1/chat/completions", body, headers)
        if answer.status != 200:
            raise SystemExit(f"a call got {answer.status}: {answer.body[:300]!r}")


def environment(region: str, storage: str) -> dict[str, str]:
    """The variables of a gateway in front of one simulated region."""
    backend = {
        "name": "sweden",
        "endpoint": region,
        "region": "swedencentral",
        "auth": {"api_key_env": "SIMULATOR_KEY"},
        "models": {MODEL: MODEL},
    }
    limits = {"defaults": {"tokens_per_minute": 1_000_000, "token_quota": 10_000_000}}
    return {
        "GATEWAY_STORAGE": storage,
        "GATEWAY_CONFIG": json.dumps({"backends": [backend], "limits": limits}),
        "SIMULATOR_KEY": "simulated",
    }


def main() -> int:
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "shared").is_dir():
        print(__doc__, file=sys.stderr)
        return 2
    region = {"name": "swedencentral", "display": "Sweden Central", "deployments": [{"name": MODEL, "model": MODEL}]}
    with SimulatorProcess({"api_key": "simulated", "regions": [region]}) as simulator, azurite() as tables:
        environ = environment(simulator.regions["swedencentral"], tables.connection_string)
        before, after = Version("before", Path(sys.argv[1]), environ), Version("after", ROOT, environ)
        old = before.cli("keys", "create", "old")["key"]
        with before.serving() as first:
            call(first, old)
            with after.serving() as second:  # a rolling update: both at once
                call(first, old)
                call(second, old)
        with after.serving() as second:
            new = after.cli("keys", "create", "new")["key"]
            call(second, new)
            call(second, old)
        after.cli("rollup")
        with before.serving() as first:  # the rollback
            call(first, old)
            call(first, new)
        before.cli("rollup")
        seen = {version.name: version.usage() for version in (before, after)}
    for name, usage in seen.items():
        print(f"{name}: {usage}")
    calls = {name: requests for name, (requests, _, _) in seen["after"].items()}
    same = seen["before"] == seen["after"] and calls == {"old": 5 * CALLS, "new": 2 * CALLS}
    print("the same usage by both versions" if same else f"expected {5 * CALLS} calls of old and {2 * CALLS} of new")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
