"""The command line against a gateway, with nothing but its address and a key: on both edges."""

import csv
import hashlib
import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from shared.config.limits import Limits
from simulator.process import SimulatorProcess
from tests.cli.test_cli import Commands
from tests.harness.system import MANAGEMENT_KEY, System, chat_body, eventually


@pytest.fixture
def run(gateway: System) -> Commands:
    """Commands without storage and configuration."""
    nothing = dict.fromkeys(("GATEWAY_STORAGE", "AzureWebJobsStorage", "GATEWAY_CONFIG"))
    return Commands({**nothing, "TOLLGATE_GATEWAY": gateway.url, "TOLLGATE_MANAGEMENT_KEY": MANAGEMENT_KEY})


def test_a_consumer_lives_from_its_first_key_to_its_deletion(gateway: System, run: Commands) -> None:
    name = f"remote on {gateway.edge}"
    made = run.json("keys", "create", name, "--id", f"remote-{gateway.edge}", "--models", "gpt-4o", "--pin")
    assert made == {"id": f"remote-{gateway.edge}", "key": made["key"], "name": name}
    assert gateway.post("/v1/chat/completions", chat_body(), key=made["key"]).status == 200
    changed = run.json(
        "keys", "set", name, "--models", "all", "--no-pin", "--expires", "2099-03-31", "--name", f"{name}!"
    )
    assert changed["changed"] is True
    shown = run.json("keys", "show", made["id"])
    assert (shown["models"], shown["pin"], shown["expires"]) == (None, False, "2099-03-31T00:00:00Z")
    assert run.json("keys", "set", made["id"], "--expires", "never")["expires"] is None
    assert shown["name"] == name + "!"
    assert [one["id"] for one in run.json("keys", "list", "--name", name, "--state", "active")] == [made["id"]]
    rotated = run.json("keys", "rotate", made["id"])
    assert [key["state"] for key in run.json("keys", "show", made["id"])["keys"]] == [
        "active",
        "active",
    ]
    second = run.json("keys", "add", made["id"])
    assert len({made["key"], rotated["key"], second["key"]}) == 3
    run.json("keys", "revoke", made["id"], "--key", second["key"].split("_")[2])
    assert run.json("keys", "revoke", made["id"])["revoked"] is True
    assert run.json("keys", "show", made["id"])["state"] == "revoked"
    assert run.json("keys", "restore", made["id"])["state"] == "active"
    assert run.json("keys", "delete", made["id"], "--yes")["deleted"] is True
    actions = [entry["action"] for entry in run.json("audit", "--object", made["id"])]
    assert actions == [
        *("consumer.delete", "consumer.update", "consumer.update", "key.revoke", "key.create", "key.rotate"),
        *("consumer.update", "consumer.update", "consumer.create"),
    ]
    assert "consumer.delete" in run("audit", "--object", made["id"]).stdout
    assert any(line["name"] == name + "!" for line in run.json("usage"))


def test_reports_are_those_of_the_storage(gateway: System, run: Commands) -> None:
    key = gateway.make_key(f"reported on {gateway.edge}")
    assert gateway.post("/v1/chat/completions", chat_body(), key=key).status == 200
    own = Commands({**gateway.gateway.environment, "TOLLGATE_GATEWAY": None})
    consumer = key.split("_")[1]
    words = ("usage", "--by", "key,model", "--key", consumer)
    assert run.json(*words)[0]["requests"] == 1
    assert run(*words, "--csv").stdout.splitlines()[0] == own(*words, "--csv").stdout.splitlines()[0]
    assert run.json("limits", consumer) == own.json("limits", consumer)
    assert run.json("keys", "show", consumer) == own.json("keys", "show", consumer)
    assert f"reported on {gateway.edge}" in run("usage").stdout


def test_reading_needs_no_secret_of_a_backend(gateway: System) -> None:
    environment = {**gateway.gateway.environment, "JAPAN_KEY": None, "TOLLGATE_GATEWAY": None}
    run = Commands(environment)
    assert run.json("usage") is not None
    assert run.json("limits") is not None
    assert run.json("keys", "create", f"no secrets on {gateway.edge}", "--models", "gpt-4o")["key"]
    for words in (("prices",), ("ptu",), ("export", "--out", "/dev/null")):
        assert run.json(*words) is not None
    assert "JAPAN_KEY" in run.refused("check")


