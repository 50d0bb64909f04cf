"""An operator's day from outside, on both edges: nothing but HTTPS, the management key and identities."""

import asyncio
import csv
import json
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from azure.identity import ManagedIdentityCredential, get_bearer_token_provider

from simulator.process import SimulatorProcess
from tests.cli.test_cli import Commands
from tests.end_to_end.test_drains import Load
from tests.harness.azurite import azurite as start_azurite
from tests.harness.gateway_process import Edge
from tests.harness.system import MANAGEMENT_KEY, PATIENT, System, chat_body, eventually
from tests.harness.system import system as start_system

DEPLOYMENTS = [{"name": name, "model": "gpt-4o"} for name in ("gpt-4o", "slow", "cheap")]
REGIONS = {"sweden": "swedencentral", "virginia": "eastus2", "norway": "norwayeast"}
STREAMS = 50


@pytest.fixture(scope="module")
def regions() -> Iterator[SimulatorProcess]:
    quick = [{"name": REGIONS[name], "deployments": DEPLOYMENTS} for name in ("sweden", "virginia")]
    slow = {"name": REGIONS["norway"], "deployments": DEPLOYMENTS, "seconds_per_chunk": 0.25}
    with SimulatorProcess({"regions": [*quick, slow]}) as running:
        yield running


def backend(regions: SimulatorProcess, name: str, *models: str) -> dict[str, Any]:
    region = REGIONS[name]
    return {"name": name, "endpoint": regions.regions[region], "region": region, "models": {m: m for m in models}}


@pytest.fixture
def running(edge: Edge, regions: SimulatorProcess) -> Iterator[System]:
    """A gateway on an account of its own: versions of the configuration belong to the account."""
    tenant = regions.tenant
    document = {
        "backends": [
            backend(regions, "sweden", "gpt-4o", "cheap"),
            backend(regions, "virginia", "gpt-4o", "cheap"),
            backend(regions, "norway", "slow"),
        ],
        "entra": {
            "authority": tenant["authority"],
            "tenants": [tenant["id"]],
            "audiences": tenant["audiences"],
            "callers": [{"app_role": "Gateway.Call"}],
        },
    }
    with start_azurite() as account, start_system(edge, document, regions, account.connection_string) as system:
        yield system
        system.assert_no_defect()


def operator(system: System, credential: str = MANAGEMENT_KEY) -> Commands:
    """The command line of an operator who has this credential, and neither storage nor configuration."""
    nothing = dict.fromkeys(("GATEWAY_STORAGE", "AzureWebJobsStorage", "GATEWAY_CONFIG"))
    return Commands({**nothing, "TOLLGATE_GATEWAY": system.url, "TOLLGATE_MANAGEMENT_KEY": credential})


@contextmanager
def meanwhile(work: Callable[[], Coroutine[Any, Any, None]], end: Callable[[], None]) -> Iterator[None]:
    """Run in an event loop of its own, as commands do in theirs. What it raises is raised after `end()`."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        end()
        thread.join(40)
    assert not thread.is_alive()
    assert not raised, raised


class Streams:
    """Fifty streams at once. `words` are those of each that came whole."""

    def __init__(self, system: System) -> None:
        self._url, self._headers = f"{system.url}/v1/chat/completions", {"authorization": f"Bearer {system.key}"}
        self.begun = threading.Event()
        self._waiting = STREAMS
        self.words: list[int] = []

    async def run(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
            for _ in range(STREAMS):
                group.create_task(self._one(session))

    async def _one(self, session: aiohttp.ClientSession) -> None:
        body = chat_body("slow", "simulate_output_tokens=80", stream=True)
        async with session.post(self._url, json=body, headers=self._headers) as answer:
            assert answer.status == 200
            data = await answer.content.readany()
            self._waiting -= 1
            if not self._waiting:
                self.begun.set()
            data += await answer.content.read()
        assert data.endswith(b"data: [DONE]\n\n"), data[-500:]
        self.words.append(data.count(b'"content":"'))


def status(system: System, key: str, model: str = "gpt-4o") -> int | str:
    """200, or the code of the refusal."""
    answer = system.post("/v1/chat/completions", chat_body(model), key=key)
    return 200 if answer.status == 200 else str(answer.error()["code"])


def import_teams(run: Commands, file: Path) -> dict[str, str]:
    """The keys of thirty teams by name, with a product and a budget; the last one's is all but nothing."""
    run.json("teams", "set", "research", "--budget-usd", "500")
    run.json("products", "set", "chat", "--models", "gpt-4o", "--tokens-per-minute", "100000")
    with file.open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["name", "team", "products", "budget_usd", "requests_per_minute"])
        for number in range(30):
            rows.writerow([f"team {number:02}", "research", "chat", "50" if number < 29 else "0.000001", "6000"])
    made = run.json("keys", "import", str(file), "--yes")["created"]
    assert len(made) == 30
    return {one["name"]: one["key"] for one in made}


def drain_under_load(system: System, run: Commands, key: str) -> None:
    """A region is taken out and put back, and no call fails."""
    load = Load([system.url], key)
    with meanwhile(load.run, load.end):
        time.sleep(1.5)
        run.json("backends", "drain", "sweden", "--for", "1h", "--reason", "patches")
        drained = time.monotonic()
        time.sleep(1.5)
        until = time.monotonic()
        run.json("backends", "restore", "sweden")
        time.sleep(1.5)
    assert {status for _, _, status, _ in load.calls} == {200}
    assert load.regions(0, 0, drained) == {"swedencentral", "eastus2"}
    assert load.regions(0, drained, until) == {"eastus2"}
    assert "swedencentral" in load.regions(0, until, until + 60)


