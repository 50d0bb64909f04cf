"""Makes schemas.json: the published types of the resources that infra/bicep uses, trimmed to what a template may write.

    npm pack @azure/mcp-linux-x64@2.0.5 && tar xzf azure-mcp-linux-x64-2.0.5.tgz
    python -m tests.infra.fetch_schemas package/dist/azmcp

The program is Microsoft's (MIT licence) and needs no network for this. It knows one version of each resource type, and
not the ones in BY_HAND, which were written from their documentation.
"""

import json
import os
import subprocess
import sys
from typing import Any

from tests.infra.bicep import BICEP, SCHEMAS, Template

_TAGS = {"*": "string"}
BY_HAND: dict[str, Any] = {
    "Microsoft.Insights/actionGroups@2023-01-01": {
        "body": {"name": "string!", "location": "string!", "tags": "Tags", "properties": "ActionGroup"},
        "types": {
            "Tags": _TAGS,
            "ActionGroup": {"groupShortName": "string!", "enabled": "bool!", "emailReceivers": "EmailReceiver[]"},
            "EmailReceiver": {"name": "string!", "emailAddress": "string!", "useCommonAlertSchema": "bool"},
        },
    },
    "Microsoft.Insights/scheduledQueryRules@2023-12-01": {
        "body": {
            "name": "string!",
            "location": "string!",
            "tags": "Tags",
            "kind": "LogAlert | LogToMetric | string",
            "properties": "Rule!",
        },
        "types": {
            "Tags": _TAGS,
            "Rule": {
                "displayName": "string",
                "description": "string",
                "severity": "int",
                "enabled": "bool",
                "scopes": "string[]",
                "evaluationFrequency": "string",
                "windowSize": "string",
                "autoMitigate": "bool",
                "criteria": "Criteria",
                "actions": "Actions",
            },
            "Criteria": {"allOf": "Condition[]"},
            "Condition": {
                "query": "string",
                "timeAggregation": "Average | Count | Maximum | Minimum | Total | string",
                "metricMeasureColumn": "string",
                "operator": "Equals | GreaterThan | GreaterThanOrEqual | LessThan | LessThanOrEqual | string",
                "threshold": "int",
                "dimensions": "Dimension[]",
                "failingPeriods": "FailingPeriods",
            },
            "Dimension": {"name": "string!", "operator": "Exclude | Include | string!", "values": "string[]!"},
            "FailingPeriods": {"numberOfEvaluationPeriods": "int", "minFailingPeriodsToAlert": "int"},
            "Actions": {"actionGroups": "string[]", "customProperties": "Tags"},
        },
    },
    "Microsoft.Network/privateDnsZones@2020-06-01": {
        "body": {"name": "string!", "location": "string!", "tags": "Tags"},
        "types": {"Tags": {"*": "string"}},
    },
    "Microsoft.Network/privateDnsZones/virtualNetworkLinks@2020-06-01": {
        "body": {"name": "string!", "location": "string!", "tags": "Tags", "properties": "LinkProperties"},
        "types": {
            "Tags": {"*": "string"},
            "LinkProperties": {"registrationEnabled": "bool", "virtualNetwork": "SubResource"},
            "SubResource": {"id": "string"},
        },
    },
}
DEPTH = 6  # types that are deeper than this below a resource are not checked


def main(program: str) -> None:
    kinds = {kind for path in BICEP.glob("*.bicep") for kind in Template.read(path).resource_types()}
    found = {kind: BY_HAND.get(kind) or fetched(program, kind) for kind in sorted(kinds)}
    lines = [f"{json.dumps(kind)}: {json.dumps(schema, sort_keys=True)}" for kind, schema in found.items()]
    SCHEMAS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def fetched(program: str, kind: str) -> dict[str, Any]:
    name, _, version = kind.partition("@")
    environment = os.environ | {"AZURE_MCP_COLLECT_TELEMETRY": "false"}
    command = [program, "bicepschema", "get", "--resource-type", name]
    answer = json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    published = answer["results"]["BicepSchemaResult"]
    resource = next(entry for entry in published if entry["$type"] == "Resource" and entry["name"].startswith(name))
    if resource["name"] != kind:
        sys.exit(f"{kind}: the program knows {resource['name']} only; use that version ({version} is another)")
    return trimmed(resource["bodyType"], {entry["name"]: entry for entry in published if "properties" in entry})


def trimmed(body: dict[str, Any], objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """`!` after a type: the property is required."""
    types: dict[str, dict[str, str]] = {}
    first = properties(body)
    level = first
    for _ in range(DEPTH):
        names = {kind.rstrip("!").removesuffix("[]") for kind in level.values()} - types.keys()
        level = {}
        for name in sorted(names & objects.keys()):
            types[name] = properties(objects[name])
            level |= {f"{name}.{key}": kind for key, kind in types[name].items()}
    return {"body": first, "types": types}


def properties(entry: dict[str, Any]) -> dict[str, str]:
    if entry["$type"] == "DiscriminatedObject":  # by name, such as the kinds of Microsoft.Web/sites/config
        merged: dict[str, str] = {}
        for element in [{"$type": "Object", "properties": entry["baseProperties"]}, *entry["elements"]]:
            for key, kind in properties(element).items():
                merged[key] = kind if merged.get(key, kind) == kind else "any"
        return merged
    kept = {
        item["name"]: item["type"] + ("!" if "Required" in item.get("flags", "") else "")
        for item in entry["properties"]
        if "ReadOnly" not in item.get("flags", "")
    }
    if "additionalPropertiesType" in entry:
        kept["*"] = entry["additionalPropertiesType"]
    return kept


if __name__ == "__main__":
    main(sys.argv[1])
