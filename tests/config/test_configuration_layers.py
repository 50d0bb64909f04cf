"""A version over a base document: whole sections replace whole sections, and nothing that guards tokens and keys."""

import copy
import json
from typing import Any

import pytest

from shared.config import layers
from shared.config.layers import Base
from shared.errors import ConfigurationError

SWEDEN = {"name": "sweden", "endpoint": "https://swc.openai.azure.com", "region": "swc", "models": {"m": "m"}}
KEYED = {
    "name": "keyed",
    "endpoint": "https://keyed.openai.azure.com",
    "region": "weu",
    "models": {"m": "m", "n": "n"},
    "auth": {"api_key_env": "KEYED_KEY"},
}
APIM = {"name": "apim", "endpoint": "https://apim.contoso.com", "region": "weu", "models": {"m": "m"}}
DOCUMENT: dict[str, Any] = {
    "backends": [SWEDEN, KEYED, APIM],
    "models": {"m": {"aliases": ["old"]}},
    "limits": {"teams": {"search": {}}, "webhook": {"url": "https://hooks.contoso.com/x", "secret_env": "HOOK"}},
    "allowed": {"hosts": ["other.contoso.com:8443"], "api_keys": {"NEW_KEY": "new.openai.azure.com"}},
}


def base(**changes: Any) -> Base:
    return layers.base(json.dumps(DOCUMENT | changes), "gateway.yaml")


def complaints(sections: dict[str, Any], below: Base | None = None) -> list[tuple[str, str]]:
    """The source and the path of each complaint."""
    with pytest.raises(ConfigurationError) as refused:
        layers.effective(below or base(), sections, "version 3")
    return [(one.source, one.path) for one in refused.value.complaints]


def test_a_section_of_a_version_replaces_the_bases_whole() -> None:
    below = base()
    configuration = layers.effective(below, {"models": {"n": {"aliases": ["new"]}}, "heartbeat_seconds": 3}, "v")
    assert configuration.aliases == {"new": "n"}
    assert configuration.heartbeat_seconds == 3
    assert list(configuration.limits.teams) == ["search"]
    assert [backend.name for backend in configuration.backends] == ["sweden", "keyed", "apim"]
    assert layers.effective(below, {}, "v") is below.configuration


def test_reading_changes_neither_layer() -> None:
    below, sections = base(), {"limits": {"defaults": {"tokens_per_minute": -1}}, "models": {"m": {"alias": 1}}}
    before = copy.deepcopy((below.sections, sections))
    complaints(sections, below)
    assert (below.sections, sections) == before


def test_all_complaints_about_a_version_come_at_once_and_name_its_layer() -> None:
    sections = {
        "modles": {},
        "models": {"m": {"hedge": "yes"}, "zzz": {}},
        "ledger": {"durability": "deferred"},
        "limits": {"defaults": {"budget_usd": -1}, "webhook": {"url": "https://x.example/", "secret_env": "OTHER"}},
        "backends": [{**SWEDEN, "endpoint": "https://evil.example.com"}, KEYED],
    }
    reported = complaints(sections)
    assert sorted(reported) == sorted(
        ("version 3", path)
        for path in (
            *("modles", "ledger", "models.m.hedge", "models.zzz", "limits.defaults.budget_usd"),
            *("limits.webhook.secret_env", "backends[0].endpoint"),
        )
    )


def test_a_complaint_about_a_section_below_names_the_base_document() -> None:
    """The version's backends serve no model `n` any more, for which the base document has settings."""
    below = base(models={"n": {}})
    assert complaints({"backends": [SWEDEN]}, below) == [("gateway.yaml", "models.n")]


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://another.openai.azure.com",
        "https://another.cognitiveservices.azure.com",
        "https://foundry.services.ai.azure.com",
        "https://gov.openai.azure.us",
        "https://apim.contoso.com",
        "https://APIM.contoso.com:443",
        "https://other.contoso.com:8443",
    ],
)
def test_the_identitys_tokens_go_to_azure_and_to_what_the_base_names(endpoint: str) -> None:
    configuration = layers.effective(base(), {"backends": [{**SWEDEN, "endpoint": endpoint}]}, "v")
    assert configuration.backends[0].endpoint == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://evil.example.com",
        "https://openai.azure.com",
        "https://x.openai.azure.com.evil.example",
        "https://x.openai.azure.com:8443",
        "https://evilopenai.azure.com",
        "https://apim.contoso.com:8443",
        "https://other.contoso.com",
        "https://x.azure-api.net",
        "https://x.azurewebsites.net",
        "http://127.0.0.1:9000",
        "http://metadata",
    ],
)
def test_the_identitys_tokens_go_nowhere_else(endpoint: str) -> None:
    assert complaints({"backends": [{**SWEDEN, "endpoint": endpoint}]}) == [("version 3", "backends[0].endpoint")]


