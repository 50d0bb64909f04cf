"""The owner of a team manages its consumers, and no others: by the routes, on tables in memory."""

from typing import Any

import msgspec
import pytest

from shared.auth.operators import Operator
from shared.config.document import Backend, Configuration
from shared.config.limits import Limits, LimitSettings
from shared.errors import ConsumerNotFound, GatewayError, RoleRequired
from shared.management.audit import Audit
from shared.management.consumers import ConsumerRoutes
from shared.management.keys import KeyRoutes
from shared.management.routes import ManagementRequest, Paths
from tests.harness.memory_store import MemoryStore

ADMIN = Operator("admin", frozenset(("admin",)))
READER = Operator("reader", frozenset(("reader",)))
OWNER = Operator("owner", frozenset(("team_owner",)), frozenset(("research",)))
CONSUMERS = "/gateway/consumers"
CONFIGURATION = Configuration(
    backends=[Backend(name="a", endpoint="https://a.openai.azure.com", region="swedencentral", models={"gpt-4o": "x"})],
    limits=LimitSettings(
        defaults=Limits(requests_per_minute=60, budget_usd=50.0),
        teams={
            "research": Limits(tokens_per_minute=1000, token_quota=24_000, token_quota_period="day"),
            "sales": Limits(),
        },
    ),
)


class Office:
    """The routes, as an operator calls them."""

    def __init__(self) -> None:
        store = MemoryStore()
        audit = Audit(store)
        routes = (*ConsumerRoutes(store, lambda: CONFIGURATION, audit).routes(), *KeyRoutes(store, audit).routes())
        self._paths = Paths(routes)

    async def ask(self, operator: Operator, method: str, path: str, body: Any = None) -> Any:
        methods, parameters = self._paths.find(path)
        route = methods[method]
        operator.require(route.roles)
        request = ManagementRequest(parameters, {}, {}, msgspec.json.encode(body or {}), operator=operator)
        answer = await route.handler(request)
        return msgspec.json.decode(answer.body) if answer.body else None

    async def made(self, team: str, **fields: Any) -> str:
        made = await self.ask(ADMIN, "POST", CONSUMERS, {"name": f"of {team}", "team": team, **fields})
        return f"{CONSUMERS}/{made['id']}"


@pytest.fixture
def office() -> Office:
    return Office()


async def refused(office: Office, operator: Operator, method: str, path: str, body: Any = None) -> GatewayError:
    with pytest.raises(GatewayError) as error:
        await office.ask(operator, method, path, body)
    return error.value


async def test_an_owner_manages_the_consumers_of_its_team(office: Office) -> None:
    made = await office.ask(OWNER, "POST", CONSUMERS, {"name": "ours", "team": "research"})
    one = f"{CONSUMERS}/{made['id']}"
    limits = {"tokens_per_minute": 1000, "token_quota": 1000, "token_quota_period": "hour"}
    assert (await office.ask(OWNER, "PATCH", one, {"limits": limits}))["limits"] == limits
    rotated = await office.ask(OWNER, "POST", f"{one}/keys/{made['keys'][0]['id']}/rotate")
    await office.ask(OWNER, "DELETE", f"{one}/keys/{rotated['id']}")
    assert (await office.ask(OWNER, "PATCH", one, {"state": "revoked"}))["state"] == "revoked"
    await office.ask(OWNER, "DELETE", one)


async def test_consumers_of_others_are_not_there_for_an_owner(office: Office) -> None:
    others = await office.made("sales")
    for method, path, body in (
        ("GET", others, None),
        ("PATCH", others, {"team": "research"}),
        ("PUT", others, {"name": "of sales", "team": "research"}),
        ("DELETE", others, None),
        ("GET", f"{others}/keys", None),
        ("POST", f"{others}/keys", None),
    ):
        assert isinstance(await refused(office, OWNER, method, path, body), ConsumerNotFound), (method, path)
    ours = await office.made("research")
    assert [one["name"] for one in (await office.ask(OWNER, "GET", CONSUMERS))["data"]] == ["of research"]
    taken = await refused(office, OWNER, "PATCH", ours, {"name": "OF SALES"})
    assert taken.status == 409
    assert others.rpartition("/")[2] not in taken.message
    await office.ask(ADMIN, "DELETE", others)
    assert isinstance(await refused(office, OWNER, "PUT", others, {"name": "x", "team": "research"}), ConsumerNotFound)


