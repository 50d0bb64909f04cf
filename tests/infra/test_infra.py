"""The Bicep files without their compiler, and what they must agree on with the code; every check meets a fault."""

import ast
import base64
import contextlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tree_sitter import Node

from shared.config import document as config
from shared.config import environment, parsing
from shared.config.document import Backend
from shared.errors import ConfigurationError
from tests.infra import evaluate
from tests.infra.bicep import (
    BICEP,
    ROOT,
    Template,
    body_of,
    complaints,
    inner_objects,
    is_name,
    literal,
    properties,
    text,
)

FILES = {path.name: path.read_text() for path in sorted(BICEP.glob("*.bicep"))}
# https://learn.microsoft.com/azure/role-based-access-control/built-in-roles
ROLES = {
    "5e0bd9bd-7b93-4f28-af87-19fc36ad61bd": "Cognitive Services OpenAI User",
    "4633458b-17de-408a-b874-0445c86b69e6": "Key Vault Secrets User",
    "3913510d-42f4-4e42-8a64-420c390055eb": "Monitoring Metrics Publisher",
    "43d0d8ad-25c7-4714-9337-8ba259a9fe05": "Monitoring Reader",
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
    "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": "Storage Blob Data Owner",
    "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3": "Storage Table Data Contributor",
}
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
# Read, but said where a collector is, as further settings; and a connection string with a key is not for here.
NOT_SET = {
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
    "alerts": r"[\w-]{1,60}",  # with the name of a rule behind it; 260 are allowed
    "app": r"[a-z0-9][a-z0-9-]{0,58}[a-z0-9]",
    "component": r"[\w.()-]{1,260}",
    "hostStorage": r"[a-z0-9]{3,24}",
    "identity": r"[A-Za-z0-9][\w-]{2,127}",
    "network": r"[A-Za-z0-9][\w.-]{0,62}\w",
    "plan": r"[A-Za-z0-9-]{1,40}",
    "stateStorage": r"[a-z0-9]{3,24}",
    "vault": r"[A-Za-z](?!.*--)[A-Za-z0-9-]{1,22}[A-Za-z0-9]",
    "workspace": r"[A-Za-z0-9][A-Za-z0-9-]{2,61}[A-Za-z0-9]",
}
GROUP = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg-test"
LONGEST = {"token": "a" * 13}  # uniqueString makes thirteen characters


def seeded(file: str, right: str, wrong: str) -> dict[str, str]:
    """The files with a fault in one of them."""
    assert FILES[file].count(right) >= 1, f"{file} has no {right!r}"
    return FILES | {file: FILES[file].replace(right, wrong, 1)}


def variable(files: Mapping[str, str], file: str, name: str) -> dict[str, Node]:
    """The object of a variable, in loops and functions or not."""
    declared = Template(file, files[file]).of("var")[name]
    return properties(next(inner_objects(declared.value)))


def test_nothing_is_wrong_with_the_files() -> None:
    assert complaints(FILES) == []


