"""The scripts of a deployment: the package, the models' check before it, and the call after it."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness.system import System
from tests.infra import layout
from tests.infra.snapshots import ROOT

MINI = {
    "format": "OpenAI",
    "name": "gpt-5.4-mini",
    "version": "2026-03-17",
    "lifecycleStatus": "GenerallyAvailable",
    "skus": [{"name": "GlobalStandard", "usageName": "OpenAI.GlobalStandard.gpt-5.4-mini"}],
}
OLD = MINI | {"name": "gpt-4.1", "version": "2025-04-14", "lifecycleStatus": "Deprecating"}
DEPLOYMENT = {"name": "mini", "model": "gpt-5.4-mini", "sku": "GlobalStandard", "capacity": 10}
USAGE = {"name": {"value": "OpenAI.GlobalStandard.gpt-5.4-mini"}, "limit": 100.0, "currentValue": 0.0}


def account(**changed: Any) -> dict[str, Any]:
    return {"name": "sweden", "region": "swedencentral", "deployments": [DEPLOYMENT | changed]}


def check(
    folder: Path, asked: dict[str, Any], models: list[dict[str, Any]], usages: list[dict[str, Any]]
) -> subprocess.CompletedProcess[str]:
    """The check with an Azure CLI that answers with these."""
    parameters = json.dumps({"parameters": {"accounts": {"value": [asked]}}})
    answers = {
        "bicep": {"parametersJson": parameters},
        "model": [{"kind": "OpenAI", "model": model} for model in models],
        "usage": usages,
    }
    for name, answer in answers.items():
        (folder / f"{name}.json").write_text(json.dumps(answer))
    az = folder / "az"
    az.write_text(f'#!/bin/sh\nname=$1\n[ "$1" = bicep ] || name=$2\nexec cat "{folder}/$name.json"\n')
    az.chmod(az.stat().st_mode | stat.S_IXUSR)
    return subprocess.run(
        [sys.executable, "infra/check_models.py"],
        cwd=ROOT,
        env={"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )


def test_models_that_are_offered_and_within_the_quota_pass_in_silence(tmp_path: Path) -> None:
    done = check(tmp_path, account(), [MINI], [USAGE])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("changed", "asked", "instead"),
    [
        ({"version": "2024-01-01"}, "gpt-5.4-mini 2024-01-01 by GlobalStandard", "gpt-5.4-mini 2026-03-17"),
        ({"model": "gpt-4o"}, "gpt-4o by GlobalStandard", "gpt-5.4-mini 2026-03-17"),
        ({"sku": "DataZoneStandard"}, "gpt-5.4-mini by DataZoneStandard", "nothing"),
    ],
)
def test_a_model_that_is_not_offered_stops_azd_and_names_others(
    tmp_path: Path, changed: dict[str, Any], asked: str, instead: str
) -> None:
    done = check(tmp_path, account(**changed), [MINI, OLD], [USAGE])
    assert done.returncode == 1
    sentence = f"{asked} is not offered. Choose one of: {instead}."
    assert f"ERROR: accounts: sweden (swedencentral), mini: {sentence}" in done.stderr


@pytest.mark.parametrize(
    ("changed", "usage", "sentence"),
    [
        ({"model": "gpt-4.1"}, USAGE, "gpt-4.1 is about to be retired"),
        ({}, USAGE | {"currentValue": 95.0}, "asks for a capacity of 10, and 5 of 100 are left"),
    ],
)
def test_what_may_still_work_is_a_warning(
    tmp_path: Path, changed: dict[str, Any], usage: dict[str, Any], sentence: str
) -> None:
    done = check(tmp_path, account(**changed), [MINI, OLD], [usage])
    assert done.returncode == 0
    assert "WARNING" in done.stderr
    assert sentence in done.stderr


def test_without_the_azure_cli_the_deployment_goes_on(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "infra/check_models.py"],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "the Azure CLI (az) was not found" in done.stderr


def smoke(system: System, *words: str, url: str = "") -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "GATEWAY_STORAGE": system.storage, "SMOKE_PATIENCE": "1"}
    return subprocess.run(
        [sys.executable, "infra/smoke.py", url or system.url, *words],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_call_after_the_deployment_is_made_recorded_and_leaves_no_key(gateway: System) -> None:
    done = smoke(gateway, "gpt-4o")
    assert (done.returncode, done.stderr) == (0, "")
    steps = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert steps == ["healthz", "key", "stream", "usage", "key"]


def test_a_deployment_that_cannot_serve_the_model_fails_with_the_gateways_reason(gateway: System) -> None:
    done = smoke(gateway, "no-such-model")
    assert done.returncode == 1
    assert "The model 'no-such-model' does not exist" in done.stderr
    assert "key: revoked" in done.stdout


def test_the_package_holds_the_pinned_wheels_for_azures_python(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "infra/package.sh", str(tmp_path / "package")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    packages = tmp_path / "package" / ".python_packages" / "lib" / "site-packages"
    installed = {path.name.partition("-")[0].lower().replace("_", "-") for path in packages.glob("*.dist-info")}
    pinned = {name.lower().replace("_", "-") for name in layout.pinned("requirements.txt")}
    assert installed <= {name.replace(".", "-") for name in pinned} | pinned
    assert {"azure-functions", "aiohttp", "msgspec"} <= installed
    machines = {path.read_bytes()[18] for path in packages.rglob("*.so")}
    assert machines == {62}  # x86-64, in the header of an ELF file
    names = {path.name for path in packages.rglob("*.so")}
    assert all("cpython-313-x86_64-linux-gnu" in name or ".abi3." in name for name in names)
    own = {path.relative_to(tmp_path / "package") for path in (tmp_path / "package").rglob("*") if path.is_file()}
    allowed = {Path(path) for path in layout.kept(".funcignore")}
    assert {path for path in own if path.parts[0] != ".python_packages"} == allowed
