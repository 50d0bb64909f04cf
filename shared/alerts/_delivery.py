"""Sends alerts to one receiver: signed where it checks signatures, and tried until it accepts them."""

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import aiohttp

from shared.alerts import _payloads
from shared.alerts.events import Alert
from shared.alerts.sent import Result, result
from shared.config.alerting import Receiver
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    import standardwebhooks

logger = logging.getLogger("tollgate.alerts")

TRIES = 6
_PATIENCE = 5.0  # seconds for a try
_LONGEST_PAUSE = 60.0  # seconds that a receiver may ask for
_TEMPORARY = frozenset((408, 409, 425, 429))  # of the statuses below 500


class Delivery:
    """One per receiver. `clock` gives seconds since 1970; `first_pause`: seconds before the second try, doubled with
    each. Raises `ConfigurationError` for a secret that cannot sign."""

    def __init__(self, receiver: Receiver, clock: Callable[[], float], first_pause: float) -> None:
        self.receiver = receiver
        self._signer = _signer_of(receiver) if receiver.kind == "generic" else None
        self._clock = clock
        self._first_pause = first_pause

    async def send(self, alert: Alert, tries: int = TRIES) -> Result:
        """POST an alert until it is accepted, so many times at most. Every try has the same `webhook-id`, by which a
        receiver drops duplicates; each is signed with its own time, by which a receiver rejects replays. Redirects are
        not followed. The URL, which may be secret, reaches no log."""
        receiver, data, problem = self.receiver, _payloads.body(self.receiver.kind, alert), ""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PATIENCE)) as session:
            for attempt in range(tries):
                wait = self._first_pause * 2**attempt * random.uniform(0.8, 1.2)
                try:
                    headers = self._headers(alert, data)
                    async with session.post(receiver.url, data=data, headers=headers, allow_redirects=False) as answer:
                        if answer.status < 300:
                            return result(receiver, "", attempt + 1, self._clock())
                        problem = f"status {answer.status}"
                        if answer.status < 500 and answer.status not in _TEMPORARY:
                            break  # it would refuse every try
                        wait = max(wait, _asked_for(answer.headers.get("retry-after", "")))
                except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                    problem = type(error).__name__
                if attempt + 1 < tries:
                    await asyncio.sleep(wait)
        logger.error(
            "%s: the receiver at %s did not accept the alert %s in %d tries: %s",
            receiver.place, receiver.host, alert.event, attempt + 1, problem,
        )  # fmt: skip
        return result(receiver, problem, attempt + 1, self._clock())

    def _headers(self, alert: Alert, data: bytes) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        if self._signer is not None:
            now = datetime.fromtimestamp(int(self._clock()), UTC)
            headers |= {
                "webhook-id": alert.id,
                "webhook-timestamp": f"{now.timestamp():.0f}",
                "webhook-signature": self._signer.sign(alert.id, now, data.decode()),
            }
        return headers


def _asked_for(retry_after: str) -> float:
    """The seconds that a receiver asks for, within bounds."""
    return min(float(retry_after), _LONGEST_PAUSE) if retry_after.isdecimal() else 0.0


def _signer_of(receiver: Receiver) -> "standardwebhooks.Webhook":
    """A signer for a secret in the form of Standard Webhooks (`whsec_` and base64), or for any other text."""
    from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

    secret = receiver.secret
    try:
        return Webhook(secret if secret.startswith("whsec_") else secret.encode())
    except (ValueError, EmptyWebhookSecretError):
        raise ConfigurationError(
            f"{receiver.place}.secret_env: expected base64 after whsec_ in the environment variable that this names; a "
            "secret without whsec_ may be any text"
        ) from None
