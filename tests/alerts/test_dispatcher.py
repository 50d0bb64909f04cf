"""Alerts at receivers on sockets: signed, tried until they are accepted, and sent by one of all instances."""

import asyncio
import base64
import logging
import re

import pytest
import standardwebhooks
from aiohttp import web

from shared.alerts import events
from shared.alerts.dispatcher import Alerts
from shared.alerts.events import Alert
from shared.config.alerting import EVENTS, Receiver
from shared.errors import ConfigurationError, StoreUnavailable
from shared.storage import Properties, Row
from shared.storage.tables import TablesStore
from tests.harness.alert_receiver import alert_receiver
from tests.harness.azurite import Azurite
from tests.harness.memory_store import MemoryStore, MemoryTable
from tests.harness.patience import eventually

NOON = 1_795_262_400.0
STANDARD = "whsec_" + base64.b64encode(b"a secret of thirty-two characters").decode()
QUOTA = events.quota_reached("key:ann", "The key of 'ann'", "tokens", 80, NOON)


def ejected(backend: str = "sweden", now: float = NOON) -> Alert:
    return events.backend_ejected(backend, ["chat"], "status 503", 300, now)


def alerts(*receivers: Receiver, store: MemoryStore | TablesStore | None = None, now: float = NOON) -> Alerts:
    return Alerts(receivers, store or MemoryStore(lambda: now), lambda: now, first_pause=0.01)


@pytest.mark.parametrize(
    ("secret", "receivers"), [("any text", b"any text"), (STANDARD, STANDARD)], ids=["any text", "whsec_"]
)
async def test_an_alert_is_sent_until_it_is_accepted_and_every_try_is_signed(
    secret: str, receivers: str | bytes
) -> None:
    async with alert_receiver(lambda number: web.Response(status=500 if number <= 2 else 204)) as receiver:
        raising = Alerts([Receiver("generic", receiver.url, secret)], MemoryStore(), first_pause=0.01)
        raising(QUOTA)
        await raising.close()
    assert len(receiver.received) == 3
    assert len({one.headers["webhook-id"] for one in receiver.received}) == 1
    for one in receiver.received:
        assert standardwebhooks.Webhook(receivers).verify(one.data, one.headers) == {
            "event": "quota_reached",
            "severity": "warning",
            "message": "The key of 'ann': its quota of tokens is used to 80 %, and renews at "
            "2026-11-21T12:00:00+00:00. Raise it, or ask its users to slow down.",
            "scope": "key:ann",
            "about": "The key of 'ann'",
            "limit": "tokens",
            "percentage": 80,
            "renews": "2026-11-21T12:00:00+00:00",
        }
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            standardwebhooks.Webhook(receivers).verify(one.data.replace(b"80", b"90"), one.headers)


async def test_a_try_is_signed_with_its_own_time() -> None:
    times = iter((NOON, NOON, NOON, NOON + 1.5, NOON + 2))  # raised, on record, two tries, their end
    async with alert_receiver(lambda number: web.Response(status=500 if number == 1 else 204)) as receiver:
        raising = Alerts([Receiver("generic", receiver.url, "secret")], MemoryStore(), lambda: next(times), 0.01)
        raising(QUOTA)
        await raising.close()
    assert [one.headers["webhook-timestamp"] for one in receiver.received] == [f"{NOON:.0f}", f"{NOON + 1:.0f}"]
    assert len({one.headers["webhook-signature"] for one in receiver.received}) == 2


@pytest.mark.parametrize("secret", ["whsec_", "whsec_a"])
def test_a_standard_secret_that_is_not_base64_stops_the_start(secret: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape("alerts.webhooks[0].secret_env")):
        alerts(Receiver("generic", "https://x.example/hook", secret, place="alerts.webhooks[0]"))


