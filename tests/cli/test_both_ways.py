"""Commands of operators that do the same over HTTP and on the storage account, while a gateway serves."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared import bootstrap
from shared.config.environment import Storage
from shared.versions.rows import Good, Versions
from simulator.process import SimulatorProcess
from tests.cli.test_cli import Commands
from tests.harness.azurite import Azurite
from tests.harness.azurite import azurite as start_azurite
from tests.harness.gateway_process import run_apart
from tests.harness.system import MANAGEMENT_KEY, System, chat_body, configuration, eventually
from tests.harness.system import system as start_system


@pytest.fixture(scope="module")
def account() -> Iterator[Azurite]:
    """Its own: a version of the configuration is for all gateways on an account."""
    with start_azurite() as running:
        yield running


@pytest.fixture(scope="module")
def running(account: Azurite, simulator: SimulatorProcess) -> Iterator[System]:
    with start_system("uvicorn", configuration(simulator), simulator, account.connection_string) as system:
        yield system
        system.assert_no_defect()


@pytest.fixture(params=["http", "storage"])
def run(request: pytest.FixtureRequest, running: System) -> Commands:
    if request.param == "storage":
        return Commands({**running.gateway.environment, "TOLLGATE_GATEWAY": None, "JAPAN_KEY": None})
    nothing = dict.fromkeys(("GATEWAY_STORAGE", "AzureWebJobsStorage", "GATEWAY_CONFIG"))
    return Commands({**nothing, "TOLLGATE_GATEWAY": running.url, "TOLLGATE_MANAGEMENT_KEY": MANAGEMENT_KEY})


@pytest.fixture
def actor(run: Commands) -> str:
    """The beginning of the operator's name in the audit trail."""
    return "management-key" if run.environment.get("TOLLGATE_GATEWAY") else "cli:"


def last_change(run: Commands, of: str) -> dict[str, Any]:
    change: dict[str, Any] = run.json("audit", "--object", of)[0]
    return change


def test_a_backend_is_drained_and_restored(run: Commands, actor: str) -> None:
    def drained() -> dict[str, Any]:
        return {line["name"]: line["drained_until"] for line in run.json("backends", "list")}

    assert drained().keys() == {"sweden", "virginia", "japan", "japan-dated", "norway"}
    made = run.json("backends", "drain", "virginia", "--for", "10m", "--reason", "patches")
    assert drained()["virginia"] == made["drained_until"] is not None
    assert "patches" in run("backends", "list").stdout
    assert last_change(run, "virginia")["actor"].startswith(actor)
    assert last_change(run, "virginia")["after"]["reason"] == "patches"
    assert run("backends", "restore", "virginia").stdout == "virginia is in service\n"
    assert drained()["virginia"] is None
    assert "--for: expected a duration" in run.refused("backends", "drain", "virginia", "--for", "long")
    assert "There is no backend 'nowhere'" in run.refused("backends", "restore", "nowhere")
    assert "(--force)" in run.refused("backends", "drain", "japan-dated", "--for", "1m")


def test_a_request_for_access_is_listed_approved_and_declined(run: Commands, running: System, actor: str) -> None:
    made = run.json("keys", "create", f"asking {actor}", "--tokens-per-minute", "1000")
    for tokens in (2000, 3000):
        wish = {"limits": {"tokens_per_minute": tokens}, "reason": "more customers"}
        assert running.post("/gateway/requests-for-access", wish, key=made["key"]).status == 201
    first, second = (f"{made['id']}.{number}" for number in (1, 2))
    assert [one["id"] for one in run.json("access", "list", "--state", "open")][:2] == [second, first]
    assert "tokens_per_minute: 3000" in run("access", "list").stdout
    assert run("access", "approve", first).stdout == f"{first} of asking {actor} is approved\n"
    assert run.json("access", "decline", second, "--reason", "too many")["answer"] == "too many"
    assert last_change(run, first)["actor"].startswith(actor)
    (line,) = [one for one in run.json("keys", "list") if one["id"] == made["id"]]
    assert line["limits"]["tokens_per_minute"] == 2000
    own = running.gateway.request("GET", "/gateway/requests-for-access/me", None, {"api-key": made["key"]}).json()
    assert [(one["state"], one["answer"]) for one in own["data"]] == [("declined", "too many"), ("approved", None)]
    assert f"The request {first} was approved" in run.refused("access", "decline", first)
    assert "There is no request for access 'x'" in run.refused("access", "approve", "x")
    assert "--reason" in run.refused("access", "decline", second, "--reason", "two\nlines")


def test_a_call_is_listed_and_shown(run: Commands, running: System) -> None:
    answer = running.chat()
    call = answer.headers["x-gateway-request-id"]
    eventually(lambda: call in [line["id"] for line in run.json("requests", "list", "--status", "200")])
    shown = run.json("requests", "show", call)
    assert (shown["model"], len(shown["tries"])) == ("gpt-4o", 1)
    assert shown["tries"][0]["backend"] in run("requests", "show", call).stdout
    assert "There is no call" in run.refused("requests", "show", "nothing")
    assert "--status: expected" in run.refused("requests", "list", "--status", "9")


