"""Every program of `examples/` runs against a gateway with nothing but the client's own environment variables."""

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local.models import CURRENT
from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.gateway_process import Edge
from tests.harness.system import System, configuration, watched
from tests.harness.system import system as start_system

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
ELSEWHERE = ("line_bot", "entra_caller")  # the first has a file of its own
PNG = "saved .*_line.png, 1[0-9]{4} bytes"
AVERAGES = r'"rows": \[\["north", 639.5\d*\], \["south", 616.7\d*\]\]'
# Patterns in what programs say.
SAID = {
    "reasoning": (
        "at most 10 tokens: an empty answer for 10 tokens",
        "empty_answer: reasoning took",
        "a stream: empty",
    ),
    "round_robin": ("by turns: 12 answers of 12", *(f"{region}: [345] of 12" for region in ("eastus2", "japaneast"))),
    "provisioned_first": ("first: reserved", r"reserved: \d+ of 24", r"(sweden|virginia|japan): \d+ of 24"),
    "entra_caller": ("OpenAI: ", "AzureOpenAI: ", r"so far: \d+ requests, \d+ tokens", "Azure OpenAI itself: 401"),
    "compare_models": (r"gpt-5.4-mini +0\.\d+ +0\.\d+ +\d+ +48 +16 +0\.0\d+", r"gpt-4o-mini .* 0 +0\.0\d+"),
    "data_engineer_responses": (
        "wind_power.csv has 168 rows",
        PNG,
        "wind_power_summary.csv, 2",
        AVERAGES,
        r"\[\[37\]\]",
    ),
    "data_engineer_assistants": (
        "wind_power.csv has 168 rows",
        "saved .*png, 1[0-9]{4} bytes",
        AVERAGES,
        r"\[\[37\]\]",
    ),
    "wind_power": ("628.125", "readonly"),
}


@pytest.fixture(scope="module")
def equipped_system(edge: Edge, azurite: Azurite, simulator: SimulatorProcess) -> Iterator[System]:
    """A gateway with provisioned capacity for a model, that takes tokens of Entra ID."""
    settings = configuration(simulator)
    reserved = {"name": "reserved", "kind": "provisioned", "models": {"gpt-5.4": "reserved"}}
    settings["backends"].append({**settings["backends"][0], **reserved})
    tenant = simulator.tenant
    settings["entra"] = {
        "authority": tenant["authority"],
        "tenants": [tenant["id"]],
        "audiences": tenant["audiences"],
        "callers": [{"app_role": "Gateway.Call"}],
    }
    with start_system(edge, settings, simulator, azurite.connection_string) as running:
        yield running


@pytest.fixture
def gateway(equipped_system: System, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    variables = {"OPENAI_BASE_URL": f"{equipped_system.url}/v1", "OPENAI_API_KEY": equipped_system.key}
    for name, value in (variables | equipped_system.simulator.identity_environment | {"NO_PROXY": "127.0.0.1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(FOLDER))
    for running in watched(equipped_system):
        running.simulator.limits(deployment="reserved", tokens_per_minute=600)
        yield running


@pytest.mark.parametrize(
    "program", [path for path in EXAMPLES if path.stem not in ELSEWHERE], ids=lambda path: path.stem
)
def test_an_example_runs(gateway: System, program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(program), run_name="__main__")

    said = capsys.readouterr().out
    assert said.strip()
    assert [pattern for pattern in SAID.get(program.stem, ()) if not re.search(pattern, said)] == [], said


def test_the_caller_with_a_token_runs_as_people_start_it(gateway: System) -> None:
    """Not in this process, where a module beside the program cannot stand before a package of its name."""
    done = subprocess.run([sys.executable, FOLDER / "entra_caller.py"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [pattern for pattern in SAID["entra_caller"] if not re.search(pattern, done.stdout)] == [], done.stdout


def test_the_assistant_runs_in_the_words_of_its_first_version(
    gateway: System, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_VERSION", "2024-02-15-preview")
    runpy.run_path(str(FOLDER / "data_engineer_assistants.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert [pattern for pattern in SAID["data_engineer_assistants"] if not re.search(pattern, said)] == [], said


def test_the_notebook_runs_cell_by_cell(gateway: System, capsys: pytest.CaptureFixture[str]) -> None:
    notebook = json.loads((FOLDER / "data_engineer.ipynb").read_text())
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["name"]) == (4, "python3")
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cell for cell in notebook["cells"] if cell["cell_type"] == "code"):
        assert cell["outputs"] == []
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)  # noqa: S102 - what Jupyter does
    said = capsys.readouterr().out
    assert "wind_power.csv has 168 rows" in said
    assert "import pandas" in said
    assert re.search(AVERAGES, said)
    (picture,) = names["made"].values()
    assert picture.startswith(b"\x89PNG")
    assert names["Picture"](picture)._repr_png_() == picture


def test_every_example_is_listed_and_its_models_are_in_the_local_run() -> None:
    text = (FOLDER / "README.md").read_text()
    assert set(re.findall(r"^\| `(\w+)\.py` \|", text, re.MULTILINE)) == {path.stem for path in EXAMPLES}
    named = {
        name
        for path in EXAMPLES
        for name in re.findall(r'(?:"?model"?(?:: str)?|MODEL) ?[=:] ?"([^"]+)"', path.read_text())
    }
    assert len(named) > 5
    assert named <= set(CURRENT)
    assert os.environ.get("OPENAI_API_VERSION") is None
