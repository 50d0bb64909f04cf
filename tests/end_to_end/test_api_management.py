"""The policy that people publish, imported by `tollgate import-apim`, line by line as callers meet it on both edges."""

import itertools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml
from openai import AzureOpenAI
from typer.testing import CliRunner

from shared import bootstrap
from shared.azure_openai import operations
from shared.cli.app import cli
from shared.config.document import Configuration
from shared.config.environment import Storage
from shared.config.limits import AddressLimits, LimitSettings
from shared.config.parsing import parse
from shared.limits.admission import Admission
from shared.limits.limiter import Limiter
from shared.types import Call, Consumer, Usage
from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.gateway_process import Answer, Edge, run_apart
from tests.harness.system import PATIENT, Caller, System, chat_body, eventually, quickest, watched
from tests.harness.system import system as start_system

PUBLISHED = Path(__file__).parents[1] / "cli/policies/published.xml"
PRIMARY, SECONDARY = "swedencentral", "eastus2"
MODELS = [f"spare-{number:03}" for number in range(120, 140)]  # no other file comes as far
NETWORK = {"uvicorn": "203.0.113", "functions": "198.51.100"}
HOSTS = itertools.count(1)
SPARES = {"uvicorn": iter(MODELS[:10]), "functions": iter(MODELS[10:])}


