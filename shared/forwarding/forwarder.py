"""Sends a call to its targets, one after the other, until one answers. One try is `upstream.py`."""

import asyncio
import logging
from collections.abc import Sequence

import msgspec

from shared.azure_openai import answers, metering
from shared.config.document import FallbackReason, Timeouts
from shared.errors import BadGateway, GatewayError, NoBackendAvailable, UpstreamTimeout
from shared.forwarding._attempt import (
    AttemptFailed,
    AttemptTimeout,
    Disconnected,
    InvalidAnswer,
    Superseded,
    Throttled,
    TimedOut,
)
from shared.forwarding._hedging import HedgedTry
from shared.forwarding._timeouts import first_byte_timeout, hedge_delay
from shared.forwarding.backend_client import BackendClient
from shared.forwarding.response import UpstreamResponse
from shared.requests.upload import Upload
from shared.routing import quota
from shared.routing.breakers import Breakers
from shared.routing.retry_budget import RetryBudget
from shared.routing.router import Router
from shared.types import BEATEN, LEFT, Attempt, Call, Plan, Role, Target, Usage

logger = logging.getLogger("tollgate.forwarding")

_LOOK_AFTER = 3.0  # seconds after which a try is looked at that has shown nothing
_LOOK_AGAIN = 1.0
_LONGER = 1.5  # times the longest answer there was: from then on a target may hang


class ForwardingFailed(Exception):
    """No target answered. `error` is for the caller; `attempts` for the record."""

    def __init__(self, error: GatewayError, attempts: tuple[Attempt, ...]) -> None:
        super().__init__(error.message)
        self.error = error
        self.attempts = attempts


class Forwarder:
    """Tries targets in order."""

    def __init__(self, upstream: BackendClient, breakers: Breakers, router: Router, timeouts: Timeouts) -> None:
        self.upstream = upstream
        self.breakers = breakers
        self.router = router
        self.timeouts = timeouts
        self.budget = RetryBudget(breakers.clock)

    def sending(
        self, call: Call, plan: Plan, request_id: str, started: float, upload: Upload | None = None
    ) -> "ForwardedCall":
        """A call that is to be sent. `started`: when it came in, from which its time runs. An `upload` is tried
        elsewhere as long as all that has come of it is still here."""
        return ForwardedCall(self, call, plan, request_id, started, upload)


