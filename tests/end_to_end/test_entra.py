"""Callers and operators with tokens of Entra ID, by the official clients, on both edges. The tenant is simulated."""

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import jwt
import openai
import pytest
from azure.identity import ManagedIdentityCredential, get_bearer_token_provider

from shared import bootstrap
from shared.auth import keys
from shared.auth.consumers import Consumers
from shared.config import environment
from shared.config.environment import Storage
from shared.process.application import Application
from simulator.process import SimulatorProcess
from tests.harness import in_process
from tests.harness.azurite import Azurite
from tests.harness.gateway_process import Edge, cli
from tests.harness.system import PATIENT, System, chat_body, configuration, eventually, watched
from tests.harness.system import system as start_system

GROUP = "11111111-2222-3333-4444-555555555555"
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def entra_system(edge: Edge, azurite: Azurite, simulator: SimulatorProcess) -> Iterator[System]:
    tenant = simulator.tenant
    section = {
        "authority": tenant["authority"],
        "tenants": [tenant["id"]],
        "audiences": tenant["audiences"],
        "callers": [
            {"group": GROUP, "team": "research", "models": ["gpt-4o-mini"], "limits": {"requests_per_minute": 2}},
            {"app_role": "Gateway.Call", "product": "standard"},
        ],
    }
    products: dict[str, Any] = {"standard": {}}
    settings = configuration(simulator, entra=section, products=products, limits={"teams": {"research": {}}})
    with start_system(edge, settings, simulator, azurite.connection_string) as running:
        yield running


@pytest.fixture
def gateway(entra_system: System) -> Iterator[System]:
    yield from watched(entra_system)


