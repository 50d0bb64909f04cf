"""Client addresses: read from trusted sources, limited with any key, allowed by a consumer's policy."""

import asyncio
import json
import logging
from typing import Any

import pytest

from shared.auth import client_address
from shared.auth.authenticator import Authenticator
from shared.auth.consumers import Consumers
from shared.config.document import ClientAddress, Configuration
from shared.config.limits import AddressLimits, Limits, LimitSettings
from shared.errors import AddressNotAllowed, GatewayError, QuotaExceeded, RateLimitExceeded
from shared.limits import cleanup, scopes
from shared.limits._rows import from_properties
from shared.limits.limiter import Limiter
from shared.storage import daily
from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.consumers import create_consumer
from tests.harness.gateway_process import EDGES, Edge, cli
from tests.harness.scripted_store import ScriptedStore
from tests.harness.system import System, chat_body, configuration
from tests.harness.system import system as start_system

PROXY = "10.1.2.3"


def scope(client: str | None, *forwarded: str) -> dict[str, Any]:
    headers = [(b"x-forwarded-for", text.encode("latin-1")) for text in forwarded]
    return {"type": "http", "client": (client, 4711) if client is not None else None, "headers": headers}


@pytest.mark.parametrize(
    ("trusted", "client", "forwarded", "expected"),
    [
        (ClientAddress(), "203.0.113.7", (), "203.0.113.7"),
        (ClientAddress(), "203.0.113.7", ("198.51.100.1",), "203.0.113.7"),
        (ClientAddress(), "2001:DB8:0:0::1", (), "2001:db8::1"),
        (ClientAddress(), "::ffff:203.0.113.7", (), "203.0.113.7"),
        (ClientAddress(), "fe80::1%eth0", (), "fe80::1"),
        (ClientAddress(), None, (), ""),
        (ClientAddress(), "/run/gateway.sock", (), ""),
        (ClientAddress("X-Forwarded-For"), PROXY, ("198.51.100.1, 203.0.113.7",), "203.0.113.7"),
        (ClientAddress("x-forwarded-for"), PROXY, ("203.0.113.7:49152",), "203.0.113.7"),
        (ClientAddress("x-forwarded-for"), PROXY, ("[2001:db8::1]:443",), "2001:db8::1"),
        (ClientAddress("x-forwarded-for", 2), PROXY, ("198.51.100.1, 203.0.113.7, 10.0.0.1",), "203.0.113.7"),
        (ClientAddress("x-forwarded-for", 2), PROXY, ("198.51.100.1, 203.0.113.7", "10.0.0.1"), "203.0.113.7"),
        (ClientAddress("x-forwarded-for", 2), PROXY, ("198.51.100.1",), PROXY),
        (ClientAddress("x-forwarded-for"), PROXY, (), PROXY),
        (ClientAddress("x-forwarded-for"), PROXY, ("",), ""),
        (ClientAddress("x-forwarded-for"), PROXY, ("unknown",), ""),
        (ClientAddress("x-forwarded-for"), PROXY, ("\xe9" * 90_000,), ""),
    ],
)
def test_a_callers_address_is_the_one_reported_by_the_outermost_trusted_hop(
    trusted: ClientAddress, client: str | None, forwarded: tuple[str, ...], expected: str
) -> None:
    assert client_address.of_client(scope(client, *forwarded), trusted) == expected


def test_ipv6_is_limited_by_the_64_and_unknown_addresses_as_one() -> None:
    assert (
        client_address.limited_network("2001:db8:1:2:3:4:5:6")
        == client_address.limited_network("2001:db8:1:2::9")
        == "2001:db8:1:2::/64"
    )
    assert client_address.limited_network("2001:db8:1:3::9") == "2001:db8:1:3::/64"
    assert client_address.limited_network("203.0.113.7") == "203.0.113.7"
    assert client_address.limited_network("") == "unknown"


def limiter(store: ScriptedStore, **limits: Any) -> Limiter:
    return store.limiter(addresses=AddressLimits(**limits))


