"""Callers ask for access, and operators decide: by the routes, on tables in memory."""

import asyncio
from typing import Any

import msgspec
import pytest

from shared.alerts.events import Alert
from shared.auth.consumers import Consumers
from shared.auth.operators import Operator
from shared.config.callers import Product, Team
from shared.config.document import Backend, Configuration
from shared.config.limits import Limits, LimitSettings
from shared.errors import (
    AlreadyDecided,
    ChangedMeanwhile,
    GatewayError,
    InvalidRequest,
    ResourceNotFound,
    RoleRequired,
    StoreUnavailable,
)
from shared.management.access import AccessRoutes
from shared.management.audit import Audit, AuditRoutes
from shared.management.consumers import ConsumerRoutes
from shared.management.routes import ManagementRequest, Paths
from shared.storage import Properties, Row
from shared.types import Consumer
from tests.harness.consumers import create_consumer
from tests.management.test_half_done import FailingStore, FailingTable, Mode

AT = "/gateway/requests-for-access"
ADMIN = Operator("admin", frozenset(("admin",)))
OTHER = Operator("another admin", frozenset(("admin",)))
READER = Operator("reader", frozenset(("reader",)))
OWNER = Operator("owner", frozenset(("team_owner",)), frozenset(("research",)))
CONFIGURATION = Configuration(
    backends=[Backend(name="a", endpoint="https://a.openai.azure.com", region="swedencentral", models={"gpt-4o": "x"})],
    limits=LimitSettings(defaults=Limits(requests_per_minute=10)),
    teams={"research": Team(limits=Limits(tokens_per_minute=5000)), "sales": Team()},
    products={"basic": Product(), "large": Product(), "secret": Product(teams=frozenset(("sales",)))},
)
FOR_LARGE = {"product": "large", "reason": "We serve more customers now."}


class BusyStore(FailingStore):
    """Tables that let others go first before each operation."""

    def table(self, name: str) -> "BusyTable":
        return BusyTable(self, name)


class BusyTable(FailingTable):
    async def get(self, partition: str, key: str) -> Row | None:
        await asyncio.sleep(0)
        return await super().get(partition, key)

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        await asyncio.sleep(0)
        return await super().put(partition, key, properties, etag)


class Office:
    """The routes, as callers and operators use them."""

    def __init__(self) -> None:
        self.store = BusyStore()
        self.alerts: list[Alert] = []
        self.consumers = Consumers(self.store)
        self.configuration = CONFIGURATION
        audit = Audit(self.store)
        changes = ConsumerRoutes(self.store, lambda: self.configuration, audit)
        access = AccessRoutes(self.store, lambda: self.configuration, audit, changes, self.alerts.append)
        self._paths = Paths((*changes.routes(), *access.routes(), *AuditRoutes(audit).routes()))

    async def caller(self, team: str = "research", products: tuple[str, ...] = ("basic",), **limits: Any) -> Consumer:
        made, _ = await create_consumer(
            self.consumers,
            "ann",
            models=None,
            limits=Limits(tokens_per_minute=1000, **limits),
            team=team,
            products=products,
        )
        return made

    async def ask(self, who: Operator | Consumer, method: str, path: str, body: Any = None, etag: str = "") -> Any:
        path, _, query = path.partition("?")
        methods, parameters = self._paths.find(path)
        route = methods[method]
        operator = who if isinstance(who, Operator) else None
        assert route.access == ("caller" if operator is None else "operator")
        if operator is not None:
            operator.require(route.roles)
        caller = who if isinstance(who, Consumer) else None
        asked = dict(pair.split("=") for pair in query.split("&") if pair)
        data = msgspec.json.encode(body) if body is not None else b""
        headers = {"if-match": etag} if etag else {}
        answer = await route.handler(ManagementRequest(parameters, asked, headers, data, caller, operator))
        shown = msgspec.json.decode(answer.body)
        return {**shown, "etag": answer.headers.get("etag")} if "id" in shown else shown

    async def wish(self, caller: Consumer, **fields: Any) -> str:
        made = await self.ask(caller, "POST", AT, fields or FOR_LARGE)
        return f"{AT}/{made['id']}"

    async def refusal(self, who: Operator | Consumer, method: str, path: str, body: Any = None) -> GatewayError:
        with pytest.raises(GatewayError) as error:
            await self.ask(who, method, path, body)
        return error.value

    async def consumer(self, consumer_id: str) -> Consumer:
        record = await self.consumers.find(consumer_id)
        assert record is not None
        return record.consumer

    def events(self) -> list[str]:
        return [alert.event for alert in self.alerts]


