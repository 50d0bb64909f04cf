"""Callers replace their own keys, by the routes, on tables in memory with a clock of the test."""

from typing import Any

import msgspec
import pytest

from shared.auth.authenticator import Authenticator
from shared.auth.consumers import Consumers
from shared.auth.operators import Operator
from shared.config.limits import Limits
from shared.errors import InvalidRequest
from shared.management.audit import Audit
from shared.management.keys import KeyRoutes
from shared.management.routes import ManagementRequest, Paths
from tests.harness.consumers import create_consumer
from tests.harness.memory_store import MemoryStore


class Callers:
    """`time`: of the store, in seconds since 1970."""

    def __init__(self) -> None:
        self.time = 1_000_000.0
        self.store = MemoryStore(lambda: self.time)
        self.consumers = Consumers(self.store)

    async def rotate(self, key: str) -> Any:
        """The new key, as a caller with this one gets it."""
        self.time += 60
        headers = {"authorization": f"Bearer {key}"}
        caller = await Authenticator(self.consumers, self.store.now).authenticate(headers)
        methods, parameters = Paths(KeyRoutes(self.store, Audit(self.store)).routes()).find("/gateway/keys/me/rotate")
        answer = await methods["POST"].handler(ManagementRequest(parameters, {}, headers, caller=caller))
        return msgspec.json.decode(answer.body)


async def test_a_key_that_was_replaced_makes_no_other_one_while_its_successor_is_valid() -> None:
    callers = Callers()
    consumer, leaked = await create_consumer(callers.consumers, "leaked", models=None, limits=Limits())
    first = await callers.consumers.find(consumer.id)
    assert first is not None
    await callers.consumers.rotate(first, next(iter(first.keys)), overlap=3600.0)  # by an operator
    with pytest.raises(InvalidRequest) as error:
        await callers.rotate(leaked)
    assert error.value.code == "key_not_valid"
    record = await callers.consumers.find(consumer.id)
    assert record is not None
    assert len(record.keys) == 2
    successor = record.keys[next(iter(first.keys))].successor
    assert successor in error.value.message
    await callers.consumers.revoke_key(record, successor)
    again = await callers.rotate(leaked)  # an operator has taken the successor back
    assert (await callers.rotate(again["key"]))["id"] != again["id"]


async def test_the_digest_of_a_gateway_key_adds_no_key_without_a_record() -> None:
    callers = Callers()
    consumer, _ = await create_consumer(callers.consumers, "made here", models=None, limits=Limits())
    record = await callers.consumers.find(consumer.id)
    assert record is not None
    [key] = record.keys.values()
    audit = Audit(callers.store)
    methods, parameters = Paths(KeyRoutes(callers.store, audit).routes()).find(f"/gateway/consumers/{consumer.id}/keys")
    admin = Operator("admin", frozenset(("admin",)))
    body = msgspec.json.encode({"sha256": key.digest})
    await methods["POST"].handler(ManagementRequest(parameters, {}, {}, body, operator=admin))
    assert [row.properties["action"] async for row in audit.rows()] == ["key.import"]
