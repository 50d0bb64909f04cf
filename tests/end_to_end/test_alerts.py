"""Events reach a receiver: they are provoked in a whole gateway, on real tables and simulated regions."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks

from shared import bootstrap
from shared.alerts.watch import Patience
from shared.auth.consumers import Consumers
from shared.config.limits import Limits
from shared.process.application import Application
from simulator.process import SimulatorProcess
from tests.cli.test_cli import Commands
from tests.harness.alert_receiver import AlertReceiver, alert_receiver
from tests.harness.azurite import Azurite
from tests.harness.azurite import azurite as start_azurite
from tests.harness.consumers import create_consumer
from tests.harness.in_process import call
from tests.harness.patience import PATIENCE

QUICK = Patience(ejected=0.4, rows_waiting=0.4, between_looks=0.05)
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}
REGION = "swedencentral"
MANAGER = "a management key of the test: 0123456789"


@pytest.fixture(scope="module")
def own_azurite() -> Iterator[Azurite]:
    with start_azurite() as running:
        yield running


@pytest.fixture
def regions(simulator: SimulatorProcess) -> Iterator[SimulatorProcess]:
    simulator.clear()
    yield simulator
    simulator.clear()


def backend(name: str, simulator: SimulatorProcess, model: str, **more: Any) -> dict[str, Any]:
    place = {"name": name, "endpoint": simulator.regions[REGION], "region": REGION}
    return place | {"auth": {"api_key_env": "K"}, "models": {model: model}} | more


@contextlib.asynccontextmanager
async def gateway(
    azurite: Azurite, key: str, receiver: AlertReceiver, backends: list[dict[str, Any]], **document: Any
) -> AsyncIterator[Application]:
    environ = environment(azurite, key, receiver, backends, **document)
    async with bootstrap.application(environ, patience=QUICK) as application:
        yield application


def environment(
    azurite: Azurite, key: str, receiver: AlertReceiver, backends: list[dict[str, Any]], **document: Any
) -> dict[str, str]:
    alerts = {"webhooks": [{"url_env": "ALERT_URL", "secret_env": "ALERT_SECRET"}]}
    whole = {"alerts": alerts, "ledger": {"overflow_bytes": 0}} | document | {"backends": backends}
    return {
        "GATEWAY_CONFIG": json.dumps(whole),
        "GATEWAY_STORAGE": azurite.connection_string,
        "K": key,
        "ALERT_URL": receiver.url,
        "ALERT_SECRET": "a secret",
        "GATEWAY_MANAGEMENT_KEY": MANAGER,
    }


async def key_of(application: Application, limits: Limits = Limits(), **more: Any) -> str:  # noqa: B008 - frozen
    _, text = await create_consumer(Consumers(application.store), "ann", models=None, limits=limits, **more)
    return text


async def ask(application: Application, key: str, model: str) -> int:
    return (await call(application, key, "/v1/chat/completions", CHAT | {"model": model})).status


async def until[T](read: Callable[[], T], seconds: float = PATIENCE) -> T:
    deadline = time.monotonic() + seconds
    while not (value := read()):
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.02)
    return value


async def test_a_backend_that_stays_ejected_is_reported_once_by_two_instances(
    own_azurite: Azurite, regions: SimulatorProcess
) -> None:
    regions.fault("status", region=REGION, deployment="spare-140", status=503)
    backends = [backend("broken", regions, "spare-140")]
    async with (
        alert_receiver() as receiver,
        gateway(own_azurite, regions.api_key, receiver, backends) as one,
        gateway(own_azurite, regions.api_key, receiver, backends) as other,
    ):
        key = await key_of(one)
        for application in (one, other) * 4:
            assert await ask(application, key, "spare-140") == 503
        (alert,) = await until(lambda: receiver.of("backend_ejected"))
        await asyncio.sleep(0.8)  # both have looked often
        assert len(receiver.received) == 1
    assert (alert["backend"], alert["deployments"], alert["severity"]) == ("broken", "spare-140", "error")
    assert alert["reason"].startswith("status 503")
    (sent,) = receiver.received
    assert standardwebhooks.Webhook(b"a secret").verify(sent.data, sent.headers) == alert


async def test_a_backend_that_rejects_the_gateways_key_is_reported(
    own_azurite: Azurite, regions: SimulatorProcess
) -> None:
    async with (
        alert_receiver() as receiver,
        gateway(own_azurite, "a-wrong-key", receiver, [backend("closed", regions, "spare-141")]) as application,
    ):
        key = await key_of(application)
        for _ in range(3):
            assert await ask(application, key, "spare-141") >= 500
        (alert,) = await until(lambda: receiver.of("credentials_refused"))
    assert (alert["backend"], alert["deployment"]) == ("closed", "spare-141")
    assert alert["problem"].startswith("status 401")
    assert "a-wrong-key" not in str(receiver.received)


async def test_an_identity_without_a_token_is_reported(
    own_azurite: Azurite, regions: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in regions.identity_environment.items():
        monkeypatch.setenv(name, value)
    regions.identity(failing_status=400)
    backends = [backend("tokenless", regions, "spare-142", auth="managed_identity")]
    async with alert_receiver() as receiver, gateway(own_azurite, "k", receiver, backends) as application:
        assert await ask(application, await key_of(application), "spare-142") >= 500
        (alert,) = await until(lambda: receiver.of("credentials_refused"))
    assert alert["backend"] == "tokenless"
    assert "no token" in alert["problem"]


async def test_a_table_that_is_out_of_reach_is_reported_by_the_instance_itself_and_so_is_its_return(
    regions: SimulatorProcess, tmp_path: Path
) -> None:
    with start_azurite() as azurite:
        ledger = {"overflow_directory": str(tmp_path)}
        backends = [backend("fine", regions, "spare-143")]
        async with (
            alert_receiver() as receiver,
            gateway(azurite, regions.api_key, receiver, backends, ledger=ledger) as application,
        ):
            key = await key_of(application, Limits(requests_per_minute=1000))
            assert await ask(application, key, "spare-143") == 200
            await asyncio.sleep(2.5)  # the lease is over
            os.kill(azurite.pid, signal.SIGSTOP)
            try:
                assert {await ask(application, key, "spare-143") for _ in range(3)} == {200}
                (began,) = await until(lambda: receiver.of("safe_mode_began"))
                (waiting,) = await until(lambda: receiver.of("usage_rows_waiting"))
                assert receiver.of("safe_mode_ended") == []
            finally:
                os.kill(azurite.pid, signal.SIGCONT)
            deadline = time.monotonic() + PATIENCE
            while not receiver.of("safe_mode_ended"):
                assert time.monotonic() < deadline
                await ask(application, key, "spare-143")
                await asyncio.sleep(0.2)
            (ended,) = receiver.of("safe_mode_ended")
    assert (began["severity"], ended["severity"]) == ("error", "info")
    assert "apply limits alone" in began["message"]
    assert waiting["instance"] in waiting["message"]
    assert receiver.of("usage_rows_lost") == []


async def test_rows_that_are_lost_at_the_end_are_reported(regions: SimulatorProcess) -> None:
    """The ledger has no disk, and its table is away when the gateway ends."""
    with start_azurite() as azurite:
        async with alert_receiver() as receiver:
            async with gateway(azurite, regions.api_key, receiver, [backend("fine", regions, "spare-144")]) as running:
                key = await key_of(running)
                assert await ask(running, key, "spare-144") == 200
                os.kill(azurite.pid, signal.SIGSTOP)
                try:
                    assert await ask(running, key, "spare-144") == 200
                except BaseException:
                    os.kill(azurite.pid, signal.SIGCONT)
                    raise
            try:
                (alert,) = receiver.of("usage_rows_lost")
                assert alert["rows"] >= 1
            finally:
                os.kill(azurite.pid, signal.SIGCONT)


async def test_the_timer_tells_of_keys_and_models_that_end_soon_once_a_day_for_all_instances(
    own_azurite: Azurite, regions: SimulatorProcess
) -> None:
    soon = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 20 * 86_400))
    models = {"spare-145": {"retires": soon, "replaced_by": None}, "spare-146": {"retires": "2037-01-01"}}
    backends = [backend("fine", regions, "spare-145", models={model: model for model in models})]
    async with (
        alert_receiver() as receiver,
        gateway(own_azurite, regions.api_key, receiver, backends, models=models) as one,
        gateway(own_azurite, regions.api_key, receiver, backends, models=models) as other,
    ):
        now = one.store.now()
        await key_of(one, expires=now + 2 * 86_400)
        await key_of(one, expires=now + 90 * 86_400)
        for application in (one, other, one):
            await application.roll_up()
        await until(lambda: len(receiver.received) >= 2)
        await asyncio.sleep(0.5)
        (model,), (key,) = receiver.of("model_retires"), receiver.of("key_expires")
        assert len(receiver.received) == 2
    assert (model["model"], model["retires"], model["backends"]) == ("spare-145", soon, "fine")
    assert (key["name"], key["severity"]) == ("ann", "error")
    assert "tg_" not in str(receiver.received)


async def test_a_refused_configuration_is_reported_while_the_former_one_goes_on(
    own_azurite: Azurite, regions: SimulatorProcess, tmp_path: Path
) -> None:
    file = tmp_path / "gateway.json"
    async with alert_receiver() as receiver:
        alerts = {"webhooks": [{"url": receiver.url, "secret_env": "ALERT_SECRET"}]}
        good = {"alerts": alerts, "backends": [backend("fine", regions, "spare-148")]}
        file.write_text(json.dumps(good))
        environ = {
            "GATEWAY_CONFIG": str(file),
            "GATEWAY_STORAGE": own_azurite.connection_string,
            "K": regions.api_key,
            "ALERT_SECRET": "a secret",
        }
        async with bootstrap.application(environ) as application:
            file.write_text(json.dumps(good | {"backends": [backend("fine", regions, "spare-148", weight=0)]}))
            (alert,) = await until(lambda: receiver.of("configuration_refused"))
            assert await ask(application, await key_of(application), "spare-148") == 200
    assert "backends[0].weight: Expected `int` >= 1" in alert["message"]
    assert (alert["severity"], alert["complaints"]) == ("error", 1)
    assert alert["source"].endswith("gateway.json")


async def test_a_quota_is_reported_at_80_and_100_percent_by_one_of_two_instances(
    own_azurite: Azurite, regions: SimulatorProcess
) -> None:
    backends = [backend("fine", regions, "spare-147")]
    async with (
        alert_receiver() as receiver,
        gateway(own_azurite, regions.api_key, receiver, backends) as one,
        gateway(own_azurite, regions.api_key, receiver, backends) as other,
    ):
        key = await key_of(one, Limits(request_quota=5))
        statuses = [await ask(application, key, "spare-147") for application in (one, other) * 4]
        await until(lambda: len(receiver.of("quota_reached")) == 2)
        await asyncio.sleep(0.3)
        alerts = receiver.of("quota_reached")
    assert statuses.count(200) == 5
    assert sorted(alert["percentage"] for alert in alerts) == [80, 100]
    assert {alert["limit"] for alert in alerts} == {"requests"}


async def test_requests_for_access_and_their_decisions_are_told_once_whoever_decides_at_a_time(
    own_azurite: Azurite, regions: SimulatorProcess
) -> None:
    backends = [backend("any", regions, "spare-143")]
    at = "/gateway/requests-for-access"
    async with (
        alert_receiver() as receiver,
        gateway(own_azurite, regions.api_key, receiver, backends) as one,
        gateway(own_azurite, regions.api_key, receiver, backends) as other,
    ):
        key = await key_of(one, Limits(tokens_per_minute=1000))
        for number in (1, 2):
            wish = {"limits": {"tokens_per_minute": 1000 + number}, "reason": "<!channel> more"}
            assert (await call(one, key, at, wish)).status == 201
        first, second = (f"{at}/{key.split('_')[1]}.{number}" for number in (1, 2))
        decisions = await asyncio.gather(
            *(
                call((one, other)[number % 2], MANAGER, f"{first}/{verb}", {"reason": "because"})
                for number, verb in enumerate(("approve", "decline") * 4)
            )
        )
        assert sorted(answer.status for answer in decisions) == [200] + [409] * 7
        assert (await call(other, MANAGER, f"{second}/decline", {"reason": "no"})).status == 200
        await until(lambda: len(receiver.received) == 4)
        await asyncio.sleep(0.3)
    assert len(receiver.received) == 4
    (won,) = [json.loads(answer.body) for answer in decisions if answer.status == 200]
    assert {alert["request"] for alert in receiver.of("access_requested")} == {
        first[len(at) + 1 :],
        second[len(at) + 1 :],
    }
    decided = receiver.of("access_approved") + receiver.of("access_declined")
    assert {(alert["event"], alert["request"]) for alert in decided} == {
        (f"access_{won['state']}", won["id"]),
        ("access_declined", second[len(at) + 1 :]),
    }
    assert key not in str(receiver.received)


async def test_a_decision_by_the_command_line_on_the_storage_is_told_too(
    own_azurite: Azurite, regions: SimulatorProcess, caplog: pytest.LogCaptureFixture
) -> None:
    backends = [backend("any", regions, "spare-144")]
    async with alert_receiver() as receiver, gateway(own_azurite, regions.api_key, receiver, backends) as one:
        key = await key_of(one, Limits(tokens_per_minute=1000))
        for number in (1, 2):
            wish = {"limits": {"tokens_per_minute": 1000 + number}, "reason": "more"}
            assert (await call(one, key, "/gateway/requests-for-access", wish)).status == 201
        await until(lambda: len(receiver.of("access_requested")) == 2)
        environ: dict[str, str | None] = {**environment(own_azurite, regions.api_key, receiver, backends)}
        first, second = (f"{key.split('_')[1]}.{number}" for number in (1, 2))
        approved = await asyncio.to_thread(Commands(environ).json, "access", "approve", first)
        assert [alert["request"] for alert in receiver.of("access_approved")] == [first] == [approved["id"]]
        result = await asyncio.to_thread(Commands(environ | {"ALERT_SECRET": None}), "access", "decline", second)
        assert (result.exit_code, receiver.of("access_declined")) == (0, [])
        assert "no alert sent to alerts.webhooks[0].secret_env" in caplog.text