@pytest.fixture
def office() -> Office:
    return Office()


async def test_an_approved_product_is_the_callers_beside_those_that_it_had(office: Office) -> None:
    caller = await office.caller()
    one = await office.wish(caller)
    assert (await office.ask(caller, "GET", f"{AT}/me"))["data"][0]["state"] == "open"
    done = await office.ask(OWNER, "POST", f"{one}/approve", {"reason": "Welcome."})
    assert (done["state"], done["by"], done["answer"]) == ("approved", "owner", "Welcome.")
    assert (await office.consumer(caller.id)).products == ("basic", "large")
    own = (await office.ask(caller, "GET", f"{AT}/me"))["data"]
    assert [(each["state"], each["answer"], each["by"]) for each in own] == [("approved", "Welcome.", None)]
    assert office.events() == ["access_requested", "access_approved"]
    assert "We serve more customers now." in office.alerts[0].message
    trail = (await office.ask(ADMIN, "GET", "/gateway/audit"))["data"]
    assert [
        (each["action"], each["actor"], each["state"]) for each in sorted(trail, key=lambda each: each["action"])
    ] == [
        ("access.approve", "owner", "done"),
        ("access.ask", f"consumer:{caller.id}", "done"),
        ("consumer.update", "owner", "done"),
    ]


async def test_an_approved_limit_is_raised_and_the_others_stay(office: Office) -> None:
    caller = await office.caller(budget_usd=5.0)
    one = await office.wish(caller, limits={"tokens_per_minute": 4000}, reason="more")
    await office.ask(ADMIN, "POST", f"{one}/approve")
    assert (await office.consumer(caller.id)).limits == Limits(tokens_per_minute=4000, budget_usd=5.0)


async def test_an_approval_lowers_nothing_that_an_operator_raised_meanwhile(office: Office) -> None:
    caller = await office.caller()
    one = await office.wish(caller, limits={"tokens_per_minute": 4000}, reason="more")
    at = f"/gateway/consumers/{caller.id}"
    for raised in (9000, 0):  # 0: no limit
        await office.ask(ADMIN, "PATCH", at, {"limits": {"tokens_per_minute": raised}})
        if raised:
            continue
        await office.ask(ADMIN, "POST", f"{one}/approve")
        assert (await office.consumer(caller.id)).limits.tokens_per_minute == raised


async def test_a_declined_request_changes_nothing_and_says_why(office: Office) -> None:
    caller = await office.caller()
    one = await office.wish(caller)
    await office.ask(ADMIN, "POST", f"{one}/decline", {"reason": "Use basic."})
    assert (await office.consumer(caller.id)).products == ("basic",)
    assert office.events() == ["access_requested", "access_declined"]
    for decision in ("approve", "decline"):
        error = await office.refusal(ADMIN, "POST", f"{one}/{decision}")
        assert isinstance(error, AlreadyDecided)
        assert "declined by admin" in error.message


@pytest.mark.parametrize("decisions", [("approve", "approve"), ("approve", "decline"), ("decline", "decline")])
async def test_of_many_who_decide_at_a_time_one_does(office: Office, decisions: tuple[str, str]) -> None:
    for _ in range(5):
        caller = await office.caller()
        one = await office.wish(caller)
        office.alerts.clear()
        asking = [
            office.ask((ADMIN, OTHER)[number % 2], "POST", f"{one}/{decisions[number % 2]}") for number in range(8)
        ]
        results = await asyncio.gather(*asking, return_exceptions=True)
        done = [result for result in results if isinstance(result, dict)]
        assert [type(result) for result in results if result not in done] == [AlreadyDecided] * 7
        assert office.events() == [f"access_{done[0]['state']}"]
        state = (await office.ask(caller, "GET", f"{AT}/me"))["data"][0]["state"]
        assert state == done[0]["state"]
        assert ("large" in (await office.consumer(caller.id)).products) == (state == "approved")


async def test_an_approval_that_broke_off_is_completed_by_the_next_one_and_cannot_be_declined(office: Office) -> None:
    """Every write in turn is refused, or done and its answer lost, and so are all after it."""
    modes: tuple[Mode, ...] = ("refused", "lost")
    for mode in modes:
        for number in range(1, 9):
            caller = await office.caller()
            one = await office.wish(caller)
            office.alerts.clear()
            office.store.fail(number, mode)
            first = await asyncio.gather(office.ask(ADMIN, "POST", f"{one}/approve"), return_exceptions=True)
            state = (await office.ask(ADMIN, "GET", one))["state"]
            if isinstance(first[0], StoreUnavailable):
                if state == "approving":
                    assert isinstance(await office.refusal(ADMIN, "POST", f"{one}/approve"), AlreadyDecided)
                office.store.heal()
                if state == "approving":
                    error = await office.refusal(OTHER, "POST", f"{one}/decline")
                    assert isinstance(error, AlreadyDecided)
                if state != "approved":
                    await office.ask(OTHER, "POST", f"{one}/approve")
            office.store.heal()
            assert office.events() == ["access_approved"], (mode, number)
            assert (await office.ask(ADMIN, "GET", one))["state"] == "approved"
            assert (await office.consumer(caller.id)).products == ("basic", "large")