@pytest.mark.parametrize(
    ("file", "right", "wrong", "complaint"),
    [
        ("storage.bicep", "kind: 'StorageV2'", "kind: 'StorageV2", "does not parse"),
        ("storage.bicep", "allowSharedKeyAccess", "allowSharedKeyAcess", "no property allowSharedKeyAcess"),
        ("storage.bicep", "kind: 'StorageV2'", "kind: 'StorageV9'", "got 'StorageV9'"),
        ("storage.bicep", "allowBlobPublicAccess: false", "allowBlobPublicAccess: 'no'", "expected bool"),
        ("storage.bicep", "@2025-01-01' = {", "@1999-01-01' = {", "there is no schema of"),
        ("storage.bicep", "value: cidr", "valu: cidr", "no property valu"),
        ("function-app.bicep", "perInstanceConcurrency: per", "perInstanceConcurency: per", "perInstanceConcurency"),
        ("function-app.bicep", "instanceCount: always", "instances: always", "no property instances"),
        ("function-app.bicep", "serverFarmId: plan.id", "serverFarmId: plann.id", "plann is not defined"),
        ("openai.bicep", "customSubDomainName", "customSubdomainName", "no property customSubdomainName"),
        ("openai.bicep", "      name: model.sku\n", "", "needs name"),
        ("openai.bicep", "'private-endpoint.bicep'", "'privat-endpoint.bicep'", "there is no privat-endpoint.bicep"),
        (
            "openai.bicep",
            "import { assignment, deployment }",
            "import { assignment, deploymnt }",
            "is exported by no file",
        ),
        ("network.bicep", "registrationEnabled", "registrationsEnabled", "no property registrationsEnabled"),
        ("monitoring.bicep", "Application_Type: 'web'", "Application_Type: 'wep'", "got 'wep'"),
        ("monitoring.bicep", "location: location", "location: loction", "loction is not defined"),
        ("monitoring.bicep", "    Application_Type: 'web'\n", "", "needs Application_Type"),
        ("key-vault.bicep", "tenant()", "tenantt()", "tenantt is not defined"),
        ("main.bicep", "identityClientId: identity.outputs.clientId", "", "needs the parameter identityClientId"),
        ("main.bicep", "packageContainer: packageContainer", "package: 'x'", "has no parameter package"),
        ("main.bicep", "identity.outputs.clientId", "identity.outputs.client", "identity.bicep has no output client"),
        ("main.bicep", "group: 'blob'", "group: 7", "group of private-endpoint.bicep: expected string"),
        ("main.bicep", "network!.outputs.blobZoneId", "network!.outputs.blobZone", "has no output blobZone"),
        ("main.bicep", "param tags object = {}", "param tags object = {}\nparam tag object = {}", "never used"),
        ("main.bicep", "@description('Further tags of every resource.')\n", "", "param tags has no description"),
        ("main.bicep", "var token =", "var location = ''\nvar token =", "location is declared twice"),
    ],
)
def test_a_seeded_fault_is_found(file: str, right: str, wrong: str, complaint: str) -> None:
    assert any(complaint in found for found in complaints(seeded(file, right, wrong)))


def role_complaints(files: Mapping[str, str]) -> list[str]:
    """Ids of roles: only in types.bicep, each a known one under its own name."""
    given = {key: literal(value) or "" for key, value in variable(files, "types.bicep", "roles").items()}
    found = [
        f"{key}: {identifier} is no role of that name"
        for key, identifier in given.items()
        if ROLES.get(identifier, "").replace(" ", "").casefold() != key.casefold()
    ]
    guid = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
    found += [f"{name}: an id of its own" for name, s in files.items() if name != "types.bicep" and guid.search(s)]
    return found


def test_the_roles_are_the_built_in_ones_that_are_needed() -> None:
    assert role_complaints(FILES) == []
    assert role_complaints(seeded("types.bicep", "5e0bd9bd-7b93", "5e0bd9bd-7b94"))
    assert role_complaints(seeded("types.bicep", "5e0bd9bd-7b93-4f28-af87-19fc36ad61bd", next(reversed(ROLES))))
    assert role_complaints(seeded("types.bicep", "43d0d8ad-25c7", "43d0d8ad-25c8"))
    assert role_complaints(seeded("types.bicep", "ba92f5b4-2d11-453d-a403-e96b0029c9fe", next(iter(ROLES))))
    assert role_complaints(seeded("main.bicep", "roles.cognitive", "'25fbc0a9-bd7c-42a3-aa1a-3b75d497ee68' //"))