@pytest.mark.parametrize(
    ("variable", "endpoint", "allowed"),
    [
        ("KEYED_KEY", "https://keyed.openai.azure.com", True),
        ("NEW_KEY", "https://new.openai.azure.com", True),
        ("KEYED_KEY", "https://apim.contoso.com", False),
        ("KEYED_KEY", "https://another.openai.azure.com", False),
        ("NEW_KEY", "https://keyed.openai.azure.com", False),
        ("GATEWAY_MANAGEMENT_KEY", "https://keyed.openai.azure.com", False),
        ("HOOK", "https://keyed.openai.azure.com", False),
    ],
)
def test_a_key_goes_only_to_the_host_that_the_base_names_it_for(variable: str, endpoint: str, allowed: bool) -> None:
    sections = {"backends": [{**SWEDEN, "endpoint": endpoint, "auth": {"api_key_env": variable}}]}
    if allowed:
        layers.effective(base(), sections, "v")
    else:
        assert complaints(sections) == [("version 3", "backends[0].auth.api_key_env")]


def test_a_version_chooses_no_other_audience_of_tokens() -> None:
    scope = "https://management.azure.com/.default"
    sections = {"backends": [{**SWEDEN, "token_scope": scope}]}
    assert complaints(sections) == [("version 3", "backends[0].token_scope")]
    layers.effective(base(backends=[{**SWEDEN, "token_scope": scope}], models={}), sections, "v")


@pytest.mark.parametrize(
    "region", ["evil.example/", "evil.example?", "evil.example#", "evil.example:443/", "a@b", "a\\b"]
)
def test_no_region_of_a_backend_leads_tokens_for_its_metrics_to_another_host(region: str) -> None:
    backends = [{**SWEDEN, "region": region}]
    assert [path for _, path in complaints({"backends": backends})] == ["backends[0].region"]


def test_what_guards_a_version_is_not_changed_by_it() -> None:
    widened = {"allowed": {"hosts": ["evil.example.com"]}, "azure_monitor": "https://{region}.evil.example.com"}
    sections = {**widened, "backends": [{**SWEDEN, "endpoint": "https://evil.example.com"}]}
    assert sorted(path for _, path in complaints(sections)) == ["allowed", "azure_monitor", "backends[0].endpoint"]


def test_no_complaint_shows_a_variable_or_a_key_put_in_its_place() -> None:
    secret = "sk-0123456789abcdef"
    with pytest.raises(ConfigurationError) as refused:
        layers.effective(base(), {"backends": [{**SWEDEN, "auth": {"api_key_env": secret}}]}, "v")
    assert secret not in str(refused.value)


def test_a_base_that_changed_below_a_version_is_noticed() -> None:
    sections = {"models": {}, "limits": {}, "heartbeat_seconds": 3}
    replaced = layers.digests(base(), sections)
    assert replaced["heartbeat_seconds"] == ""
    assert layers.changed_below(base(), replaced) == []
    assert layers.changed_below(base(models={"m": {}}, heartbeat_seconds=9), replaced) == [
        "models",
        "heartbeat_seconds",
    ]
    assert layers.changed_below(base(backends=[SWEDEN], models={"m": {"aliases": ["old"]}}), replaced) == []


BOMB = "a: &a [x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 8)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ('{"models": ' + "[" * 60 + "]" * 60 + "}", "nested too deeply"),
        ('{"models": ' + "[" * 100_000, "nested too deeply"),
        (BOMB, "200000 values"),
        ("a: &a [" + "x," * 2000 + "]\nb: [" + "*a," * 2000 + "]", "200000 values"),
        ("a: &a {x: 1}\nb: {<<: [" + "*a," * 21 + "]}", "merges more than 20"),
        ("models: !!binary aGVsbG8=", "neither text nor"),
        ("models: !!set {a, b}", "neither text nor"),
        ("models: !!timestamp 2001-12-14", "neither text nor"),
        ('{"models": {"\\ud800": 1}}', "surrogate"),
    ],
)
def test_data_that_is_no_json_of_a_sensible_size_is_refused(document: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        layers.base(document, "x")
