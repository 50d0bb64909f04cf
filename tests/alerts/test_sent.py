"""The record of alerts: what was raised, what became of it at each receiver, and what still holds."""

from collections.abc import Mapping

import pytest
from aiohttp import web

from shared.alerts import events
from shared.alerts.dispatcher import Alerts
from shared.alerts.events import Alert
from shared.alerts.sent import KEEP_DAYS, MOST_SHOWN, SentAlert, firing
from shared.config.alerting import Receiver
from shared.errors import StoreUnavailable
from shared.storage import Properties
from tests.harness.alert_receiver import alert_receiver
from tests.harness.memory_store import MemoryStore, MemoryTable

NOON = 1_795_262_400.0
EJECTED = events.backend_ejected("sweden", ["chat"], "status 503", 300, NOON)
RETIRES = events.model_retires("gpt-4o", ["sweden"], "2026-12-24", "gpt-5.4", 30, 24)


def sent(alert: Alert, at: float = NOON) -> SentAlert:
    return SentAlert(at, alert.event, alert.severity, alert.key, alert.until, alert.message, alert.facts, [])


async def test_what_was_sent_is_on_record_with_the_result_at_every_receiver_without_its_path() -> None:
    store = MemoryStore(lambda: NOON)
    async with alert_receiver() as accepting, alert_receiver(lambda _: web.Response(status=400)) as refusing:
        receivers = [
            Receiver("generic", f"{accepting.url}/a-secret", "s", place="alerts.webhooks[0]"),
            Receiver("slack", f"{refusing.url}/a-secret", place="alerts.webhooks[1]"),
        ]
        raising = Alerts(receivers, store, lambda: NOON, first_pause=0.01)
        raising(EJECTED)
        await raising.close()
        (alert,) = await Alerts([], store, lambda: NOON).sent.newest()  # another instance sees it, too
    assert (alert.event, alert.message, alert.at) == ("backend_ejected", EJECTED.message, NOON)
    assert [(one.place, one.accepted, one.tries, one.problem) for one in alert.results or ()] == [
        ("alerts.webhooks[0]", True, 1, ""),
        ("alerts.webhooks[1]", False, 1, "status 400"),
    ]
    assert "a-secret" not in str(store.rows("control"))


async def test_a_message_tries_one_receiver_once_and_says_what_it_answered() -> None:
    store = MemoryStore(lambda: NOON)
    async with alert_receiver(lambda _: web.Response(status=503)) as receiver, alert_receiver() as other:
        places = [Receiver("teams", receiver.url, place="first"), Receiver("teams", other.url, place="second")]
        raising = Alerts(places, store, lambda: NOON)
        result = await raising.test("first", "ann")
        assert await raising.test("third", "ann") is None
    assert result is not None
    assert (result.accepted, result.tries, result.problem) == (False, 1, "status 503")
    assert (len(receiver.received), len(other.received)) == (1, 0)
    assert "Test message" in receiver.received[0].data.decode()
    assert [alert.event for alert in await raising.sent.newest()] == ["test"]


class Unreachable(MemoryStore):
    def table(self, name: str) -> "UnreachableTable":
        return UnreachableTable(self, name)


class UnreachableTable(MemoryTable):
    async def merge(self, partition: str, rows: Mapping[str, Properties]) -> None:
        raise StoreUnavailable("the table does not answer")


async def test_without_the_table_an_instance_still_knows_its_own_alerts() -> None:
    raising = Alerts([], Unreachable(lambda: NOON), lambda: NOON)
    raising(events.quota_reached("key:ann", "Ann", "usd", 80, NOON + 1))
    await raising.close()
    assert [alert.event for alert in raising.sent.own()] == ["quota_reached"]


async def test_old_records_are_deleted_and_few_are_shown() -> None:
    now = NOON
    store = MemoryStore(lambda: now)
    raising = Alerts([], store, lambda: now)
    for number in range(MOST_SHOWN + 5):
        now = NOON + number
        await raising.sent.note(EJECTED, now, [])
    shown = await raising.sent.newest()
    assert [alert.at for alert in shown] == [NOON + MOST_SHOWN + 4 - n for n in range(MOST_SHOWN)]
    now = NOON + KEEP_DAYS * 86_400 + 2.5
    assert await raising.clean_up() == 3
    assert await raising.clean_up() == 0


@pytest.mark.parametrize(
    ("alerts", "ejected", "safe_mode", "now", "expected"),
    [
        ([sent(EJECTED)], ["sweden"], False, NOON + 60, ["backend_ejected"]),
        ([sent(EJECTED)], [], False, NOON + 60, []),  # it is back
        ([sent(EJECTED)], ["sweden"], False, NOON + 3601, []),  # it would have been raised again
        ([sent(EJECTED), sent(EJECTED, NOON - 9)], ["sweden"], False, NOON, ["backend_ejected"]),
        ([sent(events.safe_mode_began(NOON, NOON))], [], True, NOON, ["safe_mode_began"]),
        ([sent(events.safe_mode_began(NOON, NOON))], [], False, NOON, []),
        ([sent(events.safe_mode_ended(NOON, NOON))], [], False, NOON, []),  # no trouble
        ([sent(RETIRES), sent(EJECTED, NOON + 1)], ["sweden"], False, NOON + 9, ["backend_ejected", "model_retires"]),
    ],
)
def test_an_alert_holds_until_its_time_is_over_or_its_state_has_ended(
    alerts: list[SentAlert], ejected: list[str], safe_mode: bool, now: float, expected: list[str]
) -> None:
    assert [alert.event for alert in firing(alerts, ejected, now, safe_mode=safe_mode)] == expected