@pytest.fixture
def provider(gateway: System, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """azure-identity's managed identity, as a caller in Azure has it."""
    for name, value in gateway.simulator.identity_environment.items():
        monkeypatch.setitem(os.environ, name, value)
    monkeypatch.setitem(os.environ, "NO_PROXY", "127.0.0.1")
    with ManagedIdentityCredential(client_id=f"{gateway.edge}-service") as credential:
        yield get_bearer_token_provider(credential, "api://tollgate/.default")


def consumer_id(token: str) -> str:
    claims = jwt.decode(token, options={"verify_signature": False})
    return f"entra-{claims['tid']}-{claims['oid']}"


def row(gateway: System, consumer: str) -> dict[str, Any] | None:
    """The consumer in `tollgate keys list`."""
    listed = cli(gateway.gateway.environment, "keys", "list", "--json")
    return next((one for one in listed if one["id"] == consumer), None)


def test_a_managed_identity_calls_through_the_official_client_on_every_path(gateway: System, provider: Any) -> None:
    messages: list[Any] = [{"role": "user", "content": "Hello"}]
    with openai.AzureOpenAI(
        azure_endpoint=gateway.url, azure_ad_token_provider=provider, api_version="2024-10-21", **PATIENT
    ) as client:
        assert client.chat.completions.create(model="gpt-4o", messages=messages).choices[0].message.content
        assert client.embeddings.create(model="text-embedding-3-small", input="x").data
        stream = client.chat.completions.create(model="gpt-4o", messages=messages, stream=True)
        assert [chunk for chunk in stream if chunk.choices][-1].choices[0].finish_reason == "stop"
    for path in ("/v1", "/openai/v1"):
        with openai.OpenAI(base_url=gateway.url + path, api_key=provider, **PATIENT) as v1:
            assert v1.responses.create(model="gpt-4o", input="Hello").output_text
    token = provider()
    assert gateway.post("/gateway/chat/completions/gpt-4o", chat_body(), key=token).status == 200
    consumer = consumer_id(token)
    eventually(lambda: row(gateway, consumer) is not None)
    entry = row(gateway, consumer)
    assert entry is not None
    assert (entry["name"], entry["state"]) == (f"{gateway.edge}-service", "active")
    eventually(lambda: gateway.usage().get(consumer, {}).get("requests") == 6)
    assert "standard" in gateway.usage("product")
    own = gateway.get("/gateway/usage/me?by=key", token).json()
    assert [line["key"] for line in own["lines"]] == [consumer]


def test_an_identity_owns_its_objects_and_nobody_elses(gateway: System) -> None:
    ann, bob = (gateway.simulator.token(f"{name}-{gateway.edge}", roles=["Gateway.Call"]) for name in ("ann", "bob"))
    made = gateway.post("/v1/responses", {"model": "gpt-4o", "input": "Hello", "store": True}, key=ann)
    assert made.status == 200
    path = f"/v1/responses/{made.json()['id']}"
    assert gateway.get(path, ann).status == 200
    assert gateway.get(path, bob).status == 404
    assert gateway.get("/v1/models", bob).status == 200


def test_a_rules_models_and_limits_hold_for_its_callers(gateway: System) -> None:
    member = gateway.simulator.token(f"member-{gateway.edge}", kind="user", groups=[GROUP], version=2)
    refused = gateway.post(CHAT, chat_body("gpt-4o"), key=member)
    assert (refused.status, refused.error()["code"]) == (403, "model_not_allowed")
    statuses = [gateway.post(CHAT, chat_body("gpt-4o-mini"), key=member).status for _ in range(4)]
    assert statuses[0] == 200
    assert statuses[-1] == 429
    other = gateway.simulator.token(f"other-{gateway.edge}", kind="user", groups=[GROUP])
    assert gateway.post(CHAT, chat_body("gpt-4o-mini"), key=other).status == 200


def test_tokens_that_are_refused_get_their_reason_and_stay_out_of_the_log(gateway: System) -> None:
    simulator = gateway.simulator
    good = simulator.token(roles=["Gateway.Call"])
    header, claims, signature = good.split(".")
    none = "eyJhbGciOiJub25lIn0"  # {"alg":"none"}
    cases = [
        (simulator.token("no-rule"), 403, "caller_not_allowed", "No rule of this gateway admits no-rule."),
        (simulator.token(lifetime_seconds=-100), 401, "invalid_api_key", "has expired"),
        (simulator.token(audience="https://ai.azure.com"), 401, "invalid_api_key", "for the audience"),
        (simulator.token(claims={"tid": GROUP}), 401, "invalid_api_key", "from the tenant"),
        (f"{none}.{claims}.", 401, "invalid_api_key", "signed with 'none'"),
        (f"{header}.{claims}.{signature[:-8]}AAAAAAAA", 401, "invalid_api_key", "signature of the token is wrong"),
        (f"{header}.{'A' * 20_000}.{signature}", 401, "invalid_api_key", "longer than 16384"),
    ]
    for token, status, code, reason in cases:
        for path in (CHAT, "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"):
            answer = gateway.post(path, chat_body(), key=token)
            error = answer.error()
            assert (answer.status, error["code"]) == (status, code), reason
            assert reason in error["message"]
            assert token.split(".")[2] not in answer.body.decode() or not token.split(".")[2]
    huge = gateway.post(CHAT, chat_body(), key=f"{header}.{'A' * 10_000_000}.{signature}")
    assert huge.status in (401, 431)
    assert signature not in gateway.gateway.logs()
    assert claims not in gateway.gateway.logs()


def test_operators_have_what_their_app_role_is_for(gateway: System) -> None:
    def status(path: str, *roles: str) -> tuple[int, str]:
        answer = gateway.get(path, gateway.simulator.token("op", roles=list(roles)))
        return answer.status, "" if answer.status == 200 else answer.error()["message"]

    assert status("/gateway/backends", "Gateway.Admin")[0] == 200
    assert status("/gateway/backends", "Gateway.Reader")[0] == 200
    code, message = status("/gateway/backends", "Gateway.TeamOwner")
    assert code == 403
    assert "Gateway.Admin or Gateway.Reader" in message
    code, message = status("/gateway/backends", "Gateway.Call")
    assert code == 403
    assert "Gateway.Admin or Gateway.Reader or Gateway.TeamOwner" in message
    assert status("/readyz", "Gateway.Call")[0] == 403
    assert gateway.get("/gateway/backends", gateway.simulator.token(lifetime_seconds=-100)).status == 401


def test_the_remainder_of_an_identitys_limits_is_shown_by_its_id(gateway: System) -> None:
    token = gateway.simulator.token(f"shown-{gateway.edge}", roles=["Gateway.Call"])
    assert gateway.post(CHAT, chat_body(), key=token).status == 200
    eventually(lambda: gateway.get(f"/gateway/limits/{consumer_id(token)}").status == 200)
    for unknown in ("entra-nobody", "a%2Fb", "x" * 300, "%23", "A_b"):
        assert gateway.get(f"/gateway/limits/{unknown}").status == 404


def test_operators_manage_consumers_as_their_app_role_allows(gateway: System) -> None:
    admin, reader, owner = (
        gateway.simulator.token(f"{role} {gateway.edge}", roles=[f"Gateway.{role}"])
        for role in ("Admin", "Reader", "TeamOwner")
    )
    body = {"name": f"managed by a token on {gateway.edge}"}
    assert gateway.manage("POST", "/gateway/consumers", body, key=reader).error()["code"] == "role_required"
    assert gateway.manage("POST", "/gateway/consumers", body, key=owner).status == 403  # it owns no team
    made = gateway.manage("POST", "/gateway/consumers", body, key=admin)
    assert made.status == 201
    assert gateway.get(made.headers["location"], reader).status == 200
    assert gateway.get(made.headers["location"], owner).status == 404
    assert gateway.get("/gateway/consumers", owner).json()["data"] == []
    (entry,) = gateway.get(f"/gateway/audit?object={made.json()['id']}", reader).json()["data"]
    claims = jwt.decode(admin, options={"verify_signature": False})
    assert claims["oid"] in entry["actor"] or entry["actor"] == claims["preferred_username"]


def test_an_identity_is_limited_and_deleted_over_http_and_has_no_keys(gateway: System) -> None:
    token = gateway.simulator.token(f"managed-{gateway.edge}", roles=["Gateway.Call"])
    one = f"/gateway/consumers/{consumer_id(token)}"
    assert gateway.post(CHAT, chat_body(), key=token).status == 200
    eventually(lambda: gateway.get(one).status == 200)
    changed = gateway.manage("PATCH", one, {"limits": {"tokens_per_minute": 5}, "expires": "2099-01-01"})
    assert (changed.status, changed.json()["keys"]) == (200, [])
    assert gateway.manage("POST", f"{one}/keys").status == 400
    assert gateway.get("/gateway/keys/me", token).status == 404
    assert gateway.manage("DELETE", one).status == 204
    assert gateway.get(one).status == 404


def test_an_imported_key_works_in_the_header_of_api_management(gateway: System) -> None:
    text = f"{'a1b2c3d4e5f60718' * 2}-{gateway.edge}"

    async def give() -> str:
        async with bootstrap.open_store(Storage(connection_string=gateway.storage)) as store:
            consumers = Consumers(store)
            record = await consumers.find(gateway.key.split("_")[1])
            assert record is not None
            await consumers.import_key(record, keys.digest_to_import(text))
            return record.consumer.id

    consumer = asyncio.run(give())
    headers = {"authorization": "", "ocp-apim-subscription-key": text}

    def answered() -> bool:
        return gateway.post(CHAT, chat_body(), headers).status == 200

    eventually(answered)
    assert consumer in gateway.usage()
    assert text not in gateway.gateway.logs()


async def test_other_rules_hold_without_a_restart(simulator: SimulatorProcess) -> None:
    tenant = simulator.tenant
    section = {"authority": tenant["authority"], "tenants": [tenant["id"]], "audiences": tenant["audiences"]}
    token = simulator.token("live", roles=["Gateway.Call"])
    backend = {"name": "a", "endpoint": "http://127.0.0.1:9", "region": "a", "models": {"gpt-4o": "gpt-4o"}}

    def document(**entra: Any) -> dict[str, Any]:
        return {"backends": [backend | {"auth": {"api_key_env": "K"}}], "ledger": {"overflow_bytes": 0}, **entra}

    async def status(application: Application) -> tuple[int, str]:
        reply = await in_process.call(application, token, "/v1/models", method="GET")
        return reply.status, reply.body.decode()

    async with in_process.gateway(in_process.Tables(), **document()) as application:
        assert (await status(application))[0] == 401
        for rules, expected in ([], 403), ([{"app_role": "Gateway.Call"}], 200), ([{"group": GROUP}], 403):
            changed = document(entra={**section, "callers": rules})
            environ = {"GATEWAY_CONFIG": json.dumps(changed), "GATEWAY_STORAGE": "UseDevelopmentStorage=true", "K": "k"}
            application.apply(environment.load(environ))
            assert (await status(application))[0] == expected
