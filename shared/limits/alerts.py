"""Reports quotas and budgets that are nearly or entirely used: in the log, and to a webhook.

The row of a limit records its alerts (`_token_bucket.py`), so a fleet sends each once per period. The webhook follows
https://www.standardwebhooks.com, for which receivers have verifiers.
"""

import asyncio
import hashlib
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import aiohttp
import msgspec

from shared.concurrency import Tasks
from shared.config.document import Webhook
from shared.errors import ConfigurationError
from shared.limits.scopes import Scope

if TYPE_CHECKING:
    import standardwebhooks

logger = logging.getLogger("tollgate.alerts")

_TRIES = 6
_FIRST_PAUSE = 1.0  # seconds between tries; doubles
_PATIENCE = 5.0  # seconds for a try
_MOST_WAITING = 100  # alerts that wait for an unreachable webhook


class Alerts:
    """One per process. Call it to raise an alert; it returns at once."""

    def __init__(
        self, webhook: Webhook | None, clock: Callable[[], float] = time.time, first_pause: float = _FIRST_PAUSE
    ) -> None:
        self.raised: Counter[tuple[str, str]] = Counter()  # (dimension, percentage) -> alerts
        self.configure(webhook)
        self._clock = clock
        self._first_pause = first_pause
        self._sending = Tasks()

    def configure(self, webhook: Webhook | None) -> None:
        """Send alerts there from now on. Raises `ConfigurationError`, and changes nothing then."""
        signer = _signer_of(webhook.secret) if webhook is not None else None
        self._url, self._signer = webhook.url if webhook is not None else None, signer

    def __call__(self, scope: Scope, dimension: str, percentage: int, until: float) -> None:
        """`dimension` of `scope` has reached this percentage of its quota, which renews at `until` (seconds since
        1970)."""
        alert = {
            "event": "quota_reached",
            "scope": scope.key,
            "about": scope.about,
            "limit": dimension,
            "percentage": percentage,
            "renews": datetime.fromtimestamp(until, UTC).isoformat(timespec="seconds"),
        }
        body = msgspec.json.encode(alert)
        logger.warning("ALERT %s", body.decode())
        self.raised[dimension, str(percentage)] += 1
        if self._url is None or self._signer is None:
            return
        if len(self._sending) >= _MOST_WAITING:
            logger.error("the webhook is out of reach: an alert is in this log only")
            return
        self._sending.start(self._send(self._url, self._signer, body))

    async def close(self, patience: float = 5.0) -> None:
        """Wait some seconds for alerts that are being sent."""
        await self._sending.finish(patience)

    async def _send(self, url: str, signer: "standardwebhooks.Webhook", body: bytes) -> None:
        """POST the alert until it is accepted. Every try has the same `webhook-id`, by which a receiver drops
        duplicates; each is signed with its own time, by which a receiver rejects replays."""
        number = hashlib.sha256(body).hexdigest()[:16]
        problem = ""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PATIENCE)) as session:
            for attempt in range(_TRIES):
                if attempt:
                    await asyncio.sleep(self._first_pause * 2 ** (attempt - 1) * random.uniform(0.8, 1.2))
                now = datetime.fromtimestamp(int(self._clock()), UTC)
                headers = {
                    "content-type": "application/json",
                    "webhook-id": number,
                    "webhook-timestamp": f"{now.timestamp():.0f}",
                    "webhook-signature": signer.sign(number, now, body.decode()),
                }
                try:
                    async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                        if answer.status < 300:
                            return
                        problem = f"status {answer.status}"
                except (aiohttp.ClientError, OSError, TimeoutError) as error:
                    problem = type(error).__name__
        logger.error("the webhook did not accept an alert in %d tries: %s", _TRIES, problem)


def _signer_of(secret: str) -> "standardwebhooks.Webhook":
    """A signer for a secret in the form of Standard Webhooks (`whsec_` and base64), or for any other text."""
    from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

    try:
        return Webhook(secret if secret.startswith("whsec_") else secret.encode())
    except (ValueError, EmptyWebhookSecretError):
        raise ConfigurationError(
            "limits.webhook.secret_env: expected the name of an environment variable with whsec_ and a secret in "
            "base64, or with any other text, but what follows whsec_ is not base64"
        ) from None
