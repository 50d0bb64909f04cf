"""Products and teams managed over HTTP while the gateway serves: two instances on one account, one on each edge."""

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from shared import bootstrap
from shared.auth.consumers import Consumers
from shared.config.environment import Storage
from shared.config.limits import Limits
from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.azurite import azurite as start_azurite
from tests.harness.consumers import create_consumer
from tests.harness.gateway_process import Answer, GatewayProcess
from tests.harness.system import MANAGEMENT_KEY, System, chat_body, configuration, eventually

OWNER = "11111111-2222-3333-4444-555555555555"
BASE = {"products": {"infrastructure": {"models": ["gpt-4o"]}}, "limits": {"teams": {"old": {"token_quota": 5}}}}


@pytest.fixture(scope="module")
def account() -> Iterator[Azurite]:
    """Its own: a version of the configuration is for all gateways on an account."""
    with start_azurite() as running:
        yield running


@pytest.fixture(scope="module")
def fleet(account: Azurite, simulator: SimulatorProcess) -> Iterator[tuple[System, System]]:
    simulator.clear()
    environ = {
        "GATEWAY_CONFIG": json.dumps(configuration(simulator, **BASE)),
        "GATEWAY_STORAGE": account.connection_string,
        "GATEWAY_MANAGEMENT_KEY": MANAGEMENT_KEY,
        "JAPAN_KEY": simulator.api_key,
        **simulator.identity_environment,
    }
    with GatewayProcess("uvicorn", environ) as first, GatewayProcess("functions", environ) as second:
        yield (
            System(first, simulator, account.connection_string),
            System(second, simulator, account.connection_string),
        )


@pytest.fixture(params=[0, 1], ids=["uvicorn", "functions"])
def pair(request: pytest.FixtureRequest, fleet: tuple[System, System]) -> tuple[System, System]:
    """The instance that is asked, and the other one."""
    return fleet if request.param == 0 else (fleet[1], fleet[0])


def send(system: System, method: str, path: str, body: object = None, **headers: str) -> Answer:
    data = None if body is None else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    opened = {"authorization": f"Bearer {MANAGEMENT_KEY}", "content-type": "application/json"}
    return system.gateway.request(method, path, data, opened | named)


def subscribe(system: System, *products: str, team: str = "") -> str:
    async def create() -> str:
        async with bootstrap.open_store(Storage(connection_string=system.storage)) as store:
            _, text = await create_consumer(
                Consumers(store), "subscriber", models=None, limits=Limits(), team=team, products=products
            )
            return text

    return asyncio.run(create())


def records(system: System, of: str) -> list[tuple[str, str]]:
    entries = system.get(f"/gateway/audit?object={of}").json()["data"]
    return [(record["action"], record["state"]) for record in entries]


def test_a_product_lives_from_its_first_put_to_its_deletion(pair: tuple[System, System]) -> None:
    system, other = pair
    name = f"chat-{system.edge}"
    path = f"/gateway/products/{name}"
    assert send(system, "GET", path).error()["code"] == "resource_not_found"
    created = send(system, "PUT", path, {"models": ["gpt-4o-mini"]}, if_none_match="*")
    assert (created.status, created.json()) == (201, {"name": name, "models": ["gpt-4o-mini"]})
    key = subscribe(system, name)
    assert system.post("/v1/chat/completions", chat_body("gpt-4o-mini"), key=key).status == 200  # here at once
    assert system.post("/v1/chat/completions", chat_body("gpt-4o"), key=key).status == 403
    eventually(lambda: other.post("/v1/chat/completions", chat_body("gpt-4o-mini"), key=key).status == 200)

    assert send(system, "PUT", path, {"models": ["gpt-4o"]}, if_none_match="*").status == 412
    again = send(system, "PUT", path, {"name": name, "models": ["gpt-4o-mini"]})  # idempotent
    assert (again.status, again.headers["etag"]) == (200, created.headers["etag"])
    changed = send(system, "PUT", path, {"models": ["gpt-4o"]}, if_match=created.headers["etag"])
    assert changed.status == 200
    overtaken = send(system, "PUT", path, {"models": []}, if_match=created.headers["etag"])
    assert (overtaken.status, overtaken.error()["code"]) == (412, "precondition_failed")
    shown = send(other, "GET", path)
    assert (shown.json()["models"], shown.headers["etag"]) == (["gpt-4o"], changed.headers["etag"])
    listed = {product["name"] for product in system.get("/gateway/products").json()["data"]}
    assert {name, "infrastructure"} <= listed

    used = send(system, "DELETE", path)
    assert (used.status, used.error()["code"]) == (409, "still_needed")
    assert "subscriber" in used.error()["message"]
    assert send(system, "DELETE", f"{path}?force=true").status == 204
    assert send(system, "DELETE", path).status == 404
    refused = system.post("/v1/chat/completions", chat_body("gpt-4o"), key=key)
    assert (refused.status, refused.error()["code"]) == (403, "product_not_allowed")
    assert records(system, name)[0] == ("product.delete", "done")
    assert {state for _, state in records(system, name)} == {"done"}


