"""The configuration: errors stop the start and name the path; samples and documents agree with the code."""

import ast
import itertools
import json
import re
import time
import typing
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.config import alerting, callers, environment, parsing, residency
from shared.config import document as config
from shared.config.document import Backend
from shared.config.limits import AddressLimits, Limits, LimitSettings, TokenHeaders
from shared.config.prices import PriceLine
from shared.errors import ConfigurationError
from shared.versions.live import READ_AT_THE_START

ROOT = Path(__file__).resolve().parents[2]
STORAGE = {"GATEWAY_STORAGE": "UseDevelopmentStorage=true"}
GOOD: dict[str, Any] = {
    "backends": [
        {"name": "a", "endpoint": "https://a.openai.azure.com", "region": "r", "models": {"m": "m1", "n": "n1"}},
        {"name": "b", "endpoint": "http://127.0.0.1:8001", "region": "r", "models": {"m": "m2"}},
    ],
    "models": {"m": {"aliases": ["m-2024"], "fallbacks": ["n"]}},
}


T = "11111111-2222-3333-4444-555555555555"


def entra(*callers: Any, **more: Any) -> dict[str, Any]:
    return {"tenants": [T], "audiences": ["api://tollgate"], "callers": list(callers), **more}


def changed(path: str, value: Any) -> str:
    """The good document with one value replaced, or removed if the new one is `...`."""
    document = json.loads(json.dumps(GOOD))
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    place = document
    for part in parents:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(document)


CLAUDE = {**GOOD["backends"][1], "name": "c", "models": {"claude": "claude-prod", "gpt": "gpt-prod"}}


def complaint_about(backends: list[dict[str, Any]], **more: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parsing.parse(json.dumps({"backends": backends, **more}), "t")
    return str(caught.value)


def test_a_model_has_the_api_of_its_name_or_of_its_settings() -> None:
    own = {**OPENAI, "kind": "anthropic", "name": "own", "models": {"opus": "opus-5"}}
    document = {"backends": [CLAUDE, own], "models": {"gpt": {"format": "anthropic"}}}
    assert parsing.parse(json.dumps(document), "t").anthropic == {"claude", "gpt", "opus"}
    assert parsing.parse(json.dumps({"backends": [CLAUDE]}), "t").anthropic == {"claude"}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"fallbacks": ["gpt"]}, "models.claude.fallbacks[0]: expected a model of the same API, got 'gpt'"),
        ({"canary": {"model": "gpt", "share": 0.1}}, "models.claude.canary.model: expected a model of the same API"),
        ({"shadow": {"model": "gpt", "share": 0.1}}, "models.claude.shadow.model: expected a model of the same API"),
        (
            {"replaced_by": {"model": "gpt", "from": "2027-01-01"}},
            "replaced_by.model: expected a model of the same API",
        ),
    ],
)
def test_models_of_two_apis_do_not_take_each_others_calls(settings: dict[str, Any], complaint: str) -> None:
    assert complaint in complaint_about([CLAUDE], models={"claude": settings})


def test_claude_is_refused_where_azure_does_not_serve_it() -> None:
    elsewhere = {**CLAUDE, "endpoint": "https://contoso.openai.azure.com"}
    assert "endpoint: expected https://NAME.services.ai.azure.com, where Azure serves 'claude'" in complaint_about(
        [elsewhere]
    )
    own = {**OPENAI, "kind": "anthropic", "models": {"opus": "opus-5"}}
    assert "models.opus.format: the backend" in complaint_about([own], models={"opus": {"format": "openai"}})


OPENAI = {
    "name": "o",
    "endpoint": "https://api.openai.com",
    "kind": "openai",
    "auth": {"api_key_env": "OPENAI_KEY"},
    "models": {"m": "gpt-4o", "tuned": "ft:gpt-4.1-mini-2025-04-14:contoso::B2x"},
}


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("auth", "managed_identity", "auth: expected {api_key_env: NAME} with kind: openai, which takes no managed"),
        ("token_scope", "x", "token_scope: not allowed with kind: openai, which has no tokens of Entra ID"),
        ("api_version", "2024-10-21", "api_version: not allowed with kind: openai, which has no dated API"),
        ("data_zone", "eu", "data_zone: not allowed with kind: openai, which has no data zones"),
        ("deployment", "regional", "deployment: not allowed with kind: openai, which has no types of deployments"),
        ("capacity", [{"model": "m", "units": 1, "from": "2026-01-01"}], "capacity: expected kind: provisioned"),
        ("models", {"m": "a/b"}, "models.m: expected the name of a model, got 'a/b'"),
    ],
)
def test_a_backend_of_openais_takes_a_key_and_nothing_of_azures(key: str, value: Any, complaint: str) -> None:
    good = {**GOOD, "backends": [*GOOD["backends"], OPENAI]}
    backend = parsing.parse(json.dumps(good), "t").backends[2]
    assert (backend.api, backend.region, backend.provisioned) == ("openai", "openai", False)
    with pytest.raises(ConfigurationError) as caught:
        parsing.parse(json.dumps({**good, "backends": [*GOOD["backends"], {**OPENAI, key: value}]}), "t")
    assert str(caught.value).startswith(f"t: backends[2].{complaint}")


