"""The GitHub workflows, as far as they can be held to something without GitHub."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PATHS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def complaints(text: str) -> list[str]:
    workflow: dict[Any, Any] = yaml.safe_load(text)
    found: list[str] = []
    if workflow.get("permissions") != {"contents": "read"}:
        found.append("may do more than read, unless a job says so")
    for name, job in workflow["jobs"].items():
        if "timeout-minutes" not in job:
            found.append(f"{name} has no timeout")
        signs_in = "azd auth login" in str(job["steps"])
        if signs_in != (job.get("permissions", {}).get("id-token") == "write"):
            found.append(f"{name}: who signs in, and nobody else, may ask for a token")
        for step in job["steps"]:
            if not re.fullmatch(r"[\w./-]+@v\d+", step.get("uses", "a@v1")):
                found.append(f"{name}: {step['uses']} is of no major version")
            if "${{" in step.get("run", ""):  # a value of the event could be a command
                found.append(f"{name}: an expression inside a script")
            paths = re.findall(r"(?:^|\s)((?:infra|deploy|\.ci)/[\w./-]+)", step.get("run", ""))
            found += [f"{name}: there is no {path}" for path in paths if not (ROOT / path).exists()]
    return found


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_a_workflow_is_in_order(path: Path) -> None:
    assert complaints(path.read_text()) == []


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("deploy.yml", "permissions: {contents: read}\n", "permissions: write-all\n"),
        ("deploy.yml", "{contents: read, id-token: write}", "{contents: read}"),
        ("deploy.yml", '"$NUMBER"', '"${{ github.event.pull_request.title }}"'),
        ("ci.yml", "actions/checkout@v4", "actions/checkout@main"),
        ("ci.yml", "infra/bicep/main.bicep", "infra/main.bicep"),
        ("ci.yml", ".ci/run", ".ci/runs"),
        ("ci.yml", "    timeout-minutes: 30\n", ""),
    ],
)
def test_a_seeded_fault_is_found(file: str, right: str, wrong: str) -> None:
    text = (ROOT / ".github" / "workflows" / file).read_text()
    assert right in text
    assert complaints(text.replace(right, wrong))


def test_the_deployment_gives_azd_what_the_parameters_file_asks_for() -> None:
    asked = set(re.findall(r"\$\{(\w+)", (ROOT / "infra" / "bicep" / "main.parameters.json").read_text()))
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "deploy.yml").read_text())["jobs"]
    for job in jobs.values():
        assert asked <= job["env"].keys()
