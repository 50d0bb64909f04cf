"""Legacy completions, engines, chats and embeddings with the versions of OpenAI's clients that callers have."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.gateway_process import ROOT, Edge
from tests.harness.system import System, configuration
from tests.harness.system import system as start_system

HERE = Path(__file__).parent
INSTALLED = ROOT / ".local" / "sdks"
PROGRAMS = HERE / "programs"


def python(version: str) -> str:
    return str(INSTALLED / f"openai-{version}" / "bin" / "python")


CLIENTS: dict[str, tuple[list[str], str]] = {  # the client -> the words that run its program, and its version
    "python 0.27": ([python("0.27.10"), str(PROGRAMS / "before_v1.py")], "0.27.10"),
    "python 0.28": ([python("0.28.1"), str(PROGRAMS / "before_v1.py")], "0.28.1"),
    "python 1.12": ([python("1.12.0"), str(PROGRAMS / "since_v1.py")], "1.12.0"),
    "python, current": ([sys.executable, str(PROGRAMS / "since_v1.py")], ""),
    "npm 3.3": (["node", str(PROGRAMS / "node3.mjs")], "3.3.0"),
    "npm 6": (["node", str(PROGRAMS / "node6.mjs")], "6."),
}


@pytest.fixture(scope="module")
def legacy(edge: Edge, azurite: Azurite, simulator: SimulatorProcess) -> Iterator[System]:
    settings = configuration(simulator)
    about = settings["models"]["gpt-4o"]
    settings["models"]["gpt-4o"] = {"aliases": [*about["aliases"], "text-davinci-003"], "completions_as_chat": True}
    with start_system(edge, settings, simulator, azurite.connection_string) as running:
        yield running


@pytest.mark.parametrize("client", CLIENTS)
def test_a_program_of_its_time_runs_unchanged(legacy: System, client: str) -> None:
    legacy.simulator.clear()
    words, version = CLIENTS[client]
    key = legacy.make_key(f"{client} on {legacy.edge}")
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "GATEWAY": legacy.url, "KEY": key, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, cwd=HERE)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert said["version"].startswith(version)
    assert (said["object"], said["finish_reason"], said["refused"]) == ("text_completion", "length", "prompt")
    assert said["text"]
    assert said["usage"]["completion_tokens"] == 30
    assert said["usage"]["total_tokens"] == said["usage"]["prompt_tokens"] + said["usage"]["completion_tokens"] > 0
    assert said["streamed"] == said["chat"] == said["azure"]
    assert said["echo"] == "Hello" + said["chat"]
    assert said["embedding"] == 1536
    rows = legacy.usage_rows(key)
    assert len([row for row in rows if row.get("e_model") == "gpt-4o"]) == 5
    assert rows[0]["e_output"] == said["usage"]["completion_tokens"]
    assert not [row for row in rows if row.get("e_est") and row.get("e_status") == 200 and row["e_output"] == 0]
    [chatml, *_] = [e for e in legacy.simulator.log()["requests"] if e["operation"] == "chat/completions"]
    assert chatml["deployment"] == "gpt-4o-prod"