def test_the_type_of_a_deployment_is_its_own_or_that_of_its_backend() -> None:
    models = {"m": {"deployment": "m1", "type": "data_zone"}, "n": "n1", "o": {"deployment": "o1"}}
    cases: list[tuple[dict[str, Any], str | None]] = [({}, None), ({"deployment": "regional"}, "regional")]
    for given, others in cases:
        backend = {**GOOD["backends"][0], "models": models, **given}
        read = parsing.parse(json.dumps({"backends": [backend]}), "t").backends[0]
        assert read.deployments == {"m": "m1", "n": "n1", "o": "o1"}
        assert [read.type_of(model) for model in "mno"] == ["data_zone", others, others]
        assert [read.priced_as(model) for model in "mno"] == ["data_zone", *2 * [others or "global"]]


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ({"deployment": "x", "type": "zone"}, "models.m.type: Invalid enum value 'zone'"),
        ({"type": "global"}, "models.m: Object missing required field `deployment`"),
        ({"deployment": "x", "kind": "y"}, "models.m: Object contains unknown field `kind`"),
        ({"deployment": "x y"}, "models.m: expected the name of a deployment, got 'x y'"),
        (7, "models.m: Expected `str | object`, got `int`"),
    ],
)
def test_a_wrong_deployment_of_a_model_is_named(model: object, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parsing.parse(changed("backends/0/models", {"m": model, "n": "n1"}), "t")
    assert str(caught.value).startswith("t: backends[0]." + complaint)


def test_the_document_is_warned_of_where_it_leaves_a_place_open() -> None:
    zone, plain = {"data_zone": "eu"}, {"m": "m1"}
    mixed = {"m": {"deployment": "m1", "type": "global"}, "n": {"deployment": "n1", "type": "data_zone"}}

    def warned(first: dict[str, Any], **more: Any) -> list[str]:
        backend = {**GOOD["backends"][0], "models": plain, **first}
        return list(residency.warnings(parsing.parse(json.dumps({"backends": [backend], **more}), "t")))

    assert warned({}) == []
    assert warned({"deployment": "regional", **zone}) == []
    [contradiction] = warned({"models": mixed, **zone})
    assert contradiction.startswith("backend a: it has the data_zone eu, but its deployments of m are global")
    [unset] = warned(zone)
    assert unset.startswith("backend a: its deployments of m have no type")
    assert warned({}, products={"p": {"regions": ["r"]}}) == [unset]
    assert warned({}, teams={"t": {"regions": ["r"]}}) == [unset]
    assert warned({}, entra=entra({"app": T, "regions": ["r"]})) == [unset]
    assert warned({"deployment": "global"}, products={"p": {"regions": ["r"]}}) == []


def test_no_key_can_be_limited_to_openai() -> None:
    good = {**GOOD, "backends": [*GOOD["backends"], OPENAI], "products": {"p": {"regions": ["openai"]}}}
    with pytest.raises(ConfigurationError, match="expected the region of a backend, got 'openai'"):
        parsing.parse(json.dumps(good), "t")


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("backends", [], "backends: expected at least one backend"),
        ("backends", ..., "document: Object missing required field `backends`"),
        ("extra", 1, "document: Object contains unknown field `extra`"),
        ("backends/0/color", "red", "backends[0]: Object contains unknown field `color`"),
        ("backends/1/weight", "2", "backends[1].weight: Expected `int`, got `str`"),
        ("backends/1/weight", 0, "backends[1].weight: Expected `int` >= 1, got 0"),
        ("backends/1/priority", -1, "backends[1].priority: Expected `int` >= 0, got -1"),
        ("backends/1/name", "a", "backends[1].name: expected a unique name, but backends[0] is also 'a'"),
        ("backends/1/name", "a b", "backends[1].name: expected letters"),
        ("backends/0/endpoint", "http://a.openai.azure.com", "backends[0].endpoint: expected https"),
        ("backends/0/endpoint", "https://a.openai.azure.com/openai", "backends[0].endpoint: expected https"),
        ("backends/0/endpoint", "https://user:pw@a.com", "backends[0].endpoint: expected https"),
        ("backends/0/endpoint", "https://a:99999", "backends[0].endpoint: expected https"),
        ("backends/0/endpoint", "http://127.0.0.1.evil.com", "backends[0].endpoint: expected https"),
        ("backends/0/endpoint", "https:// x y", "backends[0].endpoint: expected https"),
        ("backends/0/region", "", "backends[0].region: expected"),
        ("backends/0/api_version", "2024", "backends[0].api_version: expected v1 or a dated version"),
        ("backends/0/kind", "cheap", "backends[0].kind: Invalid enum value 'cheap'"),
        ("backends/0/auth", "password", "backends[0].auth: Invalid value, which is not shown"),
        ("backends/0/auth", {"api_key": "x"}, "backends[0].auth: Object contains unknown field `api_key`"),
        ("backends/0/models", {}, "backends[0].models: expected at least one"),
        ("backends/0/models", {"m/n": "x"}, "backends[0].models: expected names"),
        ("backends/0/models", {"m": "x y", "n": "n"}, "backends[0].models.m: expected the name of a deployment"),
        ("models/zzz", {}, "models.zzz: expected a model of a backend, but no backend has 'zzz'"),
        ("models/m/fallbacks", ["zzz"], "models.m.fallbacks[0]: expected a model of a backend, got 'zzz'"),
        ("models/m/fallbacks", ["m"], "models.m.fallbacks[0]: expected another model"),
        ("models/m/aliases", ["n"], "models.m.aliases[0]: expected a new name"),
        (
            "models/n",
            {"aliases": ["m-2024"]},
            "models.n.aliases[0]: expected a new name, but 'm-2024' is an alias of m",
        ),
        ("timeouts", {"total": 300}, "timeouts.total: Expected `float` <= 220.0, got 300"),
        ("timeouts", {"first_byte": 0}, "timeouts.first_byte: Expected `float` > 0.0, got 0"),
        ("timeouts", {"connect": float("nan")}, "timeouts.connect: Expected `float` > 0.0, got nan"),
        ("max_request_bytes", 10, "max_request_bytes: Expected `int` >= 1024, got 10"),
        ("heartbeat_seconds", 0.01, "heartbeat_seconds: expected 0 (never) or at least 0.05, got 0.01"),
        ("ledger", {"overflow_bytes": 5}, "ledger.overflow_bytes: expected 0 (none) or at least 1000000 bytes, got 5"),
        ("ledger", {"keep_months": 1}, "ledger.keep_months: expected 0 (forever) or at least 2"),
        ("prices", [{"model": "m", "input": 2e6}], "prices[0].input: Expected `float` <= 1000000.0, got 2000000.0"),
        (
            "backends/1/tokens_per_minute",
            {"m": 1, "x": 0},
            "backends[1].tokens_per_minute.x: Expected `int` >= 1, got 0",
        ),
        ("backends/1/tokens_per_minute", {"x": 1}, "backends[1].tokens_per_minute.x: expected a model of this backend"),
        ("models/n", {"canary": {"model": "m", "share": 0}}, "models.n.canary.share: Expected `float` > 0.0, got 0"),
        (
            "limits",
            {"teams": {"a": {}, "b": {"token_quota": 1}, "c d": {"token_quota": -1}, "e": {"token_quota": -2}}},
            "limits.teams.c d.token_quota: Expected `int` >= 0, got -1",
        ),
        ("limits", {"teams": {"a": {}, "b": 3}}, "limits.teams.b: Expected `object`, got `int`"),
        (
            "limits",
            {"teams": {"a": {"time_zone": "Mars"}}},
            "limits.teams.a.time_zone: expected the name of a time zone",
        ),
        ("products", {"p": {"models": ["zzz"]}}, "products.p.models: expected a model of a backend, or an alias, got"),
        ("products", {"p": {"regions": ["mars"]}}, "products.p.regions: expected the region of a backend, got 'mars'"),
        ("products", {"p": {"data_zones": ["x"]}}, "products.p.data_zones: expected the data zone of a backend"),
        ("products", {"p q": {}}, "products: expected names of letters, digits, '.', '_' or '-', 64 at most, got"),
        ("products", {"p": {"shared_limits": {"time_zone": "Mars"}}}, "products.p.shared_limits.time_zone: expected"),
        ("products", {"p": {"limits": {"budget_usd": -1}}}, "products.p.limits.budget_usd: Expected `float` >= 0"),
        ("teams", {"a/b": {}}, "teams: expected names of letters"),
        (
            "teams",
            {"a": {"models": ["nothing"]}},
            "teams.a.models: expected a model of a backend, or an alias, got 'nothing'",
        ),
        ("teams", {"a": {"regions": []}}, "teams.a.regions: expected at least one; leave the key out to allow all"),
        ("teams", {"a": {"owners": ["anna@contoso.com"]}}, "teams.a.owners: expected object ids of users or groups"),
        ("end_users", {"header": "X User"}, "end_users.header: expected the name of a header"),
        ("limits", {"users": {"time_zone": "Mars"}}, "limits.users.time_zone: expected the name of a time zone"),
        ("cors", {"origins": ["https://a.example/"]}, "cors.origins[0]: expected an origin"),
        ("cors", {"origins": ["*", "a.example"]}, "cors.origins[1]: expected an origin"),
        ("entra", {"audiences": ["a"]}, "entra: Object missing required field `tenants`"),
        ("entra", {"tenants": [], "audiences": ["a"]}, "entra.tenants: expected at least one tenant"),
        ("entra", {"tenants": [T], "audiences": []}, "entra.audiences: expected at least one audience"),
        ("entra", {"tenants": ["contoso.com"], "audiences": ["a"]}, "entra.tenants[0]: expected the id of a tenant"),
        ("entra", {"tenants": [T], "audiences": ["a b"]}, "entra.audiences[0]: expected api://NAME"),
        ("entra", entra(authority="http://login.example"), "entra.authority: expected https"),
        ("entra", entra(authority="http://login"), "entra.authority: expected https://login.microsoftonline.com"),
        ("entra", entra(authority="https://login.example/common"), "entra.authority: expected https"),
        ("entra", entra({}), "entra.callers[0]: expected at least one of app_role, group, app, object"),
        ("entra", entra({"app_role": "x y"}), "entra.callers[0].app_role: expected the value of an app role"),
        ("entra", entra() | {"page_client_id": "page"}, "entra.page_client_id: expected the id of an application as a"),
        ("entra", entra({"group": "admins"}), "entra.callers[0].group: expected an id as a GUID, got 'admins'"),
        ("entra", entra({"app": T, "object": "me"}), "entra.callers[0].object: expected an id as a GUID"),
        ("entra", entra({"app": T, "team": "x"}), "entra.callers[0].team: expected one of teams, which is empty"),
        ("entra", entra({"app": T, "models": []}), "entra.callers[0].models: expected at least one"),
        (
            "entra",
            entra({"app": T, "models": ["m-2024", "x"]}),
            "entra.callers[0].models[1]: expected one of m, m-2024",
        ),
        ("entra", entra({"app": T, "regions": ["x"]}), "entra.callers[0].regions[0]: expected one of r, got 'x'"),
        ("entra", entra({"app": T, "data_zones": ["eu"]}), "entra.callers[0].data_zones[0]: expected one of none"),
        ("entra", entra({"app": T, "product": ""}), "entra.callers[0].product: expected one of products, which is"),
        ("entra", entra({"app": T, "limits": {"time_zone": "Mars"}}), "entra.callers[0].limits.time_zone: expected"),
        ("entra", entra({"app": T, "limit": {}}), "entra.callers[0]: Object contains unknown field `limit`"),
        ("entra", entra({"app": T}, {"app": T, "team": None}), "entra.callers[1]: duplicate of"),
        ("client_address", {"hops": 11}, "client_address.hops: Expected `int` <= 10, got 11"),
    ],
)
def test_an_error_names_the_path_of_the_key(path: str, value: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parsing.parse(changed(path, value), "gateway.yaml")
    assert f"gateway.yaml: {complaint}" in str(caught.value)


def test_a_team_has_its_limits_in_one_of_the_two_sections() -> None:
    both = json.loads(changed("limits", {"teams": {"old": {"token_quota": 1}, "both": {}}}))
    both["teams"] = {"new": {"limits": {"token_quota": 2}}}
    assert parsing.parse(json.dumps(both), "x").team_limits == {
        "old": Limits(token_quota=1),
        "both": Limits(),
        "new": Limits(token_quota=2),
    }
    both["teams"]["both"] = {}
    with pytest.raises(ConfigurationError, match=r"teams.both: expected each team in one place, but limits.teams also"):
        parsing.parse(json.dumps(both), "x")


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("backends: [", "is neither YAML nor JSON: line 2"),
        ("a: 1\na: 2", "duplicate key 'a'"),
        ('{"backends": [{"name": "a", "name": "b"}]}', "duplicate key 'name'"),
        ("1: x", "the key 1 is not a string"),
        ("just text", "document: Expected `object`, got `str`"),
        ("", "document: Expected `object`, got `null`"),
        ("[" * 5000, "is "),
        ("!!python/object/apply:os.system [id]", "is neither YAML nor JSON"),
    ],
)
def test_an_unreadable_document_is_rejected_with_the_place(document: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parsing.parse(document, "gateway.yaml")
    assert complaint in str(caught.value)


def test_yaml_has_no_dates_and_json_may_have_tabs() -> None:
    yaml = "backends:\n- {name: a, endpoint: https://a, region: r, api_version: 2024-10-21, models: {m: m}}"
    assert parsing.parse(yaml, "x").backends[0].api_version == "2024-10-21"
    assert parsing.parse(json.dumps(GOOD, indent="\t"), "x") == parsing.parse(json.dumps(GOOD), "x")


def test_all_complaints_are_reported_at_once() -> None:
    document = json.loads(changed("backends/0/region", ""))
    document["models"]["m"]["fallbacks"] = ["zzz"]
    with pytest.raises(ConfigurationError) as caught:
        parsing.parse(json.dumps(document), "x")
    assert len(str(caught.value).splitlines()) == 2
    assert [(one.source, one.path) for one in caught.value.complaints] == [
        ("x", "backends[0].region"),
        ("x", "models.m.fallbacks[0]"),
    ]


def test_the_document_is_read_from_a_file_or_from_the_variable_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(GOOD))
    from_file = environment.load({**STORAGE, "GATEWAY_CONFIG": str(path)})
    assert from_file == environment.load({**STORAGE, "GATEWAY_CONFIG": json.dumps(GOOD)})
    assert from_file.configuration.model_names() == ["m", "n"]


