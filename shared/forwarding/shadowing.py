"""Shadow traffic: sends copies of calls to another deployment, and records how it answers and what that costs."""

import asyncio
import logging
from collections.abc import Callable

import aiohttp

from shared.azure_openai import metering
from shared.azure_openai.metering import StreamMeter
from shared.concurrency import Tasks
from shared.config.document import Timeouts
from shared.forwarding._attempt import AttemptTimeout
from shared.forwarding._failures import AttemptFailed
from shared.forwarding._timeouts import first_byte_timeout
from shared.forwarding.backend_client import BackendClient
from shared.forwarding.response import Answer, WholeAnswer
from shared.routing.breakers import Breakers
from shared.types import Attempt, Call, Target, Usage
from shared.usage.ledger import Entry, Ledger

logger = logging.getLogger("tollgate.shadowing")

_MOST = 32  # under way at a time; slow shadows must not use up the resources of callers
_NUMBER = 100  # of the shadow among the attempts of its call, in the ledger and in spans: above those of all others

Ended = Callable[[Attempt, int], None]


class Shadows:
    """One per process. A copy goes on after its caller has left, and ends with the process."""

    def __init__(self, client: BackendClient, breakers: Breakers, ledger: Ledger, timeouts: Timeouts) -> None:
        self._client = client
        self._breakers = breakers
        self._ledger = ledger
        self._timeouts = timeouts
        self._tasks = Tasks()
        self.skipped = 0  # since the start, because too many were under way

    def send(self, call: Call, target: Target, entry: Entry, ended: Ended | None) -> None:
        """Send a copy in the background. `ended` receives the attempt, and its number among those of the call."""
        if len(self._tasks) >= _MOST:
            self.skipped += 1
            if self.skipped.bit_count() == 1:  # log the 1st, 2nd, 4th, 8th …
                logger.warning("%d shadows skipped so far: %d are under way", self.skipped, _MOST)
            return
        self._tasks.start(self._follow(call, target, entry, ended))

    async def close(self) -> None:
        await self._tasks.close()

    async def _follow(self, call: Call, target: Target, entry: Entry, ended: Ended | None) -> None:
        started = self._breakers.clock()
        timeout = AttemptTimeout(first_byte_timeout(call, target, self._timeouts))
        prompt = metering.unanswered(call)
        status, problem, usage = 0, "", None
        try:
            answer = await self._client.attempt(call, target, timeout, f"{entry.request_id}-shadow")
            try:
                status, usage = answer.status, await _read_to_end(answer)
            finally:
                answer.close()
        except AttemptFailed as failed:
            logger.info("shadow of %s: %s on %s", entry.request_id, failed.problem, target.backend.name)
            status, problem, usage = failed.status, failed.problem, prompt if failed.charged else None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            problem, usage = type(error).__name__, prompt  # it broke off; the prompt at least is charged
        milliseconds = (self._breakers.clock() - started) * 1000
        attempt = Attempt(target, status, problem, milliseconds, "shadow", usage, started)
        if usage is not None:
            self._ledger.charge(entry, _NUMBER, attempt)
        if ended is not None:
            ended(attempt, _NUMBER)


async def _read_to_end(answer: Answer) -> Usage:
    if isinstance(answer, WholeAnswer):
        return answer.usage
    meter = answer.meter
    async with asyncio.timeout_at(answer.deadline):
        while not (isinstance(meter, StreamMeter) and meter.done):
            async with asyncio.timeout(answer.silence):
                chunk = await answer.content.readany()
            if not chunk:
                break
            meter.feed(chunk)
    if isinstance(meter, StreamMeter):
        meter.end()
    return meter.result()
