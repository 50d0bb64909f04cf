"""The snapshots of each way to deploy agree with the code, with Azure's rules, and with the guide."""

import ast
import base64
import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared import __version__
from shared.config import document as config
from shared.config import environment, parsing
from shared.config.document import Backend, ProvisionedCapacity
from shared.errors import ConfigurationError
from tests.infra.snapshots import BICEP, CASES, DIGEST, ROOT, SUBSCRIPTION, app_settings, digest, literal, resources

# https://learn.microsoft.com/azure/role-based-access-control/built-in-roles
ROLES = {
    "5e0bd9bd-7b93-4f28-af87-19fc36ad61bd": "Cognitive Services OpenAI User",
    "a97b65f3-24c7-4388-baec-2e87135dc908": "Cognitive Services User",
    "4633458b-17de-408a-b874-0445c86b69e6": "Key Vault Secrets User",
    "3913510d-42f4-4e42-8a64-420c390055eb": "Monitoring Metrics Publisher",
    "43d0d8ad-25c7-4714-9337-8ba259a9fe05": "Monitoring Reader",
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
    "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": "Storage Blob Data Owner",
    "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3": "Storage Table Data Contributor",
}
ALL_OPERATIONS = "all operations of Azure OpenAI models"  # the custom role
OPERATOR = "00000000-0000-0000-0000-0000000000aa"
# What the Functions host reads, and shared/config/ does not.
OF_THE_HOST = {
    "APPLICATIONINSIGHTS_AUTHENTICATION_STRING",
    "AzureWebJobsDisableHomepage",
    "AzureWebJobsStorage__blobServiceUri",
    "AzureWebJobsStorage__clientId",
    "AzureWebJobsStorage__credential",
    "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT",
    "PYTHON_ENABLE_OPENTELEMETRY",
}
# Read, but set by those who have a collector; and a connection string with a key is not for here.
NOT_SET = {
    "AZURE_CLIENT_SECRET",
    "AzureWebJobsStorage",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "GATEWAY_SIMULATOR",  # where backends are simulated
    "GATEWAY_STORAGE",
    "GATEWAY_STORAGE__accountName",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_SDK_DISABLED",
}
NOT_ON_FLEX = re.compile(
    r"FUNCTIONS_WORKER_RUNTIME|FUNCTIONS_EXTENSION_VERSION|WEBSITE_\w+|SCM_DO_\w+|ENABLE_ORYX_\w+|AzureWebJobsStorage"
)
# Most others (alwaysOn, ftpsState, linuxFxVersion …) are deprecated on Flex Consumption or belong to functionAppConfig.
SITE_CONFIG_ON_FLEX = {"minTlsVersion", "ipSecurityRestrictions", "ipSecurityRestrictionsDefaultAction"}
# https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules
NAME_RULES = {
    "Microsoft.CognitiveServices/accounts": r"[a-z0-9][a-z0-9-]{0,62}[a-z0-9]",
    "Microsoft.CognitiveServices/accounts/deployments": r"[^/]+/[\w.-]{2,64}",
    "Microsoft.Consumption/budgets": r"[\w-]{1,63}",
    "Microsoft.Insights/components": r"[\w.()-]{1,260}",
    "Microsoft.Insights/scheduledQueryRules": r"[\w-]{1,260}",
    "Microsoft.KeyVault/vaults": r"[A-Za-z](?!.*--)[A-Za-z0-9-]{1,22}[A-Za-z0-9]",
    "Microsoft.ManagedIdentity/userAssignedIdentities": r"[A-Za-z0-9][\w-]{2,127}",
    "Microsoft.Network/privateEndpoints": r"[A-Za-z0-9][\w.-]{0,62}\w",
    "Microsoft.Network/virtualNetworks": r"[A-Za-z0-9][\w.-]{0,62}\w",
    "Microsoft.OperationalInsights/workspaces": r"[A-Za-z0-9][A-Za-z0-9-]{2,61}[A-Za-z0-9]",
    "Microsoft.Storage/storageAccounts": r"[a-z0-9]{3,24}",
    "Microsoft.Web/serverfarms": r"[A-Za-z0-9-]{1,40}",
    "Microsoft.Web/sites": r"[a-z0-9][a-z0-9-]{0,58}[a-z0-9]",
}