def test_a_relative_path_is_found_in_the_working_directory_and_then_beside_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # Azure Functions reads it in another folder than the app's
    beside_the_app = environment.load({**STORAGE, "GATEWAY_CONFIG": "gateway.sample.yaml", "EASTUS_KEY": "x"})
    assert len(beside_the_app.configuration.backends) > 1
    (tmp_path / "gateway.sample.yaml").write_text(json.dumps(GOOD))
    here = environment.load({**STORAGE, "GATEWAY_CONFIG": "gateway.sample.yaml"})
    assert here == environment.load({**STORAGE, "GATEWAY_CONFIG": json.dumps(GOOD)})


def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"copy gateway\.sample\.yaml"):
        environment.load({**STORAGE, "GATEWAY_CONFIG": str(tmp_path / "none.yaml")})


def test_a_backends_key_comes_from_the_environment_or_stops_the_start() -> None:
    document = changed("backends/0/auth", {"api_key_env": "A_KEY"})
    assert environment.load({**STORAGE, "GATEWAY_CONFIG": document, "A_KEY": "secret"}).api_keys == {"a": "secret"}
    for wrong in ({}, {"A_KEY": ""}, {"A_KEY": "secret\n"}):
        with pytest.raises(ConfigurationError, match=r"backends\[0\]\.auth\.api_key_env: .* A_KEY is not") as caught:
            environment.load({**STORAGE, "GATEWAY_CONFIG": document, **wrong})
        assert "secret" not in str(caught.value)