@pytest.mark.parametrize("kind", ["products", "teams"])
def test_a_merge_patch_changes_the_fields_that_it_names(pair: tuple[System, System], kind: str) -> None:
    system, other = pair
    path = f"/gateway/{kind}/patched-{system.edge}"
    assert send(system, "PATCH", path, {"limits": {"token_quota": 1}}).error()["code"] == "resource_not_found"
    first = send(system, "PUT", path, {"limits": {"token_quota": 5, "tokens_per_minute": 7}})
    patched = send(other, "PATCH", path, {"limits": {"token_quota": None, "requests_per_minute": 9}})
    assert (patched.status, patched.json()["limits"]) == (200, {"tokens_per_minute": 7, "requests_per_minute": 9})
    assert send(system, "GET", path).headers["etag"] == patched.headers["etag"] != first.headers["etag"]
    overtaken = send(system, "PATCH", path, {"limits": None}, if_match=first.headers["etag"])
    assert (overtaken.status, overtaken.headers["etag"]) == (412, patched.headers["etag"])
    assert send(system, "PATCH", path, {"name": "other"}).error()["param"] == "name"
    assert send(system, "PATCH", path, {"limits": {"token_quota": -1}}).status == 400
    again = send(system, "PATCH", path, {"name": f"patched-{system.edge}", "limits": {"requests_per_minute": 9}})
    assert (again.status, again.headers["etag"]) == (200, patched.headers["etag"])
    actions = [action for action, state in records(system, f"patched-{system.edge}") if state == "done"]
    assert actions[:2] == [f"{kind[:-1]}.update", f"{kind[:-1]}.create"]
    assert send(system, "PATCH", path, {"limits": None}).json() == {"name": f"patched-{system.edge}"}
    assert send(system, "DELETE", path).status == 204


def test_a_team_lives_likewise(pair: tuple[System, System]) -> None:
    system, _ = pair
    name = f"lab-{system.edge}"
    path = f"/gateway/teams/{name}"
    team = {"limits": {"requests_per_minute": 2}, "owners": [OWNER]}
    assert send(system, "PUT", path, team).status == 201
    keys = [subscribe(system, team=name) for _ in range(2)]
    statuses = [system.post("/v1/chat/completions", chat_body(), key=keys[i % 2]).status for i in range(4)]
    assert statuses[:2] == [200, 200]
    assert 429 in statuses
    assert send(system, "DELETE", path).error()["code"] == "still_needed"
    assert send(system, "DELETE", f"{path}?force=true").status == 204
    assert system.post("/v1/chat/completions", chat_body(), key=keys[0]).status == 200


@pytest.mark.parametrize(
    ("path", "body", "complaint"),
    [
        ("products/wrong", {"models": ["nonesuch"]}, "products.wrong.models: expected a model of a backend"),
        ("products/wrong", {"modles": ["gpt-4o"]}, "products.wrong: Object contains unknown field `modles`"),
        ("products/wrong", {"limits": {"budget_usd": -1}}, "products.wrong.limits.budget_usd: Expected"),
        ("products/w%20r", {}, "products: expected names of letters"),
        ("products/wrong", {"name": "right"}, "name: expected 'wrong'"),
        ("teams/wrong", {"owners": ["anna"]}, "teams.wrong.owners: expected object ids"),
        ("teams/old", {}, "teams.old: expected each team in one place, but limits.teams also has 'old'"),
    ],
)
def test_what_the_configuration_refuses_is_no_change(
    pair: tuple[System, System], path: str, body: object, complaint: str
) -> None:
    system, _ = pair
    before = system.get("/gateway/configuration/versions").json()["data"]
    refused = send(system, "PUT", f"/gateway/{path}", body)
    assert refused.status == 400
    assert complaint in refused.json()["error"]["message"]
    assert system.get("/gateway/configuration/versions").json()["data"] == before


def test_operators_at_once_through_two_instances_lose_nothing(fleet: tuple[System, System]) -> None:
    names = [f"team-{number}" for number in range(12)]

    def put(number: int) -> int:
        path = f"/gateway/teams/{names[number]}"
        for _ in range(20):
            answer = send(fleet[number % 2], "PUT", path, {"limits": {"token_quota": number + 1}})
            if answer.status != 503:
                break
        return answer.status

    with ThreadPoolExecutor(6) as threads:
        assert set(threads.map(put, range(len(names)))) <= {200, 201}
    listed = {team["name"]: team for team in send(fleet[0], "GET", "/gateway/teams?limit=1000").json()["data"]}
    assert [listed[name]["limits"]["token_quota"] for name in names] == [number + 1 for number in range(12)]
    for name in names:
        assert send(fleet[1], "DELETE", f"/gateway/teams/{name}").status == 204


def test_pages_follow_each_other(pair: tuple[System, System]) -> None:
    system, _ = pair
    for number in range(5):
        send(system, "PUT", f"/gateway/products/page-{number}", {})
    seen: list[str] = []
    after = ""
    while True:
        page: dict[str, Any] = system.get(f"/gateway/products?limit=2{after}").json()
        seen += [product["name"] for product in page["data"]]
        if page["after"] is None:
            break
        after = f"&after={page['after']}"
    assert seen == sorted(seen)
    assert {f"page-{number}" for number in range(5)} <= set(seen)


def test_callers_may_not_manage_products(pair: tuple[System, System]) -> None:
    system, _ = pair
    assert system.get("/gateway/products", system.key).status == 401
