"""`tollgate timing`, as a person runs it: against a gateway, beside the resource behind it."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.gateway_process import ROOT
from tests.harness.system import SLOW_REGION, System, configuration, watched
from tests.harness.system import system as start_system


@pytest.fixture(scope="module")
def running(azurite: Azurite, simulator: SimulatorProcess) -> Iterator[System]:
    """One edge is enough: the command sees HTTP only."""
    with start_system("uvicorn", configuration(simulator), simulator, azurite.connection_string) as system:
        yield system


@pytest.fixture
def system(running: System) -> Iterator[System]:
    yield from watched(running)


def started(environ: Mapping[str, str], *words: str) -> "subprocess.Popen[str]":
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-m", "shared.cli", "timing", *words],
        cwd=ROOT,
        env=inherited | {"COLUMNS": "300", **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job of a script ignores it
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=90)
    return process.returncode, out, err


def callers(system: System) -> dict[str, str]:
    """The environment of a caller who knows the gateway and a key of the resource."""
    keys = {"OPENAI_API_KEY": system.key, "AZURE_OPENAI_API_KEY": system.simulator.api_key}
    return {"GATEWAY_URL": system.url, **keys}


def test_each_way_and_model_is_measured_into_a_sheet_a_chart_and_a_summary(system: System, tmp_path: Path) -> None:
    models = ["--models", "gpt-4o=gpt-4o-prod,gpt-5.4-mini", "--direct", system.simulator.regions["swedencentral"]]
    files = ["--csv", str(tmp_path / "results.csv"), "--chart", str(tmp_path / "results.svg")]
    code, out, err = ended(started(callers(system), *models, "--calls", "12", "--stream", *files, "--json"))
    assert code == 0, err
    with (tmp_path / "results.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0])[:4] == ["model", "start_time", "end_time", "duration"]
    assert len(rows) == 2 * 2 * 12  # and not the calls that opened the connections
    for row in rows:
        start, end = datetime.fromisoformat(row["start_time"]), datetime.fromisoformat(row["end_time"])
        assert (end - start).total_seconds() == pytest.approx(float(row["duration"]), abs=1e-5)
        assert 0 < float(row["first_token"]) <= float(row["duration"])
        assert float(row["tokens_per_second"]) > 0
        assert (row["status"], row["problem"]) == ("200", "")
        assert bool(row["overhead"]) == (row["via"] == "gateway")
    assert {row["region"] for row in rows if row["via"] == "direct"} == {"Sweden Central"}
    assert {row["region"] for row in rows if row["via"] == "gateway"} <= {"swedencentral", "eastus2", "japaneast"}
    first = [row["via"] for row in rows if row["model"] == "gpt-4o"][::2]
    assert first == ["gateway", "direct"] * 6  # they take turns
    whole = json.loads(out)
    for line in whole["summary"]:
        mine = sorted(float(r["duration"]) for r in rows if (r["model"], r["via"]) == (line["model"], line["via"]))
        assert (line["calls"], line["errors"]) == (12, 0)
        assert line["p50_ms"] == pytest.approx(1000 * mine[5], abs=0.06)
        assert line["p95_ms"] == line["p99_ms"] == pytest.approx(1000 * mine[11], abs=0.06)
    for line in whole["differences"]:
        assert line["from_ms"] <= line["difference_ms"] <= line["to_ms"]
    assert {(line["model"], line["gateway_minus_direct"]) for line in whole["differences"]} == {
        (model, quantile) for model in ("gpt-4o", "gpt-5.4-mini") for quantile in ("p50", "p95")
    }
    assert 0 < whole["client_p50_ms"] < 1000
    picture = ElementTree.parse(tmp_path / "results.svg")  # noqa: S314 - our own file
    texts = [element.text or "" for element in picture.iter() if element.tag.endswith("text")]
    assert {"gpt-4o", "gpt-5.4-mini", "gateway, 12 calls", "direct, 12 calls"} <= set(texts)
    for secret in callers(system).values():
        assert secret == system.url or secret not in out + err


def test_the_direct_resource_is_called_with_the_identity_if_there_is_no_key(system: System) -> None:
    environ = {"GATEWAY_URL": system.url, "OPENAI_API_KEY": system.key, **system.simulator.identity_environment}
    words = ["--models", "gpt-5.4-mini", "--calls", "2", "--direct", system.simulator.regions["eastus2"]]
    code, out, err = ended(started(environ, *words))
    assert code == 0, err
    assert re.search(r"direct +│ 2 +│ 0 ", out), out
    requests = [r for r in system.simulator.log()["requests"] if r["region"] == "eastus2"]
    assert requests  # the simulator takes tokens of its own identity only


def test_failures_are_counted_by_kind_and_are_in_no_time(system: System) -> None:
    model = system.lone()
    system.simulator.fault("status", deployment=model, times=3, status=400)
    code, out, err = ended(started(callers(system), "--models", f"{model},nonesuch", "--calls", "6", "--json"))
    assert code == 0, err
    whole = json.loads(out)
    lines = {line["model"]: line for line in whole["summary"]}
    assert lines[model]["errors"] + 1 == 3  # one of the three was the call before
    assert (lines["nonesuch"]["errors"], lines["nonesuch"]["p50_ms"]) == (6, None)
    kinds = {(row["model"], row["status"]): row["calls"] for row in whole["failures"]}
    assert kinds == {(model, 400): 2, ("nonesuch", 404): 6}
    assert ended(started(callers(system), "--models", "nonesuch", "--calls", "1"))[0] == 1  # nothing succeeded


def test_a_stream_that_breaks_off_is_a_failure(system: System) -> None:
    model = system.lone()
    system.simulator.fault("cut_stream", deployment=model, after_chunks=2)
    words = ["--models", model, "--calls", "2", "--stream", "--json"]
    _, out, err = ended(started(callers(system), *words))
    (line,) = json.loads(out)["summary"]
    assert line["errors"] == 2, err


def test_ctrl_c_shows_what_was_measured_so_far(system: System, tmp_path: Path) -> None:
    model, file = system.slow(), tmp_path / "results.csv"
    words = ["--models", model, "--calls", "1000", "--output-tokens", "40", "--csv", str(file)]
    process = started(callers(system), *words)
    deadline = time.monotonic() + 60
    while len([r for r in system.simulator.log()["requests"] if r["region"] == SLOW_REGION]) < 4:
        assert time.monotonic() < deadline
        assert process.poll() is None, ended(process)
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    code, out, err = ended(process)
    assert code == 130, err
    assert "Traceback" not in err
    measured = int(re.findall(r"Interrupted: (\d+) calls were measured", out)[0])
    assert measured >= 1
    assert len(file.read_text().splitlines()) == 1 + measured
    assert re.search(rf"{model} +│ gateway +│ {measured} ", out), out


@pytest.mark.parametrize(
    ("environ", "words", "said"),
    [
        ({}, ["--models", "m"], "--gateway: expected a URL"),
        ({"GATEWAY_URL": "http://127.0.0.1:9"}, ["--models", "m"], "OPENAI_API_KEY: expected a key of the gateway"),
        ({"GATEWAY_URL": "http://127.0.0.1:9"}, ["--models", " ,"], "--models: expected names"),
        ({"GATEWAY_URL": "http://127.0.0.1:9"}, ["--models", "m", "--csv", "/none/x.csv"], "--csv: expected a file"),
        ({"GATEWAY_URL": "http://127.0.0.1:9"}, ["--models", "m", "--direct", "contoso"], "--direct: expected a URL"),
    ],
)
def test_wrong_arguments_are_refused_before_any_call(environ: dict[str, str], words: list[str], said: str) -> None:
    code, _, err = ended(started(environ, *words))
    assert (code, "Traceback" in err) == (2, False)
    assert said in err


def test_a_progress_bar_counts_calls_and_errors(system: System) -> None:
    code, _, err = ended(started(callers(system) | {"FORCE_COLOR": "1"}, "--models", "gpt-4o", "--calls", "3"))
    plain: Any = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", err)
    assert code == 0, err
    assert "3/3" in plain
    assert "0 errors" in plain
