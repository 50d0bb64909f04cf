"""Alerts at a webhook, verified as receivers do it."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import standardwebhooks
from aiohttp import web

from shared.config.document import Limits, Webhook
from shared.errors import ConfigurationError
from shared.limits import scopes
from shared.limits.alerts import Alerts
from tests.harness.scripted_store import NOON

SCOPE = scopes.scope("key", "ann", Limits())
STANDARD = "whsec_" + base64.b64encode(b"a secret of thirty-two characters").decode()


@asynccontextmanager
async def receiver(failures: int) -> AsyncIterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    received: list[tuple[dict[str, str], bytes]] = []

    async def take(request: web.Request) -> web.Response:
        received.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        return web.Response(status=500 if len(received) <= failures else 204)

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook", received
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("secret", "receivers"), [("any text", b"any text"), (STANDARD, STANDARD)], ids=["any text", "whsec_"]
)
async def test_an_alert_is_sent_until_it_is_accepted_and_every_try_is_signed(
    secret: str, receivers: str | bytes
) -> None:
    async with receiver(failures=2) as (url, received):
        alerts = Alerts(Webhook(url, secret), first_pause=0.01)
        alerts(SCOPE, "tokens", 80, NOON)
        await alerts.close()
    assert len(received) == 3
    assert len({headers["webhook-id"] for headers, _ in received}) == 1
    for headers, body in received:
        assert standardwebhooks.Webhook(receivers).verify(body, headers) == {
            "event": "quota_reached",
            "scope": "key:ann",
            "about": "The key of 'ann'",
            "limit": "tokens",
            "percentage": 80,
            "renews": "2026-11-21T12:00:00+00:00",
        }
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            standardwebhooks.Webhook(receivers).verify(body.replace(b"80", b"90"), headers)


async def test_a_try_is_signed_with_its_own_time() -> None:
    times = iter((NOON, NOON + 1.5))
    async with receiver(failures=1) as (url, received):
        alerts = Alerts(Webhook(url, "secret"), lambda: next(times), first_pause=0.01)
        alerts(SCOPE, "tokens", 80, NOON)
        await alerts.close()
    assert [headers["webhook-timestamp"] for headers, _ in received] == [f"{NOON:.0f}", f"{NOON + 1:.0f}"]
    assert len({headers["webhook-signature"] for headers, _ in received}) == 2


@pytest.mark.parametrize("secret", ["whsec_", "whsec_a"])
def test_a_standard_secret_that_is_not_base64_stops_the_start(secret: str) -> None:
    with pytest.raises(ConfigurationError, match="secret_env"):
        Alerts(Webhook("https://x.example/hook", secret))