def test_thirty_teams_come_from_a_csv_file_and_a_second_time_nothing_changes(
    gateway: System, run: Commands, tmp_path: Path
) -> None:
    file, mark = tmp_path / "teams.csv", f"csv {gateway.edge}"
    columns = ["name", "models", "tokens_per_minute", "budget_usd", "budget_period", "expires", "explain", "soft"]

    def write(tokens: int) -> None:
        with file.open("w", newline="") as out:
            rows = csv.writer(out)
            rows.writerow(columns)
            for number in range(30):
                rows.writerow(
                    [f"{mark} {number:02}", "gpt-4o;o4-mini", tokens, "12.5", "month", "2099-01-01", "true", "false"]
                )

    write(1000)
    plan = run.json("keys", "import", str(file), "--dry-run")
    assert [step["action"] for step in plan] == ["create"] * 30
    assert run.json("keys", "list", "--name", mark) == []
    made = run.json("keys", "import", str(file), "--yes")
    assert len({one["key"] for one in made["created"]}) == 30
    listed = run.json("keys", "list", "--name", mark)
    assert len(listed) == 30
    limits = {"tokens_per_minute": 1000, "budget_usd": 12.5, "budget_period": "month", "soft": False}
    for one in listed:
        assert (one["limits"], one["models"], one["explain"]) == (limits, ["gpt-4o", "o4-mini"], True)
    assert gateway.post("/v1/chat/completions", chat_body(), key=made["created"][7]["key"]).status == 200
    again = run.json("keys", "import", str(file), "--yes")
    assert (again["created"], again["changed"], len(again["unchanged"])) == ([], [], 30)
    write(2000)
    run("keys", "set", listed[0]["id"], "--token-quota", "5")  # a column that the file does not have stays
    changed = run.json("keys", "import", str(file), "--yes")
    assert (len(changed["changed"]), changed["created"]) == (30, [])
    first = next(one for one in run.json("keys", "list", "--name", mark) if one["id"] == listed[0]["id"])
    assert first["limits"] == limits | {"tokens_per_minute": 2000, "token_quota": 5}


def test_keys_that_callers_had_before_come_along_without_leaving_the_machine(
    gateway: System, run: Commands, tmp_path: Path
) -> None:
    own, hashed = (f"{number}a1b2c3d4e5f60718{gateway.edge}zyxwvuts" for number in range(2))
    digest = hashlib.sha256(hashed.encode()).hexdigest()
    file, names = tmp_path / "apim.csv", [f"apim {number} {gateway.edge}" for number in range(2)]
    file.write_text(f"name,key,sha256\n{names[0]},{own},\n{names[1]},,{digest}\n")
    made = run.json("keys", "import", str(file), "--yes")["created"]
    assert [(one["name"], one["key"]) for one in made] == [(name, None) for name in names]
    for text, name in zip((own, hashed), names, strict=True):
        eventually(lambda text=text: calls_with(gateway, text) == 200)  # type: ignore[misc]
        mine = gateway.get("/gateway/keys/me", text).json()
        assert (mine["name"], mine["foreign"]) == (name, True)
    again = run.json("keys", "import", str(file), "--yes")
    assert (again["created"], again["changed"], len(again["unchanged"])) == ([], [], 2)
    actions = [entry["action"] for entry in run.json("audit", "--object", made[0]["id"])]
    assert actions == ["key.import", "consumer.create"]
    whole = json.dumps(run.json("audit", "--limit", "1000")) + gateway.gateway.logs()
    assert own not in whole
    file.write_text(f"name,key\n{names[0]},short\n")
    assert "expected a key of 20" in run.refused("keys", "import", str(file))


def calls_with(gateway: System, key: str) -> int:
    return gateway.post("/v1/chat/completions", chat_body(), key=key).status


def test_a_file_is_applied_as_a_whole_after_its_plan(gateway: System, run: Commands, tmp_path: Path) -> None:
    file, name = tmp_path / "consumers.yaml", f"applied on {gateway.edge}"

    def apply(consumer: dict[str, Any], *words: str) -> Any:
        file.write_text(json.dumps({"consumers": [{"name": name, **consumer}]}))
        return run.json("keys", "apply", str(file), *words)

    fields = {"limits": {"tokens_per_minute": 5}, "addresses": ["10.0.0.1"], "model_limits": {"gpt-4o": {"soft": True}}}
    (made,) = apply(fields, "--yes")["created"]
    assert len(apply(fields, "--yes")["unchanged"]) == 1
    (step,) = apply({"limits": {"token_quota": 7}, "expires": "2099-01-01"}, "--dry-run")
    assert step["changes"].keys() == {"limits", "addresses", "model_limits", "expires"}
    assert step["changes"]["limits"] == {"from": {"tokens_per_minute": 5}, "to": {"token_quota": 7}}
    run.json("keys", "revoke", made["id"])
    assert len(apply({"limits": {"token_quota": 7}, "expires": "2099-01-01"}, "--yes")["changed"]) == 1
    shown = run.json("keys", "show", made["id"])
    assert (shown["limits"], shown["addresses"], shown["model_limits"]) == ({"token_quota": 7}, [], {})
    assert shown["state"] == "revoked"  # which the file does not say
    assert len(apply({"limits": {"token_quota": 7}, "expires": "2099-01-01"}, "--yes")["unchanged"]) == 1
    shown_plan = run("keys", "apply", str(file))  # without --yes and without a terminal
    assert "keep" in shown_plan.stdout
    file.write_text(json.dumps({"consumers": [{"name": name, "explain": True}]}))
    asked = run("keys", "apply", str(file))
    assert asked.exit_code == 1
    assert run.json("keys", "show", made["id"])["explain"] is False


