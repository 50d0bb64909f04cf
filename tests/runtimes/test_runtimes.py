"""Every published version of the worker library serves: the platform may load another than requirements.txt pins."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.gateway_process import ROOT, GatewayProcess
from tests.harness.system import System, chat_body, configuration, eventually

INSTALLED = ROOT / ".local" / "runtimes"
VERSIONS = sorted(path.stem for path in Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_installed_library_goes_before_the_pinned_one(version: str) -> None:
    words = "from azure_functions_runtime.version import VERSION; print(VERSION)"
    environment = {**os.environ, "PYTHONPATH": str(INSTALLED / version)}
    seen = subprocess.run([sys.executable, "-c", words], env=environment, capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == version


@pytest.mark.parametrize("server", ["tollgate", "microsoft"])
@pytest.mark.parametrize("options", [[], ["--placeholder"]], ids=["started with the app", "placeholder"])
@pytest.mark.parametrize("version", VERSIONS)
def test_either_server_serves_under_every_version(
    azurite: Azurite, simulator: SimulatorProcess, tmp_path: Path, version: str, options: list[str], server: str
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
        "PYTHONPATH": str(INSTALLED / version),
        **simulator.identity_environment,
    }
    command = ["-m", "tests.harness.functions_host", str(tmp_path), *options]
    with GatewayProcess("functions", environment, command=command) as gateway:
        running = System(gateway, simulator, azurite.connection_string)
        key = running.make_key("under an earlier version")
        path = next(
            v for v in Path(f"/proc/{gateway.pid}/environ").read_text().split("\0") if v.startswith("PYTHONPATH=")
        )
        assert str(INSTALLED / version) in path
        assert b'"choices"' in running.post("/v1/chat/completions", chat_body(), key=key).body
        assert running.post("/v1/chat/completions", chat_body(stream=True), key=key).body.endswith(b"data: [DONE]\n\n")
        running.no_invocation_is_left()
        ran = gateway.administer("POST", "/admin/functions/rollup")
        assert (ran.status, ran.json()) == (202, {"problem": ""})
        eventually(lambda: running.usage_of(key)["output_tokens"] == 64)
        assert "unsupported worker runtime library" not in gateway.logs()  # the pairing takes over from the coordinator