async def test_a_request_is_decided_only_as_it_was_read(office: Office) -> None:
    one = await office.wish(await office.caller())
    read = await office.ask(READER, "GET", one)
    with pytest.raises(ChangedMeanwhile):
        await office.ask(ADMIN, "POST", f"{one}/decline", {}, '"other"')
    await office.ask(ADMIN, "POST", f"{one}/decline", {}, read["etag"])


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"product": "large", "reason": ""}, "reason"),
        ({"product": "large", "reason": "x" * 301}, "reason"),
        ({"product": "large", "reason": "two\nlines"}, "reason"),
        ({"product": "large"}, "reason"),
        ({"reason": "x"}, "either product or limits"),
        ({"product": "large", "limits": {"tokens_per_minute": 2000}, "reason": "x"}, "either product or limits"),
        ({"product": "basic", "reason": "x"}, "expected large"),  # has it
        ({"product": "secret", "reason": "x"}, "expected large"),  # open to another team, and not named
        ({"limits": {}, "reason": "x"}, "at least one"),
        ({"limits": {"tokens_per_minute": 1000}, "reason": "x"}, "more than the current 1000"),
        ({"limits": {"tokens_per_minute": -5}, "reason": "x"}, "limits.tokens_per_minute"),
        ({"limits": {"budget_usd": 5}, "reason": "x"}, "no such limit"),
        ({"limits": {"soft": True}, "reason": "x"}, "limits"),
        ({"product": "large", "reason": "x", "state": "approved"}, "state"),
    ],
)
async def test_what_cannot_be_asked_for_is_refused_with_what_can(office: Office, body: Any, word: str) -> None:
    caller = await office.caller()
    error = await office.refusal(caller, "POST", AT, body)
    assert isinstance(error, InvalidRequest)
    assert word in error.message
    assert office.alerts == []


async def test_a_reason_with_a_key_is_refused(office: Office) -> None:
    _, key = await create_consumer(office.consumers, "bob", models=None, limits=Limits())
    error = await office.refusal(await office.caller(), "POST", AT, {"product": "large", "reason": f"for {key} ok"})
    assert "contains a key" in error.message
    assert key not in error.message


async def test_a_default_limit_may_be_asked_to_be_raised(office: Office) -> None:
    caller = await office.caller()
    assert (await office.ask(caller, "GET", f"{AT}/me"))["limits"] == {
        "requests_per_minute": 10,
        "tokens_per_minute": 1000,
    }
    one = await office.wish(caller, limits={"requests_per_minute": 20}, reason="x")
    await office.ask(ADMIN, "POST", f"{one}/approve")
    assert (await office.consumer(caller.id)).limits.requests_per_minute == 20


async def test_the_requests_of_a_caller_are_bounded_also_if_they_come_at_once(office: Office) -> None:
    caller = await office.caller()
    bodies = [{"limits": {"tokens_per_minute": 2000 + number}, "reason": "x"} for number in range(6)]
    results = await asyncio.gather(*(office.ask(caller, "POST", AT, body) for body in bodies), return_exceptions=True)
    codes = [result.code for result in results if isinstance(result, InvalidRequest)]
    assert codes == ["too_many_open_requests"] * 3
    again = await office.refusal(
        caller, "POST", AT, next(b for b, r in zip(bodies, results, strict=True) if isinstance(r, dict))
    )
    assert again.code == "already_asked"
    written = (await office.ask(ADMIN, "GET", "/gateway/audit"))["data"]
    for number in range(20):
        body = {"limits": {"tokens_per_minute": 3000 + number}, "reason": "x"}
        assert (await office.refusal(caller, "POST", AT, body)).code == "too_many_open_requests"
    assert (await office.ask(ADMIN, "GET", "/gateway/audit"))["data"] == written  # nobody fills the trail


