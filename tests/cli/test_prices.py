"""The command `prices`: what each configured model costs, where, from which day and source."""

import json

from typer.testing import CliRunner, Result

from shared.cli.app import cli

BACKEND = {"name": "sweden", "endpoint": "https://a", "region": "swedencentral"}
DOCUMENT = {
    "backends": [
        {**BACKEND, "models": {"gpt-5.6-luna": "l", "mine": "m", "unknown": "u"}},
        {**BACKEND, "name": "zone", "deployment": "data_zone", "models": {"gpt-5.6-luna": "l"}},
        {
            "name": "itself",
            "endpoint": "https://o",
            "kind": "openai",
            "auth": {"api_key_env": "K"},
            "models": {"o3": "o3"},
        },
    ],
    "models": {"mine": {"aliases": ["ours"]}},
    "prices": [{"model": "mine", "from": "2026-01-01", "input": 1.5, "output": 6}],
}


def prices(*words: str) -> Result:
    environment = {
        "GATEWAY_CONFIG": json.dumps(DOCUMENT),
        "GATEWAY_STORAGE": "UseDevelopmentStorage=true",
        "K": "secret",
    }
    return CliRunner().invoke(cli, ["prices", *words], env=environment)


def test_every_model_is_shown_with_its_prices_day_and_source_or_as_unpriced() -> None:
    lines = json.loads(prices("--json").stdout)
    assert [line for line in lines if line["model"] == "mine"] == [
        {
            "model": "mine",
            "backend": "sweden",
            "region": "swedencentral",
            "deployment": "global",
            "tier": "standard",
            "context": "short",
            "prices": {"input": 1.5, "output": 6.0},
            "from": "2026-01-01",
            "source": "configuration",
        }
    ]
    assert [(line["prices"], line["source"]) for line in lines if line["model"] == "unknown"] == [({}, "none")]
    luna = {(line["backend"], line["tier"], line["context"]): line for line in lines if line["model"] == "gpt-5.6-luna"}
    assert luna["sweden", "standard", "short"]["prices"]["cache_write"] == 0.25
    assert luna["zone", "standard", "long"]["prices"]["input"] == 0.44
    assert luna["sweden", "flex", "short"]["prices"]["input"] == 0.1
    assert "genai-prices" in luna["sweden", "flex", "short"]["source"]


def test_a_model_of_openai_itself_has_openais_price() -> None:
    lines = json.loads(prices("o3", "--json").stdout)
    assert {(line["backend"], line["deployment"]) for line in lines} == {("itself", "openai")}
    assert {line["tier"]: line["prices"]["output"] for line in lines} == {
        "standard": 8.0,
        "batch": 4.0,
        "priority": 14.0,
        "flex": 4.0,
        "fast": 14.0,
    }
    assert {line["from"] for line in lines if line["tier"] == "standard"} == {"2025-06-10"}
    assert all(line["source"].startswith("OpenAI's list prices (openai.com)") for line in lines)


def test_one_model_is_shown_by_its_alias_in_a_table() -> None:
    shown = prices("ours").stdout
    assert "input 1.5, output 6" in shown
    assert "luna" not in shown
    refused = prices("gpt-9")
    assert refused.exit_code == 2
    assert "gpt-9: expected one of the configured models, gpt-5.6-luna, mine, unknown, o3" in refused.stderr
