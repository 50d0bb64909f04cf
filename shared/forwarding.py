"""Sends a call to its targets, one after the other, until one answers. One try is `upstream.py`."""

import logging
import time
from collections.abc import Sequence

from shared.circuit_breaker import Breakers
from shared.config import Timeouts
from shared.deadlines import first_byte_timeout
from shared.errors import BadGateway, GatewayError, NoBackendAvailable, UpstreamTimeout
from shared.routing import Router
from shared.types import Attempt, Call, Target
from shared.upstream import Failed, Garbage, Throttled, TimedOut, Upstream, UpstreamResponse

logger = logging.getLogger("tollgate.forwarding")


class ForwardingFailed(Exception):
    """No target answered. `error` is for the caller; `attempts` for the record."""

    def __init__(self, error: GatewayError, attempts: tuple[Attempt, ...]) -> None:
        super().__init__(error.message)
        self.error = error
        self.attempts = attempts


class Forwarder:
    """Tries targets in order."""

    def __init__(self, upstream: Upstream, breakers: Breakers, router: Router, timeouts: Timeouts) -> None:
        self._upstream = upstream
        self._breakers = breakers
        self._router = router
        self._timeouts = timeouts

    async def send(self, call: Call, targets: Sequence[Target], request_id: str) -> UpstreamResponse:
        """The first committed answer. Raises `ForwardingFailed`, and closes what it opened on any way out."""
        attempts: list[Attempt] = []
        failures: list[Failed] = []
        throttled = False
        deadline = time.monotonic() + self._timeouts.total
        for target in targets:
            started = time.monotonic()
            health = self._breakers.health(target)
            if health.cooling_at(started) or (throttled and not health.usable_at(started)):
                # One that is cooling is not asked before its time. And once a backend has told when to come back, the
                # caller is better told that than kept waiting for one that is left alone for its failures.
                throttled = True
                continue
            # What is left of the call's time bounds each try.
            limit = min(first_byte_timeout(call, target, self._timeouts), deadline - started)
            if limit <= 0:
                failures.append(TimedOut("the time for the whole call was over"))
                break
            self._breakers.begin(target, limit)
            try:
                answer = await self._upstream.attempt(call, target, limit, request_id)
            except Failed as failed:
                throttled = throttled or isinstance(failed, Throttled)
                failures.append(failed)
                attempts.append(Attempt(target, failed.status, failed.problem, _since(started), started=started))
                logger.info("%s: %s on %s: %s", request_id, target.deployment, target.backend.name, failed.problem)
                continue
            answer.attempts = (*attempts, Attempt(target, answer.status, "", _since(started), started=started))
            return answer
        if throttled:
            waits = [failed.wait for failed in failures if failed.wait is not None]
            raise ForwardingFailed(self._router.throttled(targets, waits), tuple(attempts))
        # Nobody is left. A backend's own words about its failure are worth more to the caller than ours.
        if said := next((f.answer for f in reversed(failures) if f.answer is not None), None):
            said.attempts = tuple(attempts)
            return said
        raise ForwardingFailed(_refusal(failures), tuple(attempts))


def _refusal(failures: Sequence[Failed]) -> GatewayError:
    """The honest word for a call that nobody answered."""
    if any(isinstance(failed, TimedOut) for failed in failures):
        return UpstreamTimeout("No backend of this model answered in time.")
    if any(isinstance(failed, Garbage) for failed in failures):
        return BadGateway("Every backend of this model answered with something that is no answer of Azure OpenAI's.")
    logger.error("no backend left: %s", "; ".join(dict.fromkeys(failed.problem for failed in failures)))
    return NoBackendAvailable(
        "No backend of this model could be reached. The gateway's operator finds the reasons in its log."
    )


def _since(started: float) -> float:
    return (time.monotonic() - started) * 1000
