"""The Bicep compiler's word: no warning, one form, current snapshots, and a sentence for every wrong parameter."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.config import alerting, callers
from shared.config import document as config
from shared.config.limits import AddressLimits, Limits, LimitSettings, TokenHeaders
from tests.infra.compiler import Compiler, Refused
from tests.infra.snapshots import BICEP, CASES, ROOT, sources

BATCH = {"name": "batch", "model": "m", "sku": "GlobalBatch", "capacity": 1}
LIVE = {"name": "live", "model": "m", "sku": "GlobalStandard", "capacity": 1}
ACCOUNT = {"name": "sweden", "region": "swedencentral", "deployments": [LIVE]}
GROUP = "/subscriptions/00000000-0000-0000-0000-000000000002/resourceGroups/ai"
CONTOSO = {
    "name": "contoso",
    "resourceId": f"{GROUP}/providers/Microsoft.CognitiveServices/accounts/contoso",
    "region": "eastus",
    "models": {"m": "m"},
}


@pytest.fixture(scope="module")
def compiler() -> Iterator[Compiler]:
    with Compiler() as running:
        yield running


TEMPLATES = [*(path for path in sources() if path.suffix != ".json"), ROOT / "deploy/app-service/main.bicep"]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_file_has_no_warning_and_the_formatters_form(compiler: Compiler, path: Path) -> None:
    assert compiler.warnings(path) == []
    assert compiler.formatted(path) == path.read_text()


@pytest.mark.parametrize("case", CASES)
def test_a_snapshot_is_current(compiler: Compiler, case: str) -> None:
    current = compiler.snapshot(BICEP / "tests" / f"{case}.bicepparam")
    assert current == (BICEP / "tests" / f"{case}.snapshot.json").read_text()


def snapshot(compiler: Compiler, folder: Path, **parameters: Any) -> str:
    """The snapshot of a case with these parameters."""
    case = folder / "case.bicepparam"
    given = {"environmentName": "test", "location": "swedencentral", "accounts": [ACCOUNT]} | parameters
    lines = [f"using '{os.path.relpath(BICEP / 'main.bicep', folder)}'"]
    lines += [f"param {name} = json('{json.dumps(value)}')" for name, value in given.items()]
    case.write_text("\n".join(lines) + "\n")
    return compiler.snapshot(case)


def test_the_parameters_of_the_refusals_are_accepted_without_their_fault(compiler: Compiler, tmp_path: Path) -> None:
    assert "contoso" in snapshot(compiler, tmp_path, existingAccounts=[CONTOSO])


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"accounts": []}, "accounts: expected an Azure OpenAI account to create here"),
        ({"accounts": [ACCOUNT, ACCOUNT]}, "expected a name of its own for every account, got sweden twice"),
        ({"existingAccounts": [CONTOSO | {"name": "sweden"}]}, "name of its own for every backend, got sweden twice"),
        ({"accounts": [ACCOUNT | {"name": "Sweden Central"}]}, 'a part of a host name, got "Sweden Central"'),
        ({"accounts": [ACCOUNT | {"name": "sweden-"}]}, 'a part of a host name, got "sweden-"'),
        ({"accounts": [ACCOUNT | {"deployments": [BATCH]}]}, "a deployment of sweden that serves more than batches"),
        (
            {"accounts": [ACCOUNT | {"deployments": [LIVE, LIVE | {"name": "again"}]}]},
            "got m by GlobalStandard in sweden twice",
        ),
        ({"existingAccounts": [CONTOSO | {"resourceId": "contoso"}]}, "as the resourceId of contoso, got contoso"),
        ({"existingAccounts": [CONTOSO | {"dataZone": "eu"}]}, "expected no dataZone of contoso"),
        ({"zoneRedundant": True, "alwaysReadyInstances": 1}, "expected 2 or more alwaysReadyInstances with it, got 1"),
        ({"privateApp": True}, "privateApp: expected privateNetwork with it"),
        ({"monthlyBudgetUsd": 100}, "monthlyBudgetUsd: expected alertEmail and budgetStart with it"),
        ({"sections": {"ledgr": {}}}, 'The property "ledgr" is not allowed'),
        ({"sections": {"ledger": {"durabilty": "committed"}}}, 'The property "durabilty" is not allowed'),
        ({"limits": {"defaults": {"tokens": 1}}}, 'The property "tokens" is not allowed'),
        ({"models": {"m": {"fallback": []}}}, 'The property "fallback" is not allowed'),
        ({"accounts": [ACCOUNT | {"datazone": "eu"}]}, 'The property "datazone" is not allowed'),
        ({"accounts": [ACCOUNT | {"deployments": [LIVE | {"sku": "Global"}]}]}, "the provided value is of type"),
    ],
)
def test_a_wrong_parameter_stops_the_deployment_with_a_sentence(
    compiler: Compiler, parameters: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match=re.escape(sentence)):
        snapshot(compiler, tmp_path, **parameters)


@pytest.fixture(scope="module")
def template(compiler: Compiler) -> dict[str, Any]:
    """main.bicep as Azure gets it."""
    return compiler.compiled(BICEP / "main.bicep")


def keys(template: dict[str, Any], name: str, *path: str) -> set[str]:
    """The keys of a type of sections.bicep, or of one inside of it."""
    (definition,) = (d for full, d in template["definitions"].items() if full.rpartition(".")[2] == name)
    for key in path:
        definition = definition["properties"][key]
    assert definition["additionalProperties"] is False
    return set(definition["properties"])


def fields(struct: type[msgspec.Struct]) -> set[str]:
    """The keys of a section as the configuration document has them."""
    return set(struct.__struct_encode_fields__)


def test_the_types_of_the_sections_are_those_of_the_configuration(template: dict[str, Any]) -> None:
    composed = {"backends", "models", "limits", "timeouts", "export", "telemetry"}
    assert keys(template, "otherSections") == fields(config.Configuration) - composed
    assert keys(template, "otherSections", "ledger") == fields(config.LedgerSettings)
    assert keys(template, "otherSections", "client_address") == fields(config.ClientAddress)
    assert keys(template, "otherSections", "retry") == fields(config.RetrySettings)
    assert keys(template, "limitSettings") == fields(LimitSettings)
    assert keys(template, "limitSettings", "addresses") == fields(AddressLimits)
    assert keys(template, "limitSettings", "headers") == fields(TokenHeaders)
    assert keys(template, "limitSettings", "webhook") == fields(alerting.WebhookSettings)
    assert keys(template, "alertReceiver") == fields(alerting.ReceiverSettings)
    assert keys(template, "otherSections", "alerts") == fields(alerting.AlertSettings)
    assert keys(template, "model", "replaced_by") == fields(config.Successor)
    assert keys(template, "consumerLimits") == fields(Limits)
    assert keys(template, "model") == fields(config.Model)
    assert keys(template, "otherSections", "end_users") == fields(callers.EndUsers)
    assert keys(template, "product") == fields(callers.Product)
    assert keys(template, "team") == fields(callers.Team)
    assert keys(template, "variant") == fields(config.Variant)
    assert keys(template, "timeoutSettings") == fields(config.Timeouts)
    assert keys(template, "provisionedCapacity") == fields(config.ProvisionedCapacity)


def test_secrets_are_secret_and_no_output(template: dict[str, Any]) -> None:
    kinds = {name: about.get("type", "") for name, about in template["parameters"].items()}
    assert {name for name, kind in kinds.items() if kind.startswith("secure")} == {"managementKey", "secretSettings"}
    assert "managementKey" not in json.dumps(template["outputs"])
    assert "secretSettings" not in json.dumps(template["outputs"])


def test_deployments_of_one_account_are_made_one_by_one(compiler: Compiler) -> None:
    loops = {
        name: resource
        for name, resource in compiler.compiled(BICEP / "openai.bicep")["resources"].items()
        if resource["type"] == "Microsoft.CognitiveServices/accounts/deployments"
    }
    assert [(loop["copy"]["mode"], loop["copy"]["batchSize"]) for loop in loops.values()] == [("serial", 1)] * 2
    assert any(other in loop.get("dependsOn", ()) for loop in loops.values() for other in loops)  # nor side by side


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("GATEWAY_ACCOUNTS", "[", "Unable to parse literal JSON"),
        ("GATEWAY_LIMITS", json.dumps({"defaults": {"tpm": 5}}), 'The property "tpm" is not allowed'),
        ("GATEWAY_KEY_VAULT", "yes", "cannot be converted"),
    ],
)
def test_a_mistyped_variable_of_azd_is_an_error(name: str, value: str, sentence: str) -> None:
    with Compiler(**{name: value}) as compiler, pytest.raises(Refused, match=re.escape(sentence)):
        compiler.compiled(BICEP / "main.bicepparam")


def test_azds_variables_become_parameters() -> None:
    given = {
        "AZURE_ENV_NAME": "prod",
        "AZURE_LOCATION": "westeurope",
        "GATEWAY_ACCOUNTS": json.dumps([ACCOUNT]),
        "GATEWAY_LIMITS": json.dumps({"defaults": {"budget_usd": 1.5}}),
        "GATEWAY_ALLOWED_IPS": "198.51.100.0/24,203.0.113.7/32",
        "GATEWAY_ALWAYS_READY": "2",
        "GATEWAY_ZONE_REDUNDANT": "true",
    }
    with Compiler(**given) as compiler:
        parameters = compiler.compiled(BICEP / "main.bicepparam")["parameters"]
    values = {name: about["value"] for name, about in parameters.items()}
    assert (values["environmentName"], values["location"]) == ("prod", "westeurope")
    assert values["accounts"] == [ACCOUNT]
    assert values["limits"] == {"defaults": {"budget_usd": 1.5}}
    assert values["allowedIpRanges"] == ["198.51.100.0/24", "203.0.113.7/32"]
    assert (values["alwaysReadyInstances"], values["zoneRedundant"]) == (2, True)
