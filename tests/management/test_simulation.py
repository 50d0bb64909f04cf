"""Breaking simulated regions: in front of the simulator alone, and seen by calls."""

import json

import pytest

from shared.config import environment
from shared.errors import ConfigurationError
from tests.harness import in_process
from tests.harness.in_process import Exchange, Tables
from tests.harness.system import System, eventually

DOCUMENT = json.dumps(
    {"backends": [{"name": "a", "endpoint": "https://a.openai.azure.com", "region": "a", "models": {"m": "m"}}]}
)


def faults(gateway: System) -> dict[str, str | None]:
    return {one["name"]: one["fault"] for one in gateway.get("/gateway/simulation").json()["backends"]}


@pytest.mark.parametrize(("fault", "status"), [("throttle", 429), ("fail", 500)])
def test_a_region_that_is_broken_fails_until_it_is_restored(gateway: System, fault: str, status: int) -> None:
    assert faults(gateway)["norway"] is None
    model = gateway.slow()
    try:
        assert gateway.manage("PUT", "/gateway/simulation/norway", {"fault": fault}).status == 204
        assert faults(gateway) == {**dict.fromkeys(faults(gateway)), "norway": fault}
        answer = gateway.chat(model)
        assert answer.status >= 429  # the only region that has this model
        path = f"/gateway/requests/{answer.headers['x-gateway-request-id']}"
        eventually(lambda: gateway.get(path).status == 200)  # its row may come after the answer
        assert {one["status"] for one in gateway.get(path).json()["tries"]} == {status}
    finally:
        assert gateway.manage("DELETE", "/gateway/simulation/norway").status == 204
    assert faults(gateway)["norway"] is None
    trail = gateway.get("/gateway/audit?object=norway&limit=2").json()["data"]
    assert [one["action"] for one in trail] == ["simulation.restore", "simulation.break"]
    assert gateway.chat(gateway.slow()).status == 200


def test_backends_of_one_region_break_together_and_a_fault_replaces_another(gateway: System) -> None:
    for fault in ("hang", "slow"):
        assert gateway.manage("PUT", "/gateway/simulation/japan", {"fault": fault}).status == 204
    by_backend = faults(gateway)
    assert (by_backend["japan"], by_backend["japan-dated"]) == ("slow", "slow")
    assert len(gateway.simulator.faults()) == 1


def test_what_cannot_be_broken_is_refused(gateway: System) -> None:
    unknown = gateway.manage("PUT", "/gateway/simulation/nowhere", {"fault": "fail"})
    assert (unknown.status, unknown.error()["code"]) == (404, "resource_not_found")
    wrong = gateway.manage("PUT", "/gateway/simulation/sweden", {"fault": "explode"})
    assert (wrong.status, wrong.error()["param"]) == (400, "fault")
    assert gateway.manage("PUT", "/gateway/simulation/sweden", {"fault": "fail"}, key=gateway.key).status == 401


async def test_there_is_no_such_path_where_backends_are_real() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.answer(500, {})

    tables = Tables()
    async with in_process.backend("a", {"m": "m"}, script) as one, in_process.gateway(tables, [one]) as running:
        key = await in_process.key(tables)
        paths = ("/gateway/simulation", "/gateway/backends")  # the latter exists, and a caller's key does not open it
        assert [(await in_process.call(running, key, path, method="GET")).status for path in paths] == [404, 401]


@pytest.mark.parametrize(
    "url", ["https://simulator.example.com", "http://10.0.0.1:80", "http://127.0.0.1:80/path", "yes"]
)
def test_a_simulator_is_on_this_machine(url: str) -> None:
    environ = {"GATEWAY_CONFIG": DOCUMENT, "GATEWAY_STORAGE": "x", "GATEWAY_SIMULATOR": url}
    with pytest.raises(ConfigurationError, match="GATEWAY_SIMULATOR"):
        environment.load(environ)
