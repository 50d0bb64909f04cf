"""The bodies of alerts, per kind of receiver. Pure.

Sources: https://www.standardwebhooks.com; Adaptive Cards 1.4 (adaptivecards.io) in the message that a Teams workflow
"When a Teams webhook request is received" takes; Slack's incoming webhooks and Block Kit.
"""

import html
from collections.abc import Callable
from typing import Any

import msgspec

from shared.alerts.events import Alert, Severity
from shared.config.alerting import Kind

_COLOURS: dict[Severity, str] = {"info": "Good", "warning": "Warning", "error": "Attention"}  # of a card
_SYMBOLS: dict[Severity, str] = {"info": "✅", "warning": "⚠️", "error": "🔴"}
# Slack's limits, in characters and fields
_SECTION, _FIELD, _FIELDS = 3000, 2000, 10


def body(kind: Kind, alert: Alert) -> bytes:
    return msgspec.json.encode(_BODIES[kind](alert))


def _generic(alert: Alert) -> dict[str, Any]:
    return {"event": alert.event, "severity": alert.severity, "message": alert.message, **alert.facts}


def _teams(alert: Alert) -> dict[str, Any]:
    """A message with one card. A text run has no Markdown, so names in it make no links."""
    heading = {
        "type": "TextBlock",
        "text": f"Tollgate: {_title(alert)}",
        "size": "Large",
        "weight": "Bolder",
        "color": _COLOURS[alert.severity],
        "wrap": True,
    }
    text = {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": alert.message}]}
    # In values, Markdown must make no link.
    facts = [{"title": name, "value": str(value).replace("[", "\\[")} for name, value in alert.facts.items()]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "fallbackText": alert.message,
        "body": [heading, text, {"type": "FactSet", "facts": facts}],
        "msteams": {"width": "Full"},
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _title(alert: Alert) -> str:
    return "Test message" if alert.event == "test" else alert.event.replace("_", " ").capitalize()


def _slack(alert: Alert) -> dict[str, Any]:
    """Blocks of plain text, which Slack does not interpret; `text` is for notifications, and is interpreted."""
    title = f"{_SYMBOLS[alert.severity]} Tollgate: {_title(alert)}"
    facts = [_plain(f"{name}: {value}"[:_FIELD]) for name, value in alert.facts.items()][:_FIELDS]
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": _plain(title)},
        {"type": "section", "text": _plain(alert.message[:_SECTION])},
    ]
    if facts:
        blocks.append({"type": "section", "fields": facts})
    # Escaped, for mentions: `<!channel>` would call everybody.
    return {"text": html.escape(f"{title}: {alert.message}"[:_SECTION], quote=False), "blocks": blocks}


def _plain(text: str) -> dict[str, Any]:
    return {"type": "plain_text", "text": text, "emoji": True}


_BODIES: dict[Kind, Callable[[Alert], dict[str, Any]]] = {"generic": _generic, "teams": _teams, "slack": _slack}