# What each module of main.bicep grants on its resource, and to whom, when charges are exported and somebody operates.
GRANTS = {
    "hostStorage": {("gateway", "Storage Blob Data Owner")},
    "stateStorage": {
        *((who, "Storage Table Data Contributor") for who in ("gateway", "operator")),
        *((who, "Storage Blob Data Contributor") for who in ("gateway", "operator")),  # export, reprice
    },
    "openAi": {("gateway", "Cognitive Services OpenAI User"), ("operator", "Monitoring Reader")},  # reconcile
    "openAiAccess": {("gateway", "Cognitive Services OpenAI User"), ("operator", "Monitoring Reader")},
}


def granted(files: Mapping[str, str], **parameters: Any) -> dict[str, dict[str, Any]]:
    """Module -> what it is given, of the ones that are given assignments. Roles stand there by their names."""
    roles = {key: ROLES[literal(value) or ""] for key, value in variable(files, "types.bicep", "roles").items()}
    known = {"roles": roles, "identity": {"outputs": {"principalId": "gateway"}}, "packageContainer": "packages"}
    given = {"environmentName": "test", "location": "x", **known, **parameters}
    template = Template("main.bicep", files["main.bicep"])
    scope = evaluate.scope_of(template, given)
    found: dict[str, dict[str, Any]] = {}
    for name in template.of("module"):
        params = properties(body_of(files, "main.bicep", "module", name)["params"])
        if "assignments" in params:
            wanted = params.keys() & {"assignments", "containers"}
            found[name] = {key: evaluate.expression(text(params[key]))(scope) for key in wanted}
    return found


def grant_complaints(files: Mapping[str, str]) -> list[str]:
    operator = {"operatorPrincipalId": "operator", "operatorPrincipalType": "Group"}
    full, bare = granted(files, exportContainer="costs", **operator), granted(files)
    found = [f"{name} is given other roles than it needs" for name in full if pairs(full[name]) != GRANTS.get(name)]
    found += [f"{name} grants nothing" for name in GRANTS.keys() - full.keys()]
    kinds = {(a["principalId"], a["principalType"]) for given in full.values() for a in given["assignments"]}
    if kinds != {("gateway", "ServicePrincipal"), ("operator", "Group")}:
        found.append(f"principals are {kinds}")
    found += [
        f"{name} is given {pairs(given)} where nobody operates and nothing is exported"
        for name, given in bare.items()
        if any(who != "gateway" or role == "Storage Blob Data Contributor" for who, role in pairs(given))
    ]
    if (full["stateStorage"].get("containers"), bare["stateStorage"].get("containers")) != (["costs"], []):
        found.append("the container of exported charges is not created where, and only where, it is wanted")
    for name in ("storage.bicep", "openai.bicep", "openai-access.bicep"):
        role = body_of(files, name, "resource", "role")
        kept = {key: text(node) for key, node in (role | properties(role["properties"])).items()}
        wanted = {
            "scope": "account",
            "principalId": "entry.principalId",
            "principalType": "entry.principalType",
            "name": "guid(account.id, entry.principalId, entry.roleId)",
            "roleDefinitionId": "subscriptionResourceId('Microsoft.Authorization/roleDefinitions', entry.roleId)",
        }
        found += [f"{name}: {key} of the role is {kept.get(key)}" for key in wanted if kept.get(key) != wanted[key]]
    return found