def configuration(case: str) -> config.Configuration:
    """GATEWAY_CONFIG as the gateway reads it."""
    return parsing.parse(literal(app_settings(case)["GATEWAY_CONFIG"]), "GATEWAY_CONFIG")


def test_the_snapshots_are_those_of_the_sources() -> None:
    assert DIGEST.read_text().strip() == digest(), "infra/bicep has changed: renew the snapshots with `make infra`"


@pytest.mark.parametrize("case", CASES)
def test_every_name_is_within_azures_rules(case: str) -> None:
    for resource in resources(case):
        rule = NAME_RULES.get(resource.type, ".+")
        assert re.fullmatch(rule, resource.name), resource.name
    names = [(resource.type, resource.id) for resource in resources(case)]
    assert len(set(names)) == len(names)


def grants(case: str) -> set[tuple[str, str, str]]:
    """The roles by identity and scope; all accounts for models count as one scope."""
    custom = {r.name: r.properties["roleName"] for r in resources(case, "Microsoft.Authorization/roleDefinitions")}
    roles = set()
    for assignment in resources(case, "Microsoft.Authorization/roleAssignments"):
        role = assignment.properties["roleDefinitionId"].rpartition("/")[2]
        principal = assignment.properties["principalId"]
        who = {OPERATOR: "operator"}.get(principal, "gateway")
        assert who == "operator" or re.search(r"userAssignedIdentities/id-tollgate-\w+'.*\)\.principalId", principal)
        kinds = {"operator": ("User", "Group", "ServicePrincipal"), "gateway": ("ServicePrincipal",)}
        assert assignment.properties["principalType"] in kinds[who]
        scope = re.search(r"/providers/Microsoft\.\w+/\w+/([a-z]+)", assignment.id)
        assert scope is not None, assignment.id
        place = {"sthost": "host", "sttoll": "state"}.get(scope[1][:6], scope[1])
        roles.add((who, ROLES.get(role) or custom[role].partition(": ")[2], place))
    return roles


BASIC = {
    ("gateway", "Storage Blob Data Owner", "host"),
    ("gateway", "Storage Table Data Contributor", "state"),
}
OF_TELEMETRY = ("gateway", "Monitoring Metrics Publisher", "appi")
OF_EXPORT = {(who, "Storage Blob Data Contributor", "state") for who in ("gateway", "operator")}
OF_THE_OPERATOR = ("operator", "Storage Table Data Contributor", "state")
GRANTS = {
    "public": {*BASIC, OF_TELEMETRY, ("gateway", "Cognitive Services OpenAI User", "oai")},
    "provisioned": {*BASIC, OF_TELEMETRY, ("gateway", "Cognitive Services OpenAI User", "oai")},
    "private": {
        *(*BASIC, OF_TELEMETRY, *OF_EXPORT, OF_THE_OPERATOR),
        ("gateway", "Cognitive Services OpenAI User", "oai"),
        ("operator", "Monitoring Reader", "oai"),  # reconcile
        ("gateway", "Key Vault Secrets User", "kv"),
    },
    "existing": {
        *(*BASIC, OF_THE_OPERATOR),
        *(("gateway", "Cognitive Services OpenAI User", name) for name in ("contoso", "foundry")),
        *(("operator", "Monitoring Reader", name) for name in ("contoso", "foundry")),
        ("gateway", "Cognitive Services User", "foundry"),
    },
    "everything": {
        *(*BASIC, OF_TELEMETRY, *OF_EXPORT, OF_THE_OPERATOR),
        ("gateway", ALL_OPERATIONS, "oai"),
        ("gateway", "Cognitive Services User", "oai"),  # for Claude and DeepSeek
        ("operator", "Monitoring Reader", "oai"),
    },
}


@pytest.mark.parametrize("case", CASES)
def test_everybody_has_the_roles_that_their_commands_need_and_no_others(case: str) -> None:
    assert grants(case) == GRANTS[case]


def test_the_custom_role_opens_the_models_and_manages_nothing() -> None:
    (role,) = resources("everything", "Microsoft.Authorization/roleDefinitions")
    assert role.properties["assignableScopes"] == [SUBSCRIPTION]
    assert role.properties["permissions"] == [
        {"actions": [], "dataActions": ["Microsoft.CognitiveServices/accounts/OpenAI/*"]}
    ]


