"""The queries of the workbook and the alerts are KQL, and ask for what the gateway exports and nothing else."""

import ast
import json
import re
import subprocess
from typing import Any

import pytest

from shared.telemetry import instruments
from tests.infra.snapshots import BICEP, ROOT, Resource, resources
from tests.telemetry.test_metrics import INSTRUMENTS

KUSTO = ROOT / "tests" / "infra" / "kusto"
WORKBOOK: dict[str, Any] = json.loads((BICEP / "workbook.json").read_text())
METRICS = {instrument.name: instrument for instrument in INSTRUMENTS}
RULES = {
    rule.name.partition("tollgate-")[2][14:]: rule
    for rule in resources("everything", "Microsoft.Insights/scheduledQueryRules")
}
# https://learn.microsoft.com/azure/azure-monitor/alerts/alerts-create-log-alert-rule
PERIODS = {"PT1M", "PT5M", "PT10M", "PT15M", "PT30M", "PT1H", "PT6H"}
_EVERYWHERE = (
    "timestamp: datetime, customDimensions: dynamic, operation_Id: string, operation_ParentId: string,"
    " operation_Name: string, cloud_RoleName: string, cloud_RoleInstance: string, itemCount: int, itemType: string"
)
_TIMED = "id: string, name: string, success: string, resultCode: string, duration: real, performanceBucket: string"
# https://learn.microsoft.com/azure/azure-monitor/app/data-model-complete, and the reference of each table
TABLES = {
    "customMetrics": f"({_EVERYWHERE}, name: string, value: real, valueCount: int, valueSum: real, valueMin: real,"
    " valueMax: real, valueStdDev: real)",
    "dependencies": f"({_EVERYWHERE}, {_TIMED}, target: string, type: string, data: string)",
    "requests": f"({_EVERYWHERE}, {_TIMED}, source: string, url: string)",
    "traces": f"({_EVERYWHERE}, message: string, severityLevel: int)",
    "_LogOperation": "(TimeGenerated: datetime, Category: string, Operation: string, Level: string, Detail: string)",
}


def strings(module: str) -> set[str]:
    tree = ast.parse((ROOT / "shared" / module).read_text())
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


ATTRIBUTES = strings("telemetry/spans.py") | {instruments.MODEL, instruments.BACKEND, instruments.REGION}


def query_of(rule: Resource) -> str:
    (criterion,) = rule.properties["criteria"]["allOf"]
    return str(criterion["query"])


QUERIES = {f"alert {name}": query_of(rule) for name, rule in RULES.items()} | {
    f"workbook {item['name']}": item["content"]["query"] for item in WORKBOOK["items"] if item["type"] == 3
}


@pytest.fixture(scope="module")
def parser() -> None:
    subprocess.run(["sh", "local/install.sh", "kusto"], cwd=ROOT, check=True)


def diagnostics(queries: list[str]) -> list[list[str]]:
    """The complaints of Microsoft's parser per query. A length of time replaces the parameter of a workbook."""
    request = {"tables": TABLES, "queries": [query.replace("{TimeRange:grain}", "5m") for query in queries]}
    done = subprocess.run(["node", "check.js"], cwd=KUSTO, input=json.dumps(request), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    messages: list[list[str]] = json.loads(done.stdout)
    return messages


def test_every_query_is_kql_over_the_tables_that_exist(parser: None) -> None:
    assert len(RULES) == 11
    assert len(QUERIES) >= 28
    faults = dict(zip(QUERIES, diagnostics(list(QUERIES.values())), strict=True))
    assert {name: messages for name, messages in faults.items() if messages} == {}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("customMetric | count", "does not refer to any known table"),
        ("customMetrics | where nam == 'x'", "does not refer to any known column"),
        ("customMetrics | summarize sum(value", "Expected: )"),
        ("customMetrics | where value", "must have the type bool"),
    ],
)
def test_the_parser_finds_a_fault(parser: None, query: str, message: str) -> None:
    assert any(message in fault for fault in diagnostics([query])[0])


def complaints(query: str) -> list[str]:
    """The names in a query that the gateway does not export."""
    table = query.strip().partition("\n")[0]
    asked = set(re.findall(r"customDimensions\['([^']+)'\]", query))
    known, problems = set[str](), list[str]()
    if table == "customMetrics":
        named = re.search(r"where name (?:== '([^']+)'|in \(([^)]*)\))", query)
        names = re.findall(r"[\w.]+", (named[1] or named[2]) if named else "")
        metrics = [METRICS[name] for name in names if name in METRICS]
        problems += [f"{name} is no metric" for name in names if name not in METRICS]
        problems += [] if names else ["no metric is named"]
        known |= {dimension for metric in metrics for dimension in metric.dimensions}
        if any(metric.kind != "histogram" for metric in metrics) and re.search(r"value(Max|Min|StdDev)", query):
            problems.append("only histograms have a smallest and a largest value")
    elif table == "union dependencies, requests":  # of calls on Azure Functions, and in containers
        known |= ATTRIBUTES
    problems += [f"{name} is no dimension" for name in sorted(asked - known)]
    for words in re.findall(r"result (?:==|in) \(?((?:'\w+'(?:, )?)+)", query):
        problems += [f"{word} is no result" for word in re.findall(r"\w+", words) if word not in ATTRIBUTES]
    return problems


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_asks_for_what_the_gateway_exports(name: str) -> None:
    assert complaints(QUERIES[name]) == []


