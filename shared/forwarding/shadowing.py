"""Shadow traffic: sends copies of calls to another deployment, and records how it answers and what that costs."""

import asyncio
import logging
from collections.abc import Callable

import aiohttp

from shared.azure_openai import metering
from shared.concurrency import Tasks
from shared.config.document import Model
from shared.forwarding._attempt import AttemptTimeout
from shared.forwarding._failures import AttemptFailed
from shared.forwarding._timeouts import first_byte_timeout
from shared.forwarding.backend_client import BackendClient
from shared.forwarding.response import Answer, WholeAnswer
from shared.http_client import read_some
from shared.routing.breakers import Breakers
from shared.types import Attempt, Call, Target, Usage

logger = logging.getLogger("tollgate.shadowing")

_PLAIN = Model()
_MOST = 32  # under way at a time; slow shadows must not use up the resources of callers


class Shadows:
    """One per process. A copy goes on after its caller has left, and ends with the process."""

    def __init__(self, breakers: Breakers) -> None:
        self._breakers = breakers
        self._tasks = Tasks()
        self.skipped = 0  # since the start, because too many were under way

    def send(
        self, client: BackendClient, call: Call, target: Target, request_id: str, ended: Callable[[Attempt], None]
    ) -> None:
        """Send a copy in the background. `ended` is called with the attempt when it is over."""
        if len(self._tasks) >= _MOST:
            self.skipped += 1
            if self.skipped.bit_count() == 1:  # log the 1st, 2nd, 4th, 8th …
                logger.warning("%d shadows skipped so far: %d are under way", self.skipped, _MOST)
            return
        self._tasks.start(self._follow(client, call, target, request_id, ended))

    async def close(self) -> None:
        await self._tasks.close()

    async def _follow(
        self, client: BackendClient, call: Call, target: Target, request_id: str, ended: Callable[[Attempt], None]
    ) -> None:
        started = self._breakers.clock()
        timeout = AttemptTimeout(first_byte_timeout(call, target, client.timeouts, _PLAIN, client.timeouts.total))
        prompt = metering.unanswered(call)
        status, problem, usage = 0, "", None
        try:
            answer = await client.attempt(call, target, timeout, f"{request_id}-shadow")
            try:
                status, usage = answer.status, await _read_to_end(answer)
            finally:
                answer.close()
        except AttemptFailed as failed:
            logger.info("shadow of %s: %s on %s", request_id, failed.problem, target.backend.name)
            status, problem = failed.status, failed.problem
            usage = failed.usage or (prompt if failed.charged else None)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            problem, usage = type(error).__name__, prompt  # it broke off; the prompt at least is charged
        milliseconds = (self._breakers.clock() - started) * 1000
        ended(Attempt(target, status, problem, milliseconds, "shadow", usage, started))


async def _read_to_end(answer: Answer) -> Usage:
    if isinstance(answer, WholeAnswer):
        return answer.usage
    events = answer.events
    async with asyncio.timeout_at(answer.deadline):
        while events is None or not events.done:
            async with asyncio.timeout(answer.silence):
                chunk = await read_some(answer.content)
            if not chunk:
                break
            answer.body.feed(chunk)
    if events is not None:
        events.end()
    return answer.usage()
