"""Every program of `examples/` runs against a gateway with nothing but the client's own environment variables."""

import re
import runpy
from pathlib import Path

import pytest

from local.models import CURRENT
from tests.harness.system import System

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("program", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(
    gateway: System, program: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{gateway.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", gateway.key)

    runpy.run_path(str(program), run_name="__main__")

    assert capsys.readouterr().out.strip()


def test_every_example_is_listed_and_its_models_are_in_the_local_run() -> None:
    text = (EXAMPLES[0].parent / "README.md").read_text()
    assert set(re.findall(r"^\| `(\w+)\.py` \|", text, re.MULTILINE)) == {path.stem for path in EXAMPLES}
    named = {name for path in EXAMPLES for name in re.findall(r'"?model"?[=:] ?"([^"]+)"', path.read_text())}
    assert named <= set(CURRENT)