def test_a_stream_ends_before_the_functions_host_kills_its_worker() -> None:
    """Its timeout of 30 minutes, which host.json leaves to the plan, begins before the body is read."""
    timeouts = config.Timeouts()
    assert timeouts.request_body + timeouts.total + timeouts.stream < 1800
    assert "functionTimeout" not in json.loads((ROOT / "host.json").read_text())


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"GATEWAY_STORAGE": "x=1"}, environment.Storage("x=1")),
        ({"AzureWebJobsStorage": "y=1"}, environment.Storage("y=1")),
        (
            {"GATEWAY_STORAGE__tableServiceUri": "https://t", "GATEWAY_STORAGE__clientId": "c", "AZURE_CLIENT_ID": "d"},
            environment.Storage(None, "https://t", "c"),
        ),
        (
            {"AzureWebJobsStorage__accountName": "acct", "AZURE_CLIENT_ID": "d"},
            environment.Storage(None, "https://acct.table.core.windows.net", "d"),
        ),
        ({"GATEWAY_STORAGE": "", "AzureWebJobsStorage": "y=1"}, environment.Storage("y=1")),
    ],
)
def test_the_storage_is_read_in_the_forms_of_the_functions_host(
    environ: Mapping[str, str], expected: environment.Storage
) -> None:
    assert environment.load_storage(environ) == expected


