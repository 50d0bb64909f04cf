"""The bodies of alerts are those that their receivers take, whatever names they contain."""

import json
from typing import Any, get_args

import jsonschema  # type: ignore[import-untyped]
import pytest

from shared.alerts import _payloads, events
from shared.alerts.events import Alert
from shared.config.alerting import EVENTS, Kind

NOW = 1_795_262_400.0
NASTY = "<!channel> [a link](https://evil.example) *b* & " + "x" * 4000
ALERTS = [
    events.quota_reached("key:a", "The key of 'ann'", "usd", 100, NOW),
    events.backend_ejected("sweden", ["chat", "embed"], NASTY, 312, NOW),
    events.credentials_refused("sweden", "chat", NASTY, NOW),
    events.safe_mode_began(NOW - 5, NOW),
    events.safe_mode_ended(NOW - 5000, NOW),
    events.usage_rows_waiting("01ABC", 61, NOW),
    events.usage_rows_lost("01ABC", 17, NOW),
    events.configuration_refused("gateway.yaml", [f"backends[{i}].name: {NASTY}" for i in range(9)], NOW),
    events.model_retires("gpt-4o", ["sweden", "japan"], "2026-12-09", "gpt-5.6-sol", 30, 18),
    events.key_expires("c1", NASTY[:200], "k1", NOW + 2 * 86_400, 3, NOW),
    events.access_requested("c1.1", NASTY[:200], "the product 'large'", NASTY, NOW),
    events.access_decided("c1.1", NASTY[:200], "the product 'large'", NASTY, NOW, approved=True),
    events.access_decided("c1.2", NASTY[:200], "the product 'large'", "", NOW, approved=False),
]
# The parts of https://adaptivecards.io/schemas/adaptive-card.json (version 1.4) that a card of an alert may use.
CARD = {
    "type": "object",
    "required": ["type", "version", "body"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"const": "http://adaptivecards.io/schemas/adaptive-card.json"},
        "type": {"const": "AdaptiveCard"},
        "version": {"pattern": r"^1\.[0-4]$"},
        "fallbackText": {"type": "string"},
        "msteams": {"type": "object"},
        "body": {
            "type": "array",
            "items": {"oneOf": [{"$ref": f"#/$defs/{name}"} for name in ("text", "rich", "set")]},
        },
    },
    "$defs": {
        "text": {
            "type": "object",
            "required": ["type", "text"],
            "additionalProperties": False,
            "properties": {
                "type": {"const": "TextBlock"},
                "text": {"type": "string", "minLength": 1},
                "size": {"enum": ["Default", "Small", "Medium", "Large", "ExtraLarge"]},
                "weight": {"enum": ["Default", "Lighter", "Bolder"]},
                "color": {"enum": ["Default", "Dark", "Light", "Accent", "Good", "Warning", "Attention"]},
                "wrap": {"type": "boolean"},
            },
        },
        "rich": {
            "type": "object",
            "required": ["type", "inlines"],
            "additionalProperties": False,
            "properties": {
                "type": {"const": "RichTextBlock"},
                "inlines": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["type", "text"],
                        "additionalProperties": False,
                        "properties": {"type": {"const": "TextRun"}, "text": {"type": "string", "minLength": 1}},
                    },
                },
            },
        },
        "set": {
            "type": "object",
            "required": ["type", "facts"],
            "additionalProperties": False,
            "properties": {
                "type": {"const": "FactSet"},
                "facts": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["title", "value"],
                        "additionalProperties": False,
                        "properties": {"title": {"type": "string"}, "value": {"type": "string"}},
                    },
                },
            },
        },
    },
}


def body(kind: Kind, alert: Alert) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(_payloads.body(kind, alert))
    return payload


def test_every_event_has_an_alert() -> None:
    assert [alert.event for alert in ALERTS] == list(EVENTS)


@pytest.mark.parametrize("alert", ALERTS, ids=EVENTS)
def test_a_card_fits_the_schema_of_adaptive_cards(alert: Alert) -> None:
    message = body("teams", alert)
    assert message["type"] == "message"
    (attachment,) = message["attachments"]
    assert attachment.keys() == {"contentType", "contentUrl", "content"}
    jsonschema.validate(attachment["content"], CARD)
    assert len(json.dumps(message)) < 28_000  # Teams' limit


@pytest.mark.parametrize("alert", ALERTS, ids=EVENTS)
def test_blocks_stay_within_slacks_limits(alert: Alert) -> None:
    message = body("slack", alert)
    assert message.keys() == {"text", "blocks"}
    header, text, *facts = message["blocks"]
    assert header["type"] == "header"
    assert 0 < len(header["text"]["text"]) <= 150
    assert (text["type"], text["text"]["type"]) == ("section", "plain_text")
    assert 0 < len(text["text"]["text"]) <= 3000
    for section in facts:
        assert 0 < len(section["fields"]) <= 10
        assert all(0 < len(field["text"]) <= 2000 for field in section["fields"])


@pytest.mark.parametrize("alert", ALERTS, ids=EVENTS)
def test_a_name_calls_nobody_and_makes_no_link(alert: Alert) -> None:
    slack, teams = body("slack", alert), body("teams", alert)
    assert "<" not in slack["text"]
    assert all(field["type"] == "plain_text" for block in slack["blocks"][2:] for field in block["fields"])
    facts = teams["attachments"][0]["content"]["body"][2]["facts"]
    assert not any("[" in fact["value"].replace("\\[", "") for fact in facts)


@pytest.mark.parametrize("alert", ALERTS, ids=EVENTS)
def test_an_alert_says_in_a_sentence_what_to_do_and_is_of_bounded_size(alert: Alert) -> None:
    for kind in get_args(Kind):
        assert len(_payloads.body(kind, alert)) < 12_000
    assert alert.message.endswith(".") or "Fix it" in alert.message
    assert "\n" not in alert.message
    generic = body("generic", alert)
    assert (generic["event"], generic["severity"], generic["message"]) == (alert.event, alert.severity, alert.message)
    assert {name: generic[name] for name in alert.facts} == alert.facts
