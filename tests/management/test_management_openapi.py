"""The OpenAPI document of the management API: valid, complete, and what the gateway answers."""

import re
from typing import Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from tests.harness.system import System, eventually

PATH = "/gateway/management/openapi.json"


def document(gateway: System) -> dict[str, Any]:
    answer = gateway.get(PATH)
    assert answer.status == 200
    openapi: dict[str, Any] = answer.json()
    return openapi


def resolved(whole: dict[str, Any], part: Any) -> Any:
    """A part without references."""
    if isinstance(part, list):
        return [resolved(whole, one) for one in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        at: Any = whole
        for step in part["$ref"].removeprefix("#/").split("/"):
            at = at[step]
        return resolved(whole, at)
    return {name: resolved(whole, one) for name, one in part.items()}


def test_every_operation_of_the_document_is_described_and_resolves(gateway: System) -> None:
    whole = document(gateway)
    assert whole["openapi"] == "3.1.0"
    ids = []
    for path, items in whole["paths"].items():
        for method, operation in resolved(whole, items).items():
            ids.append(operation["operationId"])
            assert operation["summary"], (method, path)
            named = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))
            for scheme in operation["security"]:
                assert scheme.keys() <= whole["components"]["securitySchemes"].keys()
            for answer in operation["responses"].values():
                assert answer["description"]
                for content in answer.get("content", {}).values():
                    Draft202012Validator.check_schema(content["schema"])
            for content in operation.get("requestBody", {"content": {}})["content"].values():
                Draft202012Validator.check_schema(content["schema"])
    assert len(set(ids)) == len(ids)


def test_every_path_of_the_gateway_is_in_the_document_and_the_other_way_round(gateway: System) -> None:
    whole = document(gateway)
    for path, items in whole["paths"].items():
        example = re.sub(r"\{\w+\}", "nobody", path)
        refused = gateway.manage("DELETE" if "delete" not in items else "OPTIONS", example)
        # a path of this API knows the methods that it does not have
        if refused.status == 405:
            allowed = {word.lower() for word in refused.headers["allow"].split(", ")} - {"head"}
            assert allowed == items.keys(), path
        else:
            assert refused.status in (200, 204, 401), (path, refused.status)
    assert {"/healthz", "/gateway/consumers", "/gateway/usage/me", PATH} <= whole["paths"].keys()


def test_every_body_has_a_type(gateway: System) -> None:
    whole = document(gateway)
    for path, items in whole["paths"].items():
        for method, operation in items.items():
            if path == "/gateway" or path.startswith("/gateway/page/"):
                continue  # files
            if method in ("put", "patch"):
                assert operation["requestBody"]["content"]["application/json"]["schema"], (method, path)
            for status, answer in operation["responses"].items():
                if status in ("200", "201"):
                    events = path == "/gateway/backends/events"
                    kind = "text/event-stream" if events else "application/json"
                    assert answer.get("content", {}).get(kind, {}).get("schema"), (method, path)


def test_the_document_is_for_operators(gateway: System) -> None:
    assert gateway.get(PATH, gateway.key).status == 401


def test_answers_are_as_the_document_says(gateway: System) -> None:
    whole = document(gateway)
    made = gateway.manage("POST", "/gateway/consumers", {"name": f"described on {gateway.edge}"})
    one = made.headers["location"]
    call = gateway.chat().headers["x-gateway-request-id"]
    eventually(lambda: gateway.get(f"/gateway/requests/{call}").status == 200)
    consumer, key = "/gateway/consumers/{consumer}", made.json()["keys"][0]["id"]
    for method, pattern, path, body in (
        ("GET", "/gateway/consumers", "/gateway/consumers?limit=5", None),
        ("GET", consumer, one, None),
        ("PATCH", consumer, one, {"limits": {"tokens_per_minute": 5, "request_quota": 9}, "expires": "2999-01-01"}),
        ("GET", f"{consumer}/keys", f"{one}/keys", None),
        ("POST", f"{consumer}/keys/{{key}}/rotate", f"{one}/keys/{key}/rotate", {"overlap_hours": 1}),
        ("GET", "/gateway/audit", "/gateway/audit?limit=5", None),
        ("GET", "/gateway/limits", "/gateway/limits", None),
        ("GET", "/gateway/limits/{consumer}", f"/gateway/limits/{one.rpartition('/')[2]}", None),
        ("GET", "/gateway/backends", "/gateway/backends", None),
        ("PUT", "/gateway/backends/{name}/drain", "/gateway/backends/japan/drain", {"for": "1s"}),
        ("DELETE", "/gateway/backends/{name}/drain", "/gateway/backends/japan/drain", None),
        ("GET", "/gateway/configuration", "/gateway/configuration", None),
        ("GET", "/gateway/configuration/versions", "/gateway/configuration/versions", None),
        ("GET", "/gateway/configuration/versions/{number}", "/gateway/configuration/versions/0", None),
        ("POST", "/gateway/configuration/validate", "/gateway/configuration/validate", {"heartbeat_seconds": 5}),
        ("POST", "/gateway/configuration/validate", "/gateway/configuration/validate", {"modles": 5}),
        ("GET", "/gateway/models", "/gateway/models", None),
        ("GET", "/gateway/products", "/gateway/products", None),
        ("GET", "/gateway/products/{name}", "/gateway/products/none", None),
        ("GET", "/gateway/teams", "/gateway/teams", None),
        ("GET", "/gateway/requests", "/gateway/requests?limit=20", None),
        ("GET", "/gateway/requests/{id}", f"/gateway/requests/{call}", None),
        ("GET", "/gateway/usage", "/gateway/usage", None),
        ("GET", "/gateway/operators/me", "/gateway/operators/me", None),
        ("GET", "/readyz", "/readyz", None),
        ("GET", "/healthz", "/healthz", None),
        ("DELETE", consumer, one, None),
        ("GET", consumer, one, None),
    ):
        answer = gateway.manage(method, path, body)
        operation = resolved(whole, whole["paths"][pattern][method.lower()])
        described = (
            operation["responses"].get(str(answer.status)) or operation["responses"][f"{answer.status // 100}XX"]
        )
        for content in described.get("content", {}).values():
            Draft202012Validator(content["schema"]).validate(answer.json())
    schema = resolved(whole, whole["paths"]["/gateway/consumers"]["post"]["responses"]["201"])
    Draft202012Validator(schema["content"]["application/json"]["schema"]).validate(made.json())
