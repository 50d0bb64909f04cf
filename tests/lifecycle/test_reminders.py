"""The daily look for keys and models that end soon."""

import json
from typing import Any

import pytest

from shared.alerts.events import Alert
from shared.auth.consumer_rows import Record, StoredKey
from shared.config import parsing
from shared.config.document import Configuration
from shared.lifecycle import reminders
from shared.types import Consumer
from tests.harness.memory_store import MemoryStore

NOW, DAY = 1_795_262_400.0, 86_400.0  # 2026-11-21, noon


def configuration(**models: Any) -> Configuration:
    served = dict.fromkeys([*models, "next"], "d")
    backends = [
        {"name": name, "endpoint": f"https://{name}.openai.azure.com", "region": "r", "models": served}
        for name in ("sweden", "japan")
    ]
    return parsing.parse(json.dumps({"backends": backends, "models": models}), "x")


def record(**keys: tuple[float, float]) -> Record:
    """A consumer with these keys: when they were made and when they expire, in days from now; 0: never."""
    stored = {
        name: StoredKey(name, "digest", NOW + made * DAY, NOW + ends * DAY if ends else 0.0)
        for name, (made, ends) in keys.items()
    }
    return Record(Consumer("c1", "ann"), stored, NOW)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"k": (-9, 15)}, []),
        ({"k": (-9, 14)}, [("k", 14)]),
        ({"k": (-9, 3.01)}, [("k", 14)]),
        ({"k": (-9, 3)}, [("k", 3)]),
        ({"k": (-9, -1)}, []),
        ({"k": (-9, 0)}, []),
        ({"old": (-9, 1), "new": (0, 100)}, []),  # rotated: the old one is meant to end
        ({"old": (-9, 1), "new": (0, 0)}, []),
        ({"old": (-9, 0), "new": (0, 2)}, [("new", 3)]),
        ({"one": (-9, 2), "two": (-8, 1)}, [("one", 3), ("two", 3)]),
    ],
)
def test_a_key_that_nothing_follows_is_reported_14_and_3_days_ahead(
    keys: dict[str, tuple[float, float]], expected: list[tuple[str, int]]
) -> None:
    alerts = list(reminders.of_keys([record(**keys)], NOW))
    assert [(alert.facts["key"], int(alert.key.rpartition(":")[2])) for alert in alerts] == expected
    assert all(alert.facts["name"] == "ann" for alert in alerts)
    assert all(alert.severity == ("error" if alert.key.endswith(":3") else "warning") for alert in alerts)


def test_each_notice_of_a_model_is_an_alert_of_its_own_and_a_prepared_switch_needs_none() -> None:
    given = configuration(
        soon={"retires": "2026-11-25"},
        later={"retires": "2027-01-15"},
        prepared={"retires": "2026-11-25", "replaced_by": {"model": "next", "from": "2026-11-24"}},
        late={"retires": "2026-11-25", "replaced_by": {"model": "next", "from": "2026-11-26"}},
        past={"retires": "2026-11-01"},
        far={"retires": "2028-01-01"},
    )
    alerts = {alert.facts["model"]: alert for alert in reminders.of_models(given, NOW)}
    assert alerts.keys() == {"soon", "later", "late"}
    assert (alerts["soon"].severity, alerts["later"].severity) == ("error", "warning")
    assert alerts["soon"].facts["backends"] == "sweden, japan"
    assert alerts["late"].facts["replacement"] == "next"
    assert "in 4 days" in alerts["soon"].message
    keys = {day: next(reminders.of_models(given, NOW + day * DAY)).key for day in (-60, -20, 0)}
    assert len(set(keys.values())) == 3


async def test_one_instance_looks_once_a_day() -> None:
    now = NOW
    store, raised = MemoryStore(lambda: now), list[Alert]()
    given = configuration(soon={"retires": "2026-11-25"})
    assert await reminders.remind(store, given, raised.append) == 1
    assert await reminders.remind(store, given, raised.append) == 0
    now += DAY + 1
    assert await reminders.remind(store, given, raised.append) == 1
    assert [alert.event for alert in raised] == ["model_retires", "model_retires"]
    assert raised[0].key == raised[1].key  # sent once: its row holds until the end
