"""Versions of the configuration in a real table: each change is one version, and two operators at once lose nothing."""

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from shared import bootstrap
from shared.config import layers
from shared.config.environment import Storage
from shared.errors import ChangedMeanwhile, ConfigurationError, RequestTooLarge, VersionNotFound
from shared.storage import Table, names
from shared.versions import rows
from shared.versions.changes import Changes
from shared.versions.rows import Good, Pointer, Version, Versions
from tests.harness.azurite import Azurite
from tests.harness.azurite import azurite as start_azurite

BACKEND = {"name": "a", "endpoint": "https://a.openai.azure.com", "region": "r", "models": {"m": "m"}}
BASE = layers.base(json.dumps({"backends": [BACKEND], "limits": {"teams": {"base": {}}}}), "gateway.yaml")


@pytest.fixture(scope="module")
def account() -> Iterator[Azurite]:
    with start_azurite() as running:
        yield running


@asynccontextmanager
async def opened(account: Azurite) -> AsyncIterator[Changes]:
    """Changes in an empty table."""
    async with bootstrap.open_store(Storage(connection_string=account.connection_string)) as store:
        await store.drop(names.CONTROL)
        yield Changes(Versions(store), lambda: BASE)


async def test_a_version_is_kept_whole_with_who_when_and_why(account: Azurite) -> None:
    sections = {"models": {"m": {"aliases": ["größer", "🚀"]}}, "limits": {"contact": "x" * 70_000}}
    async with opened(account) as changes:
        assert await changes.versions.existing((await changes.versions.pointer()).number) == Version()
        put = await changes.replace({"limits": sections["limits"]}, "ann", "why")
        assert (put.number, put.by, put.note, put.previous, put.sections) == (
            *(1, "ann", "why", 0),
            {"limits": sections["limits"]},
        )
        assert await changes.versions.get(1) == put
        assert layers.changed_below(BASE, put.replaced) == []
        with pytest.raises(ConfigurationError):
            await changes.replace(sections, "ann")  # an alias has no umlauts
        assert (await changes.versions.pointer()).number == 1


async def test_a_wrong_version_is_refused_with_all_complaints_and_leaves_nothing(account: Azurite) -> None:
    async with opened(account) as changes:
        with pytest.raises(ConfigurationError) as refused:
            await changes.replace({"models": {"zzz": {}}, "unknown": 1, "heartbeat_seconds": "often"}, "ann")
        assert {one.path for one in refused.value.complaints} == {"models.zzz", "unknown", "heartbeat_seconds"}
        assert (await changes.versions.pointer()).number == 0
        assert await changes.versions.history() == []


