"""The configuration that a process serves: the newest that can be used, through every mistake and every restart."""

import json
from functools import partial
from typing import Any

import pytest

from shared.config import environment
from shared.config.document import Configuration
from shared.config.environment import Settings
from shared.errors import ConfigurationError, StoreUnavailable
from shared.versions.changes import Changes
from shared.versions.live import Live
from shared.versions.rows import Good, Pointer, Version, Versions
from tests.harness.memory_store import MemoryStore
from tests.harness.scripted_store import ScriptedStore

BACKEND = {"name": "a", "endpoint": "https://a.openai.azure.com", "region": "r", "models": {"m": "m", "n": "n"}}
KEYED = {**BACKEND, "name": "keyed", "auth": {"api_key_env": "A_KEY"}}
ENVIRON = {"GATEWAY_STORAGE": "UseDevelopmentStorage=true"}


class Process:
    """One instance: its base document, its environment, and what it serves."""

    def __init__(self, store: MemoryStore, document: Any = None, **environ: str) -> None:
        self.text = json.dumps({"backends": [BACKEND]} | (document or {}))
        self.store, self.unreachable = store, False
        self.served: list[Configuration] = []
        settings = partial(environment.settings, environ=ENVIRON | environ)
        versions = Versions(store, environ.get("GATEWAY_MANAGEMENT_KEY"))
        self.live = Live(self._read, "gateway.yaml", versions, settings)
        self.changes = Changes(versions, lambda: self.live.newest_base)

    async def _read(self) -> str:
        if self.unreachable:
            raise StoreUnavailable("the blob is out of reach")
        return self.text

    async def start(self) -> "Process":
        self.served.append((await self.live.start()).configuration)
        self.live.serve_by(self._apply, lambda event: None)
        await self.live.look()
        return self

    def _apply(self, settings: Settings) -> None:
        self.served.append(settings.configuration)

    @property
    def heartbeat(self) -> float:
        return self.served[-1].heartbeat_seconds

    @property
    def refused(self) -> list[tuple[str, str]]:
        return [(one.name, complaint.path) for one in self.live.refused for complaint in one.complaints]


async def test_a_version_is_served_by_all_instances_after_a_look() -> None:
    store = MemoryStore()
    first, second = await Process(store).start(), await Process(store).start()
    await first.changes.replace({"heartbeat_seconds": 3}, "ann")
    for process in (first, second):
        await process.live.look()
        assert (process.heartbeat, len(process.served)) == (3, 2)
        await process.live.look()
        assert len(process.served) == 2  # nothing is new
    assert (await Process(store).start()).heartbeat == 3


async def test_a_changed_base_is_served_below_the_version(caplog: pytest.LogCaptureFixture) -> None:
    process = await Process(MemoryStore(), {"heartbeat_seconds": 9}).start()
    await process.changes.replace({"models": {"m": {"aliases": ["old"]}}}, "ann")
    await process.live.look()
    process.text = json.dumps({"backends": [BACKEND], "heartbeat_seconds": 8, "models": {}})
    await process.live.look()
    assert (process.heartbeat, process.served[-1].aliases) == (8, {"old": "m"})
    assert "ALERT" not in caplog.text


async def test_a_wrong_base_is_refused_once_and_the_last_good_one_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    process = await Process(MemoryStore(), {"heartbeat_seconds": 9}).start()
    process.text = json.dumps({"backends": [], "heartbeat_seconds": 300, "extra": 1})
    for _ in range(3):
        await process.live.look()
    assert (process.heartbeat, len(process.served)) == (9, 1)
    assert set(process.refused) == {("gateway.yaml", path) for path in ("backends", "heartbeat_seconds", "document")}
    (line,) = [record.getMessage() for record in caplog.records if "ALERT" in record.getMessage()]
    assert line.count("gateway.yaml: ") == 3

    await process.changes.replace({"max_request_bytes": 2048}, "ann")  # operators go on over the last good base
    await process.live.look()
    assert (process.served[-1].max_request_bytes, process.heartbeat) == (2048, 9)
    process.text = json.dumps({"backends": [BACKEND], "heartbeat_seconds": 7})
    await process.live.look()
    assert (process.heartbeat, process.refused) == (7, [])