def apply_under_streams(system: System, run: Commands, file: Path) -> None:
    """A configuration without the backend that serves fifty streams, of which none breaks."""
    served = run.json("config", "show")
    kept = {name: served["document"][name] for name, source in served["sections"].items() if source != "base"}
    backends = [one for one in served["document"]["backends"] if one["name"] != "norway"]
    file.write_text(json.dumps({**kept, "backends": backends, "models": {"gpt-4o": {"aliases": ["new"]}}}))
    streams = Streams(system)
    with meanwhile(streams.run, lambda: None):
        assert streams.begun.wait(20)
        version = run.json("config", "apply", str(file), "--note", "no more norway")["version"]
        eventually(
            lambda: (status(system, system.key, "new"), status(system, system.key, "slow")) == (200, "model_not_found")
        )
        assert not streams.words, "the streams ended before the configuration had changed"
    assert streams.words == [streams.words[0]] * STREAMS
    file.write_text("modles: {}\nheartbeat_seconds: often\nmodels: {zzz: {}}\n")
    wrong = run("config", "apply", str(file), "--json")
    assert wrong.exit_code == 1
    complaints = json.loads(wrong.stdout)["complaints"]
    assert {one["path"] for one in complaints} == {"modles", "heartbeat_seconds", "models.zzz"}
    assert run.json("config", "show")["version"] == version
    assert status(system, system.key, "new") == 200


def call_as_identity(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """A managed identity calls by the official client, and shows among the consumers."""
    for name, value in system.simulator.identity_environment.items():
        monkeypatch.setitem(os.environ, name, value)
    monkeypatch.setitem(os.environ, "NO_PROXY", "127.0.0.1")
    with ManagedIdentityCredential(client_id="nightly-job") as credential:
        provider = get_bearer_token_provider(credential, "api://tollgate/.default")
        with openai.AzureOpenAI(
            azure_endpoint=system.url, azure_ad_token_provider=provider, api_version="2024-10-21", **PATIENT
        ) as client:
            messages: list[Any] = [{"role": "user", "content": "Hello"}]
            assert client.chat.completions.create(model="gpt-4o", messages=messages).choices[0].message.content


def trail(run: Commands) -> list[tuple[str, str]]:
    """The changes that are done, oldest first: action and object; of consumers and their keys, the consumers' names."""
    names = {one["id"]: one["name"] for one in run.json("keys", "list")}
    done = [one for one in reversed(run.json("audit", "--limit", "1000")) if one["state"] == "done"]
    return [(one["action"], names.get(one["object"].partition("/")[0], one["object"])) for one in done]


def test_an_operators_day(running: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = operator(running)
    keys = import_teams(run, tmp_path / "teams.csv")
    eventually(lambda: status(running, keys["team 00"]) == 200)
    assert {status(running, key) for name, key in keys.items() if name != "team 29"} == {200}
    eventually(lambda: status(running, keys["team 29"]) == "budget_exceeded")
    assert status(running, keys["team 00"], "cheap") in ("model_not_allowed", "product_not_allowed")

    changed = time.monotonic()
    run.json("keys", "set", "team 05", "--requests-per-minute", "1")  # which is looked at last

    new = run.json("keys", "rotate", "team 01")["key"]
    eventually(lambda: status(running, new) == 200)
    assert status(running, keys["team 01"]) == 200

    admin = running.simulator.token("Ada", roles=["Gateway.Admin"])
    drain_under_load(running, operator(running, admin), keys["team 02"])
    apply_under_streams(running, run, tmp_path / "sections.json")
    assert {status(running, keys[name]) for name in ("team 00", "team 01")} == {200}  # products and teams are as before
    call_as_identity(running, monkeypatch)
    eventually(lambda: "nightly-job" in [one["name"] for one in run.json("keys", "list")])

    eventually(lambda: status(running, keys["team 05"]) == "rate_limit_exceeded", changed + 60 - time.monotonic())
    check_the_trail(run, admin, [*keys.values(), new])


def check_the_trail(run: Commands, admin: str, secrets: list[str]) -> None:
    """Everything of the day is there: who, what, before and after, without secrets."""
    assert trail(run) == [
        ("team.create", "research"),
        ("product.create", "chat"),
        *(("consumer.create", f"team {number:02}") for number in range(30)),
        ("consumer.update", "team 05"),
        ("key.rotate", "team 01"),
        ("backend.drain", "sweden"),
        ("backend.restore", "sweden"),
        ("configuration.apply", "configuration"),
    ]
    records = {one["action"]: one for one in run.json("audit", "--limit", "1000")}
    limited, drained = records["consumer.update"], records["backend.drain"]
    assert [limited[side]["limits"]["requests_per_minute"] for side in ("before", "after")] == [6000, 1]
    assert (drained["before"], drained["after"]["reason"]) == (None, "patches")
    assert records["product.create"]["after"]["models"] == ["gpt-4o"]
    applied = records["configuration.apply"]
    assert ("backends" in applied["before"], len(applied["after"]["backends"])) == (False, 2)
    assert {one["actor"] for action, one in records.items() if not action.startswith("backend.")} == {"management-key"}
    assert drained["actor"] == records["backend.restore"]["actor"] != "management-key"
    whole = json.dumps(list(records.values()))
    assert not [secret for secret in (*secrets, admin, MANAGEMENT_KEY) if secret in whole]