def test_without_a_storage_the_start_stops_and_names_the_variable() -> None:
    with pytest.raises(ConfigurationError, match="GATEWAY_STORAGE: expected"):
        environment.load_storage({})


def test_printed_settings_show_no_secret() -> None:
    environ = {"GATEWAY_STORAGE": "AccountKey=hush", "GATEWAY_MANAGEMENT_KEY": "hush" * 8, "A_KEY": "hush"}
    document = changed("backends/0/auth", {"api_key_env": "A_KEY"})
    assert "hush" not in repr(environment.load({**environ, "GATEWAY_CONFIG": document}))


HUSH = "4hushHUSH4hushHUSH4hushHUSH4hush"  # no complaint may show it, wherever it was put by mistake


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("backends/0/auth", HUSH),
        ("backends/0/auth", {HUSH: "api_key_env"}),
        ("backends/0/auth", {"api_key": HUSH}),
        ("backends/0/auth", {"api_key_env": HUSH}),
        ("backends/0/auth", {"api_key_env": HUSH.upper()}),
        ("backends/0/endpoint", f"https://user:{HUSH}@a.openai.azure.com"),
        ("backends/0/endpoint", f"https://{HUSH}@a.openai.azure.com"),
        ("backends/0/endpoint", f"https://user:{HUSH}@a.openai.azure.com:port"),
        ("backends/0/endpoint", f"https://a.openai.azure.com/?key={HUSH}"),
        ("backends/0/endpoint", f"user:{HUSH}@a.openai.azure.com"),
        ("backends/0/endpoint", f"https://[{HUSH}"),
        ("limits", {"webhook": {"url": f"http://hooks.example.com/{HUSH}", "secret_env": "B"}}),
        ("limits", {"webhook": {"url": "https://hooks.example.com/", "secret_env": HUSH}}),
        ("limits", {"webhook": {"url": "https://hooks.example.com/", HUSH: "B"}}),
    ],
)
def test_no_complaint_shows_a_secret_that_was_put_in_the_wrong_place(path: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        environment.load({**STORAGE, "GATEWAY_CONFIG": changed(path, value)})
    assert HUSH.lower() not in str(caught.value).lower()
    assert path.partition("/")[0] in str(caught.value)


REFERENCE = "@Microsoft.KeyVault(SecretUri=https://vault.vault.azure.net/secrets/key)"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATEWAY_MANAGEMENT_KEY", "x" * 31),
        ("GATEWAY_MANAGEMENT_KEY", REFERENCE),
        ("GATEWAY_MANAGEMENT_KEY", " " + REFERENCE.lower()),
        ("GATEWAY_STORAGE", REFERENCE),
        ("AzureWebJobsStorage", REFERENCE),
        ("APPLICATIONINSIGHTS_CONNECTION_STRING", REFERENCE),
        ("A_KEY", REFERENCE),
        ("B_SECRET", REFERENCE),
    ],
)
def test_a_secret_that_anybody_could_guess_stops_the_start(name: str, value: str) -> None:
    document = json.loads(changed("backends/0/auth", {"api_key_env": "A_KEY"}))
    document["limits"] = {"webhook": {"url": "https://hooks.example.com/", "secret_env": "B_SECRET"}}
    environ = {**STORAGE, "GATEWAY_CONFIG": json.dumps(document), "A_KEY": "a", "B_SECRET": "b", name: value}
    with pytest.raises(ConfigurationError, match=name) as caught:
        environment.load(environ)
    assert value.strip() not in str(caught.value)
    assert environment.management_key(environ) is None  # also where the reason is shown to whoever has it


def test_a_management_key_of_32_characters_is_used() -> None:
    environ = {**STORAGE, "GATEWAY_CONFIG": changed("backends/0/weight", 1), "GATEWAY_MANAGEMENT_KEY": "k" * 32}
    assert environment.load(environ).management_key == "k" * 32