async def refusals(limiter: Limiter, address: str, times: int) -> list[GatewayError]:
    async def attempt() -> GatewayError | None:
        try:
            await limiter.admit(address)
        except GatewayError as error:
            return error
        return None

    return [error for error in await asyncio.gather(*(attempt() for _ in range(times))) if error is not None]


async def test_of_a_thousand_requests_of_one_address_at_three_instances_ten_pass() -> None:
    store = ScriptedStore()
    fleet = [limiter(store, requests_per_minute=10) for _ in range(3)]
    refused = await asyncio.gather(*(refusals(member, "203.0.113.7", 333) for member in fleet))
    assert sum(map(len, refused)) == 999 - 10
    error = refused[0][0]
    assert isinstance(error, RateLimitExceeded)
    assert "The address 203.0.113.7 is limited to 10 requests per minute" in error.message
    assert error.limits["x-ratelimit-limit-requests"] == "10"
    assert await refusals(fleet[0], "203.0.113.8", 10) == []


async def test_a_denied_address_costs_no_operation() -> None:
    store = ScriptedStore()
    member = limiter(store, requests_per_minute=10)
    await refusals(member, "203.0.113.7", 20)
    before = store.operations
    assert len(await refusals(member, "203.0.113.7", 500)) == 500
    assert store.operations == before


async def test_a_quota_of_an_address_is_403_and_renews() -> None:
    store = ScriptedStore()
    member = limiter(store, request_quota=5, request_quota_period="hour")
    assert await refusals(member, "203.0.113.7", 5) == []
    (error,) = await refusals(member, "203.0.113.7", 1)
    assert isinstance(error, QuotaExceeded)
    assert error.value == "2026-11-21T13:00:00+00:00"
    store.time += 3600
    assert await refusals(member, "203.0.113.7", 5) == []


async def test_a_dead_table_locks_no_address_out() -> None:
    store = ScriptedStore()
    store.dead = True
    assert await refusals(limiter(store, request_quota=5), "203.0.113.7", 3) == []


async def test_many_addresses_leave_little_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.limits._limits_at_hand._MOST_KEPT", 10)
    member = limiter(ScriptedStore(), requests_per_minute=10)
    for number in range(100):
        await member.admit(f"198.51.100.{number}")
    assert len(member._at_hand.addresses) == 10


async def test_addresses_that_have_not_called_for_a_day_are_forgotten() -> None:
    store = ScriptedStore()
    settings = Configuration(backends=[], limits=LimitSettings(addresses=AddressLimits(requests_per_minute=10)))
    member = limiter(store, requests_per_minute=10)
    await member.admit("203.0.113.7")
    await member.close()
    assert await cleanup.forget_idle(store, settings) == 0
    store.time += daily.DAY - 60
    await member.admit("203.0.113.8")
    await member.close()
    store.time += 61
    assert await cleanup.forget_idle(store, settings) == 1
    assert [key for key in store.rows("limits") if key.startswith("address:")] == ["address:203.0.113.8"]
    store.time += 10
    assert await cleanup.forget_idle(store, settings) == 0  # once a day


def test_a_row_whose_quota_is_in_use_is_kept_until_it_renews() -> None:
    (scope,) = scopes.of_address("", AddressLimits(request_quota=5, request_quota_period="month"))
    limits = scope.limits
    store = ScriptedStore()

    async def use() -> None:
        member = limiter(store, request_quota=5, request_quota_period="month")
        await member.admit("203.0.113.7")
        await member.close()

    asyncio.run(use())
    row = from_properties(store.rows("limits")["address:203.0.113.7"]["0"][0])
    for days, nothing in ((0.5, False), (2, False), (12, True)):
        now = store.time + days * 86_400
        assert cleanup.is_default(row, scopes.bounds(limits, now), now) is nothing


