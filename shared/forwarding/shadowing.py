"""Sends copies of calls whose answers nobody sees, to learn what another deployment would have done and taken."""

import asyncio
import logging
from collections.abc import Callable

import aiohttp

from shared.azure_openai import metering
from shared.config.document import Timeouts
from shared.forwarding._attempt import AttemptFailed, AttemptTimeout
from shared.forwarding._timeouts import first_byte_timeout
from shared.forwarding.backend_client import BackendClient
from shared.forwarding.response import UpstreamResponse
from shared.routing.breakers import Breakers
from shared.types import Attempt, Call, Target, Usage

logger = logging.getLogger("tollgate.shadowing")

_MOST = 32  # under way at a time; a shadow that is slow must not take the place of callers


class Shadows:
    """One per process. A copy lives on when its caller has left; it ends with the process."""

    def __init__(self, upstream: BackendClient, breakers: Breakers, timeouts: Timeouts) -> None:
        self._upstream = upstream
        self._breakers = breakers
        self._timeouts = timeouts
        self._tasks: set[asyncio.Task[None]] = set()
        self.skipped = 0  # since the start, because too many were under way

    def send(self, call: Call, target: Target, request_id: str, ended: Callable[[Attempt], None]) -> None:
        """Send a copy in the background. `ended` is called with the attempt when it is over."""
        if len(self._tasks) >= _MOST:
            self.skipped += 1
            if self.skipped.bit_count() == 1:  # 1, 2, 4, 8 …: told, but not every time
                logger.warning("%d shadows left out so far: %d are under way", self.skipped, _MOST)
            return
        task = asyncio.get_running_loop().create_task(self._follow(call, target, request_id, ended))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, call: Call, target: Target, request_id: str, ended: Callable[[Attempt], None]) -> None:
        started = self._breakers.clock()
        patience = AttemptTimeout(first_byte_timeout(call, target, self._timeouts))
        prompt = metering.unanswered(call)
        status, problem, usage = 0, "", None
        try:
            answer = await self._upstream.attempt(call, target, patience, f"{request_id}-shadow")
            try:
                status, usage = answer.status, await _read_to_end(call, answer)
            finally:
                answer.close()
        except AttemptFailed as failed:
            logger.info("shadow of %s: %s on %s", request_id, failed.problem, target.backend.name)
            status, problem, usage = failed.status, failed.problem, prompt if failed.charged else None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            problem, usage = type(error).__name__, prompt  # it broke off, and has charged the prompt at least
        milliseconds = (self._breakers.clock() - started) * 1000
        ended(Attempt(target, status, problem, milliseconds, "shadow", usage, started))


async def _read_to_end(call: Call, answer: UpstreamResponse) -> Usage:
    if answer.complete:
        return metering.usage_in_answer(call, answer.status, answer.head)
    async with asyncio.timeout_at(answer.deadline):
        while not answer.at_end:
            async with asyncio.timeout(answer.silence):
                chunk = await answer.content.readany()
            if not chunk:
                break
            answer.feed(chunk)
    if answer.events is not None:
        answer.events.end()
    return answer.usage()
