"""The users behind one key, on both edges: counted, limited alone, and never in the log."""

from collections.abc import Iterator

import pytest

from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.gateway_process import Answer, Edge
from tests.harness.system import System, chat_body, configuration, eventually, watched
from tests.harness.system import system as start_system


@pytest.fixture(scope="module")
def serving_users(edge: Edge, azurite: Azurite, simulator: SimulatorProcess) -> Iterator[System]:
    simulator.clear()
    settings = configuration(
        simulator,
        end_users={"header": "X-OpenWebUI-User-Id", "plain": True},
        limits={"users": {"requests_per_minute": 2, "budget_usd": 0.01}},
    )
    with start_system(edge, settings, simulator, azurite.connection_string) as running:
        yield running


@pytest.fixture
def users(serving_users: System) -> Iterator[System]:
    yield from watched(serving_users)


def ask(system: System, key: str, user: str = "", header: str = "") -> Answer:
    body = chat_body("gpt-4o-mini") | ({"user": user} if user else {})
    return system.post("/v1/chat/completions", body, {"x-openwebui-user-id": header} if header else {}, key=key)


def usage(system: System, key: str) -> dict[str, tuple[int, int]]:
    lines = system.get(f"/gateway/usage?by=user&key={key.split('_')[1]}").json()["lines"]
    return {line["user"]: (line["requests"], line["total_tokens"]) for line in lines if line["requests"]}


def test_each_user_of_a_key_has_limits_of_its_own(users: System) -> None:
    key = users.make_key("portal")
    assert [ask(users, key, "carla").status for _ in range(3)] == [200, 200, 429]
    refused = ask(users, key, "carla").error()
    assert "The user 'carla' of 'portal'" in refused["message"]
    assert "2 requests per minute" in refused["message"]
    assert ask(users, key, "dora").status == 200
    assert ask(users, key, "carla", header="emil").status == 200  # the header counts
    assert [ask(users, key).status for _ in range(4)] == [200] * 4  # nobody is named
    assert ask(users, users.make_key("another portal"), "carla").status == 200


def test_usage_by_user_adds_up_to_that_of_the_key(users: System) -> None:
    key = users.make_key("counted")
    answers = [ask(users, key, "carla"), ask(users, key, "dora"), ask(users, key, "dora"), ask(users, key)]
    tokens = [answer.json()["usage"]["total_tokens"] for answer in answers]
    expected = {"carla": (1, tokens[0]), "dora": (2, tokens[1] + tokens[2]), "-": (1, tokens[3])}
    eventually(lambda: usage(users, key) == expected)
    own = users.get("/gateway/usage/me?by=user&user=dora", key).json()["lines"]
    assert [(line["user"], line["requests"]) for line in own] == [("dora", 2)]
    assert set(users.usage("user")) >= {"carla", "dora"}  # the command


def test_names_of_users_reach_no_log(users: System) -> None:
    key = users.make_key("quiet")
    for _ in range(4):
        ask(users, key, "zacharias.quite.unique")
    ask(users, key, header="zacharias.quite.unique", user="7")
    eventually(lambda: users.gateway.logs().count('"code":"rate_limit_exceeded"') > 0)
    assert "zacharias" not in users.gateway.logs()


def test_users_are_hashed_unless_configured_otherwise(gateway: System) -> None:
    key = gateway.make_key("hashed")
    ask(gateway, key, "carla@contoso.com")
    ask(gateway, key, "carla@contoso.com", header="ignored")
    eventually(lambda: any(requests == 2 for requests, _ in usage(gateway, key).values()))
    (user,) = usage(gateway, key)
    assert len(user) == 16
    (row, _) = gateway.usage_rows(key)
    assert row["s_user"] == user