async def test_a_base_that_does_not_fit_the_version_is_refused_as_a_whole() -> None:
    process = await Process(MemoryStore()).start()
    await process.changes.replace({"models": {"n": {}}}, "ann")
    await process.live.look()
    process.text = json.dumps({"backends": [{**BACKEND, "models": {"m": "m"}}]})
    await process.live.look()
    assert process.refused == [("version 1 over gateway.yaml", "models.n")]
    assert process.served[-1].model_names() == ["m", "n"]
    with pytest.raises(ConfigurationError, match="no backend has 'n'"):
        await process.changes.replace({"models": {"n": {}}, "heartbeat_seconds": 3}, "ann")
    await process.changes.replace({}, "ann")
    await process.live.look()
    assert (process.served[-1].model_names(), process.refused) == (["m"], [])


async def test_of_two_layers_that_changed_at_once_the_one_that_can_be_used_is_served() -> None:
    process = await Process(MemoryStore(), {"heartbeat_seconds": 9}).start()
    await process.changes.replace({"models": {"n": {}}}, "ann")  # fits the base document of now …
    process.text = json.dumps({"backends": [{**BACKEND, "models": {"m": "m"}}], "heartbeat_seconds": 8})  # … alone
    await process.live.look()
    assert (process.heartbeat, process.served[-1].model_names()) == (8, ["m"])
    assert process.refused == [("version 1 over gateway.yaml", "models.n")]

    process = await Process(MemoryStore(), {"heartbeat_seconds": 9}).start()
    await process.changes.replace({"models": {"n": {}}}, "ann")
    await process.live.look()
    await process.changes.replace({"models": {"n": {}}, "heartbeat_seconds": 7}, "ann")  # fits neither version then
    process.text = json.dumps({"backends": [{**BACKEND, "models": {"m": "m"}}]})
    await process.live.look()
    assert (process.heartbeat, process.served[-1].model_names()) == (7, ["m", "n"])
    assert process.refused == [("version 2 over gateway.yaml", "models.n")]


async def test_a_restart_while_the_newest_base_is_wrong_serves_the_last_good_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore()
    first = await Process(store, {"heartbeat_seconds": 9}).start()
    await first.changes.replace({"max_request_bytes": 2048}, "ann")
    await first.live.look()
    again = Process(store)
    again.text = "backends: []"
    await again.start()
    assert (again.heartbeat, again.served[-1].max_request_bytes) == (9, 2048)
    assert again.refused == [("gateway.yaml", "backends")]
    assert "ALERT the newest configuration is invalid; starting with version 1" in caplog.text
    await first.changes.replace({"max_request_bytes": 4096}, "ann")
    await again.live.look()
    assert again.served[-1].max_request_bytes == 4096
    again.text = first.text
    await again.live.look()
    assert again.refused == []


async def test_a_start_without_the_blob_serves_the_last_good_base() -> None:
    store = MemoryStore()
    await Process(store, {"heartbeat_seconds": 9}).start()
    again = Process(store)
    again.unreachable = True
    await again.start()
    assert again.heartbeat == 9
    await again.changes.replace({"max_request_bytes": 2048}, "ann")  # operators go on meanwhile
    await again.live.look()
    assert (again.heartbeat, again.served[-1].max_request_bytes) == (9, 2048)
    assert "out of reach" in again.live.report()["warnings"][0]
    again.unreachable = False
    await again.live.look()
    assert (again.heartbeat, again.live.report()["warnings"]) == (15, [])


async def test_the_very_first_start_with_a_wrong_document_stops() -> None:
    process = Process(MemoryStore(), {"extra": 1, "heartbeat_seconds": 300})
    with pytest.raises(ConfigurationError) as refused:
        await process.start()
    assert len(refused.value.complaints) == 2


async def test_an_instance_whose_environment_lacks_a_variable_goes_on_alone() -> None:
    """The others serve the version; one that starts without the variable serves the last version that it can."""
    store, document = MemoryStore(), {"allowed": {"api_keys": {"A_KEY": "a.openai.azure.com"}}}
    whole = await Process(store, document, A_KEY="secret").start()
    lacking = await Process(store, document).start()
    await whole.changes.replace({"heartbeat_seconds": 3}, "ann")
    await whole.changes.replace({"heartbeat_seconds": 4, "backends": [KEYED]}, "ann")
    for process in (whole, lacking):
        await process.live.look()
    assert (whole.heartbeat, whole.refused) == (4, [])
    assert lacking.heartbeat == 15  # it had not looked in between
    assert [name for name, _ in lacking.refused] == ["version 2 over gateway.yaml"]
    assert (await Process(store, document).start()).heartbeat == 3
    with pytest.raises(ConfigurationError, match="A_KEY"):  # and it puts no version that it cannot serve itself
        checked = Changes(whole.changes.versions, lambda: lacking.live.newest_base, lacking.live._settings)
        await checked.replace({"backends": [KEYED]}, "ann")