def test_the_guide_lists_the_roles() -> None:
    guide = (ROOT / "docs" / "deploy.md").read_text()
    rows = {
        tuple(cell.strip() for cell in line.strip("|").split("|"))[:2] for line in guide.splitlines() if "|" in line
    }
    assert {(who, role) for granted in GRANTS.values() for who, role, _ in granted} <= rows


class Recorder(dict[str, str]):
    """An environment that records the names that it was asked for."""

    def __init__(self, **given: str) -> None:
        super().__init__(given)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


def settings_that_the_code_reads(settings: Mapping[str, str]) -> set[str]:
    """With the given settings present, since some decide which others are read."""
    insights = "InstrumentationKey=00000000-0000-0000-0000-000000000000"
    given = {
        "GATEWAY_CONFIG": literal(settings["GATEWAY_CONFIG"]),
        "APPLICATIONINSIGHTS_CONNECTION_STRING": insights,
        "WEBHOOK_SECRET": "x",
    }
    environ = Recorder(**dict.fromkeys(settings, "x" * 32) | given)
    with contextlib.suppress(ConfigurationError):  # it has asked for what it misses by then
        environment.load(environ)
    return environ.asked


@pytest.mark.parametrize("case", CASES)
def test_the_settings_of_the_app_are_those_that_the_code_and_the_host_read(case: str) -> None:
    settings = app_settings(case)
    read = settings_that_the_code_reads(settings) - {"WEBHOOK_SECRET"}
    assert settings.keys() - read - OF_THE_HOST == set()
    assert (read | OF_THE_HOST) - settings.keys() - NOT_SET == set()
    assert [name for name in settings if NOT_ON_FLEX.fullmatch(name)] == []
    (app,) = resources(case, "Microsoft.Web/sites")
    assert app.properties["siteConfig"].keys() == SITE_CONFIG_ON_FLEX


def test_azd_deploys_two_regions_that_the_gateway_accepts() -> None:
    sweden, virginia = configuration("public").backends
    (account, _) = resources("public", "Microsoft.CognitiveServices/accounts")
    assert sweden == Backend(
        name="sweden",
        endpoint=f"https://{account.name}.openai.azure.com",
        region="swedencentral",
        models={"gpt-5.4-mini": "gpt-5.4-mini"},
        deployment="global",
        resource_id=account.id,
    )
    assert (virginia.name, virginia.region) == ("virginia", "eastus2")
    assert account.properties["customSubDomainName"] == account.name


def test_every_sku_is_a_backend_with_its_own_price_zone_and_place_in_the_order() -> None:
    backends = {backend.name: backend for backend in configuration("provisioned").backends}
    seen = {name: (b.kind, b.deployment, b.data_zone, b.priority, b.weight, b.models) for name, b in backends.items()}
    model = "gpt-5.4-mini"
    assert seen == {
        "sweden": ("standard", "global", None, 1, 3, {model: "mini"}),
        "sweden-data-zone": ("standard", "data_zone", "eu", 1, 3, {model: "mini-eu"}),
        "sweden-regional": ("standard", "regional", "eu", 1, 3, {model: "mini-here"}),
        "sweden-provisioned": ("provisioned", "regional", "eu", 0, 3, {model: "mini-ptu"}),
        "sweden-provisioned-data-zone": ("provisioned", "data_zone", "eu", 0, 3, {"large": "large-ptu"}),
        "virginia-developer": ("standard", "global", None, 2, 1, {"tuned": "tuned"}),
        "virginia-provisioned-global": ("provisioned", "global", None, 1, 1, {model: "mini-ptu"}),
    }
    assert backends["sweden-provisioned"].capacity == [ProvisionedCapacity(model=model, units=50, since="2026-12-01")]
    assert backends["sweden"].capacity == []
    assert len({backend.resource_id for backend in backends.values()}) == 2


def test_calls_do_not_reach_the_deployments_for_batches() -> None:
    deployed = resources("provisioned", "Microsoft.CognitiveServices/accounts/deployments")
    batches = {d.name for d in deployed if d.sku["name"].endswith("Batch")}
    assert {name.partition("/")[2] for name in batches} == {"mini-batch"}
    called = {name for backend in configuration("provisioned").backends for name in backend.models.values()}
    assert {d.name.partition("/")[2] for d in deployed} - called == {"mini-batch"}


