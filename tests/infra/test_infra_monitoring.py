"""The workbook's and the alerts' questions ask for what the gateway tells, and for nothing else."""

import ast
import json
import re
from collections.abc import Iterator

import pytest

from shared.telemetry import instruments
from tests.infra.bicep import BICEP, ROOT

ALERTS = (BICEP / "alerts.bicep").read_text()
WORKBOOK = (BICEP / "workbook.json").read_text()
METRICS = {instrument.name: set(instrument.dimensions) for instrument in instruments.INSTRUMENTS}
# https://learn.microsoft.com/azure/azure-monitor/alerts/alerts-create-log-alert-rule
PERIODS = {"PT1M", "PT5M", "PT10M", "PT15M", "PT30M", "PT1H", "PT6H"}


def strings(module: str) -> set[str]:
    tree = ast.parse((ROOT / "shared" / module).read_text())
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


ATTRIBUTES = strings("telemetry/spans.py") | {instruments.MODEL, instruments.BACKEND, instruments.REGION}


def alert_queries(source: str) -> Iterator[str]:
    yield from re.findall(r"'''\n(.*?)'''", source, re.S)


def workbook_queries(source: str) -> Iterator[str]:
    for item in json.loads(source)["items"]:
        if item["type"] == 3:
            yield item["content"]["query"]


def complaints(query: str) -> list[str]:
    found = []
    for left, right in ("()", "[]", "{}"):
        if query.count(left) != query.count(right):
            found.append(f"{left} and {right} do not match")
    table = query.strip().partition("\n")[0]
    asked = set(re.findall(r"customDimensions\['([^']+)'\]", query))
    if table == "customMetrics":
        named = re.search(r"where name (?:== '([^']+)'|in \(([^)]*)\))", query)
        names = re.findall(r"[\w.]+", (named[1] or named[2]) if named else "")
        found += [f"{name} is told by nobody" for name in names if name not in METRICS]
        found += [] if names else ["no metric is named"]
        known = set().union(*(METRICS.get(name, set()) for name in names))
    elif table == "dependencies":
        known = ATTRIBUTES
    else:
        known = set()
        found += [] if table == "traces" else [f"there is no table {table}"]
    found += [f"{name} is told by nobody there" for name in asked - known]
    for words in re.findall(r"result (?:==|in) \(?((?:'\w+'(?:, )?)+)", query):
        found += [f"{word} is no result" for word in re.findall(r"\w+", words) if word not in ATTRIBUTES]
    return found


def all_complaints(alerts: str, workbook: str) -> list[str]:
    return [c for query in (*alert_queries(alerts), *workbook_queries(workbook)) for c in complaints(query)]


def test_every_question_asks_for_what_is_told() -> None:
    assert len([*alert_queries(ALERTS)]) >= 8
    assert len([*workbook_queries(WORKBOOK)]) >= 15
    assert all_complaints(ALERTS, WORKBOOK) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("tollgate.attempts", "tollgate.tries"),
        ("tollgate.result", "tollgate.outcome"),
        ("'throttled'", "'busy'"),
        ("customMetrics\n", "customMetric\n"),
        ("gen_ai.client.operation.duration", "gen_ai.server.request.duration"),
        ("sum(value)", "sum(value"),
    ],
)
def test_a_seeded_fault_is_found(right: str, wrong: str) -> None:
    workbook = WORKBOOK.replace(json.dumps(right)[1:-1], json.dumps(wrong)[1:-1])
    for changed in ((ALERTS.replace(right, wrong), WORKBOOK), (ALERTS, workbook)):
        assert all_complaints(*changed)


def test_an_alert_knows_what_it_is_about() -> None:
    rules = re.findall(
        r"\n    name: '([\w-]+)'\n    title: '[^\n]+'\n    about: '[^\n]+'\n    severity: (\d)\n"
        r"    window: '(\w+)'\n    frequency: '(\w+)'\n    dimension: '(\w*)'\n    query: [^']*'''\n(.*?)'''",
        ALERTS, re.S,
    )  # fmt: skip
    assert len(rules) == len([*alert_queries(ALERTS)])
    assert len({name for name, *_ in rules}) == len(rules)
    for name, severity, window, frequency, dimension, query in rules:
        assert int(severity) <= 4, name
        assert {window, frequency} <= PERIODS, name
        assert not dimension or re.search(rf"\bby {dimension}\b", query), name
        assert not re.search(r"\{|\}", query), name


def test_what_an_operator_has_to_see_is_on_the_page() -> None:
    headings = re.findall(r'"## ([^"]+)"', WORKBOOK)
    wanted = ["Error budget", "Regions", "Throttling and limits", "Latency", "Tokens and cost"]
    assert [heading for heading in wanted if heading not in headings] == []
    names = [item["name"] for item in json.loads(WORKBOOK)["items"]]
    assert len(set(names)) == len(names)