async def test_a_version_of_a_newer_gateway_is_refused_by_an_older_one() -> None:
    """An instance of the old version shares the table with one that knows more sections."""
    store = MemoryStore()
    process = await Process(store, {"heartbeat_seconds": 9}).start()
    put = await process.changes.replace({"heartbeat_seconds": 3}, "ann")
    await process.live.look()
    row = await store.table("control").get("configuration", "v00000001")
    assert row is not None
    newer = {**row.properties, "text00": json.dumps({"heartbeat_seconds": 2, "of_next_year": {}}), "more": 1}
    await store.table("control").put("configuration", "v00000002", {**newer, "previous": put.number}, None)
    await store.table("control").merge("configuration", {"current": {"number": 2}})
    await process.live.look()
    assert (process.heartbeat, process.refused) == (3, [("version 2 over gateway.yaml", "of_next_year")])
    assert (await Process(store, {"heartbeat_seconds": 9}).start()).heartbeat == 3


async def test_a_row_written_past_the_api_names_no_host_of_its_own() -> None:
    store = MemoryStore()
    process = await Process(store).start()
    stolen = {"backends": [{**BACKEND, "endpoint": "https://evil.example.com"}]}
    await Versions(store).put(Version(sections=stolen, by="mallory"), Pointer())
    await process.live.look()
    assert process.refused == [("version 1 over gateway.yaml", "backends[0].endpoint")]
    assert (await Process(store).start()).served[-1].backends[0].endpoint == BACKEND["endpoint"]


async def test_a_remembered_base_that_no_gateway_has_sealed_is_not_used() -> None:
    """Whoever may write the table makes the newest fail, and offers another base document for the next start."""
    store = MemoryStore()
    first = await Process(store, {"heartbeat_seconds": 9}, GATEWAY_MANAGEMENT_KEY="k" * 32).start()
    await Versions(store).put(Version(sections={"unknown": 1}, by="mallory"), Pointer())
    stolen = {"backends": [{**BACKEND, "endpoint": "https://evil.example.com"}]}
    again = Process(store, GATEWAY_MANAGEMENT_KEY="k" * 32)
    assert (await again.live.start()).configuration.heartbeat_seconds == 9  # the gateway's own
    await Versions(store, "guessed").remember(Good("gateway.yaml", json.dumps(stolen), 0))
    for key in ("k" * 32, "another " * 4):
        again = Process(store, {"heartbeat_seconds": 9}, GATEWAY_MANAGEMENT_KEY=key)
        assert (await again.live.start()).configuration.backends[0].endpoint == BACKEND["endpoint"]
    assert first.served[-1].backends[0].endpoint == BACKEND["endpoint"]


async def test_a_start_without_the_table_serves_the_base_until_it_answers() -> None:
    store = ScriptedStore()
    process = await Process(store).start()
    await process.changes.replace({"heartbeat_seconds": 3}, "ann")
    store.dead = True
    again = Process(store)
    with pytest.raises(StoreUnavailable):
        await again.start()
    assert again.heartbeat == 15
    store.dead = False
    await again.live.look()
    assert again.heartbeat == 3


async def test_what_is_read_at_the_start_is_named_until_the_next_one() -> None:
    process = await Process(MemoryStore()).start()
    ledger = {"durability": "deferred", "keep_months": 3}
    process.text = json.dumps({"backends": [BACKEND], "ledger": ledger})
    await process.live.look()
    assert process.served[-1].ledger.keep_months == 3
    assert process.live.needs_restart() == ["ledger.durability"]


async def test_a_configuration_that_the_parts_refuse_is_not_served() -> None:
    process = await Process(MemoryStore()).start()

    def refuse(settings: Settings) -> None:
        raise ConfigurationError("no signer")

    process.live.serve_by(refuse, lambda event: None)
    await process.changes.replace({"heartbeat_seconds": 3}, "ann")
    await process.live.look()
    assert [str(one.complaints[0]) for one in process.live.refused] == ["no signer"]
    assert process.live.version.number == 0
