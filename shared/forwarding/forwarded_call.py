"""Sends a call to its targets, one after the other, until one answers."""

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

import msgspec

from shared.azure_openai import metering
from shared.config.document import Model
from shared.errors import GatewayError
from shared.forwarding._attempt import AttemptTimeout, in_seconds
from shared.forwarding._attempt_log import AttemptLog
from shared.forwarding._candidates import Candidates
from shared.forwarding._failures import AttemptFailed, Superseded, Throttled, TimedOut
from shared.forwarding._hedging import HedgedAttempt
from shared.forwarding._rounds import Rounds
from shared.forwarding._timeouts import first_byte_timeout, hedge_delay
from shared.forwarding.late_attempts import AttemptTask, charge_of, usage_of
from shared.forwarding.response import Answer, WholeAnswer
from shared.requests.upload import Upload
from shared.routing import quota
from shared.routing.silence import SHORTEST, patience
from shared.types import LEFT, LEFT_EARLY, Attempt, Call, Plan, Role, Target, Usage

if TYPE_CHECKING:
    from shared.forwarding.forwarder import Forwarder

logger = logging.getLogger("tollgate.forwarding")

_LOOK_AFTER = SHORTEST  # seconds after which an attempt is looked at that has shown nothing
_PLAIN = Model()


class Record(Protocol):
    """The call as it is on record (`accounting.CallRecord`)."""

    async def admit(self, model: str) -> bool:
        """Return True if the limits of this model admit the call."""
        ...

    def tried(self, number: int, attempt: Attempt) -> None:
        """Hear of an attempt that has ended, given its number among those of its call."""
        ...

    def charge(self, number: int, attempt: Attempt) -> None:
        """Record the charge of an attempt that has ended late, given its number among those of its call."""
        ...


class ForwardingFailed(Exception):
    """No target answered. `error` is for the caller, `attempts` for the record."""

    def __init__(self, error: GatewayError, attempts: tuple[Attempt, ...]) -> None:
        super().__init__(error.message)
        self.error = error
        self.attempts = attempts