async def test_decided_requests_make_room_and_keep_their_numbers(office: Office) -> None:
    caller = await office.caller()
    for number in range(30):
        office.store.time += 1
        one = await office.wish(caller, limits={"tokens_per_minute": 2000 + number}, reason="\U0001f600" * 300)
        await office.ask(ADMIN, "POST", f"{one}/decline", {"reason": '"' * 300})
    own = (await office.ask(caller, "GET", f"{AT}/me"))["data"]
    assert [each["id"] for each in own] == [f"{caller.id}.{number}" for number in range(30, 18, -1)]
    row = await office.store.table("accessrequests").get("requests", caller.id)
    assert row is not None
    assert len(str(row.properties["requests"]).encode("utf-16-le")) < 64_000


async def test_an_owner_sees_and_decides_those_of_its_team_within_what_the_team_may_have(office: Office) -> None:
    theirs = await office.wish(await office.caller(team="sales"), product="secret", reason="x")
    mine = await office.wish(await office.caller(), limits={"tokens_per_minute": 5001}, reason="x")
    assert len((await office.ask(READER, "GET", AT))["data"]) == 2
    assert [one["team"] for one in (await office.ask(OWNER, "GET", AT))["data"]] == ["research"]
    for method, path in (("GET", theirs), ("POST", f"{theirs}/approve"), ("POST", f"{theirs}/decline")):
        assert isinstance(await office.refusal(OWNER, method, path), ResourceNotFound)
    above = await office.refusal(OWNER, "POST", f"{mine}/approve")
    assert isinstance(above, RoleRequired)
    assert "above that of the team" in above.message
    assert (await office.ask(OWNER, "GET", mine))["state"] == "open"
    assert isinstance(await office.refusal(READER, "POST", f"{mine}/approve"), RoleRequired)
    assert (await office.ask(ADMIN, "POST", f"{mine}/approve"))["state"] == "approved"


async def test_a_product_that_is_gone_is_not_approved_and_the_request_stays_open(office: Office) -> None:
    caller = await office.caller()
    one = await office.wish(caller)
    office.configuration = msgspec.structs.replace(CONFIGURATION, products={"basic": Product()})
    error = await office.refusal(ADMIN, "POST", f"{one}/approve")
    assert error.status == 400
    assert (await office.ask(ADMIN, "GET", one))["state"] == "open"
    assert (await office.ask(ADMIN, "POST", f"{one}/decline"))["state"] == "declined"


async def test_requests_of_a_deleted_consumer_can_still_be_declined(office: Office) -> None:
    caller = await office.caller()
    one = await office.wish(caller)
    record = await office.consumers.read(caller.id)
    assert record is not None
    await office.consumers.delete(record)
    assert (await office.refusal(ADMIN, "POST", f"{one}/approve")).code == "consumer_not_found"
    assert (await office.ask(ADMIN, "POST", f"{one}/decline"))["state"] == "declined"


async def test_a_product_that_a_rule_gave_stays_when_another_is_approved(office: Office) -> None:
    """The row of an identity of Entra ID has no product of its own, and what stands there replaces the rule's."""
    row = f"entra-{'1' * 8}-1111-1111-1111-{'1' * 12}-{'2' * 8}-2222-2222-2222-{'2' * 12}"
    new = Consumer(row, "ann", products=("basic",))
    assert isinstance(await office.refusal(new, "POST", AT, FOR_LARGE), StoreUnavailable)  # not on record yet
    await office.store.table("consumers").put(row, "policy", {"name": "ann", "created": 1.0}, None)
    one = await office.wish(new)
    await office.ask(ADMIN, "POST", f"{one}/approve")
    assert (await office.consumer(row)).products == ("basic", "large")


async def test_the_list_is_paged_and_filtered(office: Office) -> None:
    callers = [await office.caller() for _ in range(3)]
    for caller in callers:
        office.store.time += 1
        await office.wish(caller)
    first = await office.ask(READER, "GET", f"{AT}?limit=2")
    assert [one["consumer"] for one in first["data"]] == [callers[2].id, callers[1].id]
    rest = await office.ask(READER, "GET", f"{AT}?limit=2&after={first['after']}")
    assert ([one["consumer"] for one in rest["data"]], rest["after"]) == ([callers[0].id], None)
    await office.ask(ADMIN, "POST", f"{AT}/{callers[1].id}.1/decline")
    assert [one["consumer"] for one in (await office.ask(READER, "GET", f"{AT}?state=declined"))["data"]] == [
        callers[1].id
    ]
    assert (await office.refusal(READER, "GET", f"{AT}?state=new")).status == 400
    for unknown in (f"{AT}/{callers[0].id}.9", f"{AT}/nobody.1", f"{AT}/x", f"{AT}/A.1"):
        assert isinstance(await office.refusal(READER, "GET", unknown), ResourceNotFound)