async def test_a_key_is_good_only_where_its_policy_allows(caplog: pytest.LogCaptureFixture) -> None:
    store = ScriptedStore()
    consumers = Consumers(store)
    networks = client_address.networks(["10.0.0.0/8", "2001:db8::/32"])
    created, key = await create_consumer(consumers, "plant", models=None, limits=Limits(), addresses=networks)
    authenticator = Authenticator(consumers, store.now, store.now)
    headers = {"api-key": key}
    for address in ("10.20.30.40", "2001:db8:ffff::1"):
        assert (await authenticator.authenticate(headers, address)).id == created.id
    for address in ("11.0.0.1", "2001:db9::1", ""):
        with pytest.raises(AddressNotAllowed) as refused:
            await authenticator.authenticate(headers, address)
        assert (refused.value.status, refused.value.code) == (403, "address_not_allowed")
    await store.table("consumers").merge(created.id, {"policy": {"addresses": "10.0.0.0/8,nonsense"}})
    with caplog.at_level(logging.ERROR, "tollgate.consumers"):
        record = await consumers.find(created.id)
    assert record is not None
    assert record.consumer.addresses == ("10.0.0.0/8", "::/128")
    assert "nonsense" in caplog.text


@pytest.fixture(scope="module", params=EDGES)
def guarded(request: pytest.FixtureRequest, azurite: Azurite, simulator: SimulatorProcess) -> Any:
    edge: Edge = request.param
    settings = configuration(
        simulator,
        limits={"addresses": {"requests_per_minute": 30}},
        client_address={"header": "x-real-ip"},
    )
    with start_system(edge, settings, simulator, azurite.connection_string) as running:
        yield running


def ask(system: System, address: str, key: str = "", path: str = "/v1/chat/completions") -> Any:
    return system.post(path, chat_body(), {"x-real-ip": address}, key=key)


def test_guessing_keys_is_slow(guarded: System) -> None:
    here = {"uvicorn": "198.51.100.1", "functions": "198.51.100.2"}[guarded.edge]  # they share the table
    wrong = guarded.key[:-8] + "00000000"
    statuses = [ask(guarded, here, wrong).status for _ in range(40)]
    assert statuses[:30] == [401] * 30
    assert 429 in statuses[30:]
    refused = ask(guarded, here)  # a good key does not help
    assert refused.status == 429
    assert float(refused.headers["retry-after-ms"]) > 0
    assert f"The address {here}" in refused.error()["message"]
    assert ask(guarded, here, path="/gateway/limits").status == 429  # nor is the management key to be guessed
    assert ask(guarded, "198.51.100.3").status == 200


def test_a_policy_of_networks_is_made_and_changed_by_command(guarded: System) -> None:
    environment = guarded.gateway.environment
    made = cli(
        environment, "keys", "create", f"plant on {guarded.edge}", "--addresses", "10.0.0.0/8, 192.0.2.1", "--json"
    )
    here = f"10.0.0.{1 + EDGES.index(guarded.edge)}"
    assert ask(guarded, here, made["key"]).status == 200
    refused = ask(guarded, "192.0.2.2", made["key"])
    assert refused.status == 403
    assert refused.error()["code"] == "address_not_allowed"
    listed = {line["id"]: line for line in cli(environment, "keys", "list", "--json")}
    assert listed[made["id"]]["addresses"] == ["10.0.0.0/8", "192.0.2.1/32"]
    changed = cli(environment, "keys", "set", made["id"], "--addresses", "any", "--json")
    assert changed["addresses"] == []


def test_invalid_networks_are_rejected(guarded: System) -> None:
    from typer.testing import CliRunner

    from shared.cli.app import cli as app

    for text in ("10.0.0.1/8", "nonsense", "10.0.0.0/8,2001:db8::1/32"):
        result = CliRunner().invoke(app, ["keys", "create", "x", "--addresses", text], env=guarded.gateway.environment)
        assert result.exit_code == 2, text
        assert "--addresses: expected networks such as 10.0.0.0/8" in result.output
    assert json.dumps(client_address.networks(["10.1.2.3"])) == '["10.1.2.3/32"]'