def pairs(given: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {(assignment["principalId"], assignment["roleId"]) for assignment in given["assignments"]}


def test_everybody_has_the_roles_that_their_commands_need_and_no_others() -> None:
    assert grant_complaints(FILES) == []
    main = "main.bicep"
    assert grant_complaints(
        seeded(main, "roleId: roles.storageBlobDataContributor", "roleId: roles.storageBlobDataOwner")
    )
    assert grant_complaints(seeded(main, "? [] : [roles.storageBlobDataContributor]", "? [] : []"))
    assert grant_complaints(seeded(main, "[roles.monitoringReader]", "[roles.monitoringMetricsPublisher]"))
    assert grant_complaints(seeded(main, "containers: empty(exportContainer) ? [] : [exportContainer]\n", ""))
    assert grant_complaints(
        seeded(main, "map(empty(operatorPrincipalId) ? [] : [roles.mon", "map(false ? [] : [roles.mon")
    )
    for module in ("openAi ", "openAiAccess "):
        before, found, after = FILES[main].partition(f"module {module}")
        without = before + found + after.replace("concat(operatorOfAccounts, [", "concat([], [", 1)
        assert grant_complaints({**FILES, main: without})
    for file in ("openai.bicep", "openai-access.bicep", "storage.bicep"):
        assert grant_complaints(seeded(file, "roleDefinitions', entry.roleId", "roleDefinitions', entry.principalId"))
    assert grant_complaints(seeded("storage.bicep", "principalType: entry.principalType", "principalType: 'User'"))


def test_the_roles_are_told_in_the_guide() -> None:
    guide = (ROOT / "docs" / "deploy.md").read_text()
    rows = {
        tuple(cell.strip() for cell in line.strip("|").split("|"))[:2] for line in guide.splitlines() if "|" in line
    }
    assert set().union(*GRANTS.values()) <= rows


class Recorder(dict[str, str]):
    """An environment that knows what it was asked for."""

    def __init__(self, **given: str) -> None:
        super().__init__(given)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


def what_the_code_reads(settings: Mapping[str, Node]) -> set[str]:
    """With the given settings present: those that decide which others are looked at are asked for, too."""
    document = {
        "backends": [{"name": "a", "endpoint": "https://a.openai.azure.com", "region": "x", "models": {"m": "m"}}]
    }
    insights = "InstrumentationKey=00000000-0000-0000-0000-000000000000"
    given = {"GATEWAY_CONFIG": json.dumps(document), "APPLICATIONINSIGHTS_CONNECTION_STRING": insights}
    environ = Recorder(**dict.fromkeys(settings, "x") | {name: given[name] for name in given.keys() & settings.keys()})
    with contextlib.suppress(ConfigurationError):  # it has looked for what it misses by then
        environment.load(environ)
    return environ.asked


def setting_complaints(files: Mapping[str, str]) -> list[str]:
    settings = variable(files, "function-app.bicep", "settings")
    read = what_the_code_reads(settings)
    found = [f"{name} is read by nobody" for name in settings.keys() - read - OF_THE_HOST]
    found += [f"{name} is not set" for name in (read | OF_THE_HOST) - settings.keys() - NOT_SET]
    site = properties(body_of(files, "function-app.bicep", "resource", "app")["properties"])
    misplaced = properties(site["siteConfig"]).keys() - SITE_CONFIG_ON_FLEX
    misplaced |= {name for name in settings if NOT_ON_FLEX.fullmatch(name)}
    found += [f"{name} must not be set on Flex Consumption" for name in misplaced]
    return found


def test_the_settings_of_the_app_are_what_the_code_and_the_host_read() -> None:
    assert setting_complaints(FILES) == []
    app = "function-app.bicep"
    assert setting_complaints(seeded(app, "GATEWAY_STORAGE__tableServiceUri", "GATEWAY_STORAGE__tableUri"))
    assert setting_complaints(
        seeded(app, "      minTlsVersion:", "      linuxFxVersion: 'PYTHON|3.13'\n      minTlsVersion:")
    )
    assert setting_complaints(seeded(app, "GATEWAY_MANAGEMENT_KEY", "GATEWAY_MANAGMENT_KEY"))
    assert setting_complaints(seeded(app, "  AzureWebJobsStorage__credential: 'managedidentity'\n", ""))
    assert setting_complaints(seeded(app, "AZURE_CLIENT_ID:", "FUNCTIONS_WORKER_RUNTIME: 'python'\n  AZURE_CLIENT_ID:"))


def document_complaints(files: Mapping[str, str]) -> list[str]:
    """The composed configuration: its keys are those that config.py knows, and no required one is missing."""
    found = [
        f"configuration.{key} is unknown"
        for key in variable(files, "main.bicep", "configuration").keys() - set(config.Configuration.__struct_fields__)
    ]
    required = {"name", "endpoint", "region", "models"}
    for name in ("standardBackends", "provisionedBackends", "existingBackends"):
        backend = variable(files, "main.bicep", name)
        found += [f"{name}.{key} is unknown" for key in backend.keys() - set(Backend.__struct_fields__)]
        found += [f"{name}.{key} is missing" for key in required - backend.keys()]
        said = literal(backend["kind"]) if "kind" in backend else None
        if said not in (None, "standard", "provisioned"):
            found.append(f"{name}.kind is {said}")
    account = body_of(files, "openai.bicep", "resource", "account")
    if text(properties(account["properties"])["customSubDomainName"]) != "name":
        found.append("the endpoint of an account is not made of its name")
    created = text(properties(body_of(files, "main.bicep", "module", "openAi")["params"])["name"])
    for name in ("standardBackends", "provisionedBackends"):
        if f"https://${{{created}}}.openai.azure.com" not in text(variable(files, "main.bicep", name)["endpoint"]):
            found.append(f"{name}.endpoint is not that of the account, {created}")
        if text(variable(files, "main.bicep", name)["resource_id"]) != f"'${{accountsId}}/${{{created}}}'":
            found.append(f"{name}.resource_id is not that of the account, {created}")
    return found


def test_the_composed_configuration_has_the_keys_that_the_gateway_reads() -> None:
    assert document_complaints(FILES) == []
    assert document_complaints(seeded("main.bicep", "data_zone: a.", "dataZone: a."))
    assert document_complaints(seeded("main.bicep", "  limits: limits\n  timeouts", "  limit: limits\n  timeouts"))
    assert document_complaints(seeded("main.bicep", "  region: a.region\n  data_zone", "  data_zone"))
    assert document_complaints(seeded("main.bicep", "kind: 'provisioned'", "kind: 'ptu'"))
    assert document_complaints(seeded("main.bicep", "name: take('oai-${a.name}", "name: take('aoai-${a.name}"))
    assert document_complaints(seeded("main.bicep", "${accountsId}/${take('oai-", "${accountsId}/${take('aoai-"))


def composed(files: Mapping[str, str], **parameters: Any) -> config.Configuration:
    """What main.bicep would set as GATEWAY_CONFIG."""
    given = {"environmentName": "test", "location": "swedencentral"} | parameters
    document = evaluate.variable(Template("main.bicep", files["main.bicep"]), "configuration", given)
    return parsing.parse(json.dumps(document), "GATEWAY_CONFIG")


def test_the_gateway_accepts_what_is_composed_of_the_parameters_file() -> None:
    parameters = json.loads((BICEP / "main.parameters.json").read_text())["parameters"]
    given = {name: parameters[name]["value"] for name in ("accounts", "existingAccounts", "models")}
    sweden, virginia = composed(FILES, **given).backends
    assert sweden == Backend(
        name="sweden",
        endpoint=f"https://oai-sweden-{evaluate.UNIQUE}.openai.azure.com",
        region="swedencentral",
        data_zone="eu",
        models={"gpt-5-mini": "gpt-5-mini"},
        resource_id=f"{GROUP}/providers/Microsoft.CognitiveServices/accounts/oai-sweden-{evaluate.UNIQUE}",
    )
    assert (virginia.name, virginia.region) == ("virginia", "eastus2")
    with pytest.raises(ConfigurationError, match="resource_id: expected"):
        composed(seeded("main.bicep", "var accountsId = '${subscription().id}", "var accountsId = '"), **given)
    with pytest.raises(ConfigurationError, match="expected https"):
        composed(seeded("main.bicep", "endpoint: 'https://", "endpoint: 'http://"), **given)


def test_provisioned_deployments_become_a_backend_that_goes_first_and_existing_accounts_join() -> None:
    deployments = [
        {"name": "chat", "model": "gpt-4o", "version": "1", "sku": "GlobalStandard", "capacity": 10},
        {
            "name": "ptu",
            "model": "gpt-4o",
            "alias": "chat",
            "version": "1",
            "sku": "ProvisionedManaged",
            "capacity": 50,
        },
    ]
    account = {"name": "sweden", "region": "swedencentral", "deployments": deployments, "weight": 3}
    identifier = f"{GROUP}/providers/Microsoft.CognitiveServices/accounts/contoso"
    existing = {"name": "old", "resourceId": identifier, "region": "eastus", "models": {"gpt-4o": "x"}, "priority": 2}
    read = composed(
        FILES,
        accounts=[account],
        existingAccounts=[existing],
        models={"gpt-4o": {"fallbacks": ["chat"]}},
        limits={"defaults": {"tokens_per_minute": 1000}},
        timeouts={"connect": 1},
        exportContainer="costs",
        billingAccount="Contoso",
    )
    provisioned, standard, old = read.backends
    assert (provisioned.name, provisioned.kind, provisioned.priority) == ("sweden-provisioned", "provisioned", 0)
    assert (provisioned.models, standard.models) == ({"chat": "ptu"}, {"gpt-4o": "chat"})
    assert (standard.priority, standard.weight, standard.endpoint) == (1, 3, provisioned.endpoint)
    assert (old.endpoint, old.api_version, old.priority) == ("https://contoso.openai.azure.com", "v1", 2)
    assert old.resource_id == identifier
    assert provisioned.resource_id == standard.resource_id != old.resource_id
    assert read.models["gpt-4o"].fallbacks == ["chat"]
    assert (read.export.container, read.export.billing_account) == ("costs", "Contoso")
    assert (read.limits.defaults.tokens_per_minute, read.timeouts.connect) == (1000, 1)


def test_the_endpoint_is_that_of_the_account_that_is_created() -> None:
    name = "n" * 32  # the longest that is allowed
    parameters = {"environmentName": "test", "location": "x", "a": {"name": name}}
    made = evaluate.expression(text(properties(body_of(FILES, "main.bicep", "module", "openAi")["params"])["name"]))
    assert re.fullmatch(
        r"[A-Za-z0-9][\w-]{0,62}[A-Za-z0-9]", made({**parameters, "token": evaluate.UNIQUE}.__getitem__)
    )


def name_complaints(files: Mapping[str, str]) -> list[str]:
    given = variable(files, "main.bicep", "names")
    found = [f"{name} has no rule" for name in given.keys() ^ NAME_RULES.keys()]
    return found + [
        f"{name}: {text(value)} is no valid name"
        for name, value in given.items()
        if name in NAME_RULES and not is_name(NAME_RULES[name], text(value)[1:-1], LONGEST)
    ]


def test_names_are_within_azures_rules() -> None:
    assert name_complaints(FILES) == []
    assert name_complaints(seeded("main.bicep", "'sttoll${token}'", "'st-toll${token}'"))
    assert name_complaints(seeded("main.bicep", "'sthost${token}'", "'stgatewayhost${token}'"))
    assert name_complaints(seeded("main.bicep", "'kv-toll-${token}'", "'kv-tollgate-${token}'"))
    assert name_complaints(seeded("main.bicep", "vault: 'kv", "keyVault: 'kv"))


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
    found = set()
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
                        found.add(constants.get((name, word)) or constants.get(imported.get(word, ("", ""))))
                    case [ast.Attribute(value=ast.Name(id=module), attr=word)]:
                        found.add(constants.get((".".join(imported.get(module, ("", ""))), word)))
                    case [ast.Constant(value=str(word))]:
                        found.add(word)
    return {str(table) for table in found if table}


def test_the_tables_that_are_created_are_those_that_the_gateway_keeps() -> None:
    """A new table with a fixed name belongs into `tables` of main.bicep's module stateStorage."""
    params = properties(body_of(FILES, "main.bicep", "module", "stateStorage")["params"])
    created = {literal(node) for node in params["tables"].named_children}
    shared = ROOT / "shared"
    paths = {".".join(path.relative_to(shared).with_suffix("").parts): path for path in shared.rglob("*.py")}
    sources = {name: path.read_text() for name, path in paths.items()}
    assert created == fixed_tables(sources)
    assert (
        fixed_tables({**sources, "new": "from shared.x import T as X\nX\nstore.table(X)", "x": "T = 'more'"}) > created
    )


def test_keys_are_off_and_deployments_are_made_one_by_one() -> None:
    sources = "".join(FILES.values())
    assert "allowSharedKeyAccess: false" in FILES["storage.bicep"]
    assert "disableLocalAuth: true" in FILES["openai.bicep"]
    assert "DisableLocalAuth: true" in FILES["monitoring.bicep"]
    assert not re.search(r"listKeys|listAccountSas|AccountKey|\.primaryKey", sources)
    models = Template("openai.bicep", FILES["openai.bicep"]).of("resource")["models"]
    assert models.decorators["batchSize"] == "1)"
    for template in (Template(name, source) for name, source in FILES.items()):
        for output in template.of("output").values():
            assert not {"managementKey", "secretSettings"} & set(re.findall(r"\w+", text(output.node)))
        for name, parameter in template.of("param").items():
            assert ("secure" in parameter.decorators) == (name in ("managementKey", "secretSettings"))


def test_the_hosts_limit_on_bodies_fits_what_teams_send_and_no_more_than_the_gateway_takes() -> None:
    (limit,) = re.findall(r"param requestBodyLimitBytes int = (\d+)", FILES["main.bicep"])
    assert int(limit) == config.Configuration(backends=[]).max_request_bytes
    photograph = "data:image/jpeg;base64," + base64.b64encode(bytes(4_000_000)).decode()  # of 12 megapixels
    content = [{"type": "image_url", "image_url": {"url": photograph}}] * 4
    chat = json.dumps({"model": "gpt-5-mini", "messages": [{"role": "user", "content": content}]})
    transcription = 25 * 1024 * 1024 + 1000  # the API's own limit on a recording, and the form around it
    assert 20_000_000 < len(chat) < int(limit)
    assert transcription < int(limit)


def test_the_runtime_is_the_projects_python() -> None:
    assert f"version: '{(ROOT / '.python-version').read_text().strip()}'" in FILES["function-app.bicep"]
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["python_version"] == "3.13"


def test_azds_files_lead_to_what_is_there() -> None:
    project = yaml.safe_load((ROOT / "azure.yaml").read_text())
    assert (ROOT / project["infra"]["path"] / f"{project['infra']['module']}.bicep").is_file()
    (service,) = project["services"]
    assert f"'azd-service-name': '{service}'" in FILES["function-app.bicep"]
    assert (ROOT / project["services"][service]["project"] / "function_app.py").is_file()
    main = Template("main.bicep", FILES["main.bicep"])
    given = json.loads((BICEP / "main.parameters.json").read_text())["parameters"]
    declared = main.of("param")
    assert given.keys() <= declared.keys()
    assert {name for name, parameter in declared.items() if parameter.required} <= given.keys()
    hooks = json.dumps(project["hooks"])
    for output in re.findall(r"\$(?:env:)?([A-Z_]{4,})", hooks):
        assert output in main.of("output")


def test_every_parameter_is_in_the_guide() -> None:
    guide = Path(ROOT / "docs" / "deploy.md").read_text()
    main = Template("main.bicep", FILES["main.bicep"])
    assert [name for name in [*main.of("param"), *main.of("output")] if f"`{name}`" not in guide] == []