@pytest.fixture(scope="module")
def imported_system(
    edge: Edge, azurite: Azurite, simulator: SimulatorProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    simulator.clear()
    policy = tmp_path_factory.mktemp("policy") / "policy.xml"
    text = PUBLISHED.read_text()
    for host, region in (("primary", PRIMARY), ("secondary", SECONDARY)):
        text = text.replace(f"https://{host}.openai.azure.com/openai", simulator.regions[region] + "/openai")
    policy.write_text(text)
    models = ",".join(["gpt-4o=gpt-4o-prod", *MODELS])
    result = CliRunner().invoke(cli, ["import-apim", str(policy), "--models", models])
    assert result.exit_code == 0, result.output
    settings = yaml.safe_load(result.stdout)
    # The tests are one machine: each of them says its address, as a proxy would.
    settings |= {"client_address": {"header": "x-client-ip"}, "heartbeat_seconds": 0.3}
    settings["retry"]["interval"] = 4  # of seconds, beside which those of a slow machine do not count
    settings["allowed_networks"] = ["127.0.0.0/8", *(f"{network}.0/24" for network in NETWORK.values())]
    with start_system(edge, settings, simulator, azurite.connection_string) as running:
        yield running


@pytest.fixture
def imported(imported_system: System) -> Iterator[System]:
    yield from watched(imported_system)


@pytest.fixture
def address(edge: Edge) -> str:
    """An address that no other test calls from."""
    return f"{NETWORK[edge]}.{next(HOSTS)}"


@pytest.fixture
def model(edge: Edge) -> str:
    """A model at both backends that no other test uses."""
    return next(SPARES[edge])


def ask(system: System, address: str, model: str = "gpt-4o", content: str = "Hello", **fields: Any) -> Answer:
    headers = {"x-client-ip": address, **fields.pop("headers", {})}
    return system.post("/v1/chat/completions", chat_body(model, content, **fields), headers)


def requests_for(system: System, model: str) -> list[Mapping[str, Any]]:
    return [entry for entry in system.simulator.log()["requests"] if entry["deployment"] == model]


def down_once(system: System, model: str) -> None:
    for region in (PRIMARY, SECONDARY):
        system.simulator.fault("status", region=region, deployment=model, status=503, times=1)


def test_of_eleven_calls_in_a_minute_ten_pass_from_an_address(imported: System, address: str) -> None:
    other = imported.make_key("another key of the address")
    statuses = [ask(imported, address).status for _ in range(10)]
    assert statuses == [200] * 10
    refused = imported.post("/v1/chat/completions", chat_body(), {"x-client-ip": address}, key=other)
    assert (refused.status, refused.error()["code"]) == (429, "rate_limit_exceeded")
    assert f"The address {address} is limited to 10 requests per minute" in refused.error()["message"]
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert ask(imported, address.rpartition(".")[0] + ".250").status == 200


def test_of_a_hundred_successes_an_hour_no_failure_counts(imported: System, address: str, model: str) -> None:
    run_apart(succeed(imported.storage, address, 98))
    assert ask(imported, address, "no-such-model").status == 404
    assert ask(imported, address, model, messages=[]).status == 400
    imported.simulator.fault("status", deployment=model, status=500, times=2)
    hurried = {"x-request-timeout-ms": "500"}
    assert ask(imported, address, model, headers=hurried).status == 500
    assert [ask(imported, address).status for _ in range(2)] == [200, 200]
    refused = ask(imported, address)
    assert (refused.status, refused.error()["code"]) == (403, "quota_exceeded")
    assert "100 successful requests per 3600 s" in refused.error()["message"]
    assert refused.headers["x-gateway-quota-renews"].endswith(":00:00+00:00")


async def succeed(storage: str, address: str, times: int) -> None:
    """Calls from this address that another instance, without the rate, has served."""
    quota = AddressLimits(request_quota=100, request_quota_period=3600, quota_counts="success")
    configuration = Configuration(backends=[], limits=LimitSettings(addresses=quota))
    async with bootstrap.open_store(Storage(connection_string=storage)) as store:
        limiter = Limiter(store, configuration, lambda *_: None)
        call = Call(operation=operations.OPERATIONS[0], surface="openai", model="gpt-4o", body=b"{}")
        for _ in range(times):
            admission = Admission(limiter)
            await admission.admit(address)
            limiter.settle(await admission.reserve(Consumer("another", "another"), call), Usage(), status=200)
        await limiter.close()


def test_tokens_of_an_address_count_when_they_are_used(imported: System, address: str) -> None:
    long = "word " * 3000
    first = ask(imported, address, content=long)
    used = first.json()["usage"]["total_tokens"]
    assert 2500 < used < 5000
    assert first.headers["x-consumed-tokens"] == str(used)
    assert "x-remaining-tokens" in first.headers
    assert ask(imported, address, content=long).status == 200  # past the limit, which was not reached before
    refused = ask(imported, address)
    assert (refused.status, refused.error()["code"]) == (429, "rate_limit_exceeded")
    assert f"The address {address} is limited to 5000 tokens per minute" in refused.error()["message"]


def test_the_secondary_serves_at_once_while_the_primary_fails(imported: System, address: str, model: str) -> None:
    def fail_over() -> None:
        imported.simulator.clear()
        imported.simulator.fault("status", region=PRIMARY, deployment=model, status=503, times=1)
        answer = ask(imported, address, model)
        assert (answer.status, answer.headers["x-gateway-attempts"]) == (200, "2")
        assert [entry["region"] for entry in requests_for(imported, model)] == [PRIMARY, SECONDARY]

    assert quickest(fail_over) < 3


def test_two_backends_that_answer_503_once_answer_after_one_wait(imported: System, address: str, model: str) -> None:
    down_once(imported, model)
    began = time.monotonic()
    answer = ask(imported, address, model)
    assert (answer.status, answer.headers["x-gateway-attempts"]) == (200, "3")
    assert 3 < time.monotonic() - began < 15


def test_a_stream_gets_comments_while_it_waits(imported: System, address: str, model: str) -> None:
    down_once(imported, model)
    answer = ask(imported, address, model, stream=True)
    assert answer.status == 200
    before, _, after = answer.body.partition(b"data: {")
    assert 1 <= before.count(b": keep-alive\n\n") <= 60
    assert after.endswith(b"data: [DONE]\n\n")


def test_a_caller_who_hangs_up_ends_the_wait(imported: System, model: str) -> None:
    down_once(imported, model)
    with Caller(imported, imported.key, chat_body(model)) as caller:
        caller.send()
        eventually(lambda: len(requests_for(imported, model)) >= 2)
        time.sleep(0.2)
        caller.leave()
    eventually(lambda: imported.usage_rows()[-1].get("e_ended") == "hung_up")
    asked = len(requests_for(imported, model))
    time.sleep(6)
    assert len(requests_for(imported, model)) == asked


def test_a_wait_keeps_the_time_that_its_caller_asks_for(imported: System, address: str, model: str) -> None:
    imported.simulator.fault("status", deployment=model, status=503)
    began = time.monotonic()
    answer = ask(imported, address, model, headers={"x-request-timeout-ms": "7000"})
    assert answer.status == 503
    assert time.monotonic() - began < 7
    assert len(requests_for(imported, model)) in (4, 5)  # two rounds; a backend that failed three times is left out


def test_calls_that_no_backend_serves_take_nothing(imported: System, address: str, model: str) -> None:
    imported.simulator.fault("status", deployment=model, status=500)
    hurried = {"x-request-timeout-ms": "400"}
    assert [ask(imported, address, model, headers=hurried).status for _ in range(3)] == [500, 500, 500]
    assert [ask(imported, address).status for _ in range(10)] == [200] * 10


@pytest.mark.parametrize("place", ["header", "query", "query of the client"])
def test_a_subscription_key_opens_the_gateway_and_goes_no_further(imported: System, address: str, place: str) -> None:
    key, headers, path = imported.key, {"x-client-ip": address}, "/openai/deployments/gpt-4o/chat/completions"
    if place == "query of the client":
        with AzureOpenAI(
            azure_endpoint=imported.url,
            api_key="unused",
            api_version="2024-10-21",
            default_query={"subscription-key": key},
            default_headers=headers,
            **PATIENT,
        ) as client:
            answer = client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hello"}])
        assert answer.usage is not None
    else:
        query = f"?api-version=2024-10-21&subscription-key={key}" if place == "query" else "?api-version=2024-10-21"
        more = {"ocp-apim-subscription-key": key} if place == "header" else {}
        body = b'{"messages": [{"role": "user", "content": "Hello"}]}'
        head = {"content-type": "application/json", **headers, **more}
        assert imported.gateway.request("POST", path + query, body, head).status == 200
    entry = imported.simulator.log()["requests"][-1]
    assert entry["query"] == "api-version=2024-10-21"
    assert "ocp-apim-subscription-key" not in entry["headers"]
    assert key not in str(imported.simulator.last_headers())
    assert key not in imported.gateway.logs()


def test_a_wrong_subscription_key_is_401(imported: System, address: str) -> None:
    with pytest.raises(openai.AuthenticationError):
        imported.openai(
            "unused", default_query={"subscription-key": "wrong"}, default_headers={"x-client-ip": address}
        ).models.list()


@pytest.mark.parametrize("path", ["/v1/models", "/gateway/", "/gateway/consumers", "/gateway/usage/me", "/"])
@pytest.mark.parametrize("outside", ["192.0.2.1", "2001:db8::1", "nonsense"])
def test_other_networks_are_refused_before_anything_else(imported: System, outside: str, path: str) -> None:
    refused = imported.gateway.request("GET", path, None, {"x-client-ip": outside, "authorization": "Bearer x"})
    assert (refused.status, refused.error()["code"]) == (403, "address_not_allowed")
    assert "certain networks only" in refused.error()["message"]


def test_probes_and_the_inside_are_not_refused(imported: System, address: str) -> None:
    for path in ("/healthz", "/readyz"):
        assert imported.gateway.request("GET", path, None, {"x-client-ip": "192.0.2.1"}).status != 403
    assert imported.gateway.request("GET", "/v1/models", None, {"x-client-ip": address}).status == 401


def test_the_imported_configuration_is_what_the_command_printed(tmp_path: Path) -> None:
    written = tmp_path / "gateway.yaml"
    result = CliRunner().invoke(cli, ["import-apim", str(PUBLISHED), "--models", "gpt-4o", "--output", str(written)])
    assert (result.exit_code, result.stdout) == (0, "")
    assert parse(written.read_text(), "written").retry.count == 5