def test_the_sample_configuration_is_accepted_and_shows_every_key() -> None:
    text = (ROOT / "gateway.sample.yaml").read_text()
    configuration = environment.load({**STORAGE, "GATEWAY_CONFIG": text, "EASTUS_KEY": "x"}).configuration
    assert len(configuration.backends) == 2
    kinds: list[type[msgspec.Struct]] = [config.Configuration, Backend, config.Model, config.Timeouts]
    kinds += [config.LedgerSettings, callers.EntraSettings, callers.CallerRule]
    for name in (field for kind in kinds for field in kind.__struct_fields__):
        assert re.search(rf"\b{name}:", text), f"{name} is not in gateway.sample.yaml"


SECTIONS: dict[str, type[msgspec.Struct]] = {  # heading in docs/configuration.md -> what it lists
    "Document": config.Configuration,
    "`backends`": Backend,
    "`backends[].models`": config.DeployedModel,
    "`backends[].capacity`": config.ProvisionedCapacity,
    "`models`": config.Model,
    "`canary` and `shadow`": config.Variant,
    "`limits`": LimitSettings,
    "Limit fields": Limits,
    "`limits.addresses`": AddressLimits,
    "`limits.headers`": TokenHeaders,
    "`limits.webhook`": alerting.WebhookSettings,
    "`alerts`": alerting.AlertSettings,
    "`alerts.webhooks`": alerting.ReceiverSettings,
    "`replaced_by`": config.Successor,
    "`products`": callers.Product,
    "`teams`": callers.Team,
    "`end_users`": callers.EndUsers,
    "`client_address`": config.ClientAddress,
    "`cors`": config.CorsSettings,
    "`entra`": callers.EntraSettings,
    "`entra.callers`": callers.CallerRule,
    "`timeouts`": config.Timeouts,
    "`retry`": config.RetrySettings,
    "`ledger`": config.LedgerSettings,
    "`prices`": PriceLine,
    "`export`": config.ExportSettings,
    "`telemetry`": config.Tracing,
    "`allowed`": config.Allowed,
}


def structs(kind: Any) -> set[type[msgspec.Struct]]:
    """Every struct in a type, itself included."""
    outer = {kind} if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else set()
    inner = [field.type for field in msgspec.structs.fields(kind)] if outer else typing.get_args(kind)
    return outer.union(*(structs(one) for one in inner))


def reference(heading: str) -> dict[str, str]:
    """The keys that a section of the reference lists, with the cell of their default."""
    text = (ROOT / "docs/configuration.md").read_text()
    section = re.split(r"^#+ ", text.split(f"# {heading}\n")[1], maxsplit=1, flags=re.M)[0]
    table = re.search(r"^\| key \|.*?(?=^$)", section, re.M | re.S)
    assert table, heading
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[0].splitlines()[2:]]
    assert all(len(row) == 5 and row[3] in ("yes", "no") for row in rows), heading
    return {row[0].strip("` "): row[2] for row in rows}


def test_every_type_of_the_schema_has_a_section_in_the_reference() -> None:
    assert structs(config.Configuration) - {config.ApiKey} == set(SECTIONS.values())


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_reference_lists_the_keys_of_the_schema_and_their_defaults(heading: str) -> None:
    listed = reference(heading)
    fields = {field.encode_name: field for field in msgspec.structs.fields(SECTIONS[heading])}
    assert listed.keys() == fields.keys()
    for name, field in fields.items():
        default = field.default
        if field.required:
            assert listed[name].startswith("required"), name
        elif isinstance(default, bool):
            assert listed[name] == f"`{str(default).lower()}`", name
        elif isinstance(default, int | float):
            assert re.match(rf"{default:g}\b" if default < 1e6 else str(default), listed[name].replace(",", "")), name
        elif isinstance(default, str) and default:
            assert listed[name].startswith(f"`{default}`"), name


def test_the_keys_that_need_a_restart_are_those_that_the_gateway_names() -> None:
    keys, variables = (ROOT / "docs/configuration.md").read_text().split("\n## Environment\n")
    assert set(re.findall(r"^\| `(\w+)` \|.*\| yes \|", keys, re.M)) == set(READ_AT_THE_START)
    rows = [line.strip("| ").split(" | ") for line in variables.splitlines() if line.startswith("| ")]
    assert rows[0] == ["variable", "type", "default", "restart", "meaning"]
    assert {(len(row), row[3]) for row in rows[1:]} == {(5, "yes")}


# Not in the sample: Azure sets the first, and the identity library takes the second for a secret even if it is empty.
OF_OTHERS = {"IDENTITY_ENDPOINT", "AZURE_CLIENT_SECRET"}
READERS = [ROOT / "function_app.py", *(path for path in ROOT.glob("shared/**/*.py") if "cli" not in path.parts)]


def strings(node: ast.AST, bound: dict[str, list[ast.AST]]) -> set[str]:
    """The strings that an expression can be; none for a name that is not bound to literals, such as a parameter."""
    match node:
        case ast.Constant(value=str(value)):
            return {value}
        case ast.Tuple(elts=inner) | ast.Call(args=inner):
            return set().union(*(strings(one, bound) for one in inner))
        case ast.Starred(value=one) | ast.FormattedValue(value=one):
            return strings(one, bound)
        case ast.Name(id=name):
            return set().union(*(strings(one, bound) for one in bound.get(name, ())))
        case ast.JoinedStr(values=parts):
            return {"".join(pieces) for pieces in itertools.product(*(strings(part, bound) for part in parts))}
    return set()


