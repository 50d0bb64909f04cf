"""Products and teams as callers meet them, on both edges."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from shared import bootstrap
from shared.auth.consumers import Consumers
from shared.config.environment import Storage
from shared.config.limits import Limits
from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.consumers import create_consumer
from tests.harness.gateway_process import Answer, Edge
from tests.harness.system import System, chat_body, configuration, watched
from tests.harness.system import system as start_system

PRODUCTS: dict[str, Any] = {
    "basic": {"models": ["gpt-4o-mini"], "limits": {"requests_per_minute": 3}},
    "large": {"models": ["gpt-4o"]},
    "swedish": {"models": ["gpt-4o", "gpt-4o-mini"], "regions": ["swedencentral"]},
    "lab-only": {"teams": ["lab"]},
}
POOL = {"models": ["gpt-4o-mini"], "shared_limits": {"requests_per_minute": 5}}
TEAM = {"limits": {"requests_per_minute": 4}}


@pytest.fixture(scope="module")
def bundling_system(edge: Edge, azurite: Azurite, simulator: SimulatorProcess) -> Iterator[System]:
    simulator.clear()
    # Both edges share the tables, and so the levels of what many keys share.
    settings = configuration(simulator, products=PRODUCTS | {f"pool-{edge}": POOL}, teams={f"team-{edge}": TEAM})
    with start_system(edge, settings, simulator, azurite.connection_string) as running:
        yield running


@pytest.fixture
def bundling(bundling_system: System) -> Iterator[System]:
    yield from watched(bundling_system)


def subscribe(system: System, *products: str, team: str = "", **limits: Any) -> str:
    """A new key with these subscriptions."""

    async def create() -> str:
        async with bootstrap.open_store(Storage(connection_string=system.storage)) as store:
            _, text = await create_consumer(
                Consumers(store), "subscriber", models=None, limits=Limits(**limits), team=team, products=products
            )
            return text

    return asyncio.run(create())


def ask(system: System, key: str, product: str = "", model: str = "gpt-4o-mini") -> Answer:
    presented = f"{key};product={product}" if product else key
    body = chat_body(model)
    return system.post("/v1/chat/completions", body, {"ocp-apim-subscription-key": presented}, key=key)


def test_the_default_product_decides_which_models_a_key_may_use(bundling: System) -> None:
    key = subscribe(bundling, "basic", "large")
    assert ask(bundling, key).status == 200
    refused = ask(bundling, key, model="gpt-4o")
    assert (refused.status, refused.error()["code"]) == (403, "model_not_allowed")
    assert "gpt-4o-mini" in refused.error()["message"]
    assert ask(bundling, key, "large", model="gpt-4o").status == 200
    listed = bundling.get("/v1/models", key).json()["data"]
    assert [model["id"] for model in listed] == ["gpt-4o-mini"]


def test_a_product_without_a_subscription_is_refused_with_those_that_the_key_has(bundling: System) -> None:
    key = subscribe(bundling, "basic", "swedish")
    refused = ask(bundling, key, "large")
    assert (refused.status, refused.error()["code"]) == (403, "product_not_allowed")
    assert "basic, swedish" in refused.error()["message"]
    line = bundling.gateway.record(refused.headers["x-request-id"])
    assert (line["code"], line["consumer"]) == ("product_not_allowed", key.split("_")[1])


def test_a_key_whose_product_is_gone_may_call_nothing(bundling: System) -> None:
    refused = ask(bundling, subscribe(bundling, "deleted"))
    assert (refused.status, refused.error()["code"]) == (403, "product_not_allowed")


def test_a_product_that_is_not_open_to_the_keys_team_is_refused(bundling: System) -> None:
    assert ask(bundling, subscribe(bundling, "lab-only")).status == 403
    assert ask(bundling, subscribe(bundling, "lab-only", team="lab")).status == 200


def test_each_subscriber_has_the_products_limits_for_itself_beside_its_own(bundling: System) -> None:
    key, other = subscribe(bundling, "basic", "swedish"), subscribe(bundling, "basic")
    assert [ask(bundling, key).status for _ in range(4)] == [200, 200, 200, 429]
    refused = ask(bundling, key).error()["message"]
    assert "'basic' for 'subscriber'" in refused
    assert "3 requests per minute" in refused
    assert ask(bundling, key, "swedish").status == 200  # another product's limits
    assert ask(bundling, other).status == 200  # another subscriber's
    narrow = subscribe(bundling, "basic", requests_per_minute=1)
    assert [ask(bundling, narrow).status for _ in range(2)] == [200, 429]


def test_all_subscribers_share_the_limits_of_a_product_for_all_of_them(bundling: System) -> None:
    keys = [subscribe(bundling, f"pool-{bundling.edge}") for _ in range(3)]
    statuses = [ask(bundling, keys[i % 3]).status for i in range(9)]
    assert 5 <= statuses.count(200) <= 6  # time refills some
    assert statuses[-1] == 429
    assert "for all its subscribers" in ask(bundling, keys[0]).error()["message"]


def test_a_product_keeps_its_calls_in_its_regions(bundling: System) -> None:
    key = subscribe(bundling, "swedish")
    assert {ask(bundling, key).headers["x-gateway-region"] for _ in range(6)} == {"swedencentral"}


def test_usage_by_product_shows_the_product_that_applied(bundling: System) -> None:
    key = subscribe(bundling, "swedish", "lab-only", team="lab")
    ask(bundling, key)
    ask(bundling, key, "lab-only")
    ask(bundling, key, "nonsense")
    lines = bundling.get(f"/gateway/usage?by=product&key={key.split('_')[1]}").json()["lines"]
    assert {line["product"]: line["requests"] for line in lines if line["requests"]} == {"swedish": 1, "lab-only": 1}


def test_a_caller_sees_the_limits_of_its_products(bundling: System) -> None:
    pool = f"pool-{bundling.edge}"
    key = subscribe(bundling, "basic", pool)
    lines = bundling.get("/gateway/limits/me", key).json()["limits"]
    consumer = key.split("_")[1]
    assert {line["scope"] for line in lines} == {f"product:basic+{consumer}", f"product:{pool}"}


def test_the_section_teams_limits_the_keys_of_a_team_together(bundling: System) -> None:
    team = f"team-{bundling.edge}"
    keys = [subscribe(bundling, team=team) for _ in range(2)]
    statuses = [ask(bundling, keys[i % 2]).status for i in range(8)]
    assert 4 <= statuses.count(200) <= 5
    assert f"The team {team!r}" in ask(bundling, keys[0]).error()["message"]


def test_operators_subscribe_consumers_to_products_that_are_open_to_their_team(bundling: System) -> None:
    body = {"name": f"managed-{bundling.edge}", "products": ["swedish", "basic"]}
    created = bundling.manage("POST", "/gateway/consumers", body)
    assert created.status == 201, created.body
    assert created.json()["products"] == ["swedish", "basic"]
    path = f"/gateway/consumers/{created.json()['id']}"
    for wrong in (["nonesuch"], ["lab-only"]):
        refused = bundling.manage("PATCH", path, {"products": wrong})
        assert (refused.status, refused.error()["param"]) == (400, "products")
    assert bundling.manage("PATCH", path, {"products": ["lab-only"], "team": "lab"}).status == 400  # no such team
    assert bundling.manage("PATCH", path, {"products": []}).json()["products"] == []