def test_a_version_is_kept_until_it_is_retired_and_no_version_is_never_turned_back() -> None:
    deployed = resources("provisioned", "Microsoft.CognitiveServices/accounts/deployments")
    options = {d.name.partition("/")[2]: d.properties for d in deployed if d.name.startswith("oai-sweden")}
    assert options["mini"]["model"]["version"] == "2026-03-17"
    assert options["mini"]["versionUpgradeOption"] == "OnceCurrentVersionExpired"
    assert options["mini-eu"]["model"].get("version") is None
    assert options["mini-eu"]["versionUpgradeOption"] == "OnceNewDefaultVersionAvailable"
    assert options["mini-ptu"]["spilloverDeploymentName"] == "mini-here"


def test_existing_accounts_join() -> None:
    contoso, foundry = configuration("existing").backends
    assert resources("existing", "Microsoft.CognitiveServices/accounts") == []
    assert (contoso.endpoint, contoso.kind, contoso.data_zone) == (
        *("https://contoso.openai.azure.com", "provisioned", "eu"),
    )
    assert contoso.capacity == [
        ProvisionedCapacity(model="gpt-5.4-mini", units=50, since="2026-12-01", usd_per_unit_hour=0.7)
    ]
    assert (foundry.endpoint, foundry.priority) == ("https://foundry.services.ai.azure.com", 2)
    scopes = {r.id.split("/providers/Microsoft.Authorization")[0] for r in resources("existing") if "contoso" in r.id}
    assert any("00000000-0000-0000-0000-000000000002/resourceGroups/ai" in scope for scope in scopes)


def test_the_sections_reach_the_configuration() -> None:
    read = configuration("everything")
    assert read.models["gpt-5.4-mini"].aliases == ["small"]
    assert (read.limits.teams["search"].budget_usd, read.timeouts.first_byte) == (500, 7.5)
    assert (read.ledger.durability, read.client_address.hops, read.heartbeat_seconds) == ("deferred", 2, 10)
    assert read.entra is not None
    assert read.entra.callers[0].limits.tokens_per_minute == 50_000
    assert (read.export.container, configuration("public").export.container) == ("costs", None)


@pytest.mark.parametrize("case", CASES)
def test_nothing_opens_with_a_key(case: str) -> None:
    for account in resources(case, "Microsoft.Storage/storageAccounts"):
        assert account.properties["allowSharedKeyAccess"] is False
        assert account.properties["allowBlobPublicAccess"] is False
    for account in resources(case, "Microsoft.CognitiveServices/accounts"):
        assert account.properties["disableLocalAuth"] is True
    for component in resources(case, "Microsoft.Insights/components"):
        assert component.properties["DisableLocalAuth"] is True
    publishing = resources(case, "Microsoft.Web/sites/basicPublishingCredentialsPolicies")
    assert [policy.properties["allow"] for policy in publishing] == [False, False]
    text = (BICEP / "tests" / f"{case}.snapshot.json").read_text()
    assert not re.search(r"kept-in-the-vault|in-the-settings|a-secret|listKeys|AccountKey", text)


def test_a_private_deployment_closes_every_public_endpoint() -> None:
    (app,) = resources("private", "Microsoft.Web/sites")
    assert app.properties["publicNetworkAccess"] == "Disabled"
    assert app.properties["virtualNetworkSubnetId"].endswith("/subnets/app")
    for account in resources("private", "Microsoft.CognitiveServices/accounts"):
        assert (account.properties["publicNetworkAccess"], account.properties["networkAcls"]["defaultAction"]) == (
            *("Disabled", "Deny"),
        )
    storage = {r.name[:6]: r.properties for r in resources("private", "Microsoft.Storage/storageAccounts")}
    assert {rules["networkAcls"]["defaultAction"] for rules in storage.values()} == {"Deny"}
    assert storage["sthost"]["publicNetworkAccess"] == "Disabled"
    assert storage["sttoll"]["publicNetworkAccess"] == "Enabled"  # for the operator alone
    assert [rule["value"] for rule in storage["sttoll"]["networkAcls"]["ipRules"]] == ["203.0.113.0/29"]


