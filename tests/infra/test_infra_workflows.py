"""The GitHub workflows, as far as they can be held to something without GitHub."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PATHS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def complaints(text: str) -> list[str]:
    workflow: dict[Any, Any] = yaml.safe_load(text)
    problems: list[str] = []
    if workflow.get("permissions") != {"contents": "read"}:
        problems.append("more is permitted than to read, unless a job says so")
    for name, job in workflow["jobs"].items():
        if "timeout-minutes" not in job:
            problems.append(f"{name} has no timeout")
        signs_in = any("azure/login" in step.get("uses", "") for step in job["steps"])
        if signs_in != (job.get("permissions", {}).get("id-token") == "write"):
            problems.append(f"{name}: a job that signs in, and no other, may ask for a token")
        if signs_in and "environment" not in job and "secrets." in json.dumps(job):
            problems.append(f"{name}: secrets belong to an environment, whose reviewers see them used")
        for step in job["steps"]:
            if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step.get("uses", "a@" + 40 * "0")):
                problems.append(f"{name}: {step['uses']} is not pinned by a commit")
            if "${{" in step.get("run", ""):  # a value of the event could be a command
                problems.append(f"{name}: an expression inside a script")
            paths = re.findall(r"(?:^|\s)((?:infra|deploy|\.ci)/[\w./-]+)", step.get("run", ""))
            problems += [f"{name}: {path} does not exist" for path in paths if not (ROOT / path).exists()]
    return problems


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_a_workflow_is_in_order(path: Path) -> None:
    assert complaints(path.read_text()) == []


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("deploy.yml", "permissions: {contents: read}\n", "permissions: write-all\n"),
        ("deploy.yml", "{contents: read, id-token: write}", "{contents: read}"),
        ("deploy.yml", '"$NUMBER"', '"${{ github.event.pull_request.title }}"'),
        ("deploy.yml", "    environment: ${{ inputs.environment || 'test' }}\n", ""),
        ("deploy.yml", "infra/bicep/main.bicepparam", "infra/main.bicepparam"),
        ("ci.yml", "actions/checkout@11bd71901bbe5b1630ceea73d27597364c9af683", "actions/checkout@v4"),
        ("ci.yml", ".ci/run", ".ci/runs"),
        ("ci.yml", "    timeout-minutes: 60\n", ""),
    ],
)
def test_a_seeded_fault_is_found(file: str, right: str, wrong: str) -> None:
    text = (ROOT / ".github" / "workflows" / file).read_text()
    assert right in text
    assert complaints(text.replace(right, wrong))


JOBS: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "deploy.yml").read_text())["jobs"]


def test_the_workflow_gives_every_variable_of_the_parameters_file_a_value_that_it_accepts() -> None:
    parameters = (ROOT / "infra" / "bicep" / "main.bicepparam").read_text()
    variables = dict(re.findall(r"readEnvironmentVariable\('(\w+)', '([^']*)'\)", parameters))
    secret = "GATEWAY_MANAGEMENT_KEY"
    for job in JOBS.values():
        assert job["env"].keys() == variables.keys() - {secret}
        for name, value in job["env"].items():
            default = re.search(r"\|\| '(.*)' }}", value)
            assert bool(default) == bool(variables[name]), name  # an unset variable of GitHub is an empty text
    (resources,) = (step for step in JOBS["deploy"]["steps"] if secret in step.get("env", {}))
    assert "main.bicepparam" in resources["run"]


def test_the_preview_has_another_identity_and_no_secret() -> None:
    identities = {
        name: step["with"]["client-id"]
        for name, job in JOBS.items()
        for step in job["steps"]
        if "azure/login" in step.get("uses", "")
    }
    assert identities == {"what-if": "${{ vars.AZURE_PREVIEW_CLIENT_ID }}", "deploy": "${{ vars.AZURE_CLIENT_ID }}"}
    assert "secrets." not in json.dumps(JOBS["what-if"])


def test_base_images_are_pinned_by_digest_and_packages_by_hash() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    stages = {line.split(" AS ")[1] for line in lines if line.startswith("FROM ")}
    for line in lines:
        if line.startswith("FROM "):
            image = line.split()[1]
            assert image in stages or re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", image), line
    for path in (ROOT / "Dockerfile", ROOT / "local" / "install.sh", ROOT / "infra" / "package.sh"):
        installs = re.findall(r"pip install\s(?:\\\n|[^\n])*", path.read_text())
        for words in installs:
            assert "--require-hashes" in words, words
    for service in yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].values():
        assert "build" in service or "@sha256:" in service["image"], service
    for path in (*ROOT.glob("requirements*.txt"), ROOT / "tests" / "agents" / "requirements.txt"):
        blocks = re.split(r"\n(?=[a-z])", path.read_text())
        assert all("--hash=sha256:" in block for block in blocks if "==" in block), path


def test_ci_installs_the_compiler_that_made_the_snapshots() -> None:
    ci = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    (version,) = re.findall(r"az bicep install --version v([\d.]+)", ci)
    assert f"Bicep compiler {version}" in (ROOT / "docs" / "deploy.md").read_text()
