"""Tells the operator that a quota or a budget is nearly or entirely used: in the log, and by a signed webhook.

The row of the limit remembers what has been told (`leases.py`), so a fleet tells each once per period.
"""

import asyncio
import hashlib
import hmac
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import aiohttp
import msgspec

from shared.config.document import Webhook
from shared.limits.scopes import Scope

logger = logging.getLogger("tollgate.alerts")

_TRIES = 6
_FIRST_PAUSE = 1.0  # seconds between tries; doubles
_PATIENCE = 5.0  # seconds for a try
_MOST_WAITING = 100  # alerts that wait for a webhook out of reach


class Alerts:
    """One per process. Call it to raise an alert; returns at once."""

    def __init__(
        self, webhook: Webhook | None, clock: Callable[[], float] = time.time, first_pause: float = _FIRST_PAUSE
    ) -> None:
        self.raised: Counter[tuple[str, str]] = Counter()  # (dimension, percentage) -> alerts
        self._webhook = webhook
        self._clock = clock
        self._first_pause = first_pause
        self._sending: set[asyncio.Task[None]] = set()

    def __call__(self, scope: Scope, dimension: str, percentage: int, until: float) -> None:
        """`dimension` of `scope` has reached this percentage of what may be used until then (seconds since 1970)."""
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
        if self._webhook is None:
            return
        if len(self._sending) >= _MOST_WAITING:
            logger.error("the webhook is out of reach; an alert stands in this log only")
            return
        task = asyncio.get_running_loop().create_task(self._send(self._webhook, body))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def stop(self, patience: float = 5.0) -> None:
        """Wait a moment for what is being sent."""
        if self._sending:
            _, late = await asyncio.wait(self._sending, timeout=patience)
            for task in late:
                task.cancel()

    async def _send(self, webhook: Webhook, body: bytes) -> None:
        """POST it until it is accepted. The same body and `x-tollgate-id` each time, so that a receiver can drop
        doubles; the signature is of the moment, so that it can refuse what is replayed."""
        number = hashlib.sha256(body).hexdigest()[:16]
        problem = ""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PATIENCE)) as session:
            for tried in range(_TRIES):
                if tried:
                    await asyncio.sleep(self._first_pause * 2 ** (tried - 1) * random.uniform(0.8, 1.2))
                headers = {
                    "content-type": "application/json",
                    "x-tollgate-id": number,
                    "x-tollgate-signature": signature(webhook.secret, int(self._clock()), body),
                }
                try:
                    async with session.post(webhook.url, data=body, headers=headers, allow_redirects=False) as answer:
                        if answer.status < 300:
                            return
                        problem = f"status {answer.status}"
                except (aiohttp.ClientError, OSError, TimeoutError) as error:
                    problem = type(error).__name__
        logger.error("the webhook did not take an alert in %d tries: %s", _TRIES, problem)


def signature(secret: str, seconds: int, body: bytes) -> str:
    """`t=SECONDS,v1=HEX`: the HMAC-SHA256 of the seconds, a dot and the body, by the shared secret."""
    digest = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"
