"""The two commands: finding Python and Node, refusing in one sentence, and leaving no process behind."""

import asyncio
import json
import os
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
import yaml
from openai import AsyncOpenAI

import shared
from local import azurite, run
from local.models import MODELS
from local.processes import Children, Refused, free_port, port_is_free
from local.simulated import KEY, Simulated
from shared.config import parsing
from shared.config.document import ApiKey
from shared.config.environment import Source
from simulator.tenant import Tenant

ROOT = Path(__file__).resolve().parents[2]
REAL = getattr(sys, "_base_executable", sys.executable)


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A folder for PATH that holds what the scripts need of a system, and nothing else."""
    folder = tmp_path / "commands"
    folder.mkdir()
    for name in ("sh", "dirname", "cmp", "mkdir", "cat", "sleep"):
        executable = shutil.which(name)
        assert executable
        (folder / name).symlink_to(executable)
    return folder


def shell(file: str, *arguments: str, path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", ROOT / "local" / file, *arguments], env={"PATH": str(path), **environ}, capture_output=True, text=True
    )


class TestFindingPython:
    def test_the_one_that_is_named_comes_first(self, commands: Path) -> None:
        script(commands / "python3.13", "echo wrong")
        assert shell("find-python.sh", path=commands, PYTHON=REAL).stdout.strip() == REAL

    def test_python3_13_on_path_is_taken(self, commands: Path) -> None:
        script(commands / "python3.13", f'exec "{REAL}" "$@"')
        done = shell("find-python.sh", path=commands)
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, REAL, "")

    def test_a_shim_that_fails_under_a_foreign_home_leads_to_pyenvs_own_folder(
        self, commands: Path, tmp_path: Path
    ) -> None:
        script(commands / "python3.13", "echo 'pyenv: python3.13: command not found' >&2; exit 127")
        script(tmp_path / "pyenv" / "bin" / "pyenv", "exit 1")
        (commands / "pyenv").symlink_to(tmp_path / "pyenv" / "bin" / "pyenv")
        script(tmp_path / "pyenv" / "versions" / "3.13.1" / "bin" / "python3.13", f'exec "{REAL}" "$@"')
        path = Path(f"{tmp_path}/pyenv/bin:{commands}")
        assert shell("find-python.sh", path=path, HOME="/nonexistent").stdout.strip() == REAL
        assert shell("find-python.sh", path=commands, PYENV_ROOT=f"{tmp_path}/pyenv").stdout.strip() == REAL

    def test_uv_finds_a_python_and_installs_none(self, commands: Path, tmp_path: Path) -> None:
        python = script(tmp_path / "uv" / "python", f'exec "{REAL}" "$@"')
        script(commands / "uv", f'[ "$1 $2" = "python find" ] && echo "{python}"')
        assert shell("find-python.sh", path=commands).stdout.strip() == REAL

    def test_python3_is_taken_only_when_it_is_3_13(self, commands: Path) -> None:
        script(commands / "python3", f'exec "{REAL}" "$@"')
        assert shell("find-python.sh", path=commands).stdout.strip() == REAL
        script(commands / "python3", "true")  # what another version prints: nothing
        assert shell("find-python.sh", path=commands).returncode == 1

    def test_without_any_one_sentence_says_what_to_install(self, commands: Path) -> None:
        done = shell("find-python.sh", path=commands)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("Tollgate needs Python 3.13")
        assert done.stderr.count("\n") == 1


class TestFindingNode:
    def test_without_node_one_sentence_says_what_to_install(self, commands: Path) -> None:
        done = shell("install.sh", "azurite", path=commands)
        assert done.returncode == 1
        assert done.stderr.startswith("Node.js 20 or newer with npm is needed")
        assert done.stderr.count("\n") == 1

    def test_a_node_that_is_too_old_is_rejected_with_its_version(self, commands: Path) -> None:
        for name in ("node", "npm"):
            script(commands / name, "echo v18.19.0")
        done = shell("install.sh", "azurite", path=commands)
        assert done.returncode == 1
        assert "but found v18.19.0" in done.stderr


class TestTheCommand:
    def test_make_install_writes_a_command_that_runs_in_any_folder(self, tmp_path: Path) -> None:
        project, elsewhere = tmp_path / "a project", tmp_path / "elsewhere"
        script(project / ".venv" / "bin" / "python", f'exec "{sys.executable}" "$@"')
        elsewhere.mkdir()
        (project / "shared").symlink_to(ROOT / "shared")
        (project / "local").mkdir()
        shutil.copy(ROOT / "local" / "install.sh", project / "local")
        for name in ("requirements.txt", "requirements-container.txt"):  # installed already
            shutil.copy(ROOT / name, project)
            shutil.copy(ROOT / name, project / ".venv" / f"installed-{name}")
        subprocess.run(["sh", project / "local" / "install.sh", "runtime"], check=True)
        done = subprocess.run(
            [project / ".venv" / "bin" / "tollgate", "--version"], cwd=elsewhere, capture_output=True, text=True
        )
        assert (done.stdout, done.stderr) == (f"tollgate {shared.__version__}\n", "")


class TestRefusals:
    def test_a_taken_port_is_rejected_with_what_to_do(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with pytest.raises(Refused, match=rf"Port {port} is taken.*make run PORT="):
                run.chosen_port(str(port))

    @pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "7071.0"])
    def test_an_invalid_port_is_rejected(self, port: str) -> None:
        with pytest.raises(Refused, match="PORT must be a number"):
            run.chosen_port(port)

    def test_func_without_the_core_tools_says_what_to_install_and_starts_nothing(self, commands: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "local.run", "--host", "func"],
            cwd=ROOT,
            env={"PATH": str(commands)},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert "npm install -g azure-functions-core-tools" in done.stderr


class TestProcesses:
    def test_leaving_stops_the_grandchildren_too(self, tmp_path: Path) -> None:
        with Children(tmp_path, tmp_path) as children:
            child = children.start("nest", ["sh", "-c", "sleep 100 & sleep 100 & echo $!; wait"])
            grandchild = int(children.wait_for("It", lambda: child.log.read_text().strip() or None, 30))
            assert psutil.pid_exists(grandchild)
        assert child.process.returncode is not None
        assert gone(grandchild, seconds=20)

    def test_a_program_that_ignores_the_request_to_end_is_ended_by_force(self, tmp_path: Path) -> None:
        with Children(tmp_path, tmp_path) as children:
            child = children.start("deaf", ["sh", "-c", "trap '' INT; echo up; while :; do sleep 1; done"])
            children.wait_for("It", lambda: child.log.read_text() or None, 30)
            child.stop(patience=0.2)
        assert child.process.returncode == -signal.SIGKILL

    def test_a_program_that_ends_by_itself_is_reported_with_its_last_lines(self, tmp_path: Path) -> None:
        with Children(tmp_path, tmp_path) as children:
            children.start("gateway", ["sh", "-c", "echo the reason; exit 3"])
            with pytest.raises(Refused, match=r"Gateway ended unexpectedly \(exit code 3\)[^$]*the reason"):
                children.wait_for("It", lambda: None, 30)

    def test_a_launcher_that_is_killed_leaves_no_orphan(self, tmp_path: Path) -> None:
        program = f"""
            import sys, time
            from pathlib import Path
            from local.processes import Children
            with Children(Path({str(tmp_path)!r}), Path({str(tmp_path)!r})) as children:
                print(children.start("sleeper", ["sh", "-c", "sleep 100 & wait"]).process.pid, flush=True)
                time.sleep(100)
        """
        launcher = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert launcher.stdout
        with launcher, launcher.stdout:
            sleeper = int(launcher.stdout.readline())
            assert psutil.pid_exists(sleeper)
            launcher.kill()
        assert gone(sleeper, seconds=30)


def test_the_simulated_configuration_is_one_that_the_gateway_accepts() -> None:
    endpoints = {name: f"http://127.0.0.1:{9000 + i}" for i, (name, _, _) in enumerate(run.REGIONS)}
    tenant = Tenant().places("http://127.0.0.1:9100")
    made = run.simulated_configuration(endpoints)
    document = yaml.safe_dump(made | {"entra": run.simulated_tenant(tenant, made)}, sort_keys=False)
    parsed = parsing.parse(document, "gateway.yaml")
    assert parsed.entra is not None
    assert parsed.entra.tenants == [tenant["id"]]
    assert {b.name: b.endpoint for b in parsed.backends} == endpoints
    assert [b.data_zone for b in parsed.backends] == ["eu", "us", None]
    assert parsed.model_names() == list(MODELS)
    assert {parsed.canonical(name) for name in ("gpt-3.5-turbo", "gpt-3.5-turbo-0125")} == {"gpt-35-turbo"}


MINE = {
    "backends": [
        {
            "name": "reserved",
            "endpoint": "https://contoso-swc.openai.azure.com",
            "region": "swedencentral",
            "kind": "provisioned",
            "models": {"gpt-5.4": "ptu"},
        },
        {
            "name": "sweden",
            "endpoint": "https://contoso-swc.openai.azure.com",
            "region": "swedencentral",
            "auth": {"api_key_env": "A_KEY_THAT_IS_NOT_SET"},
            "models": {"gpt-5.4": "paygo", "ours:small": "small"},
            "tokens_per_minute": {"ours:small": 1000},
        },
        {
            "name": "virginia",
            "endpoint": "https://contoso-eus.openai.azure.com",
            "region": "eastus2",
            "models": {"gpt-5.4": {"deployment": "gpt", "type": "data_zone"}},
        },
        {
            "name": "openai",
            "endpoint": "https://api.openai.com",
            "kind": "openai",
            "auth": {"api_key_env": "OPENAI_KEY"},
            "models": {"gpt-5.4": "gpt-5.4"},
        },
    ],
    "models": {"gpt-5.4": {"fallbacks": ["ours:small"]}},
    "limits": {
        "teams": {"search": {"tokens_per_minute": 9}},
        "webhook": {"url": "https://hooks.contoso.com/x", "secret_env": "HOOK"},
    },
    "export": {"container": "costs"},
}


def test_a_configuration_of_ones_own_is_simulated_under_the_same_names() -> None:
    mine = Simulated(Source("gateway.yaml", text=json.dumps(MINE)))
    sweden, virginia, openai = mine.regions()
    assert (sweden["name"], virginia["name"], openai["name"]) == ("reserved", "virginia", "openai")
    assert [region["api"] for region in (sweden, virginia, openai)] == ["azure", "azure", "openai"]
    assert virginia["deployments"] == [{"name": "gpt", "model": "gpt-5.4"}]
    assert sweden["deployments"] == [
        {"name": "ptu", "model": "gpt-5.4", "sku": "ProvisionedManaged"},
        {"name": "paygo", "model": "gpt-5.4"},
        {"name": "small", "model": "ours-small", "tokens_per_minute": 1000},
    ]
    addresses = {"reserved": "http://127.0.0.1:1", "virginia": "http://127.0.0.1:2", "openai": "http://127.0.0.1:3"}
    document = mine.document(addresses)
    made = parsing.parse(yaml.safe_dump(document), "x")
    assert [(b.name, b.endpoint, b.auth) for b in made.backends] == [
        ("reserved", "http://127.0.0.1:1", "managed_identity"),
        ("sweden", "http://127.0.0.1:1", "managed_identity"),
        ("virginia", "http://127.0.0.1:2", "managed_identity"),
        ("openai", "http://127.0.0.1:3", ApiKey(KEY)),
    ]
    assert (list(made.limits.teams), made.limits.webhook, made.export.container) == (["search"], None, None)
    for wrong in (Source("gateway.yaml", text="backends: []"), Source("https://x", url="https://x")):
        with pytest.raises(Refused):
            Simulated(wrong)


def test_make_run_serves_a_configuration_of_ones_own_without_azure(tmp_path: Path) -> None:
    given = {name: text for name, text in os.environ.items() if not name.startswith("GATEWAY_")}
    launcher, said = start_run(tmp_path, given | {"GATEWAY_CONFIG": json.dumps(MINE)}, "--simulate")
    with launcher:
        environ = shell_environment(tmp_path / "env")
        key = said.rpartition("\nManagement key  ")[2].split()[0]
        request = urllib.request.Request(
            f"{environ['GATEWAY_URL']}/gateway/configuration", headers={"authorization": f"Bearer {key}"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            shown = json.load(answer)
        launcher.terminate()
        assert launcher.wait(20) == 0
    names = [backend["name"] for backend in shown["document"]["backends"]]
    assert names == ["reserved", "sweden", "virginia", "openai"]
    assert "Served by swedencentral" in said  # the provisioned deployment is first
    assert environ["GATEWAY_MANAGEMENT_KEY"] == key
    assert stat.S_IMODE((tmp_path / "management-key").stat().st_mode) == 0o600


def test_azurite_starts_on_a_given_port_and_keeps_its_data_in_a_given_folder(tmp_path: Path) -> None:
    ports = {"table": free_port()}
    with Children(tmp_path, tmp_path) as children:
        children.start("azurite", azurite.command(ports, tmp_path / "data"))
        children.wait_for_port("Azurite", ports["table"], seconds=30)
        assert not port_is_free(ports["table"])
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["__azurite_db_table__.json"]


def test_make_run_shows_a_call_and_stops_on_ctrl_c(tmp_path: Path) -> None:
    launcher, said = start_run(tmp_path)
    with launcher:
        children = psutil.Process(launcher.pid).children(recursive=True)
        first_key = said.rpartition("\nKey  ")[2].split()[0]
        usage, check = (
            subprocess.run(
                ["sh", "-c", f". {tmp_path}/env; {sys.executable} -m shared.cli {command} --json"],
                cwd=ROOT,
                env=os.environ | {"AZURE_CLIENT_ID": "of-the-developer", "OPENAI_BASE_URL": "https://example.com"},
                capture_output=True,
                text=True,
            )
            for command in ("usage", "check")
        )
        url = said.rpartition("\nURL  ")[2].split()[0]
        link, _, code = said.rpartition("\nPage  ")[2].split()[0].partition("#sign-in=")
        exchanged = [exchange(f"{link}sign-in/code", one) for one in ("wrong", code, code)]
        spoken = asyncio.run(over_a_socket(url, first_key))
        statuses = [opened(f"{url}{path}", token) for token in tokens(said) for path in ("/v1/models", "/readyz")]
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(20) == 0
    assert exchanged == ["invalid_api_key", said.rpartition("\nManagement key  ")[2].split()[0], "invalid_api_key"]
    assert not (tmp_path / "sign-in-code").exists()
    assert spoken == "response.completed"
    assert statuses == [200, 403, 403, 200]  # a caller's token, and an operator's
    assert usage.returncode == 0, usage.stderr
    assert check.returncode == 0, check.stdout + check.stderr
    assert len(json.loads(check.stdout)) == len(MODELS) * len(run.REGIONS)
    assert "A first call to gpt-5.4-mini, streamed" in said
    assert any(f"Served by {called}" in said for _, called, _ in run.REGIONS)
    assert len(children) >= 4
    assert all(gone(child.pid, seconds=2) for child in children)
    for file in ("demo-key.json", "env"):
        assert stat.S_IMODE((tmp_path / file).stat().st_mode) == 0o600

    sourced = shell_environment(tmp_path / "env")
    assert "OPENAI_BASE_URL" not in sourced  # which OpenAI's Node client for Azure refuses
    assert sourced["OPENAI_API_KEY"] == first_key
    # The data was kept, and so the key still serves; and what the shell took from the first run changes nothing.
    launcher, said = start_run(tmp_path, sourced)
    with launcher:
        launcher.terminate()
        assert launcher.wait(20) == 0
    assert f"\nKey  {first_key}\n" in said
    assert any(f"Served by {called}" in said for _, called, _ in run.REGIONS)


async def over_a_socket(url: str, key: str) -> str:
    """The end of a response on a WebSocket."""
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key=key) as client, client.responses.connect() as connection:
        await connection.response.create(model="gpt-5.4-mini", input="Hello")
        async for event in connection:
            if event.type in ("response.completed", "error"):
                return str(event.type)
    return "closed"


def exchange(url: str, code: str) -> str:
    """The gain of the code in the printed link: a key, or the code of an error."""
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url, json.dumps({"code": code}).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.headers["cache-control"] == "no-store"
            return str(json.load(answer)["key"])
    except urllib.error.HTTPError as error:
        return str(json.load(error)["error"]["code"])


def tokens(said: str) -> list[str]:
    """The tokens that the commands get which a run prints."""
    lines = [line for line in said.splitlines() if "/oauth2/v2.0/token" in line]
    bodies = [subprocess.run(["sh", "-c", line], capture_output=True, check=True).stdout for line in lines]
    return [str(json.loads(body)["access_token"]) for body in bodies]


def opened(url: str, token: str) -> int:
    """The status of a GET with this token."""
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def shell_environment(file: Path) -> dict[str, str]:
    """The environment of a shell that has sourced a file twice."""
    program = f". {file}; . {file}; {sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    environ = os.environ | {"OPENAI_BASE_URL": "https://example.com"}
    done = subprocess.run(["sh", "-c", program], env=environ, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def test_a_run_takes_back_what_it_made_and_nothing_that_the_developer_changed() -> None:
    made = {"GATEWAY_STORAGE": "a b;c='d'", "GATEWAY_CONFIG": "x.yaml", "IDENTITY_HEADER": ""}
    sourced = made | {run.MADE_HERE: shlex.join(f"{name}={text}" for name, text in made.items()), "PATH": "/bin"}
    assert run.without_earlier_run(sourced) == {"PATH": "/bin"}
    changed = sourced | {"GATEWAY_CONFIG": "mine.yaml"}
    assert run.without_earlier_run(changed) == {"PATH": "/bin", "GATEWAY_CONFIG": "mine.yaml"}
    assert run.without_earlier_run({"GATEWAY_STORAGE": "mine"}) == {"GATEWAY_STORAGE": "mine"}


def start_run(state: Path, given: Mapping[str, str] | None = None, *words: str) -> tuple[subprocess.Popen[str], str]:
    """The launcher with a folder of its own for what it keeps; returns what it printed until it was ready."""
    program = (
        f"import pathlib, sys; from local import run; run.STATE = pathlib.Path({str(state)!r}); sys.exit(run.main())"
    )
    environ = given or {k: v for k, v in os.environ.items() if not k.startswith("GATEWAY_")}
    launcher = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        cwd=ROOT,
        env={**environ, "PORT": str(free_port())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert launcher.stdout
    said = ""
    for line in launcher.stdout:
        said += line
        if "Ctrl-C stops everything" in line:
            return launcher, said
    launcher.wait()
    pytest.fail(f"it ended with {launcher.returncode}:\n{said}")


def gone(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False