def bindings(nodes: Iterable[ast.AST]) -> dict[str, list[ast.AST]]:
    """The expressions from which names get their values, by assignments and loops."""
    bound: dict[str, list[ast.AST]] = {}
    for node in nodes:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                bound.setdefault(name, []).append(value)
            case (
                ast.For(target=ast.Name(id=name), iter=value) | ast.comprehension(target=ast.Name(id=name), iter=value)
            ):
                bound.setdefault(name, []).append(value)
    return bound


def variables(source: str) -> tuple[set[str], set[str]]:
    """The names of the environment variables that a module reads, and the expressions of those that it gets named."""
    module = ast.parse(source)
    names, others = set[str](), set[str]()
    for statement in module.body:
        nodes = list(ast.walk(statement))
        for node in nodes:
            match node:
                case ast.Call(func=ast.Attribute(attr="get", value=mapping), args=[name, *_]):
                    pass
                case ast.Subscript(value=mapping, slice=name, ctx=ast.Load()):
                    pass
                case _:
                    continue
            if ast.unparse(mapping).rpartition(".")[2] == "environ":
                known = strings(name, bindings(module.body) | bindings(nodes))
                names |= known
                others |= set() if known else {ast.unparse(name)}
    return names, others


def test_every_environment_variable_is_in_the_sample_and_in_the_documentation() -> None:
    read = [variables(path.read_text()) for path in READERS]
    names, others = set[str]().union(*(one for one, _ in read)), set[str]().union(*(one for _, one in read))
    assert others == {"variable"}  # of `api_key_env` and its like
    assert names >= {"GATEWAY_SIMULATOR", "GATEWAY_STORAGE__accountName", "GATEWAY_HTTP_SERVER", *OF_OTHERS}
    sample = json.loads((ROOT / "local.settings.sample.json").read_text())["Values"]
    documentation = (ROOT / "docs/configuration.md").read_text()
    for name in names - OF_OTHERS:
        assert name in sample
        assert f"`{name}`" in documentation


def test_a_section_for_entra_with_an_authority_of_this_machine_is_accepted() -> None:
    rules = ({"app_role": "Gateway.Call", "limits": {"tokens_per_minute": 5}}, {"app_role": "Gateway.Call", "app": T})
    for authority in ("http://127.0.0.1:8080", "http://localhost:1", "https://login.microsoftonline.us/"):
        section = parsing.parse(changed("entra", entra(*rules, authority=authority)), "x").entra
        assert section is not None
        assert section.callers[0].limits == Limits(tokens_per_minute=5)
    assert parsing.parse(json.dumps(GOOD), "x").entra is None


def test_an_alias_stands_for_its_model() -> None:
    configuration = parsing.parse(json.dumps(GOOD), "x")
    assert [configuration.canonical(name) for name in ("m-2024", "m", "unknown")] == ["m", "m", "unknown"]


def test_complaints_of_the_schema_do_not_hide_each_other() -> None:
    document: dict[str, Any] = {
        "backends": [{**GOOD["backends"][0], "weight": 0, "colour": "red"}, {**GOOD["backends"][1], "priority": -1}],
        "heartbeat_seconds": "often",
        "models": {"m": {"aliases": 5}, "n": {"aliases": 6}},
        "unheard_of": 1,
        "limits": {"defaults": {"time_zone": "Mars/Olympus", "tokens_per_minute": -5}},
    }
    with pytest.raises(ConfigurationError) as refused:
        parsing.parse(json.dumps(document), "x")
    lines = str(refused.value).split("\n")
    for path in (
        "backends[0].weight: Expected `int` >= 1, got 0",
        "backends[0]: Object contains unknown field `colour`",
        "backends[1].priority: Expected `int` >= 0, got -1",
        "heartbeat_seconds: Expected",
        "models.m.aliases: Expected `array`, got `int`",
        "models.n.aliases: Expected `array`, got `int`",
        "document: Object contains unknown field `unheard_of`",
        "limits.defaults.time_zone: expected the name of a time zone",
        "limits.defaults.tokens_per_minute: Expected `int` >= 0, got -5",
    ):
        assert any(line.startswith(f"x: {path}") for line in lines), (path, lines)
    assert len(lines) == 9


def test_an_object_without_what_it_needs_is_the_last_complaint_of_its_kind() -> None:
    document: dict[str, Any] = {"backends": [{"name": 5}, {"name": "b"}], "heartbeat_seconds": "often"}
    with pytest.raises(ConfigurationError) as refused:
        parsing.parse(json.dumps(document), "x")
    assert "backends[0].name: Expected `str`, got `int`" in str(refused.value)
    assert "required field `name`" not in str(refused.value)


def alerts(*webhooks: dict[str, Any]) -> dict[str, Any]:
    return {**GOOD, "alerts": {"webhooks": list(webhooks)}}