class ForwardedCall:
    """One call on its way: what was tried, and why it failed. `run` it once."""

    def __init__(
        self, forwarder: Forwarder, call: Call, plan: Plan, request_id: str, started: float, upload: Upload | None
    ) -> None:
        self._forwarder = forwarder
        self._breakers = forwarder.breakers
        self._clock = forwarder.breakers.clock
        self._call = call
        self._plan = plan
        self._request_id = request_id
        self._upload = upload
        total = forwarder.timeouts.total
        self._deadline = started + (total if plan.seconds is None else min(plan.seconds, total))
        self._tokens = quota.estimate(call)
        self._left = list(plan.targets)
        self._attempts: list[Attempt] = []
        self._failures: list[AttemptFailed] = []
        self._throttled = False
        self._tried_ejected = False
        self._spilled: list[tuple[str, str]] = []  # endpoints and deployments that Azure itself has asked in vain
        self._refused: tuple[FallbackReason, UpstreamResponse] | None = None

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The tries so far, also when `run` was cancelled."""
        return tuple(self._attempts)

    async def run(self) -> UpstreamResponse:
        """The first committed answer. Raises `ForwardingFailed`, and closes what it opened on any way out."""
        self._forwarder.budget.called()
        self._breakers.look()
        while self._left:
            target = self._left.pop(0)
            if self._upload is not None and not self._upload.repeatable:
                break
            if not self._may_try(target):
                continue
            limit = self._limit(target)
            if limit <= 0:
                self._failures.append(TimedOut("the time for the whole call was over"))
                break
            if self._failures and not isinstance(self._failures[-1], Throttled) and not self._forwarder.budget.take():
                # When much fails, trying everything again elsewhere would bring down what still works.
                logger.warning("%s: no further try, the budget for them is spent", self._request_id)
                break
            answer = await HedgedTry(self, target, limit).run(self.first_look(target, limit))
            if answer is not None and not self._may_be_bettered(target, answer):
                return self._committed(answer)
        return self._nobody()

    # --- decisions ----------------------------------------------------------------------------------------------------

    def _may_try(self, target: Target) -> bool:
        now = self._clock()
        health = self._breakers.health(target)
        if health.cooling_at(now, self._tokens) or (self._throttled and not health.usable_at(now, self._tokens)):
            # One that is cooling is not asked before its time. And once a backend has told when to come back, the
            # caller is better told that than kept waiting for one that is left alone for its failures.
            self._throttled = True
            return False
        if not self._serves(target) or self._was_spilled_to(target):
            return False
        if now < health.ejected_until:
            # With everything down, one that was given up on is tried for a last chance; to wait for each would be a
            # long time for a caller who most likely gets nothing.
            if self._tried_ejected:
                return False
            self._tried_ejected = True
        return True

    def _serves(self, target: Target) -> bool:
        """Whether a target's model is one for this call, as things stand."""
        plan = self._plan
        if target.model in (plan.model, plan.canary):
            # What a model has refused it would refuse elsewhere, too; but the window of a provisioned deployment may be
            # smaller than that of the model.
            return self._refused is None or (
                self._refused[0] == "context_window"
                and self._refused[1].target.backend.kind == "provisioned"
                and target.backend.kind == "standard"
            )
        return (self._refused[0] if self._refused is not None else "unavailable") in plan.fallback_on

    def _was_spilled_to(self, target: Target) -> bool:
        """Whether Azure has asked this deployment already, in place of a provisioned one of the same resource."""
        return target.backend.kind == "standard" and any(
            endpoint == target.backend.endpoint and name in ("?", target.deployment) for endpoint, name in self._spilled
        )

    def _limit(self, target: Target) -> float:
        """What is left of the call's time bounds each try."""
        return min(first_byte_timeout(self._call, target, self._forwarder.timeouts), self._deadline - self._clock())

    def _may_be_bettered(self, target: Target, answer: UpstreamResponse) -> bool:
        """Whether this answer refuses what another model, or a larger window, may take. It is kept for the caller,
        should they not."""
        if answer.status != 400 or not answer.complete or self._refused is not None:
            return False
        reason = answers.fallback_reason(answer.status, answer.head)
        if reason is None:
            return False
        self._refused = reason, answer
        if not any(map(self._serves, self._left)):
            self._refused = None
            return False
        answer.close()
        usage = metering.usage_in_answer(self._call, answer.status, answer.head)
        last = self._attempts[-1]
        self._attempts[-1] = msgspec.structs.replace(
            last, problem=f"refused: {reason}", usage=usage if usage != Usage() else None
        )
        return True

    # --- tries --------------------------------------------------------------------------------------------------------

    async def attempt(self, target: Target, patience: AttemptTimeout, role: Role = "try") -> UpstreamResponse | None:
        started = self._clock()
        try:
            answer = await self._forwarder.upstream.attempt(
                self._call, target, patience, self._request_id, self._upload
            )
        except Superseded:
            self.lost(target, started, role)
            return None
        except asyncio.CancelledError:
            if role == "try":  # a hedge's end is `lost`
                self._note(target, 0, LEFT, started, role)
            raise
        except AttemptFailed as failed:
            self._throttled = self._throttled or isinstance(failed, Throttled)
            self._failures.append(failed)
            if failed.spilled_to:
                self._spilled.append((target.backend.endpoint, failed.spilled_to))
            usage = metering.unanswered(self._call) if failed.charged else None
            self._note(target, failed.status, failed.problem, started, role, usage)
            logger.info("%s: %s on %s: %s", self._request_id, target.deployment, target.backend.name, failed.problem)
            if isinstance(failed, Disconnected) and len(self._plan.targets) == 1 == len(self._attempts):
                self._left.append(target)  # it may have closed an idle connection, and there is no other to ask
            return None
        self._note(answer.target, answer.status, "", started, role)
        return answer

    def first_look(self, target: Target, limit: float) -> float:
        """Seconds until a try may take too long: for a call that is to be hedged, once it takes longer than it usually
        does; for any other, once its target may hang, which three tries in a row would prove after all their time."""
        if not self._plan.hedge:
            return _LOOK_AFTER
        return hedge_delay(self._breakers.watched(target).latency.usual(stream=self._call.stream), limit)

    def look_again(self, target: Target, started: float, limit: float) -> float:
        if self._plan.hedge:
            return 0.0
        # Longer than any answer yet, of whatever kind and from whomever. Nothing is known of a process's first calls.
        longest = max(self._breakers.watched(one).latency.longest() for one in (target, *self._plan.targets))
        too_long = max(_LOOK_AFTER, _LONGER * longest / 1000) if longest else limit
        if (left := too_long - (self.now() - started)) > 0:
            return left
        return 0.0 if self.silent(target, started) else _LOOK_AGAIN

    def another(self, target: Target) -> tuple[Target, AttemptTimeout] | None:
        """A usable target of the same model, within the budget. Nobody for a call without a model, which makes a file
        or the like: it would be there twice; nor for one that is uploading, which can be read by one at a time."""
        if self._upload is not None or not target.model:
            return None
        now = self.now()
        for other in self._left:
            if other.model == target.model and self._breakers.usable(other, now, self._tokens):
                if not self._forwarder.budget.take():
                    return None
                self._left.remove(other)
                return other, AttemptTimeout(self._limit(other))
        return None

    def silent(self, target: Target, started: float) -> bool:
        return self._breakers.silent(target, started)

    def lost(self, target: Target, since: float, role: Role) -> None:
        """Its backend charges the prompt at least."""
        lost = Attempt(target, 0, BEATEN, self._since(since), role, metering.unanswered(self._call), started=since)
        answered = bool(self._attempts) and not self._attempts[-1].problem
        self._attempts.insert(len(self._attempts) - answered, lost)  # the one that answered stays the last

    def unseen(self, answer: UpstreamResponse) -> None:
        answer.close()
        self._attempts = [attempt for attempt in self._attempts if attempt.role != "hedge" or attempt.problem]

    def now(self) -> float:
        return self._clock()

    # --- ends ---------------------------------------------------------------------------------------------------------

    def _committed(self, answer: UpstreamResponse) -> UpstreamResponse:
        answer.attempts = self.attempts
        if self._plan.seconds is not None:
            left = self._deadline - self._clock()
            answer.deadline = min(answer.deadline, asyncio.get_running_loop().time() + left)
        return answer

    def _nobody(self) -> UpstreamResponse:
        """What the caller is told when nobody has served it."""
        if self._refused is not None:
            answer = self._refused[1]
            # Its tokens are those of the caller's answer now.
            self._attempts = [
                msgspec.structs.replace(a, usage=None) if a.problem.startswith("refused: ") else a
                for a in self._attempts
            ]
            return self._committed(answer)
        if self._throttled:
            waits = [failed.wait for failed in self._failures if failed.wait is not None]
            throttled = self._forwarder.router.throttled(self._plan.targets, waits, self._tokens)
            raise ForwardingFailed(throttled, self.attempts)
        # A backend's own words about its failure are worth more to the caller than ours.
        if said := next((f.answer for f in reversed(self._failures) if f.answer is not None), None):
            return self._committed(said)
        raise ForwardingFailed(_final_error(self._failures), self.attempts)

    def _note(
        self, target: Target, status: int, problem: str, started: float, role: Role, usage: Usage | None = None
    ) -> None:
        self._attempts.append(Attempt(target, status, problem, self._since(started), role, usage, started))

    def _since(self, started: float) -> float:
        return (self._clock() - started) * 1000


def _final_error(failures: Sequence[AttemptFailed]) -> GatewayError:
    """The honest word for a call that nobody answered."""
    if any(isinstance(failed, TimedOut) for failed in failures):
        return UpstreamTimeout("No backend of this model answered in time.")
    if any(isinstance(failed, InvalidAnswer) for failed in failures):
        return BadGateway("Every backend of this model answered with something that is no answer of Azure OpenAI's.")
    logger.error("no backend left: %s", "; ".join(dict.fromkeys(failed.problem for failed in failures)))
    return NoBackendAvailable(
        "No backend of this model could be reached. The gateway's operator finds the reasons in its log."
    )