@pytest.mark.parametrize(
    ("name", "right", "wrong", "complaint"),
    [
        ("alert throttled", "tollgate.attempts", "tollgate.tries", "tollgate.tries is no metric"),
        ("alert throttled", "tollgate.result", "tollgate.outcome", "tollgate.outcome is no dimension"),
        ("alert throttled", "'throttled'", "'busy'", "busy is no result"),
        ("alert safe-mode", "value >", "valueMax >", "only histograms have"),
        ("workbook outcomes", "error.type", "tollgate.result", "tollgate.result is no dimension"),
    ],
)
def test_a_question_for_something_else_is_found(name: str, right: str, wrong: str, complaint: str) -> None:
    assert right in QUERIES[name]
    assert any(complaint in problem for problem in complaints(QUERIES[name].replace(right, wrong)))


@pytest.mark.parametrize("name", RULES)
def test_a_rule_fires_once_for_each_row_of_its_query(name: str) -> None:
    about = RULES[name].properties
    (criterion,) = about["criteria"]["allOf"]
    assert about["displayName"]
    assert about["description"]
    assert about["severity"] <= 2
    assert {about["windowSize"], about["evaluationFrequency"]} <= PERIODS
    assert (criterion["timeAggregation"], criterion["operator"], criterion["threshold"]) == ("Count", "GreaterThan", 0)
    for dimension in criterion["dimensions"]:
        assert re.search(rf"\bby {dimension['name']}\b", criterion["query"])


@pytest.mark.parametrize("name", RULES)
def test_a_rule_can_be_created_in_an_empty_workspace(name: str) -> None:
    assert RULES[name].properties["skipQueryValidation"] is True
    (scope,) = RULES[name].properties["scopes"]
    kind = "workspaces/log" if "_LogOperation" in query_of(RULES[name]) else "components/appi"
    assert f"/{kind}-tollgate-" in scope


def test_the_error_budget_is_the_parameter() -> None:
    assert "calls * 10 * 14" in query_of(RULES["error-budget-fast"])
    assert "calls * 10 * 6" in query_of(RULES["error-budget-slow"])


def test_a_gateway_that_is_down_is_noticed_from_outside() -> None:
    (test,) = resources("everything", "Microsoft.Insights/webtests")
    (alert,) = resources("everything", "Microsoft.Insights/metricAlerts")
    assert test.properties["Enabled"] is True
    assert "/healthz" in test.properties["Request"]["RequestUrl"]
    assert test.id in alert.properties["scopes"]
    assert alert.properties["criteria"]["failedLocationCount"] < len(test.properties["Locations"])
    assert any(name.startswith("hidden-link:") for name in test.tags)


def test_no_alert_is_created_without_somebody_who_gets_it() -> None:
    for case in ("public", "private", "existing"):
        for kind in ("scheduledQueryRules", "metricAlerts", "webtests", "actionGroups"):
            assert resources(case, f"Microsoft.Insights/{kind}") == []


def test_a_budget_sends_messages_to_the_operators() -> None:
    (budget,) = resources("everything", "Microsoft.Consumption/budgets")
    assert (budget.properties["amount"], budget.properties["timeGrain"]) == (2000, "Monthly")
    assert {address for about in budget.properties["notifications"].values() for address in about["contactEmails"]} == {
        "operators@contoso.com"
    }


def test_deletions_and_accesses_to_secrets_and_models_are_logged() -> None:
    logged = {
        (re.findall(r"/providers/Microsoft\.(\w+)/", setting.id)[0], log["category"])
        for case in ("private", "everything")
        for setting in resources(case, "Microsoft.Insights/diagnosticSettings")
        for log in setting.properties["logs"]
    }
    assert logged == {("CognitiveServices", "Audit"), ("KeyVault", "AuditEvent"), ("Storage", "StorageDelete")}


def test_the_workbook_shows_what_an_operator_has_to_see() -> None:
    headings = re.findall(r'"## ([^"]+)"', (BICEP / "workbook.json").read_text())
    expected = ["Error budget", "Regions", "Throttling and limits", "Latency", "Tokens and cost"]
    assert [heading for heading in expected if heading not in headings] == []
    names = [item["name"] for item in WORKBOOK["items"]]
    assert len(set(names)) == len(names)


def test_the_workbook_opens_on_the_component() -> None:
    (workbook,) = resources("public", "Microsoft.Insights/workbooks")
    (component,) = resources("public", "Microsoft.Insights/components")
    assert json.loads(workbook.properties["serializedData"])["fallbackResourceIds"] == [component.id]
