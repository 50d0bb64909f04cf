"""Another configuration without a restart, from outside: two instances on one storage account, one on each edge."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from azure.storage.blob import BlobServiceClient

from shared.versions import live
from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.azurite import azurite as start_azurite
from tests.harness.gateway_process import Answer, GatewayFailed, GatewayProcess, hurried
from tests.harness.system import MANAGEMENT_KEY, System, chat_body, eventually

OPERATOR = {"authorization": f"Bearer {MANAGEMENT_KEY}"}
PATH = "/gateway/configuration"
SOON = 30.0  # seconds within which all instances serve the same
DEPLOYMENTS = [{"name": name, "model": "gpt-4o"} for name in ("gpt-4o", "slow")]


@pytest.fixture(scope="module")
def account() -> Iterator[Azurite]:
    with start_azurite() as running:
        yield running


@pytest.fixture(scope="module")
def regions() -> Iterator[SimulatorProcess]:
    quick = {"name": "swedencentral", "display": "Sweden Central", "deployments": DEPLOYMENTS}
    slow = {"name": "eastus2", "display": "East US 2", "deployments": DEPLOYMENTS, "seconds_per_chunk": 0.25}
    with SimulatorProcess({"regions": [quick, slow]}) as running:
        yield running


def document(regions: SimulatorProcess, **more: Any) -> dict[str, Any]:
    sweden = {"name": "sweden", "endpoint": regions.regions["swedencentral"], "region": "swedencentral"}
    virginia = {"name": "virginia", "endpoint": regions.regions["eastus2"], "region": "eastus2"}
    backends = [sweden | {"models": {"gpt-4o": "gpt-4o"}}, virginia | {"models": {"slow": "slow"}}]
    return {"backends": backends, **more}


def environ(place: str, account: Azurite, regions: SimulatorProcess) -> dict[str, str]:
    return {
        "GATEWAY_CONFIG": place,
        "GATEWAY_STORAGE": account.connection_string,
        "GATEWAY_MANAGEMENT_KEY": MANAGEMENT_KEY,
        **regions.identity_environment,
    }


@pytest.fixture(scope="module")
def base(regions: SimulatorProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("base") / "gateway.yaml"


@pytest.fixture(scope="module")
def processes(base: Path, account: Azurite, regions: SimulatorProcess) -> Iterator[tuple[System, System]]:
    base.write_text(json.dumps(document(regions)))
    settings = environ(str(base), account, regions)
    with hurried("uvicorn", settings) as first, hurried("functions", settings) as second:
        yield System(first, regions, account.connection_string), System(second, regions, account.connection_string)


@pytest.fixture
def fleet(processes: tuple[System, System], base: Path, regions: SimulatorProcess) -> Iterator[tuple[System, System]]:
    """The two instances with the base document alone; afterwards neither has a defect in its log."""
    base.write_text(json.dumps(document(regions)))
    before = [len(system.gateway.logs()) for system in processes]
    for system in processes:
        system.get(PATH)
        assert send(system, "PUT", PATH, {}).status == 200
    yield processes
    for system, position in zip(processes, before, strict=True):
        system.assert_no_defect(position)


def send(system: System, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return system.gateway.request(method, path, data, OPERATOR | named)


def serves(system: System, model: str) -> bool:
    """True if this instance serves a model, as a caller sees it: reading the configuration would make it look."""
    return system.chat(model).status == 200


async def stream_all(fleet: tuple[System, System], tokens: int, begun: asyncio.Event) -> list[tuple[str, int]]:
    """Fifty streams: the backend that served each, and its words. `begun` is set when all have their first one."""
    counted: list[tuple[str, int]] = []
    waiting = 50

    async def one(session: aiohttp.ClientSession, system: System) -> None:
        nonlocal waiting
        body = chat_body("slow", f"simulate_output_tokens={tokens}", stream=True)
        headers = {"authorization": f"Bearer {system.key}"}
        async with session.post(f"{system.url}/v1/chat/completions", json=body, headers=headers) as answer:
            assert answer.status == 200
            first = await answer.content.readany()
            waiting -= 1
            if not waiting:
                begun.set()
            data = first + await answer.content.read()
            assert data.endswith(b"data: [DONE]\n\n"), data[-500:]
            counted.append((answer.headers["x-gateway-backend"], data.count(b'"content":"')))

    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        asyncio.TaskGroup() as group,
    ):
        for i in range(50):
            group.create_task(one(session, fleet[i % 2]))
    return counted


async def test_a_version_applied_while_fifty_streams_run_breaks_none(
    fleet: tuple[System, System], regions: SimulatorProcess
) -> None:
    begun = asyncio.Event()
    streams = asyncio.ensure_future(stream_all(fleet, 100, begun))
    await asyncio.wait_for(begun.wait(), 20)
    first, second = fleet
    without_the_slow_one = document(regions)["backends"][:1]
    changed = {"backends": without_the_slow_one, "models": {"gpt-4o": {"aliases": ["new"]}}, "timeouts": {"stream": 1}}
    applied = time.monotonic()
    answer = await asyncio.to_thread(send, first, "PUT", f"{PATH}?note=no+more+virginia", changed)
    assert (answer.status, answer.headers["etag"]) == (200, f'"{answer.json()["version"]}"')
    assert await asyncio.to_thread(serves, first, "new")  # at once, where it was applied
    while not await asyncio.to_thread(serves, second, "new"):
        assert time.monotonic() - applied < SOON
        await asyncio.sleep(0.5)
    for system in fleet:
        assert (await asyncio.to_thread(system.chat, "slow")).status == 404
    assert not streams.done(), "the streams ended before both instances had changed"
    counted = await streams
    assert {backend for backend, _ in counted} == {"virginia"}
    assert [words for _, words in counted] == [counted[0][1]] * 50
    assert counted[0][1] >= 50


def test_all_instances_agree_soon_although_a_look_fails() -> None:
    """The instances of these tests look more often."""
    assert 2 * live.EVERY <= SOON


def test_a_wrong_version_is_refused_with_all_complaints(fleet: tuple[System, System]) -> None:
    first, _ = fleet
    before = first.get(PATH)
    wrong = b"modles: {}\nheartbeat_seconds: often\nmodels: {zzz: {}}\nledger: {durability: deferred}\n"
    for method, path in (("PUT", PATH), ("POST", f"{PATH}/validate")):
        answer = send(first, method, path, wrong)
        body = answer.json()
        assert (answer.status, body["error"]["code"]) == (400, "configuration_refused")
        assert {one["path"] for one in body["complaints"]} == {"modles", "heartbeat_seconds", "models.zzz", "ledger"}
        assert all(one["message"].startswith(("expected", "Expected")) for one in body["complaints"])
    for wrong in (b"{", b"[]", b"\xff", b"{" * 5000, b"a: &a [*a]"):
        assert send(first, "PUT", PATH, wrong).status == 400
    assert first.get(PATH).json() == before.json()


def test_a_version_names_no_host_that_the_base_does_not(
    fleet: tuple[System, System], regions: SimulatorProcess
) -> None:
    first, _ = fleet
    backend = document(regions)["backends"][0]
    answer = send(first, "PUT", PATH, {"backends": [{**backend, "endpoint": "https://evil.example.com"}]})
    assert (answer.status, answer.json()["complaints"][0]["path"]) == (400, "backends[0].endpoint")
    secret = {**backend, "auth": {"api_key_env": "GATEWAY_MANAGEMENT_KEY"}}
    answer = send(first, "PUT", PATH, {"backends": [secret]})
    assert (answer.status, answer.json()["complaints"][0]["path"]) == (400, "backends[0].auth.api_key_env")


def test_two_operators_at_once_lose_nothing(fleet: tuple[System, System]) -> None:
    first, second = fleet
    seen = first.get(PATH).headers["etag"]
    assert second.get(PATH).headers["etag"] == seen
    won = send(first, "PUT", PATH, {"heartbeat_seconds": 5}, if_match=seen)
    lost = send(second, "PUT", PATH, {"heartbeat_seconds": 6}, if_match=seen)
    assert (won.status, lost.status, lost.error()["code"]) == (200, 412, "precondition_failed")
    assert second.get(PATH).json()["document"]["heartbeat_seconds"] == 5
    again = send(second, "PUT", PATH, {"heartbeat_seconds": 6}, if_match=second.get(PATH).headers["etag"])
    assert again.status == 200


def test_an_operator_sees_where_each_section_comes_from_and_goes_back(fleet: tuple[System, System], base: Path) -> None:
    first, second = fleet
    start = first.get(PATH).json()
    assert start["sections"] == {"backends": "base"}
    put = send(first, "PUT", f"{PATH}?note=shorter", b"heartbeat_seconds: 5  # YAML\n").json()
    shown = second.get(PATH).json()
    assert shown["sections"] == {"backends": "base", "heartbeat_seconds": f"version {put['version']}"}
    assert (shown["by"], shown["note"], shown["warnings"], shown["refused"]) == ("management-key", "shorter", [], [])
    send(first, "PUT", PATH, {"heartbeat_seconds": 6})
    base.write_text(json.dumps(json.loads(base.read_text()) | {"heartbeat_seconds": 9}))
    (warning,) = second.get(PATH).json()["warnings"]
    assert warning.startswith("heartbeat_seconds: the base document has changed since version")

    listed = first.get(f"{PATH}/versions?limit=2").json()
    assert [one["current"] for one in listed["data"]] == [True, False]
    assert [one["sections"] for one in listed["data"]] == [["heartbeat_seconds"]] * 2
    older = first.get(f"{PATH}/versions?limit=2&after={listed['after']}").json()["data"]
    assert older[0]["version"] < put["version"]
    back = send(first, "POST", f"{PATH}/rollback", {"version": put["version"]})
    assert (back.status, back.json()["note"]) == (200, f"rollback to version {put['version']}")
    assert second.get(PATH).json()["document"]["heartbeat_seconds"] == 5
    assert first.get(f"{PATH}/versions/{put['version']}").json()["document"] == {"heartbeat_seconds": 5}
    assert send(first, "POST", f"{PATH}/rollback", {"version": "base"}).status == 200
    assert second.get(PATH).json()["document"]["heartbeat_seconds"] == 9
    for missing in ("9999", "nonsense", "-1"):
        assert first.get(f"{PATH}/versions/{missing}").status == 404
        assert send(first, "POST", f"{PATH}/rollback", {"version": missing}).status == 404
    actions = [one["action"] for one in first.get("/gateway/audit?limit=4").json()["data"]]
    assert actions[:2] == ["configuration.rollback", "configuration.rollback"]
    assert actions[2] == "configuration.apply"


def test_validation_shows_what_would_change_and_changes_nothing(fleet: tuple[System, System]) -> None:
    first, _ = fleet
    answer = send(first, "POST", f"{PATH}/validate", {"heartbeat_seconds": 5})
    assert answer.json() == {
        "valid": True,
        "changes": [{"section": "heartbeat_seconds", "before": None, "after": 5}],
    }
    assert "heartbeat_seconds" not in first.get(PATH).json()["sections"]


def test_only_operators_see_and_change_the_configuration(fleet: tuple[System, System]) -> None:
    first, _ = fleet
    for method, path in (("GET", ""), ("PUT", ""), ("POST", "/validate"), ("GET", "/versions"), ("POST", "/rollback")):
        for key in ("", first.key):
            headers = {"authorization": f"Bearer {key}"} if key else {}
            assert first.gateway.request(method, PATH + path, b"{}", headers).status == 401


def test_a_base_changed_on_disk_is_served_and_a_wrong_one_is_not(
    fleet: tuple[System, System], base: Path, regions: SimulatorProcess, account: Azurite
) -> None:
    good = document(regions, models={"gpt-4o": {"aliases": ["from-disk"]}})
    base.write_text(json.dumps(good))
    for system in fleet:
        eventually(lambda system=system: serves(system, "from-disk"), SOON)  # type: ignore[misc]
    base.write_text(json.dumps({**good, "models": {"gpt-4o": {"aliases": ["never"]}}, "extra": 1}))
    for system in fleet:
        shown = system.get(PATH).json()
        assert [one["complaints"][0]["path"] for one in shown["refused"]] == ["document"]
        eventually(lambda system=system: any("ALERT" in x and "extra" in x for x in system.gateway.shown()))  # type: ignore[misc]
        assert serves(system, "from-disk")
    with GatewayProcess("uvicorn", environ(str(base), account, regions)) as restarted:
        again = System(restarted, regions, account.connection_string)
        assert serves(again, "from-disk")
        shown = again.get(PATH).json()
        assert shown["base"]["source"] == f"{base} as it was served last"
        assert shown["refused"][0]["name"] == str(base)
        assert "invalid; starting with" in restarted.logs()
        assert send(again, "PUT", PATH, {"models": {"gpt-4o": {"aliases": ["above"]}}}).status == 200
        assert serves(again, "above")
        base.write_text(json.dumps(good))
        assert again.get(PATH).json()["refused"] == []


def test_a_base_in_a_blob_is_followed(regions: SimulatorProcess) -> None:
    with start_azurite(blobs=True) as account:
        service = BlobServiceClient.from_connection_string(account.connection_string)
        service.create_container("config")
        blob = service.get_blob_client("config", "gateway.yaml")
        settings = environ(blob.url, account, regions)
        with pytest.raises(GatewayFailed, match=r"config/gateway.yaml: does not exist"):
            GatewayProcess("uvicorn", settings)
        blob.upload_blob(json.dumps(document(regions)))
        with hurried("functions", settings) as process:
            system = System(process, regions, account.connection_string)
            assert serves(system, "gpt-4o")
            assert not serves(system, "from-blob")
            aliased = document(regions, models={"gpt-4o": {"aliases": ["from-blob"]}})
            blob.upload_blob(json.dumps(aliased), overwrite=True)
            eventually(lambda: serves(system, "from-blob"), SOON)
            blob.upload_blob("backends: []", overwrite=True)
            assert system.get(PATH).json()["refused"][0]["complaints"][0]["path"] == "backends"
            blob.delete_blob()
            assert system.get(PATH).json()["refused"][0]["complaints"][0]["message"] == "does not exist"
            assert serves(system, "from-blob")
        service.close()