def test_every_private_endpoint_has_the_names_of_its_service() -> None:
    def services(text: str) -> set[str]:
        return set(re.findall(r"privatelink\.[a-z.]+[a-z]", text))

    zones, links, groups = (
        {r.id: json.dumps([r.name, r.properties]) for r in resources("private", f"Microsoft.Network/{kind}")}
        for kind in (
            "privateDnsZones",
            "privateDnsZones/virtualNetworkLinks",
            "privateEndpoints/privateDnsZoneGroups",
        )
    )
    (app,) = resources("private", "Microsoft.Web/sites")
    token = app.name.rpartition("-")[2]
    names = {r.split("/")[-3].replace(token, "").strip("-").replace("--", "-"): services(z) for r, z in groups.items()}
    account = {
        "privatelink.cognitiveservices.azure.com",
        "privatelink.openai.azure.com",
        "privatelink.services.ai.azure.com",
    }
    assert names == {
        "pe-oai-sweden": account,
        "pe-oai-virginia": account,
        "pe-sthost": {"privatelink.blob"},
        "pe-sttoll": {"privatelink.table"},
        "pe-sttoll-blob": {"privatelink.blob"},
        "pe-func-tollgate": {"privatelink.azurewebsites.net"},
    }
    assert set().union(*names.values()) == services(" ".join(zones.values())) == services(" ".join(links.values()))


def test_an_update_lets_running_calls_end_unless_it_is_told_otherwise() -> None:
    strategies = {
        case: app.properties["functionAppConfig"]["siteUpdateStrategy"]["type"]
        for case in CASES
        for app in resources(case, "Microsoft.Web/sites")
    }
    assert strategies == dict.fromkeys(CASES, "RollingUpdate") | {"everything": "Recreate"}


def test_zones_and_what_is_always_ready_go_together() -> None:
    (app,) = resources("everything", "Microsoft.Web/sites")
    (plan,) = resources("everything", "Microsoft.Web/serverfarms")
    assert plan.properties["zoneRedundant"] is True
    assert app.properties["functionAppConfig"]["scaleAndConcurrency"]["alwaysReady"] == [
        {"name": "http", "instanceCount": 2}
    ]
    assert {r.sku["name"] for r in resources("everything", "Microsoft.Storage/storageAccounts")} == {"Standard_ZRS"}


def test_callers_and_the_availability_test_get_in_and_nobody_else() -> None:
    (app,) = resources("everything", "Microsoft.Web/sites")
    site = app.properties["siteConfig"]
    assert site["ipSecurityRestrictionsDefaultAction"] == "Deny"
    assert [rule["ipAddress"] for rule in site["ipSecurityRestrictions"]] == [
        *("198.51.100.0/24", "203.0.113.7/32", "ApplicationInsightsAvailability"),
    ]
    (open_app,) = resources("public", "Microsoft.Web/sites")
    assert open_app.properties["siteConfig"]["ipSecurityRestrictions"] == []


def test_what_was_deleted_is_restored_and_what_must_stay_is_locked_on_request() -> None:
    accounts = resources("everything", "Microsoft.CognitiveServices/accounts")
    assert [account.properties["restore"] for account in accounts] == [True]
    assert [a.properties["restore"] for a in resources("public", "Microsoft.CognitiveServices/accounts")] == [None] * 2
    (lock,) = resources("everything", "Microsoft.Authorization/locks")
    assert "/storageAccounts/sttoll" in lock.id
    assert lock.properties["level"] == "CanNotDelete"
    assert resources("public", "Microsoft.Authorization/locks") == []
    (vault,) = resources("private", "Microsoft.KeyVault/vaults")
    assert (vault.properties["createMode"], vault.properties["enablePurgeProtection"]) == ("default", None)


def _assigned(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, str]]:
    match target, value:
        case ast.Name(id=name), ast.Constant(value=str(text)):
            yield name, text
        case ast.Tuple(elts=targets), ast.Tuple(elts=values):
            for one, its in zip(targets, values, strict=True):
                yield from _assigned(one, its)