@pytest.mark.parametrize(
    "fields",
    [
        {"team": "sales"},
        {"team": ""},
        {"pin": True},
        {"explain": True},
        {"whole_account": True},
        {"limits": {"tokens_per_minute": 1001}},
        {"limits": {"tokens_per_minute": 0}},
        {"limits": {"token_quota": 24_001, "token_quota_period": "day"}},
        {"limits": {"token_quota": 1001, "token_quota_period": "hour"}},
        {"limits": {"soft": True}},
        {"limits": {"requests_per_minute": 61}},  # above the defaults, of which the team says nothing
        {"limits": {"requests_per_minute": 0}},
        {"limits": {"budget_period": 60}},  # the amount of the defaults, but every minute
        {"limits": {"token_quota": 1, "budget_period": "week"}},
        {"limits": {"token_quota": 24_000, "token_quota_period": "week"}},  # slower, but all of it at once
        {"limits": {"budget_usd": 550.0, "budget_period": 31_622_400}},
        {"limits": {"quota_counts": "success"}},
        {"limits": {"estimate": "none"}},
        {"model_limits": {"gpt-4o": {"tokens_per_minute": 1001}}},
        {"model_limits": {"gpt-4o": {"tokens_per_minute": 10, "estimate": "none"}}},
    ],
)
async def test_an_owner_gives_nothing_beyond_its_team(office: Office, fields: dict[str, Any]) -> None:
    ours = await office.made("research")
    before = await office.ask(ADMIN, "GET", ours)
    new = {"name": "new", "team": "research", **fields}
    for method, path, body in (("PATCH", ours, fields), ("POST", CONSUMERS, new), ("PUT", f"{CONSUMERS}/new", new)):
        error = await refused(office, OWNER, method, path, body)
        assert isinstance(error, RoleRequired), (method, error)
        assert "Gateway.Admin" in error.message
    assert await office.ask(ADMIN, "GET", ours) == before
    assert len((await office.ask(ADMIN, "GET", CONSUMERS))["data"]) == 1


async def test_an_owner_leaves_what_an_admin_granted(office: Office) -> None:
    ours = await office.made("research", pin=True, limits={"tokens_per_minute": 5000})
    changed = await office.ask(OWNER, "PATCH", ours, {"addresses": ["10.0.0.0/8"]})
    assert (changed["pin"], changed["limits"]) == (True, {"tokens_per_minute": 5000})
    assert (await office.ask(OWNER, "PATCH", ours, {"pin": False}))["pin"] is False
    fewer = await office.ask(OWNER, "PATCH", ours, {"limits": {"requests_per_minute": 60, "tokens_per_minute": 5000}})
    assert fewer["limits"]["requests_per_minute"] == 60


async def test_a_reader_reads_everything_and_changes_nothing(office: Office) -> None:
    one = await office.made("sales")
    assert (await office.ask(READER, "GET", one))["team"] == "sales"
    assert len((await office.ask(READER, "GET", f"{one}/keys"))["data"]) == 1
    for method, path in (
        ("POST", CONSUMERS),
        ("PUT", one),
        ("PATCH", one),
        ("DELETE", one),
        ("POST", f"{one}/keys"),
    ):
        assert isinstance(await refused(office, READER, method, path, {}), RoleRequired)


IDENTITY = "entra-11111111-1111-1111-1111-111111111111-22222222-2222-2222-2222-222222222222"


async def test_an_owner_who_may_read_everything_changes_its_own_teams_only(office: Office) -> None:
    both = Operator("both", frozenset(("reader", "team_owner")), frozenset(("research",)))
    others = await office.made("sales")
    [key] = (await office.ask(both, "GET", f"{others}/keys"))["data"]
    for method, path, body in (
        ("PATCH", others, {"team": "research"}),
        ("PUT", others, {"name": "of sales", "team": "research"}),
        ("DELETE", others, None),
        ("POST", f"{others}/keys", None),
        ("POST", f"{others}/keys/{key['id']}/rotate", None),
        ("DELETE", f"{others}/keys/{key['id']}", None),
    ):
        assert isinstance(await refused(office, both, method, path, body), RoleRequired), (method, path)
    assert (await office.ask(both, "GET", f"{others}/keys"))["data"] == [key]
    await office.ask(ADMIN, "DELETE", others)
    fields = {"name": "x", "team": "research"}
    assert isinstance(await refused(office, both, "PUT", others, fields), RoleRequired)
    await office.ask(both, "PATCH", await office.made("research"), {"addresses": ["10.0.0.0/8"]})


async def test_the_id_of_a_deleted_consumer_goes_to_no_other_team(office: Office) -> None:
    others = await office.made("sales", id="of-sales")
    await office.ask(ADMIN, "DELETE", others)
    fields = {"id": "of-sales", "name": "ours", "team": "research"}
    assert (await refused(office, OWNER, "POST", CONSUMERS, fields)).code == "id_taken"
    ours = await office.made("research", id="ours")
    await office.ask(OWNER, "DELETE", ours)
    assert (await office.ask(OWNER, "POST", CONSUMERS, {**fields, "id": "ours"}))["id"] == "ours"


async def test_nobody_plants_a_key_or_an_owner_a_policy_at_an_identity(office: Office) -> None:
    planted = {"name": "planted", "team": "research"}
    for operator in (OWNER, ADMIN):
        assert (await refused(office, operator, "POST", CONSUMERS, {**planted, "id": IDENTITY})).param == "id"
    one = f"{CONSUMERS}/{IDENTITY}"
    assert isinstance(await refused(office, OWNER, "PUT", one, planted), RoleRequired)
    assert (await office.ask(ADMIN, "PUT", one, planted))["keys"] == []  # before its first call
    assert (await office.ask(OWNER, "PATCH", one, {"state": "revoked"}))["state"] == "revoked"
    await office.ask(OWNER, "DELETE", one)
