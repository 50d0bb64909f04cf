"""A change whose table operations fail at any point is done or not done, and asking again completes it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import msgspec
import pytest

from shared.auth.authenticator import Authenticator
from shared.auth.consumers import Consumers
from shared.auth.operators import Operator
from shared.config.document import Configuration
from shared.errors import GatewayError, InvalidApiKey, StoreUnavailable
from shared.management.audit import Audit
from shared.management.consumers import ConsumerRoutes
from shared.management.keys import KeyRoutes
from shared.management.routes import ManagementRequest, Paths
from shared.storage import Properties
from tests.harness.memory_store import MemoryStore, MemoryTable

ADMIN = Operator("admin", frozenset(("admin",)))
CONSUMERS = "/gateway/consumers"
Mode = Literal["refused", "lost"]


class FailingStore(MemoryStore):
    """The write with this number, counted from 1, is refused, or done and its answer lost; so are all after it, as if
    the process had crashed, until `heal`."""

    def __init__(self) -> None:
        self.time = 1_000_000.0
        super().__init__(lambda: self.time)
        self.writes, self.fails_at = 0, 0
        self.mode: Mode = "refused"

    def table(self, name: str) -> "FailingTable":
        return FailingTable(self, name)

    def fail(self, number: int, mode: Mode) -> None:
        self.writes, self.fails_at, self.mode = 0, number, mode

    def heal(self) -> None:
        """Answer again, a minute later."""
        self.fails_at = 0
        self.time += 60

    def stumbles(self) -> Mode | None:
        """The failure of the next write, None if it works. Counts it."""
        self.writes += 1
        if not self.fails_at or self.writes < self.fails_at:
            return None
        return "lost" if self.mode == "lost" and self.writes == self.fails_at else "refused"


class FailingTable(MemoryTable):
    _store: FailingStore

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        return await self._perform(lambda: super(FailingTable, self).put(partition, key, properties, etag))

    async def merge(self, partition: str, rows: Mapping[str, Properties]) -> None:
        if rows:  # nothing is sent without
            await self._perform(lambda: super(FailingTable, self).merge(partition, rows))

    async def delete(self, partition: str, key: str) -> None:
        await self._perform(lambda: super(FailingTable, self).delete(partition, key))

    async def _perform[T](self, write: Callable[[], Awaitable[T]]) -> T:
        failure = self._store.stumbles()
        if failure == "refused":
            raise StoreUnavailable("refused")
        done = await write()
        if failure == "lost":
            raise StoreUnavailable("lost")
        return done


class Office:
    """The routes. `prepared`: a consumer that is there before."""

    prepared: dict[str, Any]

    def __init__(self) -> None:
        self.store = FailingStore()
        self._configuration = Configuration(backends=[])

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        audit = Audit(self.store)
        consumers = ConsumerRoutes(self.store, lambda: self._configuration, audit)
        paths = Paths((*consumers.routes(), *KeyRoutes(self.store, audit).routes()))
        methods, parameters = paths.find(path)
        request = ManagementRequest(parameters, {}, {}, msgspec.json.encode(body or {}), operator=ADMIN)
        answer = await methods[method].handler(request)
        return msgspec.json.decode(answer.body) if answer.body else None

    async def consumers(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = (await self.ask("GET", CONSUMERS))["data"]
        return listed

    async def opens(self, key: str) -> bool:
        try:
            await Authenticator(Consumers(self.store), self.store.now).authenticate({"api-key": key})
        except InvalidApiKey:
            return False
        return True


async def crash_everywhere(attempt: Callable[[Office], Any], check: Callable[[Office, bool], Any]) -> int:
    """Run `attempt` in a new office with a failure at every write, and `check` what is left; whether it raised. The
    number of its writes."""
    modes: tuple[Mode, ...] = ("refused", "lost")
    for mode in modes:
        number = 0
        while True:
            number += 1
            office = Office()
            office.prepared = await office.ask("POST", CONSUMERS, {"name": "there before"})
            office.store.fail(number, mode)
            raised = False
            try:
                await attempt(office)
            except StoreUnavailable:
                raised = True
            finished = office.store.writes < number
            office.store.heal()
            await check(office, raised)
            if finished:
                break
    return number - 1


async def test_a_creation_is_whole_or_not_there_and_its_name_is_free_again() -> None:
    async def attempt(office: Office) -> None:
        await office.ask("POST", CONSUMERS, {"name": "new"})

    async def check(office: Office, raised: bool) -> None:
        new = [one for one in await office.consumers() if one["name"] == "new"]
        assert len(new) <= 1
        if new:
            assert [key["state"] for key in new[0]["keys"]] == ["active"]
            with pytest.raises(GatewayError, match="expected a new name"):
                await office.ask("POST", CONSUMERS, {"name": "new"})
            await office.ask("DELETE", f"{CONSUMERS}/{new[0]['id']}")
        else:
            assert raised
        made = await office.ask("POST", CONSUMERS, {"name": "new"})
        assert await office.opens(made["key"])

    assert await crash_everywhere(attempt, check) == 5  # audit, name, key, policy, audit


async def test_a_put_that_failed_is_completed_by_the_next_one() -> None:
    async def attempt(office: Office) -> None:
        await office.ask("PUT", f"{CONSUMERS}/chosen", {"name": "new"})

    async def check(office: Office, raised: bool) -> None:
        assert (await office.ask("PUT", f"{CONSUMERS}/chosen", {"name": "new"}))["name"] == "new"

    assert await crash_everywhere(attempt, check) == 4


async def test_a_new_name_is_had_or_not_and_no_name_is_lost() -> None:
    async def attempt(office: Office) -> None:
        await office.ask("PATCH", f"{CONSUMERS}/{office.prepared['id']}", {"name": "renamed"})

    async def check(office: Office, raised: bool) -> None:
        (one,) = await office.consumers()
        assert one["name"] in ("there before", "renamed")
        free = "renamed" if one["name"] == "there before" else "there before"
        with pytest.raises(GatewayError, match="expected a new name"):
            await office.ask("POST", CONSUMERS, {"name": one["name"]})
        await office.ask("POST", CONSUMERS, {"name": free})

    assert await crash_everywhere(attempt, check) == 5


async def test_a_deleted_consumer_opens_nothing_also_with_its_id_made_again() -> None:
    async def attempt(office: Office) -> None:
        await office.ask("DELETE", f"{CONSUMERS}/{office.prepared['id']}")

    async def check(office: Office, raised: bool) -> None:
        old = office.prepared
        gone = not await office.consumers()
        assert await office.opens(old["key"]) is not gone
        if gone:
            await office.ask("PUT", f"{CONSUMERS}/{old['id']}", {"name": "again"})
            assert not await office.opens(old["key"])
        else:
            assert raised

    assert await crash_everywhere(attempt, check) == 5


async def test_a_revocation_and_a_restoration_are_of_all_keys_or_of_none() -> None:
    async def attempt(office: Office) -> None:
        one = f"{CONSUMERS}/{office.prepared['id']}"
        await office.ask("PATCH", one, {"state": "revoked"})
        await office.ask("PATCH", one, {"state": "active", "expires": "2099-01-01"})

    async def check(office: Office, raised: bool) -> None:
        (one,) = await office.consumers()
        assert await office.opens(office.prepared["key"]) is (one["state"] == "active")
        one = await office.ask("PATCH", f"{CONSUMERS}/{one['id']}", {"state": "active", "expires": "2098-01-01"})
        assert [key["expires"] for key in one["keys"]] == ["2098-01-01T00:00:00Z"]
        assert await office.opens(office.prepared["key"])

    await crash_everywhere(attempt, check)


async def test_a_rotation_that_failed_leaves_the_old_key_or_has_ended_it() -> None:
    async def attempt(office: Office) -> None:
        made = office.prepared
        await office.ask("POST", f"{CONSUMERS}/{made['id']}/keys/{made['keys'][0]['id']}/rotate", {"overlap_hours": 0})

    async def check(office: Office, raised: bool) -> None:
        (one,) = await office.consumers()
        assert [key["state"] for key in one["keys"]].count("active") == 1
        assert len(one["keys"]) == 1 + (not await office.opens(office.prepared["key"]))

    assert await crash_everywhere(attempt, check) == 3


async def test_ended_keys_are_dropped_when_there_are_too_many_and_valid_ones_are_refused() -> None:
    office = Office()
    made = await office.ask("POST", CONSUMERS, {"name": "many"})
    one, key = f"{CONSUMERS}/{made['id']}", made["keys"][0]["id"]
    for _ in range(120):
        office.store.time += 1
        key = (await office.ask("POST", f"{one}/keys/{key}/rotate", {"overlap_hours": 0}))["id"]
    keys = (await office.ask("GET", one))["keys"]
    assert len(keys) == 90
    assert [shown["id"] for shown in keys if shown["state"] == "active"] == [key]
    office.store.time += 31 * 86_400
    await office.ask("POST", f"{one}/keys")
    assert len((await office.ask("GET", one))["keys"]) == 2
    for _ in range(88):
        await office.ask("POST", f"{one}/keys")
    with pytest.raises(GatewayError, match="at most 90 keys"):
        await office.ask("POST", f"{one}/keys")
