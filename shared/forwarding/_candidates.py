"""Chooses the targets of one call's attempts: which of those that are left may be tried now."""

from shared.forwarding._failed_attempts import FailedAttempts
from shared.forwarding.response import WholeAnswer
from shared.routing.breakers import Breakers
from shared.routing.router import Router
from shared.types import Plan, Target


class Candidates:
    """`left`: the targets that were not tried, in order. `throttled`: one was passed over for that, or has failed by
    it. `refused`: the answer for which another model, or a larger window, is tried. `tokens`: the call's estimate."""

    __slots__ = ("_breakers", "_plan", "_router", "_tokens", "_tried_ejected", "failed", "left", "refused", "throttled")

    def __init__(self, plan: Plan, router: Router, breakers: Breakers, tokens: float) -> None:
        self._plan = plan
        self._router = router
        self._breakers = breakers
        self._tokens = tokens
        self._tried_ejected = False
        self.left = list(plan.targets)
        self.failed = FailedAttempts()
        self.throttled = False
        self.refused: WholeAnswer | None = None

    def begin_round(self) -> None:
        """Take up all targets again, after a wait."""
        self.left = list(self._plan.targets)
        self.throttled = self._tried_ejected = False
        self.failed.begin_round()

    @property
    def earliest(self) -> float:
        """The seconds until one of the targets may be tried; below 0: one may be now."""
        now = self._breakers.clock()
        healths = map(self._breakers.health, self._plan.targets)
        return min((health.wait_at(now, self._tokens) for health in healths), default=0.0)

    def may_try(self, target: Target) -> bool:
        now = self._breakers.clock()
        health = self._breakers.health(target)
        if health.cooling_at(now, self._tokens) or (self.throttled and not health.usable_at(now, self._tokens)):
            # A target that is cooling down is not asked early. After a 429 the caller gets its Retry-After, which is
            # better than a wait for a target that fails.
            self.throttled = True
            return False
        if not self._serves(target) or self._left_out(target) or self.failed.rule_out(target):
            return False
        if now < health.ejected_until:
            # If every target is down, one ejected target is the last chance. Waiting for each would take long, and
            # most likely be useless.
            if self._tried_ejected:
                return False
            self._tried_ejected = True
        return True

    def refuse(self, answer: WholeAnswer) -> bool:
        """Return True if a target that is left may take the call that this answer refuses. The caller gets this answer
        if no target does."""
        if self.refused is not None:
            return False
        self.refused = answer
        if not any(map(self._serves, self.left)):
            self.refused = None
            return False
        return True

    def fit_for_test(self, target: Target) -> Target | None:
        """Return a usable target of the same model for a second attempt, while the first one is silent; None: none is
        left."""
        now = self._breakers.clock()
        for other in self.left:
            if (
                (other.model, other.tier) == (target.model, target.tier)
                and self._breakers.usable(other, now, self._tokens)
                and not self._breakers.quiet(other)
                and other.backend.name not in self._router.drained()
            ):
                return other
        return None

    def _left_out(self, target: Target) -> bool:
        """Return True if the target's backend was drained since the call was planned, and another is left."""
        drained = self._router.drained()
        return target.backend.name in drained and any(other.backend.name not in drained for other in self.left)

    def _serves(self, target: Target) -> bool:
        """Return True if the target's model may serve this call now."""
        plan, refused = self._plan, self.refused
        if target.model in (plan.model, plan.canary):
            # A model refuses the same call everywhere; only the window of a provisioned deployment may be smaller.
            return refused is None or (
                refused.refusal == "context_window"
                and refused.target.backend.provisioned
                and not target.backend.provisioned
            )
        return (refused.refusal if refused is not None else "unavailable") in plan.fallback_on