@pytest.mark.parametrize(
    ("webhook", "complaint"),
    [
        ({"url": "https://h.example/x"}, "alerts.webhooks[0].secret_env: expected the name of an environment variable"),
        ({"kind": "slack"}, "alerts.webhooks[0]: expected either url or url_env"),
        ({"kind": "slack", "url": "https://h.example/x", "url_env": "U"}, "expected either url or url_env"),
        ({"kind": "teams", "url_env": "U", "secret_env": "S"}, "expected none, because teams checks no signature"),
        ({"kind": "slack", "url": "http://h.example/a-secret"}, "http is allowed for this machine only"),
        ({"kind": "slack", "url": "http://collector/a-secret"}, "http is allowed for this machine only"),
        ({"kind": "slack", "url": "https://me:a-secret@h.example/"}, "it must not contain a user name or a password"),
        ({"kind": "slack", "url": "file:///a-secret"}, "not a URL with a host"),
        ({"kind": "slack", "url": "https://[a-secret"}, "not a URL with a valid host and port"),
        ({"kind": "discord", "url_env": "U"}, "alerts.webhooks[0].kind"),
        ({"kind": "slack", "url_env": "U", "events": ["birthday"]}, "alerts.webhooks[0].events[0]"),
        (
            {"kind": "slack", "url_env": "U", "channel": "#a-secret"},
            "alerts.webhooks[0]: Object contains unknown field",
        ),
    ],
)
def test_a_wrong_receiver_of_alerts_is_refused_without_its_secret(webhook: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parsing.parse(json.dumps(alerts(webhook)), "x")
    assert complaint in str(refused.value)
    assert "a-secret" not in str(refused.value)


def test_receivers_get_their_urls_and_secrets_from_the_environment_and_the_older_place_keeps_working() -> None:
    document = alerts(
        {"url": "http://127.0.0.1:9/x", "secret_env": "S"},
        {"kind": "teams", "url_env": "TEAMS", "events": ["key_expires"]},
    )
    document["limits"] = {"webhook": {"url": "https://old.example/x", "secret_env": "OLD"}}
    environ = {**STORAGE, "GATEWAY_CONFIG": json.dumps(document), "A_KEY": "a", "B_KEY": "b"}
    given = {"S": "s", "TEAMS": "https://t.example/a-secret", "OLD": "o"}
    old, generic, teams = environment.load(environ | given).receivers
    assert (old.kind, old.url, old.secret, set(old.events)) == (
        "generic",
        "https://old.example/x",
        "o",
        {"quota_reached"},
    )
    assert (generic.url, generic.secret, generic.events) == ("http://127.0.0.1:9/x", "s", frozenset(alerting.EVENTS))
    assert (teams.kind, teams.url, set(teams.events)) == ("teams", "https://t.example/a-secret", {"key_expires"})
    for name, value, complaint in (
        ("TEAMS", "", "alerts.webhooks[1].url_env: expected the name of an environment variable that is set"),
        ("TEAMS", "ftp://t.example/a-secret", "alerts.webhooks[1].url_env: expected https://HOST/PATH in TEAMS"),
        ("TEAMS", "@Microsoft.KeyVault(SecretUri=https://a-secret/)", "TEAMS: expected a secret, got a reference"),
        ("S", "", "alerts.webhooks[0].secret_env"),
        ("OLD", "", "limits.webhook.secret_env"),
    ):
        with pytest.raises(ConfigurationError, match=re.escape(complaint)) as refused:
            environment.load(environ | given | {name: value})
        assert "a-secret" not in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1


def _replaced(number: int) -> dict[str, Any]:
    return {f"m{i}": {"replaced_by": {"model": f"m{i + 1}", "from": "2027-01-01"}} for i in range(number)}


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"x": {f"k{i}": 0 for i in range(60_000)}}, id="keys"),
        pytest.param({"entra": entra(*({"object": T[:-5] + f"{i:05}"} for i in range(10_000)))}, id="rules"),
        pytest.param({"models": _replaced(10_000)}, id="chain"),
        pytest.param(
            {"models": {f"g{i}": {} for i in range(10_000)} | {f"w{i}": 1 for i in range(10_000)}}, id="wrong"
        ),
    ],
)
def test_no_document_takes_time_by_the_square_of_its_size(more: dict[str, Any]) -> None:
    started = time.process_time()
    with suppress(ConfigurationError):  # before, each took half a minute or more
        parsing.parse(json.dumps(GOOD | more), "x")
    assert time.process_time() - started < 20


def test_a_document_with_many_wrong_values_is_refused_with_the_first_of_them() -> None:
    models: dict[str, Any] = {f"g{i}": {} for i in range(3)} | {f"w{i}": {"hedge": 1} for i in range(200)}
    with pytest.raises(ConfigurationError) as caught:
        parsing.parse(json.dumps(GOOD | {"models": models}), "x")
    places = [complaint.path for complaint in caught.value.complaints]
    assert places[:25] == [f"models.w{i}.hedge" for i in range(25)]
    assert places[25:] == ["document"]


def test_models_that_replace_one_another_are_named_once_and_those_before_them_are_not() -> None:
    models = {name: {"replaced_by": {"model": other, "from": "2027-01-01"}} for name, other in ("xm", "mn", "nm")}
    with pytest.raises(ConfigurationError) as caught:
        parsing.parse(json.dumps(GOOD | {"models": models}), "x")
    cycles = [one for one in caught.value.complaints if "cycle" in one.message]
    assert [one.path for one in cycles] == ["models.m.replaced_by.model", "models.n.replaced_by.model"]
    assert all("m -> n -> m is a cycle" in one.message for one in cycles)