async def test_teams_gets_a_card_and_slack_gets_blocks_and_neither_gets_a_signature() -> None:
    async with alert_receiver() as receiver:
        raising = alerts(Receiver("teams", f"{receiver.url}/teams"), Receiver("slack", f"{receiver.url}/slack"))
        raising(ejected())
        await raising.close()
    bodies = {one.path: one for one in receiver.received}
    (attachment,) = bodies["/hook/teams"].body["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert "sweden" in str(attachment["content"]["body"])
    assert bodies["/hook/slack"].body["blocks"][0]["type"] == "header"
    assert "sweden" in bodies["/hook/slack"].body["text"]
    assert not any(name.startswith("webhook-") for one in receiver.received for name in one.headers)
    assert {one.headers["content-type"] for one in receiver.received} == {"application/json"}


async def test_a_receiver_gets_the_events_that_it_wants() -> None:
    async with alert_receiver() as receiver:
        raising = alerts(
            Receiver("generic", f"{receiver.url}/quotas", "s", frozenset(("quota_reached",))),
            Receiver("generic", f"{receiver.url}/all", "s", frozenset(EVENTS)),
        )
        raising(QUOTA)
        raising(ejected())
        await raising.close()
    paths = [(one.path, one.body["event"]) for one in receiver.received]
    assert sorted(paths) == [
        ("/hook/all", "backend_ejected"), ("/hook/all", "quota_reached"), ("/hook/quotas", "quota_reached"),
    ]  # fmt: skip


async def test_a_changed_configuration_changes_the_receivers_and_a_wrong_one_changes_nothing() -> None:
    async with alert_receiver() as receiver:
        raising = alerts(Receiver("slack", f"{receiver.url}/old"))
        with pytest.raises(ConfigurationError):
            raising.configure([Receiver("slack", f"{receiver.url}/new"), Receiver("generic", receiver.url, "whsec_a")])
        raising(ejected("one"))
        await eventually(lambda: receiver.received)
        raising.configure([Receiver("slack", f"{receiver.url}/new")])
        raising(ejected("two"))
        await raising.close()
    assert [(one.path, "two" in str(one.body)) for one in receiver.received] == [
        ("/hook/old", False),
        ("/hook/new", True),
    ]


async def test_a_redirect_is_not_followed_and_a_final_refusal_is_not_tried_again() -> None:
    async with alert_receiver() as elsewhere:
        moved = {"location": elsewhere.url}
        async with alert_receiver(lambda _: web.Response(status=307, headers=moved)) as receiver:
            raising = alerts(Receiver("slack", receiver.url))
            raising(ejected())
            await raising.close()
        assert (len(receiver.received), len(elsewhere.received)) == (1, 0)
    async with alert_receiver(lambda _: web.Response(status=404)) as gone:
        raising = alerts(Receiver("slack", gone.url))
        raising(ejected())
        await raising.close()
    assert len(gone.received) == 1


async def test_a_receiver_that_is_busy_gets_the_time_that_it_asks_for() -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []

    def respond(number: int) -> web.Response:
        times.append(loop.time())
        return web.Response(status=429, headers={"retry-after": "1"}) if number == 1 else web.Response()

    async with alert_receiver(respond) as receiver:
        raising = alerts(Receiver("teams", receiver.url))
        raising(ejected())
        await raising.close()
    assert times[1] - times[0] >= 1.0


async def test_the_url_of_a_receiver_reaches_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with alert_receiver(lambda _: web.Response(status=400)) as receiver:
        for url in (f"{receiver.url}/T0/B0/a-secret", "https://127.0.0.1:1/a-secret"):
            raising = alerts(Receiver("slack", url, place="alerts.webhooks[2]"))
            raising(ejected())
            await raising.close()
    assert caplog.text.count("alerts.webhooks[2]") == 2
    assert "a-secret" not in caplog.text
    assert "a-secret" not in repr(Receiver("slack", "https://hooks.slack.com/a-secret", "a-secret"))


async def test_two_instances_send_one_message(azurite: Azurite) -> None:
    stores = [TablesStore.from_connection_string(azurite.connection_string) for _ in range(2)]
    async with alert_receiver() as receiver:
        fleet = [Alerts([Receiver("slack", receiver.url)], store, store.now, 0.01) for store in stores]
        for _ in range(3):
            for one in fleet:
                one(ejected("of-two-instances", stores[0].now()))
        for one in fleet:
            await one.close()
        assert len(receiver.received) == 1
        assert [one.raised["backend_ejected",] for one in fleet] in ([1, 0], [0, 1])
    for store in stores:
        await store.close()


async def test_an_alert_is_sent_again_when_its_time_is_over_and_its_row_is_deleted() -> None:
    now = NOON
    store = MemoryStore(lambda: now)
    async with alert_receiver() as receiver:
        raising = Alerts([Receiver("slack", receiver.url)], store, lambda: now, 0.01)
        for later in (0, 3599, 3601):
            now = NOON + later
            raising(ejected(now=now))
            await asyncio.sleep(0.1)
        await raising.close()
        assert len(receiver.received) == 2
        raising(ejected("other", NOON + 3601))
        await raising.close()
    now = NOON + 3601 + 3599
    assert await raising.clean_up() == 0
    now += 2
    assert await raising.clean_up() == 2
    assert [*store.rows("control")] == ["alerts-sent"]  # what was sent is on record for longer


class Unreachable(MemoryStore):
    """A store whose tables do not answer."""

    def table(self, name: str) -> "UnreachableTable":
        return UnreachableTable(self, name)


class UnreachableTable(MemoryTable):
    async def get(self, partition: str, key: str) -> Row | None:
        raise StoreUnavailable("the table does not answer")


async def test_without_the_table_an_instance_sends_by_itself_rather_than_being_silent() -> None:
    async with alert_receiver() as receiver:
        raising = alerts(Receiver("generic", receiver.url, "s"), store=Unreachable(lambda: NOON))
        others = alerts(Receiver("generic", receiver.url, "s"), store=Unreachable(lambda: NOON))
        for one in (raising, raising, others):
            one(ejected())
        await raising.close()
        await others.close()
    assert len(receiver.received) == 2
    assert len({one.headers["webhook-id"] for one in receiver.received}) == 1  # a receiver drops one of them


class Forgetful(MemoryStore):
    """A store whose first conditional write is done, but its answer is lost."""

    answers = 0

    def table(self, name: str) -> "ForgetfulTable":
        return ForgetfulTable(self, name)


class ForgetfulTable(MemoryTable):
    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        written = await super().put(partition, key, properties, etag)
        Forgetful.answers += 1
        return None if Forgetful.answers == 1 else written


async def test_a_claim_whose_answer_was_lost_does_not_silence_the_alert() -> None:
    async with alert_receiver() as receiver:
        raising = alerts(Receiver("slack", receiver.url), store=Forgetful(lambda: NOON))
        raising(ejected())
        await raising.close()
    assert len(receiver.received) == 1


async def test_an_alert_that_nobody_accepted_is_sent_by_a_later_attempt() -> None:
    now = NOON
    store = MemoryStore(lambda: now)
    async with alert_receiver(lambda number: web.Response(status=400 if number == 1 else 204)) as receiver:
        raising = Alerts([Receiver("slack", receiver.url)], store, lambda: now, 0.01)
        raising(ejected())
        await asyncio.sleep(0.2)
        raising(ejected())  # not at once again
        now += 601
        raising(ejected(now=now))
        await raising.close()
    assert len(receiver.received) == 2


async def test_alerts_that_wait_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    async with alert_receiver(lambda _: web.Response(status=503)) as receiver:
        raising = alerts(Receiver("slack", receiver.url))
        for number in range(300):
            raising(ejected(f"backend-{number}"))
        assert caplog.text.count("alert queue is full") == 200
        await raising.close(0.1)