def test_the_configuration_is_applied_shown_compared_and_taken_back(
    run: Commands, running: System, tmp_path: Path, actor: str
) -> None:
    file = tmp_path / "sections.yaml"
    assert run.json("config", "rollback", "base")["sections"] == []
    file.write_text("heartbeat_seconds: 3\n")
    tried = run("config", "apply", str(file), "--dry-run")
    assert tried.stdout == "+ heartbeat_seconds: 3\n"
    assert run.json("config", "show")["sections"].get("heartbeat_seconds") is None
    applied = run.json("config", "apply", str(file), "--note", "quicker")
    shown = run.json("config", "show")
    assert shown["sections"]["heartbeat_seconds"] == f"version {applied['version']}"
    assert f"# from version {applied['version']}\nheartbeat_seconds: 3" in run("config", "show").stdout
    assert run.json("config", "diff") == [{"section": "heartbeat_seconds", "before": None, "after": 3}]
    newest = run.json("config", "history")[0]
    assert (newest["version"], newest["note"], newest["sections"]) == (
        applied["version"],
        "quicker",
        ["heartbeat_seconds"],
    )
    assert newest["by"].startswith(actor)
    assert "quicker" in run("config", "history").stdout
    file.write_text("modles: {}\nmodels: {zzz: {}}\n")
    wrong = run("config", "apply", str(file))
    assert (wrong.exit_code, len(wrong.stderr.splitlines())) == (1, 2)
    assert "models.zzz: expected a model of a backend" in wrong.stderr
    complaints = json.loads(run("config", "apply", str(file), "--json").stdout)["complaints"]
    assert {one["path"] for one in complaints} == {"modles", "models.zzz"}
    assert run("config", "validate", str(file)).exit_code == 1
    assert run.json("config", "show") == shown
    assert run.json("config", "rollback", "base")["sections"] == []
    assert "heartbeat_seconds" not in running.get("/gateway/configuration").json()["document"]
    assert "no version 9999" in run.refused("config", "rollback", "9999")


def test_a_command_on_the_storage_leaves_what_gateways_remember_alone(
    running: System, account: Azurite, tmp_path: Path
) -> None:
    """Its environment may name another document than theirs."""
    running.get("/gateway/configuration")  # so that it has remembered its own
    other = json.dumps({"backends": [], "extra": 1})
    run = Commands({"GATEWAY_STORAGE": account.connection_string, "GATEWAY_CONFIG": other, "TOLLGATE_GATEWAY": None})
    before = running.get("/gateway/configuration").json()["document"]
    assert run.json("config", "show")["document"] == before
    file = tmp_path / "sections.yaml"
    file.write_text("heartbeat_seconds: 4\n")
    assert run.json("config", "apply", str(file))["sections"] == ["heartbeat_seconds"]
    good = run_apart(remembered(account))
    assert good is not None
    assert (good.trusted, json.loads(good.text)) == (True, configuration(running.simulator))
    assert running.get("/gateway/configuration").json()["document"] == before | {"heartbeat_seconds": 4}
    assert run.json("config", "rollback", "base")["sections"] == []


async def remembered(account: Azurite) -> Good | None:
    async with bootstrap.open_store(Storage(connection_string=account.connection_string)) as store:
        return await Versions(store, MANAGEMENT_KEY).remembered()


@pytest.mark.parametrize("section", ["products", "teams"])
def test_entries_are_set_by_options_and_files_and_deleted(
    run: Commands, section: str, tmp_path: Path, actor: str
) -> None:
    name, file = f"{section}-by-{actor.strip(':')}", tmp_path / "entry.yaml"
    own = ("--models", "gpt-4o,gpt-4o-mini") if section == "products" else ("--owners", "none")
    made = run.json(section, "set", name, *own, "--tokens-per-minute", "5", "--budget-usd", "7")
    assert made["limits"] == {"tokens_per_minute": 5, "budget_usd": 7.0}
    changed = run.json(section, "set", name, "--tokens-per-minute", "6")
    assert changed == made | {"limits": {"tokens_per_minute": 6, "budget_usd": 7.0}}
    assert run.json(section, "show", name) == changed
    assert name in run(section, "show", name).stdout
    assert changed in run.json(section, "list")
    assert name in run(section, "list").stdout
    if section == "products":
        shared = run.json(section, "set", name, "--shared", "--token-quota", "9", "--models", "all")
        assert (shared["shared_limits"], "models" in shared) == ({"token_quota": 9}, False)
        assert "expected a model of a backend" in run.refused(section, "set", name, "--models", "gpt-9")
    file.write_text("limits: {token_quota: 3}\n")
    assert run.json(section, "set", name, "--file", str(file)) == {"name": name, "limits": {"token_quota": 3}}
    assert "either a file or options" in run.refused(section, "set", name, "--file", str(file), "--token-quota", "1")
    last = last_change(run, name)
    assert (last["action"], last["after"]) == (f"{section[:-1]}.update", {"limits": {"token_quota": 3}})
    assert last["actor"].startswith(actor)
    user = run.json("keys", "create", f"of {name}", f"--{section if section == 'products' else 'team'}", name)
    assert "has consumers" in run.refused(section, "delete", name, "--yes")
    run.json("keys", "delete", user["id"], "--yes")
    assert run.json(section, "delete", name, "--yes")["deleted"] is True
    assert f"There is no {section[:-1]}" in run.refused(section, "show", name)


def test_a_product_that_is_set_by_command_is_served(run: Commands, running: System) -> None:
    name = f"served-{len(run.environment)}"
    run.json("products", "set", name, "--models", "gpt-4o-mini")
    key = run.json("keys", "create", f"subscriber of {name}", "--products", name)["key"]

    def statuses() -> list[int]:
        models = ("gpt-4o-mini", "gpt-4o")
        return [running.post("/v1/chat/completions", chat_body(model), key=key).status for model in models]

    eventually(lambda: statuses() == [200, 403])