def test_a_file_with_a_mistake_says_what_was_done_before_it(gateway: System, run: Commands, tmp_path: Path) -> None:
    file, names = tmp_path / "some.csv", [f"partly {number} {gateway.edge}" for number in range(3)]
    file.write_text(f"name,models\n{names[0]},gpt-4o\n{names[1]},gpt-9\n{names[2]},gpt-4o\n")
    result = run("keys", "import", str(file), "--yes", "--json")
    assert result.exit_code == 2
    assert [one["name"] for one in json.loads(result.stdout)["created"]] == names[:1]
    assert f"{names[1]}: --models: got gpt-9" in result.stderr
    assert [one["name"] for one in run.json("keys", "list", "--name", "partly")] == names[:1]
    run("keys", "delete", names[0], "--yes")
    for text, words in {
        "name,colour\nx,red\n": "expected the columns id, name",
        "name,models\nx\n": "as many cells",
        "models\ngpt-4o\n": "expected a name",
        "name\nx\nx\n": "every name once",
        "name,pin\nx,perhaps\n": "true or false",
        'name\n"x\n': "expected CSV",
    }.items():
        file.write_text(text)
        assert words in run.refused("keys", "import", str(file))
    for text, words in {
        "[]": "expected {consumers:",
        "consumers: [x]": "expected {consumers:",
        "consumers: []\nteams: []": "got teams",
        "a: b: c": "mapping values",
        "consumers: [{name: x, expires: soon}]": "--expires",
    }.items():
        file.write_text(text)
        assert words in run.refused("keys", "apply", str(file))
    assert "cannot be read" in run.refused("keys", "apply", str(tmp_path / "nothing.yaml"))


def test_refusals_are_said_in_the_words_of_the_command(gateway: System, run: Commands) -> None:
    assert "--models: got gpt-9" in run.refused("keys", "create", "x", "--models", "gpt-9")
    assert "--time-zone: expected" in run.refused("keys", "create", "x", "--time-zone", "Mars")
    assert "--by: expected" in run.refused("usage", "--by", "weather")
    assert "no consumer has this id or name" in run.refused("keys", "show", "nobody")
    wrong = Commands({**run.environment, "TOLLGATE_MANAGEMENT_KEY": "wrong"})
    assert "management key is missing or wrong" in wrong.refused("keys", "list")
    caller = Commands({**run.environment, "TOLLGATE_MANAGEMENT_KEY": gateway.key})
    assert "management key is missing or wrong" in caller.refused("keys", "list")
    assert gateway.key not in caller("keys", "list").output


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://gateway.example.com", "expected the address of a gateway such as https://"),
        ("gateway.example.com", "expected the address of a gateway such as https://"),
        ("http://127.0.0.1:9", "no answer from http://127.0.0.1:9"),
    ],
)
def test_the_key_goes_to_a_gateway_over_https_alone(url: str, words: str) -> None:
    run = Commands({"TOLLGATE_GATEWAY": None, "TOLLGATE_MANAGEMENT_KEY": MANAGEMENT_KEY})
    said = run.refused("--gateway", url, "keys", "list")
    assert words in said
    assert MANAGEMENT_KEY not in said


def test_without_a_management_key_the_identity_of_the_user_signs_in(simulator: SimulatorProcess) -> None:
    seen: list[str] = []
    issued = simulator.log()["tokens_issued"]

    class Gateway(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["authorization"])
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"data": [], "after": null}')

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Gateway) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        environment = {**simulator.identity_environment, "TOLLGATE_MANAGEMENT_KEY": None}
        run = Commands({**environment, "TOLLGATE_GATEWAY": f"http://127.0.0.1:{server.server_port}"})
        try:
            assert run.json("--scope", f"api://{server.server_port}/.default", "keys", "list") == []
        finally:
            server.shutdown()
            serving.join()
    assert seen[0].startswith("Bearer ")
    assert simulator.log()["tokens_issued"] == issued + 1
    nobody = Commands({**dict.fromkeys(environment), "TOLLGATE_GATEWAY": "http://127.0.0.1:9", "PATH": "/nowhere"})
    assert "az login" in nobody.refused("keys", "list")


def test_commands_that_need_the_storage_say_so(run: Commands) -> None:
    for words in (("check",), ("rollup",), ("prices",), ("export",)):
        assert "works only on the storage account" in run.refused(*words)


def test_every_limit_is_a_column(tmp_path: Path) -> None:
    from shared.cli._bulk import read_csv

    file = tmp_path / "all.csv"
    values = {
        **dict.fromkeys(Limits.__struct_fields__, 5),
        **{"token_quota_period": "day", "request_quota_period": "hour", "budget_period": "week"},
        **{"time_zone": "Europe/Berlin", "soft": True, "estimate": "max"},
    }
    head, row = (
        ",".join(values),
        ",".join(str(value).lower() if value is True else str(value) for value in values.values()),
    )
    file.write_text(f"name,{head}\nx,{row}\n")
    assert read_csv(file) == [{"name": "x", "limits": values}]
