"""The command `import-apim`: policies of API Management as configurations, and what it says of each line."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from shared.cli.app import cli
from shared.config.limits import AddressLimits, TokenHeaders
from shared.config.parsing import parse

POLICIES = Path(__file__).parent / "policies"
TENANT, APP = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"


def imported(policy: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["import-apim", str(policy), *options])


def of(tmp_path: Path, inbound: str, *options: str, backend: str = "") -> tuple[dict[str, Any], str]:
    """The configuration of a policy with these elements, which is valid, and what was said."""
    policy = tmp_path / "policy.xml"
    policy.write_text(f"<policies>\n<inbound>\n{inbound}\n</inbound>\n<backend>{backend}</backend>\n</policies>")
    result = imported(policy, "--endpoint", "https://a.openai.azure.com", "--models", "gpt-4o", *options)
    assert result.exit_code == 0, result.output
    parse(result.stdout, "imported")
    return yaml.safe_load(result.stdout), result.stderr


def test_the_policy_that_people_publish_becomes_a_configuration() -> None:
    result = imported(POLICIES / "published.xml", "--models", "gpt-4o=gpt-4o-prod")
    assert result.exit_code == 0
    read = parse(result.stdout, "imported")
    assert [(b.name, b.endpoint, b.priority) for b in read.backends] == [
        ("primary", "https://primary.openai.azure.com", 1),
        ("secondary", "https://secondary.openai.azure.com", 2),
    ]
    assert read.limits.addresses == AddressLimits(
        requests_per_minute=10,
        tokens_per_minute=5000,
        request_quota=100,
        request_quota_period=3600,
        quota_counts="success",
        estimate="none",
    )
    assert (read.retry.count, read.retry.interval, read.retry.delta, read.retry.max_interval) == (5, 1, 1, 8)
    assert read.limits.headers == TokenHeaders("x-remaining-tokens", "x-consumed-tokens")


def test_every_policy_is_named_with_its_line() -> None:
    said = imported(POLICIES / "published.xml", "--models", "gpt-4o").stderr
    for line, text in enumerate((POLICIES / "published.xml").read_text().splitlines(), 1):
        name = text.strip().lstrip("<").partition(" ")[0].partition(">")[0]
        if name in ("base", "retry", "rate-limit-by-key", "quota-by-key", "set-backend-service", "forward-request"):
            assert f"line {line}, {name}: " in said
    left = said.partition("not carried over:")[2]
    assert " ".join(left.split()) == "line 14, dimension: Client IP: not a dimension of the metrics"


def test_strict_ends_with_3_if_anything_is_left_out() -> None:
    assert imported(POLICIES / "published.xml", "--strict").exit_code == 3


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("@(context.Subscription.Id)", "defaults"),
        ('@(context.Subscription?.Key ?? "none")', "defaults"),
        ("@(context.Request.IpAddress)", "addresses"),
        ('@(context.Request.Headers.GetValueOrDefault("Authorization","").AsJwt()?.Subject)', "defaults"),
        ("@(context.Request.Headers.GetValueOrDefault(&quot;x-user-id&quot;, &quot;&quot;))", "users"),
    ],
)
def test_limits_count_by_what_the_policy_counts_by(tmp_path: Path, key: str, path: str) -> None:
    document, _ = of(tmp_path, f'<rate-limit-by-key calls="7" renewal-period="60" counter-key="{key}" />')
    assert document["limits"] == {path: {"requests_per_minute": 7}}
    if path == "users":
        assert document["end_users"] == {"header": "x-user-id"}


@pytest.mark.parametrize(
    ("policy", "word"),
    [
        ('<rate-limit-by-key calls="7" renewal-period="60" counter-key="@(context.Product.Id)" />', "shared_limits"),
        ('<rate-limit-by-key calls="7" renewal-period="60" counter-key="all" />', "one counter for all callers"),
        (
            '<rate-limit-by-key calls="7" renewal-period="60" counter-key="@(a + b)" />',
            "counts by something else than keys",
        ),
        ('<rate-limit-by-key calls="@(3)" renewal-period="60" counter-key="x" />', "at run time"),
        ('<quota-by-key calls="7" renewal-period="0" counter-key="@(context.Subscription.Id)" />', "for ever"),
        ('<quota bandwidth="4000" renewal-period="3600" />', "not bytes"),
        ('<ip-filter action="forbid"><address>10.0.0.1</address></ip-filter>', "not of forbidden ones"),
        ('<set-header name="x-team" exists-action="override"><value>a</value></set-header>', "x-team"),
        ('<cache-lookup-value key="a" variable-name="b" />', "keeps no answers"),
        ('<validate-jwt header-name="authorization"><openid-config url="https://idp/x" /></validate-jwt>', "entra.md"),
        ("<unheard-of />", "nothing like it"),
        ('<set-backend-service base-url="@(context.Variables["b"])" />', "at run time"),
    ],
)
def test_what_is_not_carried_over_is_said_with_its_line(tmp_path: Path, policy: str, word: str) -> None:
    document, said = of(tmp_path, policy)
    left = said.partition("not carried over:")[2]
    assert left.startswith("\n  line 3, ")
    assert word in left
    assert set(document) == {"backends"}


def test_what_stands_under_a_condition_is_not_taken(tmp_path: Path) -> None:
    when = '<choose><when condition="@(context.Variables["vip"] == "1" && true)">{}</when></choose>'
    limit = '<rate-limit-by-key calls="7" renewal-period="60" counter-key="@(context.Subscription.Id)" />'
    document, said = of(tmp_path, when.format(limit))
    assert "limits" not in document
    assert "depends on a condition" in said


def test_the_rest_of_the_policies_that_have_a_place_here(tmp_path: Path) -> None:
    inbound = f"""
