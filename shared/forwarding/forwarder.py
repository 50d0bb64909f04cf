"""Sends a call to its targets, one after the other, until one answers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from shared.azure_openai import metering, operations, requests
from shared.azure_openai.references import KINDS
from shared.config.document import Backend, FallbackReason, Model
from shared.errors import (
    BadGateway,
    GatewayError,
    InvalidRequest,
    NoBackendAvailable,
    StateUnavailable,
    UnknownPath,
    UpstreamTimeout,
)
from shared.forwarding._attempt import AttemptTimeout, in_seconds
from shared.forwarding._failures import (
    AttemptFailed,
    Disconnected,
    InvalidAnswer,
    SealedElsewhere,
    Superseded,
    Throttled,
    TimedOut,
)
from shared.forwarding._hedging import HedgedAttempt
from shared.forwarding._timeouts import first_byte_timeout, hedge_delay
from shared.forwarding.backend_client import BackendClient
from shared.forwarding.late_attempts import AttemptTask, LateAttempts, charge_of, usage_of
from shared.forwarding.response import Answer, WholeAnswer
from shared.requests.upload import Upload
from shared.routing import quota
from shared.routing.breakers import Breakers
from shared.routing.retry_budget import RetryBudget
from shared.routing.router import Router
from shared.routing.silence import SHORTEST, patience
from shared.types import BEATEN, LEFT, LEFT_EARLY, Attempt, Call, Plan, Reference, Role, Target, Usage

logger = logging.getLogger("tollgate.forwarding")

_LOOK_AFTER = SHORTEST  # seconds after which an attempt is looked at that has shown nothing


_PLAIN = Model()


Admit = Callable[[str], Awaitable[bool]]
"""Returns True if the limits of this model admit the call."""


Charge = Callable[[int, Attempt], None]
"""Records the charge of an attempt, given its number among those of its call."""


class ForwardingFailed(Exception):
    """No target answered. `error` is for the caller, `attempts` for the record."""

    def __init__(self, error: GatewayError, attempts: tuple[Attempt, ...]) -> None:
        super().__init__(error.message)
        self.error = error
        self.attempts = attempts


class Forwarder:
    """Tries targets in order."""

    def __init__(
        self,
        client: BackendClient,
        breakers: Breakers,
        router: Router,
        models: Mapping[str, Model],
        budget: RetryBudget,
        late: LateAttempts,
    ) -> None:
        """`models`: the settings of those that have some. `budget`, `late`: the ones of the process."""
        self.models = models
        self.client = client
        self.breakers = breakers
        self.router = router
        self.timeouts = client.timeouts
        self.budget = budget
        self.late = late

    def sending(
        self,
        call: Call,
        plan: Plan,
        request_id: str,
        upload: Upload | None = None,
        admit: Admit | None = None,
        charge: Charge | None = None,
        *,
        kept_alive: bool = False,
    ) -> "ForwardedCall":
        """Prepare a call whose body is there, from when its deadline counts; that of an `upload` starts anew with its
        end. An `upload` goes to another target as long as everything received of it is kept. `admit`: the limits of
        other models than the plan's, as far as they have some. `charge`: records attempts that end after the call has
        its answer; without it there are none. `kept_alive`: comments keep the caller's connection, so that a stream may
        take its whole time until its first content."""
        return ForwardedCall(self, call, plan, request_id, upload, admit, charge, kept_alive=kept_alive)

    async def has_object(self, backend: Backend, reference: Reference) -> bool:
        """Ask a backend for an object. Raises `StateUnavailable` if the backend does not answer."""
        try:
            answer = await self.get(backend, KINDS[reference.kind].path.format(reference.id), "adoption")
        except (UnknownPath, InvalidRequest):
            return False  # no object has such an id
        answer.close()
        if answer.status not in (200, 400, 404):
            raise StateUnavailable(f"status {answer.status}")
        return answer.status == 200

    async def get(self, backend: Backend, path: str, request_id: str) -> Answer:
        """Ask a backend, in the gateway's own name, for the object with this path below `/v1/`. Whoever receives the
        answer closes it. Raises `StateUnavailable` if the backend does not answer, and `UnknownPath` or
        `InvalidRequest` for a path that no object has."""
        path, _, query = path.partition("?")
        call = requests.parse_call(operations.match("GET", f"/v1/{path}"), query, {}, b"")
        try:
            return await self.sending(call, Plan(model="", targets=[Target(backend, "", "")]), request_id).run()
        except ForwardingFailed as failed:
            raise StateUnavailable(failed.error.message) from None


class ForwardedCall:
    """One call: the attempts so far, and why they failed. `run` it once."""

    def __init__(
        self,
        forwarder: Forwarder,
        call: Call,
        plan: Plan,
        request_id: str,
        upload: Upload | None,
        admit: Admit | None,
        charge: Charge | None,
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
        self._admit = admit
        self._charge = charge
        self._admitted = {plan.model: True}  # by model
        longest = max(forwarder.timeouts.total, forwarder.timeouts.stream if kept_alive else 0.0)
        self._deadline = self._clock() + min(longest, plan.seconds or longest)
        self._started = in_seconds(0.0)
        self._upload_sent = False
        self._fresh = False  # the attempt is the last one, on a connection that was not idle
        self._tokens = quota.estimate(call)
        self._left = list(plan.targets)
        self._attempts: list[Attempt] = []
        self._failures: list[AttemptFailed] = []
        self._throttled = False
        self._tried_ejected = False
        self._sealed_elsewhere: set[str] = set()  # endpoints that cannot open what the call brings
        self._spilled: list[tuple[str, str]] = []  # endpoints and deployments that failed after Azure had chosen them
        self._refused: tuple[FallbackReason, WholeAnswer] | None = None

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The attempts so far, also after `run` was cancelled."""
        return tuple(self._attempts)

    async def run(self) -> Answer:
        """Return the first committed answer. Raises `ForwardingFailed`, and closes what it opened in any case."""
        self._forwarder.budget.called()
        self._breakers.look()
        while self._left:
            target = self._left.pop(0)
            if self._upload is not None and not self._upload.repeatable:
                break
            if not self._may_try(target) or not await self._is_admitted(target.model):
                continue
            limit = self._limit(target)
            if limit <= 0:
                self._failures.append(TimedOut("the time for the whole call was over"))
                break
            free = not self._failures or isinstance(self._failures[-1], Throttled | Superseded | SealedElsewhere)
            if not free and not self._forwarder.budget.take():
                # When much fails, retries would overload the backends that still work.
                logger.warning("%s: not retried, the retry budget is spent", self._request_id)
                break
            timeout = self._timeout(limit, watched=True)
            answer = await HedgedAttempt(self, target, timeout).run(self._first_look(target, limit))
            self._restart_clock(timeout)
            if answer is not None and not self._falls_back(answer):
                return answer
        return self._last_resort()

    def _restart_clock(self, timeout: AttemptTimeout) -> None:
        """Count the deadline of an upload from its end, which its first attempt may have waited for."""
        if timeout.sent_at is not None and not self._upload_sent:
            self._upload_sent = True
            self._deadline += timeout.sent_at - self._started

    # --- decisions ----------------------------------------------------------------------------------------------------

    def _may_try(self, target: Target) -> bool:
        now = self._clock()
        health = self._breakers.health(target)
        if health.cooling_at(now, self._tokens) or (self._throttled and not health.usable_at(now, self._tokens)):
            # A target that is cooling down is not asked early. After a 429 the caller gets its Retry-After, which is
            # better than a wait for a target that fails.
            self._throttled = True
            return False
        if not self._serves(target) or self._was_spilled_to(target) or self._left_out(target):
            return False
        if target.backend.endpoint in self._sealed_elsewhere:
            return False
        if now < health.ejected_until:
            # If every target is down, one ejected target is the last chance. Waiting for each would take long, and
            # most likely be useless.
            if self._tried_ejected:
                return False
            self._tried_ejected = True
        return True

    def _left_out(self, target: Target) -> bool:
        """Return True if the target's backend was drained since the call was planned, and another is left."""
        drained = self._forwarder.router.drained()
        return target.backend.name in drained and any(other.backend.name not in drained for other in self._left)

    async def _is_admitted(self, model: str) -> bool:
        """Return True if the limits of this model admit the call: those of the plan's model did."""
        if model not in self._admitted:
            self._admitted[model] = self._admit is None or await self._admit(model)
        return self._admitted[model]

    def _serves(self, target: Target) -> bool:
        """Return True if the target's model may serve this call now."""
        plan = self._plan
        if target.model in (plan.model, plan.canary):
            # A model refuses the same call everywhere; only the window of a provisioned deployment may be smaller.
            return self._refused is None or (
                self._refused[0] == "context_window"
                and self._refused[1].target.backend.kind == "provisioned"
                and target.backend.kind == "standard"
            )
        return (self._refused[0] if self._refused is not None else "unavailable") in plan.fallback_on

    def _was_spilled_to(self, target: Target) -> bool:
        """Return True if Azure has tried this deployment already, in place of a provisioned one of its resource."""
        return target.backend.kind == "standard" and any(
            endpoint == target.backend.endpoint and name in ("?", target.deployment) for endpoint, name in self._spilled
        )

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
        if not isinstance(answer, WholeAnswer) or answer.refusal is None or self._refused is not None:
            return False
        reason = answer.refusal
        self._refused = reason, answer
        if not any(map(self._serves, self._left)):
            self._refused = None
            return False
        self._attempts[-1] = msgspec.structs.replace(
            self._attempts[-1],
            problem=f"refused: {reason}",
            usage=answer.usage if answer.usage != Usage() else None,
        )
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
                self._record(target, 0, LEFT if timeout.written else LEFT_EARLY, started, role)
            raise
        except AttemptFailed as failed:
            if timeout.late:
                raise
            self._failed(target, failed, started, role, timeout)
            return None
        if not timeout.late:
            self._record(answer.target, answer.status, "", started, role)
        return answer

    def _failed(
        self, target: Target, failed: AttemptFailed, started: float, role: Role, timeout: AttemptTimeout
    ) -> None:
        """Record an attempt that failed."""
        if isinstance(failed, Superseded):
            if failed.hung:
                self._failures.append(failed)
            self.superseded(target, started, role, self.prompt(timeout))
            return
        self._throttled = self._throttled or isinstance(failed, Throttled)
        self._failures.append(failed)
        if isinstance(failed, SealedElsewhere):
            self._sealed_elsewhere.add(target.backend.endpoint)
        if failed.spilled_to:
            self._spilled.append((target.backend.endpoint, failed.spilled_to))
        self._record(target, failed.status, failed.problem, started, role, failed.charge(self._call))
        logger.info("%s: %s on %s: %s", self._request_id, target.deployment, target.backend.name, failed.problem)
        self._ask_again(target)

    def _ask_again(self, target: Target) -> None:
        """Try once more if every target has closed the connection, since each may have found an idle one too old."""
        if not self._left and not self._fresh and all(isinstance(failed, Disconnected) for failed in self._failures):
            self._fresh = True
            self._left.append(target)

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
        now = self.now()
        for other in self._left:
            alike = (other.model, other.tier) == (target.model, target.tier)
            if alike and self._fit_for_test(other, now):
                if not self._forwarder.budget.take():
                    return None
                self._left.remove(other)
                if not self._plan.hedge:
                    self._breakers.tested(target)
                return other, self._timeout(self._limit(other))
        return None

    def _fit_for_test(self, other: Target, now: float) -> bool:
        return (
            self._breakers.usable(other, now, self._tokens)
            and not self._breakers.quiet(other)
            and other.backend.name not in self._forwarder.router.drained()
        )

    @property
    def hedged(self) -> bool:
        return self._plan.hedge

    @property
    def may_be_late(self) -> bool:
        """True if an attempt may go on after another one has answered. Of a stream, which ends with its connection, no
        more is generated; a whole answer is generated and charged whether anybody waits for it or not."""
        return self._charge is not None and not self._call.stream and self._forwarder.late.have_room

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
        attempt = self.superseded(target, since, role, None)
        number = self._attempts.index(attempt) + 1

        def ended(task: AttemptTask) -> None:
            usage = usage_of(task, self._call, self.prompt(timeout))
            if self._charge is not None and usage is not None:
                self._charge(number, msgspec.structs.replace(attempt, usage=usage))

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

    def superseded(self, target: Target, since: float, role: Role, usage: Usage | None) -> Attempt:
        """Record a superseded attempt with what its backend charges."""
        attempt = Attempt(target, 0, BEATEN, self._milliseconds(since), role, usage, started=since)
        answered = bool(self._attempts) and not self._attempts[-1].problem
        self._attempts.insert(len(self._attempts) - answered, attempt)  # the one that answered stays the last
        return attempt

    def discard(self, answer: Answer) -> Usage:
        """Close the answer of a second attempt that came too late, and take it from the record. Return its usage."""
        answer.close()
        self._attempts = [attempt for attempt in self._attempts if attempt.role != "hedge" or attempt.problem]
        return charge_of(answer)

    def now(self) -> float:
        return self._clock()

    # --- ends ---------------------------------------------------------------------------------------------------------

    def _last_resort(self) -> Answer:
        """Return the best error of a backend; raise the gateway's own if there is none."""
        if self._refused is not None:
            # The answer goes to the caller, so its usage is no longer that of a failed attempt.
            self._attempts = [
                msgspec.structs.replace(attempt, usage=None) if attempt.problem.startswith("refused: ") else attempt
                for attempt in self._attempts
            ]
            return self._refused[1]
        if self._throttled:
            waits = [failed.wait for failed in self._failures if failed.wait is not None]
            throttled = self._forwarder.router.throttled(self._plan.targets, waits, self._tokens)
            raise ForwardingFailed(throttled, self.attempts)
        # One that has failed otherwise may be the one that has sealed the content.
        failures = [failed for failed in self._failures if not isinstance(failed, SealedElsewhere)] or self._failures
        # A backend's description of its failure is worth more to the caller than the gateway's.
        if answer := next((failed.answer for failed in reversed(failures) if failed.answer is not None), None):
            return answer
        raise ForwardingFailed(_final_error(failures, self._request_id), self.attempts)

    def _record(
        self, target: Target, status: int, problem: str, started: float, role: Role, usage: Usage | None = None
    ) -> None:
        self._attempts.append(Attempt(target, status, problem, self._milliseconds(started), role, usage, started))

    def _milliseconds(self, started: float) -> float:
        return (self._clock() - started) * 1000


def _final_error(failures: Sequence[AttemptFailed], request_id: str) -> GatewayError:
    """The error of a call that no backend answered."""
    if any(isinstance(failed, TimedOut | Superseded) for failed in failures):
        return UpstreamTimeout("No backend of this model answered in time.")
    if any(isinstance(failed, InvalidAnswer) for failed in failures):
        return BadGateway("Every backend of this model returned an answer that Azure OpenAI does not give.")
    problems = "; ".join(dict.fromkeys(failed.problem for failed in failures))
    logger.error("%s: no backend left: %s", request_id, problems)
    return NoBackendAvailable(
        "No backend of this model could be reached. The gateway's operator can find the reasons in its log."
    )
