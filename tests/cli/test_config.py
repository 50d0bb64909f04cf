"""The commands `config`: a document is checked, compared, applied and taken back, without the backends' secrets."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_cli import Commands
from tests.harness.azurite import Azurite
from tests.harness.azurite import azurite as start_azurite

BACKEND = {"name": "a", "endpoint": "https://a.openai.azure.com", "region": "r", "models": {"gpt-4o": "m"}}
BASE = {"backends": [{**BACKEND, "auth": {"api_key_env": "A_KEY_THAT_IS_NOT_SET"}}], "heartbeat_seconds": 9}


@pytest.fixture(scope="module")
def account() -> Iterator[Azurite]:
    with start_azurite() as running:
        yield running


@pytest.fixture(scope="module")
def tollgate(account: Azurite) -> Commands:
    return Commands({"GATEWAY_CONFIG": json.dumps(BASE), "GATEWAY_STORAGE": account.connection_string})


@pytest.fixture
def run(tollgate: Commands) -> Commands:
    """The commands over the base document alone."""
    assert tollgate("config", "rollback", "base").exit_code == 0
    return tollgate


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sections.yaml"


def written(file: Path, text: Any) -> str:
    file.write_text(text if isinstance(text, str) else json.dumps(text))
    return str(file)


def test_a_document_is_checked_without_storage_and_secrets(file: Path) -> None:
    run = Commands({"GATEWAY_CONFIG": "none.yaml", "GATEWAY_STORAGE": None})
    assert run("config", "validate", written(file, BASE)).output == f"{file}: correct\n"
    wrong = run("config", "validate", written(file, {"backends": [], "extra": 1}))
    assert (wrong.exit_code, len(wrong.stderr.splitlines())) == (1, 2)
    assert f"{file}: backends: expected at least one backend" in wrong.stderr
    complaints = json.loads(run("config", "validate", str(file), "--json").stdout)["complaints"]
    assert {one["path"] for one in complaints} == {"backends", "document"}
    assert "cannot be read" in run.refused("config", "validate", str(file) + ".none")


def test_sections_are_applied_shown_compared_and_taken_back(run: Commands, file: Path) -> None:
    first = run("config", "apply", written(file, "heartbeat_seconds: 3\n"), "--note", "quicker")
    assert first.exit_code == 0, first.stderr
    assert "- heartbeat_seconds: 9\n+ heartbeat_seconds: 3\n" in first.stdout
    assert "is current: every instance serves it within 30 s." in first.stdout
    shown = run.json("config", "show")
    number = shown["version"]
    assert shown["sections"] == {"backends": "base", "heartbeat_seconds": f"version {number}"}
    assert shown["document"]["heartbeat_seconds"] == 3
    assert f"# from version {number}\nheartbeat_seconds: 3\n" in run("config", "show").stdout
    assert run.json("config", "diff") == [{"section": "heartbeat_seconds", "before": 9, "after": 3}]
    (change,) = run.json("config", "diff", written(file, "models: {gpt-4o: {}}\nheartbeat_seconds: 3\n"))
    assert change == {"section": "models", "before": None, "after": {"gpt-4o": {}}}
    run("config", "apply", str(file))
    newest, older = run.json("config", "history")[:2]
    assert (newest["sections"], older["note"]) == (["models", "heartbeat_seconds"], "quicker")
    assert newest["by"].startswith("cli:")
    assert run.json("config", "rollback", str(number))["sections"] == ["heartbeat_seconds"]
    assert run.json("config", "show")["document"] == {**BASE, "heartbeat_seconds": 3}
    assert "No section differs." in run("config", "diff", written(file, "heartbeat_seconds: 3")).stdout


def test_what_is_refused_or_only_tried_changes_nothing(run: Commands, file: Path) -> None:
    before = run.json("config", "show")
    wrong = run("config", "apply", written(file, "models: {zzz: {}}\nledger: {}\n"))
    assert (wrong.exit_code, len(wrong.stderr.splitlines())) == (1, 2)
    assert "models.zzz: expected a model of a backend" in wrong.stderr
    tried = run("config", "apply", written(file, "heartbeat_seconds: 4"), "--dry-run")
    assert "+ heartbeat_seconds: 4" in tried.stdout
    assert run("config", "apply", written(file, "backends: ["), "--dry-run").exit_code == 1
    assert "expected sections" in run.refused("config", "apply", written(file, "[1]"))
    assert "no version 9999" in run.refused("config", "rollback", "9999")
    assert "Expected the number" in run.refused("config", "rollback", "x")
    assert run.json("config", "show") == before


def test_reports_read_what_is_served_without_the_backends_secrets(run: Commands, file: Path) -> None:
    sections = {"limits": {"teams": {"search": {"tokens_per_minute": 7}}}, "prices": [{"model": "gpt-4o", "input": 77}]}
    assert run("config", "apply", written(file, sections)).exit_code == 0
    (priced,) = [line for line in run.json("prices") if line["source"] == "configuration"]
    assert priced["prices"] == {"input": 77.0}
    assert run("keys", "create", "someone", "--team", "search").exit_code == 0
    assert [line["limit"] for line in run.json("limits")] == [7]
    assert run.json("usage") == []
    assert "A_KEY_THAT_IS_NOT_SET is not set" in run("check").stderr
