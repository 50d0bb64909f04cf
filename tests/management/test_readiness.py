"""`/readyz`: ready, not ready and why, and to whom it answers."""

import json

import pytest

from shared import __version__
from shared.management.readiness import is_internal
from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.azurite import azurite as start_azurite
from tests.harness.gateway_process import Answer, GatewayProcess, make_key
from tests.harness.system import System, configuration, eventually

KEY = {"authorization": "Bearer the-management-key-0123456789abcdef"}


def ready(gateway: GatewayProcess, **headers: str) -> Answer:
    return gateway.request("GET", "/readyz", None, headers)


def environment(simulator: SimulatorProcess, storage: str) -> dict[str, str]:
    return {
        "GATEWAY_CONFIG": json.dumps(configuration(simulator)),
        "GATEWAY_STORAGE": storage,
        "GATEWAY_MANAGEMENT_KEY": "the-management-key-0123456789abcdef",
        "JAPAN_KEY": simulator.api_key,
        **simulator.identity_environment,
    }


def test_it_answers_probes_and_the_operator_and_nobody_else(gateway: System) -> None:
    probe = ready(gateway.gateway)
    if gateway.edge == "functions":  # whose host forwards every request, and says so
        assert probe.status == 401
    else:
        assert probe.json() == {"status": "ready"}
    stranger = ready(gateway.gateway, **{"x-forwarded-for": "203.0.113.7"})
    assert (stranger.status, stranger.error()["code"]) == (401, "invalid_api_key")
    known = ready(gateway.gateway, **{"x-forwarded-for": "203.0.113.7", "authorization": f"Bearer {gateway.key}"})
    assert known.status == 401


def test_a_table_that_is_gone_is_told_and_the_process_lives_on(simulator: SimulatorProcess) -> None:
    with (
        start_azurite() as table,
        GatewayProcess("uvicorn", environment(simulator, table.connection_string)) as gateway,
    ):
        assert ready(gateway, **KEY).json() == {"status": "ready", "store": "ok", "models_without_backend": []}
        table.stop()
        eventually(lambda: ready(gateway).status == 503)
        readiness = ready(gateway, **KEY).json()
        assert readiness["status"] == "not ready"
        assert readiness["store"] != "ok"
        assert ready(gateway).json() == {"status": "not ready"}
        answer = gateway.request("GET", "/healthz")
        assert (answer.status, answer.headers["x-gateway-version"]) == (200, __version__)


def test_a_model_without_a_usable_backend_is_told(simulator: SimulatorProcess, azurite: Azurite) -> None:
    key, model = make_key(azurite.connection_string, "ready"), "lone-049"
    with GatewayProcess("uvicorn", environment(simulator, azurite.connection_string)) as gateway:
        simulator.fault("status", deployment=model, status=500, times=3)
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]}).encode()
        for _ in range(3):
            gateway.request("POST", "/v1/chat/completions", body, {"authorization": f"Bearer {key}"})
        answer = ready(gateway, **KEY)
        assert (answer.status, answer.json()["models_without_backend"]) == (503, [model])


@pytest.mark.parametrize(
    ("client", "headers", "internal"),
    [
        ("127.0.0.1", {}, True),
        ("::1", {}, True),
        ("10.244.1.1", {}, False),
        ("fd00::1", {}, False),
        ("203.0.114.7", {}, False),
        ("127.0.0.1", {"x-forwarded-for": "203.0.114.7"}, False),
        ("10.0.0.4", {"forwarded": "for=203.0.114.7"}, False),
        ("", {}, False),
    ],
)
def test_internal_is_who_asks_from_beside_and_for_nobody_else(
    client: str, headers: dict[str, str], internal: bool
) -> None:
    assert is_internal(client, headers) is internal
