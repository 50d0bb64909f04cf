"""The capacity of a simulated deployment: provisioned ones by their utilisation, spilled calls, faults by chance."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from simulator.limits import Limits, RateLimited, Utilisation
from simulator.process import SimulatorProcess
from tests.harness.gateway_process import Answer, request

PROVISIONED = {"name": "ptu", "model": "gpt-4o", "sku": "GlobalProvisionedManaged"}
REGIONS = {
    "regions": [
        {
            "name": "one",
            "deployments": [
                PROVISIONED | {"tokens_per_minute": 120, "window_seconds": 60},
                PROVISIONED | {"name": "ptu-spilling", "tokens_per_minute": 20, "spillover": "standard"},
                PROVISIONED | {"name": "ptu-stuck", "tokens_per_minute": 20, "spillover": "tight"},
                {"name": "standard", "model": "gpt-4o"},
                {"name": "tight", "model": "gpt-4o", "requests_per_minute": 1},
            ],
        }
    ]
}
SPILLED = {"x-ms-spillover-deployment": "standard"}


@pytest.fixture(scope="module")
def process() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(REGIONS) as running:
        yield running
        assert running.stderr() == ""


@pytest.fixture
def simulator(process: SimulatorProcess) -> SimulatorProcess:
    process.clear()
    return process


def chat(simulator: SimulatorProcess, deployment: str, headers: dict[str, str] | None = None, **more: Any) -> Answer:
    host, port = simulator.regions["one"].removeprefix("http://").split(":")
    body = {"model": deployment, "messages": [{"role": "user", "content": "hello"}], **more}
    head = {"api-key": simulator.api_key, "content-type": "application/json", **(headers or {})}
    return request((host, int(port)), "POST", "/openai/v1/chat/completions", json.dumps(body).encode(), head)


def fill(simulator: SimulatorProcess, deployment: str) -> Answer:
    """Until it does not serve the call itself."""
    for _ in range(20):
        answer = chat(simulator, deployment)
        if answer.status != 200 or answer.headers["x-ms-deployment-name"] != deployment:
            return answer
    raise AssertionError("it took everything")


def test_a_provisioned_deployment_tells_its_utilisation_and_no_rate_limits(simulator: SimulatorProcess) -> None:
    first, second = (chat(simulator, "ptu").headers["azure-openai-deployment-utilization"] for _ in range(2))
    assert 0 < float(first.removesuffix("%")) < float(second.removesuffix("%"))
    refused = fill(simulator, "ptu")
    assert refused.status == 429
    assert float(refused.headers["azure-openai-deployment-utilization"].removesuffix("%")) >= 100
    assert 0 < int(refused.headers["retry-after-ms"]) <= 60_000
    assert not [name for name in refused.headers if name.startswith("x-ratelimit")]
    waits = [entry["retry_after"] for entry in simulator.log()["requests"]]
    assert waits[-1] == int(refused.headers["retry-after-ms"]) / 1000
    assert waits[0] is None


def test_a_bucket_is_worked_off_at_its_rate_and_refuses_until_there_is_room() -> None:
    bucket = Utilisation(Limits(tokens=600, window_seconds=60.0))  # 10 a second
    bucket.admit(595, 100.0)
    bucket.admit(25, 100.0)  # over its brim
    with pytest.raises(RateLimited) as refused:
        bucket.admit(1, 101.0)
    assert 0.9 < refused.value.retry_after < 1.1
    bucket.admit(1, 102.1)
    bucket.correct(-300)
    assert bucket.headers(102.1) == {"azure-openai-deployment-utilization": "50.0%"}


@pytest.mark.parametrize(("deployment", "headers"), [("ptu-spilling", {}), ("ptu", SPILLED)])
def test_what_a_full_provisioned_deployment_refuses_spills_over(
    simulator: SimulatorProcess, deployment: str, headers: dict[str, str]
) -> None:
    while (answer := chat(simulator, deployment, headers)).headers["x-ms-deployment-name"] == deployment:
        assert "x-ms-spillover-from-deployment" not in answer.headers
    assert answer.status == 200
    assert answer.headers["x-ms-deployment-name"] == "standard"
    assert answer.headers["x-ms-spillover-from-deployment"] == deployment
    assert answer.headers["x-ms-spillover-error"] == "429"
    assert simulator.log()["requests"][-1]["spilled_to"] == "standard"


def test_when_the_spill_over_is_refused_too_its_answer_says_both(simulator: SimulatorProcess) -> None:
    chat(simulator, "tight")
    refused = fill(simulator, "ptu-stuck")
    assert refused.status == 429
    assert refused.headers["x-ms-deployment-name"] == "tight"
    assert refused.headers["x-ms-spillover-from-deployment"] == "ptu-stuck"


def test_a_standard_deployment_does_not_spill(simulator: SimulatorProcess) -> None:
    assert chat(simulator, "tight", SPILLED).status == 200
    assert chat(simulator, "tight", SPILLED).status == 429


def test_a_fault_by_chance_strikes_its_share(simulator: SimulatorProcess) -> None:
    simulator.fault("status", status=503, share=0.5)
    statuses = [chat(simulator, "standard", max_tokens=1).status for _ in range(100)]
    assert 30 < statuses.count(503) < 70
    assert simulator.faults()[0]["share"] == 0.5