def fixed_tables(sources: Mapping[str, str]) -> set[str]:
    """Names of the tables that the code opens with a constant: `store.table(TABLE)`, also another module's."""
    trees = {name: ast.parse(source) for name, source in sources.items()}
    constants = {
        (name, target): value
        for name, tree in trees.items()
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target, value in _assigned(node.targets[0], node.value)
    }
    tables = set()
    for name, tree in trees.items():
        imported = {
            alias.asname or alias.name: (str(node.module).removeprefix("shared."), alias.name)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "table":
                match node.args:
                    case [ast.Name(id=word)]:
                        tables.add(constants.get((name, word)) or constants.get(imported.get(word, ("", ""))))
                    case [ast.Attribute(value=ast.Name(id=module), attr=word)]:
                        tables.add(constants.get((".".join(imported.get(module, ("", ""))), word)))
                    case [ast.Constant(value=str(word))]:
                        tables.add(word)
    return {str(table) for table in tables if table}


@pytest.mark.parametrize("case", CASES)
def test_the_tables_that_are_created_are_those_that_the_gateway_keeps(case: str) -> None:
    """A new table with a fixed name belongs into `tables` of main.bicep's module stateStorage."""
    tables = resources(case, "Microsoft.Storage/storageAccounts/tableServices/tables")
    created = {table.name.rpartition("/")[2] for table in tables}
    shared = ROOT / "shared"
    paths = {".".join(path.relative_to(shared).with_suffix("").parts): path for path in shared.rglob("*.py")}
    sources = {name: path.read_text() for name, path in paths.items()}
    assert created == fixed_tables(sources)
    assert (
        fixed_tables({**sources, "new": "from shared.x import T as X\nX\nstore.table(X)", "x": "T = 'more'"}) > created
    )


def test_the_runtime_is_the_projects_python() -> None:
    (app,) = resources("public", "Microsoft.Web/sites")
    python = (ROOT / ".python-version").read_text().strip()
    assert app.properties["functionAppConfig"]["runtime"] == {"name": "python", "version": python}


def test_the_hosts_limit_on_bodies_fits_what_teams_send_and_no_more_than_the_gateway_takes() -> None:
    (limit,) = re.findall(r"param requestBodyLimitBytes int = (\d+)", (BICEP / "main.bicep").read_text())
    assert int(limit) == config.Configuration(backends=[]).max_request_bytes
    photograph = "data:image/jpeg;base64," + base64.b64encode(bytes(4_000_000)).decode()  # of 12 megapixels
    content = [{"type": "image_url", "image_url": {"url": photograph}}] * 4
    chat = json.dumps({"model": "gpt-5-mini", "messages": [{"role": "user", "content": content}]})
    transcription = 25 * 1024 * 1024 + 1000  # the API's own limit on a recording, and the form around it
    assert 20_000_000 < len(chat) < int(limit)
    assert transcription < int(limit)


PARAMETERS = (BICEP / "main.bicepparam").read_text()
VARIABLES = dict(re.findall(r"readEnvironmentVariable\('(\w+)', '([^']*)'\)", PARAMETERS))


def test_azds_files_lead_to_what_is_there() -> None:
    project = yaml.safe_load((ROOT / "azure.yaml").read_text())
    assert project["metadata"]["template"] == f"tollgate@{__version__}"
    assert (ROOT / project["infra"]["path"] / f"{project['infra']['module']}.bicepparam").is_file()
    ((service, about),) = project["services"].items()
    (app,) = resources("public", "Microsoft.Web/sites")
    assert app.tags["azd-service-name"] == service
    assert (ROOT / about["project"] / "function_app.py").is_file()
    outputs = re.findall(r"^output (\w+) ", (BICEP / "main.bicep").read_text(), re.M)
    hooks = [*project["hooks"].values(), *about.get("hooks", {}).values()]
    asked = re.findall(r"\$\{?([A-Z_]{4,})", json.dumps(hooks))
    assert set(asked) <= {*outputs, *VARIABLES, "AZURE_ENV_NAME"}
    for script in re.findall(r"(?:infra|deploy|local)/[\w./-]+", json.dumps(hooks)):
        assert (ROOT / script).is_file(), script


def test_no_variable_of_azds_own_names_the_operator() -> None:
    """azd replaces AZURE_PRINCIPAL_ID with whoever is signed in, a pipeline included."""
    assert {name for name in VARIABLES if name.startswith("AZURE_")} == {"AZURE_ENV_NAME", "AZURE_LOCATION"}
    assert {name for name in VARIABLES if "OPERATOR_" in name} == {
        *("GATEWAY_OPERATOR_ID", "GATEWAY_OPERATOR_TYPE", "GATEWAY_OPERATOR_IPS"),
    }


def test_every_parameter_and_variable_is_in_the_guide() -> None:
    guide = Path(ROOT / "docs" / "deploy.md").read_text()
    named = re.findall(r"^(?:param|output) (\w+) ", (BICEP / "main.bicep").read_text(), re.M)
    assert [name for name in [*named, *VARIABLES] if f"`{name}`" not in guide] == []
    assert set(re.findall(r"azd env set (GATEWAY_\w+)", guide)) <= VARIABLES.keys()