async def test_a_version_that_no_row_holds_is_refused(account: Azurite) -> None:
    async with opened(account) as changes:
        await changes.replace({"limits": {"contact": "x" * (rows.MOST_CHARACTERS - 30)}}, "ann")
        with pytest.raises(RequestTooLarge):
            await changes.replace({"limits": {"contact": "x" * rows.MOST_CHARACTERS}}, "ann")
        with pytest.raises(RequestTooLarge):
            await changes.replace({"limits": {"contact": "ä" * (rows.MOST_CHARACTERS // 5)}}, "ann")


async def test_the_same_sections_again_make_no_version(account: Azurite) -> None:
    async with opened(account) as changes:
        first = await changes.replace({"heartbeat_seconds": 5}, "ann")
        assert await changes.replace({"heartbeat_seconds": 5}, "ben") == first


async def test_whoever_has_not_seen_the_current_version_replaces_nothing(account: Azurite) -> None:
    async with opened(account) as changes:
        await changes.replace({"heartbeat_seconds": 5}, "ann", expected=0)
        with pytest.raises(ChangedMeanwhile, match="version 1, not 0"):
            await changes.replace({"heartbeat_seconds": 6}, "ben", expected=0)
        assert (await changes.replace({"heartbeat_seconds": 6}, "ben", expected=1)).number == 2


async def test_of_many_who_saw_the_same_version_one_replaces_it(account: Azurite) -> None:
    async with opened(account) as changes:
        puts = [changes.replace({"heartbeat_seconds": n}, f"n{n}", expected=0) for n in range(1, 9)]
        ends = await asyncio.gather(*puts, return_exceptions=True)
        (won,) = [end for end in ends if isinstance(end, Version)]
        assert all(isinstance(end, ChangedMeanwhile) for end in ends if end is not won)
        assert await changes.versions.history() == [won]


async def test_edits_at_once_lose_nothing(account: Azurite) -> None:
    def with_team(name: str) -> Any:
        return lambda limits: {**limits, "teams": {**limits["teams"], name: {}}}

    async with opened(account) as changes:
        other = Changes(changes.versions, lambda: BASE)  # of another instance
        edits = [(other if n % 2 else changes).edit("limits", with_team(f"t{n}"), "ann") for n in range(20)]
        await asyncio.gather(*edits)
        newest, *older = await changes.versions.history()
        assert set(newest.sections["limits"]["teams"]) == {"base", *(f"t{n}" for n in range(20))}
        assert [len(version.sections["limits"]["teams"]) for version in older] == [*range(20, 1, -1)]
        assert BASE.sections["limits"] == {"teams": {"base": {}}}


async def test_a_rollback_goes_to_any_version_and_to_the_base_alone(account: Azurite) -> None:
    async with opened(account) as changes:
        first = await changes.replace({"heartbeat_seconds": 5}, "ann")
        await changes.replace({"models": {"m": {}}}, "ann")
        back = await changes.replace((await changes.earlier(1)).sections, "ben", "again")
        assert (back.number, back.sections, back.by, back.note) == (3, first.sections, "ben", "again")
        base = await changes.replace((await changes.earlier(0)).sections, "ben", "all of it")
        assert (base.sections, base.note) == ({}, "all of it")
        assert [version.number for version in await changes.versions.history()] == [4, 3, 2, 1]
        with pytest.raises(VersionNotFound, match="no version 9"):
            await changes.earlier(9)


async def test_a_row_that_a_dead_writer_left_behind_is_no_version(account: Azurite) -> None:
    async with opened(account) as changes:
        await changes.replace({"heartbeat_seconds": 5}, "ann")
        table = changes.versions._table
        left = await table.get("configuration", "v00000001")
        assert left is not None
        await table.put("configuration", "v00000002", {**left.properties, "previous": 1}, None)
        assert (await changes.replace({"heartbeat_seconds": 7}, "ann")).number == 3
        assert [version.number for version in await changes.versions.history()] == [3, 1]


async def test_a_writer_whom_another_overtakes_between_its_two_writes_changes_nothing(account: Azurite) -> None:
    async with opened(account) as changes:
        versions = changes.versions
        other = copy.copy(versions)
        write = versions._table.put

        class Overtaken:
            """The table of the first writer, whose second write comes after the other writer's."""

            def __getattr__(self, name: str) -> Any:
                return getattr(other._table, name)

            async def put(self, partition: str, key: str, properties: Any, etag: str | None) -> str | None:
                if key == "current":
                    overtook.append(await other.put(Version(sections={"heartbeat_seconds": 2}), Pointer()))
                return await write(partition, key, properties, etag)

        overtook: list[Version | None] = []
        versions._table = cast("Table", Overtaken())
        assert await versions.put(Version(sections={"heartbeat_seconds": 1}), Pointer()) is None
        assert [version.sections for version in await other.history()] == [{"heartbeat_seconds": 2}]
        assert overtook == await other.history()
        assert await other.get(1) is None


async def test_the_newest_five_hundred_are_kept(account: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "KEPT", 3)
    async with opened(account) as changes:
        for n in range(1, 7):
            await changes.replace({"heartbeat_seconds": n}, "ann")
        assert [version.number for version in await changes.versions.history()] == [6, 5, 4]
        assert await changes.versions.get(3) is None


async def test_what_was_served_last_is_remembered_unless_it_is_too_large(account: Azurite) -> None:
    async with opened(account) as changes:
        assert await changes.versions.remembered() is None
        good = Good("gateway.yaml", "# 🚀\n" + "ü" * 50_000, 7)
        for _ in range(2):
            await changes.versions.remember(good)
            assert await changes.versions.remembered() == good
        await changes.versions.remember(Good("gateway.yaml", "x" * rows.MOST_CHARACTERS, 8))
        assert await changes.versions.remembered() == good
