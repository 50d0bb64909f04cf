"""The audit trail: no change without a record, and no record of a change that was not made."""

import pytest

from shared.auth.operators import ADMINS, Operator
from shared.errors import ChangedMeanwhile, StoreUnavailable
from shared.management.audit import Audit, Change
from shared.management.routes import ManagementRequest
from tests.harness.memory_store import MemoryStore

REQUEST = ManagementRequest({}, {}, operator=Operator("a", ADMINS), address="10.0.0.1")
CHANGE = Change(REQUEST, "team.update", "research", {"x": 1}, {"x": 2})


@pytest.fixture
def audit() -> Audit:
    return Audit(MemoryStore())


async def states(audit: Audit) -> list[object]:
    return [row.properties["state"] async for row in audit.rows()]


async def test_a_change_is_on_record_before_it_is_made_and_done_afterwards(audit: Audit) -> None:
    async def write() -> str:
        assert await states(audit) == ["begun"]
        return "written"

    assert await audit.perform(CHANGE, write) == "written"
    assert await states(audit) == ["done"]


async def test_a_change_that_another_writer_overtook_leaves_no_record(audit: Audit) -> None:
    async def write() -> str | None:
        return None

    assert await audit.perform(CHANGE, write) is None
    assert await states(audit) == []


@pytest.mark.parametrize(("error", "state"), [(ChangedMeanwhile("x"), "failed"), (StoreUnavailable("x"), "begun")])
async def test_the_record_of_a_change_says_if_it_failed(
    audit: Audit, error: ChangedMeanwhile | StoreUnavailable, state: str
) -> None:
    async def write() -> str:
        raise error

    with pytest.raises(type(error)):
        await audit.perform(CHANGE, write)
    assert await states(audit) == [state]  # a write that the table did not confirm may have been done
