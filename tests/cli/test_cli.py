"""The command line and the timer's job, as an operator uses them."""

import asyncio
import csv
import io
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from shared import __version__, asgi
from shared.cli._terminal import show
from shared.cli.app import cli
from shared.config.limits import Limits
from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.gateway_process import make_key
from tests.harness.system import DEPLOYMENTS, System, configuration


class Commands:
    """The command line with an environment of its own."""

    def __init__(self, environment: Mapping[str, str | None]) -> None:
        self.environment = environment

    def __call__(self, *words: str) -> Result:
        return CliRunner().invoke(cli, words, env=dict(self.environment))

    def json(self, *words: str) -> Any:
        result = self(*words, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def refused(self, *words: str) -> str:
        """The standard error of a command that exits with 2."""
        result = self(*words)
        assert result.exit_code == 2
        assert not isinstance(result.exception, Exception)
        return result.stderr


@pytest.fixture
def run(azurite: Azurite, simulator: SimulatorProcess) -> Commands:
    environment = {
        "GATEWAY_CONFIG": json.dumps(configuration(simulator)),
        "GATEWAY_STORAGE": azurite.connection_string,
        "JAPAN_KEY": simulator.api_key,
    }
    return Commands(environment | simulator.identity_environment)


def listed(run: Commands, consumer_id: str) -> dict[str, Any]:
    consumer: dict[str, Any] = next(row for row in run.json("keys", "list") if row["id"] == consumer_id)
    return consumer


def test_a_key_is_shown_once_and_never_stored(run: Commands, azurite: Azurite) -> None:
    made = run.json("keys", "create", "team one", "--models", "gpt-4o,o4-mini")
    assert made.keys() == {"id", "key", "name"}
    row = listed(run, made["id"])
    assert (row["name"], row["state"], row["models"]) == ("team one", "active", ["gpt-4o", "o4-mini"])
    assert made["key"] not in json.dumps(run.json("keys", "list"))
    text = run("keys", "create", "team two").stdout
    assert "cannot be shown again" in text


def valid(run: Commands, consumer_id: str) -> int:
    """The number of valid keys."""
    return sum(key["state"] == "active" for key in listed(run, consumer_id)["keys"])


def test_rotating_gives_a_new_key_of_the_same_consumer_and_revoking_ends_all(run: Commands) -> None:
    made = run.json("keys", "create", "rotating")
    again = run.json("keys", "rotate", made["id"], "--grace-hours", "2")
    assert (again["id"], again["name"]) == (made["id"], "rotating")
    assert again["key"] != made["key"]
    assert valid(run, made["id"]) == 2
    run.json("keys", "rotate", "rotating")  # the older one, which was being replaced, keeps its two hours
    assert valid(run, made["id"]) == 3
    run.json("keys", "rotate", "rotating", "--overlap-hours", "0")
    assert valid(run, made["id"]) == 1
    run.json("keys", "add", "rotating")
    assert "--key: expected one of" in run.refused("keys", "rotate", "rotating")
    assert run.json("keys", "revoke", made["id"])["revoked"] is True
    assert listed(run, made["id"])["state"] == "revoked"
    assert "revoked or expired, and stay so" in run.refused("keys", "rotate", "rotating")
    assert valid(run, made["id"]) == 0
    assert run.json("keys", "restore", "rotating")["state"] == "active"
    assert valid(run, made["id"]) == 2
    assert "rotating" in run("keys", "delete", "rotating", "--yes").stdout
    assert "no consumer has this" in run.refused("keys", "show", "rotating")


def test_a_name_is_unique_and_an_expiry_lies_ahead(run: Commands) -> None:
    made = run.json("keys", "create", "only one")
    assert f"expected a new name, but {made['id']} has 'only one'" in run.refused("keys", "create", " only one ")
    assert "a time in the future" in run.refused("keys", "create", "late", "--expires", "2026-01-01")


def test_a_change_that_changes_nothing_says_so(run: Commands) -> None:
    run.json("keys", "create", "steady", "--token-quota", "5")
    assert run("keys", "set", "steady").stdout == "steady stays as it was.\n"
    assert run.json("keys", "set", "steady", "--token-quota", "5")["changed"] is False
    assert run.json("keys", "set", "steady", "--token-quota", "6")["changed"] is True
    assert run.json("keys", "set", "steady", "--clear")["changed"] is True


def test_an_ambiguous_name_is_rejected(run: Commands) -> None:
    for _ in range(2):
        make_key(run.environment["GATEWAY_STORAGE"] or "", "twins")  # as before names were unique
    assert "several consumers have this name" in run.refused("keys", "revoke", "twins")
    assert "no consumer has this id or name" in run.refused("keys", "rotate", "nobody")


def test_wrong_arguments_are_rejected_with_what_was_expected(run: Commands) -> None:
    assert "got gpt-9" in run.refused("keys", "create", "x", "--models", "gpt-4o,gpt-9")
    assert "--name: expected" in run.refused("keys", "create", "  ")
    assert "expected one of them" in run.refused("usage", "--json", "--csv")
    assert "expected a time before" in run.refused("usage", "--since", "2026-02-01", "--until", "2026-01-01")
    assert "--by" in run.refused("usage", "--by", "weather")
    assert "--time-zone: expected" in run.refused("keys", "create", "x", "--time-zone", "Mars")
    assert "--token-quota: Expected `int` <= 10" in run.refused("keys", "create", "x", "--token-quota", "9" * 16)


def test_a_command_names_the_settings_it_lacks(run: Commands) -> None:
    nothing = Commands(dict.fromkeys([*run.environment, "AzureWebJobsStorage"], None))
    assert "GATEWAY_STORAGE: expected" in nothing.refused("keys", "list")
    dead = Commands({**run.environment, "GATEWAY_STORAGE": "UseDevelopmentStorage=maybe"})
    assert dead.refused("keys", "list")
    broken = Commands({**run.environment, "GATEWAY_CONFIG": "{"})
    assert "neither YAML nor JSON" in broken.refused("check")


def test_keys_need_the_configuration_only_where_they_refer_to_it(run: Commands) -> None:
    without = Commands({**run.environment, "GATEWAY_CONFIG": "/nowhere/gateway.yaml"})
    assert without.json("keys", "create", "without a document", "--tokens-per-minute", "5")["key"]
    assert without.json("keys", "set", "without a document", "--explain")["explain"] is True
    assert without("keys", "list").stderr == ""
    assert "/nowhere/gateway.yaml" in without.refused("keys", "set", "without a document", "--models", "gpt-4o")
    assert without.json("keys", "show", "without a document")["models"] is None


def test_an_unavailable_store_is_reported_without_a_traceback(run: Commands) -> None:
    gone = run.environment["GATEWAY_STORAGE"] or ""
    port = gone.split("127.0.0.1:")[1].split("/")[0]
    said = Commands({**run.environment, "GATEWAY_STORAGE": gone.replace(port, "9")}).refused("keys", "list")
    assert "Traceback" not in said
    assert "AccountKey" not in said


def test_usage_is_printed_as_table_json_and_csv(gateway: System) -> None:
    model = gateway.slow()
    assert gateway.chat(model, stream=True).status == 200
    run = Commands(gateway.gateway.environment)
    rows = run.json("usage", "--by", "model")
    table = list(csv.DictReader(io.StringIO(run("usage", "--by", "model", "--csv").stdout)))
    assert [row.keys() for row in rows] == [row.keys() for row in table]
    for row, cells in zip(rows, table, strict=True):
        for name, value in row.items():
            if name != "forecast_usd":  # it changes with every second
                assert cells[name] == ("" if value is None else str(value)) or float(cells[name]) == value
    assert "total tokens" in run("usage").stdout
    assert "p50 ms" not in run("usage").stdout  # of all models together
    assert "first byte p95 ms" in run("usage", "--by", "model").stdout
    times = next(row for row in rows if row["model"] == model)
    assert 0 < times["first_byte_p50_ms"] < times["p50_ms"] <= times["p95_ms"]
    for row in rows:
        assert row["total_tokens"] == row["input_tokens"] + row["output_tokens"]


def test_check_names_the_reason_of_every_failure(azurite: Azurite, simulator: SimulatorProcess) -> None:
    sweden, virginia = simulator.regions["swedencentral"], simulator.regions["eastus2"]

    def backend(name: str, endpoint: str, deployment: str = "gpt-4o-prod", **more: Any) -> dict[str, Any]:
        return {"name": name, "endpoint": endpoint, "region": "r", "models": {"gpt-4o": deployment}, **more}

    backends = [
        backend("good", sweden),
        backend("dated", sweden, api_version="2024-10-21"),
        backend("embedder", sweden, "embed"),
        backend("completer", sweden, "instruct"),
        backend("painter", sweden, DEPLOYMENTS["gpt-image-1"]),
        backend("listener", sweden, DEPLOYMENTS["gpt-4o-mini-transcribe"], api_version="2024-10-21"),
        backend("keyed", sweden, auth={"api_key_env": "RIGHT"}),
        backend("badkey", sweden, auth={"api_key_env": "WRONG"}),
        backend("nodeployment", virginia, "nothing"),
        backend("nobody", "http://127.0.0.1:9"),
        backend("audience", virginia, token_scope="https://storage.azure.com/.default"),
    ]
    environment = {
        "GATEWAY_CONFIG": json.dumps({"backends": backends}),
        "GATEWAY_STORAGE": azurite.connection_string,
        "RIGHT": simulator.api_key,
        "WRONG": "not-the-key",
    }
    run = Commands(environment | simulator.identity_environment)
    result = run("check", "--json")
    rows = {row["backend"]: row for row in json.loads(result.stdout)}
    assert result.exit_code == 1
    refused = {"badkey", "nodeployment", "nobody", "audience"}
    assert {name for name, row in rows.items() if not row["usable"]} == refused
    assert {rows[name]["result"] for name in ("good", "dated", "embedder", "completer", "keyed")} == {"ok"}
    assert {rows[name]["result"].split(";")[0] for name in ("painter", "listener")} == {"ok: deployed"}
    assert rows["badkey"]["result"].startswith("401 Unauthorized")
    assert rows["nodeployment"]["result"].startswith("404 Not Found: no such deployment")
    assert rows["nobody"]["result"].startswith("not reachable")
    assert rows["audience"]["result"].startswith("401 Unauthorized")
    assert "not-the-key" not in result.output
    assert "no such deployment" in run("check").stdout


def test_check_shows_the_end_of_each_model_and_warns_ahead(azurite: Azurite, simulator: SimulatorProcess) -> None:
    soon = (datetime.now(UTC) + timedelta(days=50)).strftime("%Y-%m-%d")
    place = {"endpoint": simulator.regions["swedencentral"], "region": "r", "auth": {"api_key_env": "K"}}
    served = {"our-chat": "gpt-4o-prod", "our-embeddings": "embed", "spare-000": "spare-000", "spare-001": "spare-001"}
    models = {
        "spare-000": {"retires": soon},
        "spare-001": {"retires": soon, "replaced_by": {"model": "our-chat", "from": "2026-01-01"}},
    }
    document = {"backends": [{"name": "b", "models": served, **place}], "models": models}
    storage = azurite.connection_string
    run = Commands({"GATEWAY_CONFIG": json.dumps(document), "GATEWAY_STORAGE": storage, "K": simulator.api_key})
    result = run("check", "--json")
    assert result.exit_code == 0
    ends = {row["model"]: row["end"] for row in json.loads(result.stdout)}
    assert ends["our-embeddings"]["retires"] == "2028-02-09"  # by the model that its answer names
    assert ends["our-chat"]["version"] == "2024-11-20"
    assert ends["our-chat"]["source"].startswith("Microsoft Foundry")
    assert ends["spare-000"]["retires"] == soon
    warned = [line for line in result.stderr.splitlines() if "spare" in line]
    about = "its replacement is gpt-5.1 (configuration)"  # for the gpt-4o that its answer names
    assert warned == [f"warning: spare-000 on b: the model spare-000 ends on {soon}, in 50 days; {about}"]
    assert soon in run("check").stdout


async def test_the_asgi_app_rolls_the_usage_up_by_itself(
    gateway: System, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.to_thread(gateway.chat)
    for name, value in gateway.gateway.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(asgi, "_ROLL_UP_EVERY", 0.05)
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    said: asyncio.Queue[Any] = asyncio.Queue()
    caplog.set_level("INFO", "tollgate")
    incoming.put_nowait({"type": "lifespan.startup"})
    serving = asyncio.ensure_future(asgi.App()({"type": "lifespan"}, incoming.get, said.put))
    assert (await said.get())["type"] == "lifespan.startup.complete"
    async with asyncio.timeout(10):
        while "roll-up: Summary(hours=" not in caplog.text:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    incoming.put_nowait({"type": "lifespan.shutdown"})
    assert (await said.get())["type"] == "lifespan.shutdown.complete"
    await serving


async def test_a_configuration_that_cannot_be_used_stops_the_start_with_its_complaints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GATEWAY_CONFIG", '{"backends": []}')
    monkeypatch.setenv("GATEWAY_STORAGE", "UseDevelopmentStorage=true")
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        said.append(message)

    await asgi.App()({"type": "lifespan"}, receive, send)
    assert said[0]["type"] == "lifespan.startup.failed"
    assert "backends: expected at least one backend" in said[0]["message"]


def test_a_key_is_limited_to_regions_and_freed_again(run: Commands) -> None:
    made = run.json("keys", "create", "europeans", "--regions", "swedencentral, japaneast", "--explain")
    changed = run.json("keys", "set", made["id"], "--regions", "swedencentral", "--pin", "--requests-per-minute", "5")
    assert (changed["regions"], changed["pin"], changed["explain"]) == (["swedencentral"], True, True)
    assert changed["limits"] == {"requests_per_minute": 5}
    freed = run.json("keys", "set", made["id"], "--regions", "all", "--no-pin")
    assert (freed["regions"], freed["pin"], freed["explain"]) == (None, False, True)
    assert "atlantis" in run.refused("keys", "create", "x", "--regions", "swedencentral,atlantis")
    no_team = run.refused("keys", "create", "x", "--team", "shop")
    assert "--team: got shop, but no teams are configured. Create the team first" in no_team
    assert "--data-zones: got eu, but no data zones are configured" in run.refused(
        "keys", "set", made["id"], "--data-zones", "eu"
    )


def test_the_version_is_printed(run: Commands) -> None:
    assert run("--version").stdout == f"tollgate {__version__}\n"


def test_every_limit_can_be_set_by_an_option(run: Commands) -> None:
    limits = {
        **dict.fromkeys(("tokens_per_minute", "requests_per_minute", "token_quota", "request_quota"), 7),
        **{"token_quota_period": "day", "request_quota_period": "hour", "budget_usd": 1.5, "budget_period": "week"},
        **{"max_concurrent": 2, "time_zone": "Europe/Berlin", "soft": True, "estimate": "learned"},
        "quota_counts": "success",
    }
    assert limits.keys() == set(Limits.__struct_fields__)
    options = ["--soft", "--model", "gpt-4o"]
    for name, value in limits.items():
        options += [f"--{name.replace('_', '-')}", str(value)] if name != "soft" else []
    made = run.json("keys", "create", "limited in every way", *options[:1], *options[3:])
    assert run.json("keys", "set", made["id"])["limits"] == limits
    assert run.json("keys", "set", made["id"], "--hard", "--token-quota", "0")["limits"] == limits | {
        "soft": False,
        "token_quota": 0,
    }
    assert run.json("keys", "set", made["id"], *options)["model_limits"] == {"gpt-4o": limits}
    cleared = run.json("keys", "set", made["id"], "--clear", "--model", "gpt-4o", "--token-quota", "3")
    assert cleared["model_limits"] == {"gpt-4o": {"token_quota": 3}}
    assert run.json("keys", "set", made["id"], "--clear", "--model", "gpt-4o")["model_limits"] == {}


def test_a_table_shows_long_words_whole_in_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remedy = "x" * 150 + " run az login"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    show([{"backend": "sweden", "result": remedy}], ["backend", "result"], False)
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert printed.count("x") == 150
    assert "login" in printed