<ip-filter action="allow"><address>10.1.2.3</address><address-range from="10.2.0.0" to="10.2.0.255" /></ip-filter>
<validate-azure-ad-token tenant-id="{TENANT}">
  <client-application-ids><application-id>{APP}</application-id></client-application-ids>
  <audiences><audience>api://gateway</audience></audiences>
  <required-claims><claim name="roles" match="any"><value>Chat</value><value>Batch</value></claim></required-claims>
</validate-azure-ad-token>
<llm-token-limit counter-key="@(context.Subscription.Id)" token-quota="900" token-quota-period="Weekly"
  tokens-per-minute="50" estimate-prompt-tokens="true" />
<limit-concurrency key="@(context.Subscription.Id)" max-count="3">
  <set-header name="api-key" exists-action="override"><value>{{{{azure-openai-key}}}}</value></set-header>
</limit-concurrency>
<set-query-parameter name="api-version" exists-action="override"><value>2024-10-21</value></set-query-parameter>
<cors><allowed-origins><origin>https://app.contoso.com/</origin></allowed-origins></cors>
"""
    document, said = of(tmp_path, inbound, backend='<forward-request timeout="300" />')
    assert document["allowed_networks"] == ["10.1.2.3/32", "10.2.0.0/24"]
    assert document["entra"] == {
        "tenants": [TENANT],
        "audiences": ["api://gateway"],
        "callers": [{"app": APP}, {"app_role": "Chat"}, {"app_role": "Batch"}],
    }
    assert document["limits"]["defaults"] == {
        **{"tokens_per_minute": 50, "token_quota": 900, "token_quota_period": "week", "estimate": "learned"},
        "max_concurrent": 3,
    }
    (backend,) = document["backends"]
    assert (backend["auth"], backend["api_version"]) == ({"api_key_env": "AZURE_OPENAI_KEY"}, "2024-10-21")
    assert document["cors"] == {"origins": ["https://app.contoso.com"]}
    assert document["timeouts"] == {"total": 220}
    assert "timeout 300 s: at most 220 s" in said


def test_a_secret_in_a_policy_is_not_copied(tmp_path: Path) -> None:
    header = '<set-header name="api-key" exists-action="override"><value>0123456789abcdef</value></set-header>'
    document, said = of(tmp_path, header)
    assert "0123456789abcdef" not in json.dumps(document) + said


def test_the_specification_tells_backend_version_and_deployments(tmp_path: Path) -> None:
    specification = {
        "openapi": "3.0.1",
        "servers": [{"url": "https://{endpoint}/openai", "variables": {"endpoint": {"default": "b.openai.azure.com"}}}],
        "paths": {
            "/deployments/{deployment-id}/chat/completions": {
                "post": {
                    "parameters": [
                        {"in": "path", "name": "deployment-id", "schema": {"enum": ["gpt-4o", "gpt-4o-mini"]}},
                        {"in": "query", "name": "api-version", "schema": {"default": "2024-10-21"}},
                    ]
                }
            }
        },
    }
    (tmp_path / "api.json").write_text(json.dumps(specification))
    (tmp_path / "policy.xml").write_text("<policies><inbound><base /></inbound></policies>")
    result = imported(tmp_path / "policy.xml", "--openapi", str(tmp_path / "api.json"))
    (backend,) = parse(result.stdout, "imported").backends
    assert (backend.endpoint, backend.api_version) == ("https://b.openai.azure.com", "2024-10-21")
    assert backend.models == {"gpt-4o": "gpt-4o", "gpt-4o-mini": "gpt-4o-mini"}


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        ('<!DOCTYPE p [<!ENTITY a "aaaa">]>\n<policies>&a;</policies>', "line 1: expected no document type"),
        ("<policies>\n<inbound>&a;</inbound></policies>", "line 2: is not XML"),
        ("<policies>\n<inbound></policies>", "line 2: is not XML"),
        ('<policies>\n<inbound>\n<x a="@(b" /></inbound></policies>', "line 3: expected the end of the expression"),
        ("<a>" * 101 + "</a>" * 101, "at most 100 nested elements"),
        ("<html></html>", "expected <policies> or <fragment>"),
        ("", "is not XML"),
        (" " * 1_048_577, "expected at most 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_policy_is_refused_with_its_line(tmp_path: Path, policy: str, problem: str) -> None:
    (tmp_path / "policy.xml").write_text(policy)
    result = imported(tmp_path / "policy.xml")
    assert result.exit_code == 2
    assert problem in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}', "[" * 100_000])
def test_a_file_that_is_no_specification_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "api.json").write_text(text)
    result = imported(POLICIES / "published.xml", "--openapi", str(tmp_path / "api.json"))
    assert result.exit_code == 2
    assert "api.json: " in result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit)