class ForwardedCall:
    """One call: the attempts so far, and why they failed. `run` it once."""

    def __init__(
        self,
        forwarder: "Forwarder",
        call: Call,
        plan: Plan,
        request_id: str,
        upload: Upload | None,
        record: Record | None,
        *,
        kept_alive: bool,
    ) -> None:
        self._forwarder = forwarder
        self._breakers = forwarder.breakers
        self._clock = forwarder.breakers.clock
        self._call = call
        self._plan = plan
        self._request_id = request_id
        self._upload = upload
        self._record = record
        self._admitted = {plan.model: True}  # by model
        longest = max(forwarder.timeouts.total, forwarder.timeouts.stream if kept_alive else 0.0)
        self._deadline = self._clock() + min(longest, plan.seconds or longest)
        self._started = in_seconds(0.0)
        self._upload_sent = False
        self._fresh = False  # the attempt is the last one, on a connection that was not idle
        self._tokens = quota.estimate(call)
        self._candidates = Candidates(plan, forwarder.router, forwarder.breakers, self._tokens)
        self._rounds = Rounds(forwarder.retry)
        self._log = AttemptLog(self._clock, record.tried if record is not None else None)

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The attempts so far, also after `run` was cancelled."""
        return self._log.all()

    async def run(self) -> Answer:
        """Return the first committed answer. Raises `ForwardingFailed`, and closes what it opened in any case."""
        self._forwarder.budget.called()
        self._breakers.look()
        while (answer := await self._round()) is None and (wait := self._wait()) is not None:
            logger.info("%s: every backend failed, retrying in %.1f s", self._request_id, wait)
            await asyncio.sleep(wait)
            self._candidates.begin_round()
        return answer if answer is not None else self._last_resort()

    async def _round(self) -> Answer | None:
        """Try the targets, one after the other. None: all of them failed."""
        candidates = self._candidates
        while candidates.left:
            target = candidates.left.pop(0)
            if self._upload is not None and not self._upload.repeatable:
                break
            if not candidates.may_try(target) or not await self._is_admitted(target.model):
                continue
            limit = self._limit(target)
            if limit <= 0:
                candidates.failed.add(target, TimedOut("no time was left for the call"))
                break
            if not candidates.failed.retry_is_free and not self._forwarder.budget.take():
                # When much fails, retries would overload the backends that still work.
                logger.warning("%s: not retried: retry budget exhausted", self._request_id)
                break
            timeout = self._timeout(limit, watched=True)
            answer = await HedgedAttempt(self, target, timeout).run(self._first_look(target, limit))
            self._restart_clock(timeout)
            if answer is not None and not self._falls_back(answer):
                return answer
        return None

    def _wait(self) -> float | None:
        """Return the seconds until all targets are tried again; None: they are not."""
        candidates, upload = self._candidates, self._upload
        if self._record is None or (upload is not None and not upload.repeatable):
            return None
        if candidates.refused is not None or not (candidates.throttled or candidates.failed.may_pass):
            return None
        return self._rounds.wait(candidates.earliest, self._deadline - self._clock(), self._breakers.rng.random())

    def _restart_clock(self, timeout: AttemptTimeout) -> None:
        """Count the deadline of an upload from its end, which its first attempt may have waited for."""
        if timeout.sent_at is not None and not self._upload_sent:
            self._upload_sent = True
            self._deadline += timeout.sent_at - self._started

    # --- decisions ----------------------------------------------------------------------------------------------------

    async def _is_admitted(self, model: str) -> bool:
        """Return True if the limits of this model admit the call: those of the plan's model did."""
        if model not in self._admitted:
            self._admitted[model] = self._record is None or await self._record.admit(model)
        return self._admitted[model]

    def _limit(self, target: Target) -> float:
        """The seconds of an attempt, within the time left for the call."""
        settings = self._forwarder.models.get(target.model, _PLAIN)
        left = self._deadline - self._clock()
        return first_byte_timeout(self._call, target, self._forwarder.timeouts, settings, left)

    def _timeout(self, limit: float, *, watched: bool = False) -> AttemptTimeout:
        if self._plan.seconds is None:
            return AttemptTimeout(limit, watched=watched)
        return AttemptTimeout(limit, call_ends=in_seconds(self._deadline - self._clock()), watched=watched)

    def _falls_back(self, answer: Answer) -> bool:
        """Return True if another model, or a larger window, may take the call that this answer refuses. The caller gets
        this answer if they do not."""
        if not isinstance(answer, WholeAnswer) or answer.refusal is None or not self._candidates.refuse(answer):
            return False
        self._log.refused(answer.refusal, answer.usage)
        return True

    # --- attempts -----------------------------------------------------------------------------------------------------

    async def attempt(self, target: Target, timeout: AttemptTimeout, role: Role = "try") -> Answer | None:
        """Make an attempt and record it. None: it failed."""
        started = self._clock()
        try:
            answer = await self._forwarder.client.attempt(
                self._call, target, timeout, self._request_id, self._upload, fresh=self._fresh
            )
        except asyncio.CancelledError:
            if role == "try" and not timeout.late:  # the end of a hedge is recorded by `superseded`
                self._log.add(target, 0, LEFT if timeout.written else LEFT_EARLY, started, role)
            raise
        except AttemptFailed as failed:
            if timeout.late:
                raise
            self._failed(target, failed, started, role, timeout)
            return None
        if not timeout.late:
            self._log.add(answer.target, answer.status, "", started, role)
        return answer

    def _failed(
        self, target: Target, failed: AttemptFailed, started: float, role: Role, timeout: AttemptTimeout
    ) -> None:
        """Record an attempt that failed."""
        if isinstance(failed, Superseded):
            if failed.hung:
                self._candidates.failed.add(target, failed)
            self.superseded(target, started, role, self.prompt(timeout))
            return
        candidates = self._candidates
        candidates.throttled = candidates.throttled or isinstance(failed, Throttled)
        candidates.failed.add(target, failed)
        self._log.add(target, failed.status, failed.problem, started, role, failed.charge(self._call))
        logger.info("%s: %s on %s: %s", self._request_id, target.deployment, target.backend.name, failed.problem)
        if not candidates.left and not self._fresh and candidates.failed.all_disconnected:
            # Each may have closed an idle connection that was too old: the last one is tried once more.
            self._fresh = True
            candidates.left.append(target)

    def _first_look(self, target: Target, limit: float) -> float:
        """Seconds after which an attempt may take too long: for a call to be hedged, its usual time; for any other, the
        time after which its target may hang."""
        if not self._plan.hedge:
            return _LOOK_AFTER
        return hedge_delay(self._breakers.watched(target).latency.usual(stream=self._call.stream), limit)

    def look_again(self, target: Target, started: float) -> float:
        """Return the seconds until an attempt is to be looked at again; 0: it is time for a second one."""
        if self._plan.hedge:
            return 0.0
        look = self._breakers.suspicion(target, started, self._patience(target))
        if look.verdict == "hangs":
            self._breakers.hung(target)
            return _LOOK_AFTER
        return look.seconds

    def another(self, target: Target) -> tuple[Target, AttemptTimeout] | None:
        """Take a usable target of the same model for a second attempt, within the retry budget. None for a call without
        a model, which would make its file twice, and for an upload, which can be read by one attempt at a time."""
        if self._upload is not None or not target.model:
            return None
        other = self._candidates.fit_for_test(target)
        if other is None or not self._forwarder.budget.take():
            return None
        self._candidates.left.remove(other)
        if not self._plan.hedge:
            self._breakers.tested(target)
        return other, self._timeout(self._limit(other))

    @property
    def hedged(self) -> bool:
        return self._plan.hedge

    @property
    def may_be_late(self) -> bool:
        """True if an attempt may go on after another one has answered. Of a stream, which ends with its connection, no
        more is generated; a whole answer is generated and charged whether anybody waits for it or not."""
        return self._record is not None and not self._call.stream and self._forwarder.late.have_room

    def answered_first(self, target: Target, started: float, timeout: AttemptTimeout, *, in_task: bool) -> bool:
        """End the first attempt because the second one has the answer, or return True if it may go on. If its target is
        still silent, it hangs."""
        hung = self._breakers.silent(target, started, self._patience(target))
        if in_task and not hung and self.may_be_late:
            return True
        timeout.supersede(hung=hung)
        if hung:
            self._breakers.hung(target)
        return False

    def let_end(
        self, task: AttemptTask, target: Target, since: float, timeout: AttemptTimeout, role: Role = "try"
    ) -> None:
        """Let an attempt go on that another one has beaten, and record its charge when it has ended."""
        timeout.late = True
        number, attempt = self._log.add_beaten(target, since, role, None)

        def ended(task: AttemptTask) -> None:
            usage = usage_of(task, self._call, self.prompt(timeout))
            if self._record is not None and usage is not None:
                self._record.charge(number, msgspec.structs.replace(attempt, usage=usage))

        self._forwarder.late.add(task, ended)

    def _patience(self, target: Target) -> float:
        """The seconds of silence after which a target is suspect, by the answers to such calls, its own above all."""
        for one in (target, *self._plan.targets):
            latency = self._breakers.watched(one).latency
            if (usual := latency.usual_for(self._tokens, stream=self._call.stream)) is not None:
                return patience(usual)
        return patience(None)

    def prompt(self, timeout: AttemptTimeout) -> Usage | None:
        """The charge for an attempt that is given up: its prompt, if that was sent; what follows is not known."""
        return metering.unanswered(self._call) if timeout.written else None

    def superseded(self, target: Target, since: float, role: Role, usage: Usage | None) -> None:
        """Record a superseded attempt with what its backend charges."""
        self._log.add_beaten(target, since, role, usage)

    def discard(self, answer: Answer) -> Usage:
        """Close the answer of a second attempt that came too late, and take it from the record. Return its usage."""
        answer.close()
        self._log.drop_second()
        return charge_of(answer)

    def now(self) -> float:
        return self._clock()

    # --- ends ---------------------------------------------------------------------------------------------------------

    def _last_resort(self) -> Answer:
        """Return the best error of a backend; raise the gateway's own if there is none."""
        candidates = self._candidates
        if candidates.refused is not None:
            self._log.return_refusal()
            return candidates.refused
        if candidates.throttled:
            waits = candidates.failed.waits()
            throttled = self._forwarder.router.throttled(self._plan.targets, waits, self._tokens)
            raise ForwardingFailed(throttled, self.attempts)
        outcome = candidates.failed.outcome(self._request_id)
        if isinstance(outcome, WholeAnswer):
            return outcome
        raise ForwardingFailed(outcome, self.attempts)
