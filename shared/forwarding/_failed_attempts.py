"""The failed attempts of one call: the targets that they rule out, and what the caller receives in the end."""

import logging
from collections.abc import Sequence

from shared.errors import BadGateway, GatewayError, NoBackendAvailable, UpstreamTimeout
from shared.forwarding._failures import (
    AccessDenied,
    AttemptFailed,
    DeadlinePassed,
    Disconnected,
    InvalidAnswer,
    OtherThrottled,
    SealedElsewhere,
    Superseded,
    Throttled,
    TimedOut,
)
from shared.forwarding.response import WholeAnswer
from shared.types import Target

logger = logging.getLogger("tollgate.forwarding")


class FailedAttempts:
    """In order. Most calls have none."""

    __slots__ = ("_failed", "_round")

    def __init__(self) -> None:
        self._failed: list[tuple[Target, AttemptFailed]] = []
        self._round = 0  # the number of those before this round

    def begin_round(self) -> None:
        """Let what failed for the moment be tried again from now on."""
        self._round = len(self._failed)

    @property
    def may_pass(self) -> bool:
        """True if a failure may be over after a wait."""
        lasting = AccessDenied | SealedElsewhere | InvalidAnswer | DeadlinePassed
        return any(not isinstance(failed, lasting) for _, failed in self._failed)

    def add(self, target: Target, failed: AttemptFailed) -> None:
        self._failed.append((target, failed))

    def rule_out(self, target: Target) -> bool:
        """Return True if the target cannot open what the call brings, or if Azure has tried it already, in place of a
        provisioned one of its resource."""
        for number, (other, failed) in enumerate(self._failed):
            if other.backend.endpoint == target.backend.endpoint:
                if isinstance(failed, SealedElsewhere):
                    return True
                if (
                    not target.backend.provisioned
                    and number >= self._round
                    and failed.spilled_to
                    and failed.spilled_to in ("?", target.deployment)
                ):
                    return True
        return False

    @property
    def retry_is_free(self) -> bool:
        """True for the first attempt, and after a failure that says nothing about the other backends."""
        free = Throttled | OtherThrottled | Superseded | SealedElsewhere
        return not self._failed or isinstance(self._failed[-1][1], free)

    @property
    def all_disconnected(self) -> bool:
        return all(isinstance(failed, Disconnected) for _, failed in self._failed)

    def waits(self) -> list[float]:
        """The seconds that backends have asked for in this round."""
        return [failed.wait for _, failed in self._failed[self._round :] if failed.wait is not None]

    def outcome(self, request_id: str) -> WholeAnswer | GatewayError:
        """The best error of a backend; the gateway's own if there is none."""
        failures = [failed for _, failed in self._failed]
        # One that has failed otherwise may be the one that has sealed the content.
        failures = [failed for failed in failures if not isinstance(failed, SealedElsewhere)] or failures
        # A backend's description of its failure is worth more to the caller than the gateway's.
        answer = next((failed.answer for failed in reversed(failures) if failed.answer is not None), None)
        return answer if answer is not None else _error(failures, request_id)


def _error(failures: Sequence[AttemptFailed], request_id: str) -> GatewayError:
    """The error of a call that no backend answered."""
    if any(isinstance(failed, TimedOut | Superseded) for failed in failures):
        return UpstreamTimeout("No backend of this model answered in time.")
    if any(isinstance(failed, InvalidAnswer) for failed in failures):
        return BadGateway("No backend of this model returned a valid response.")
    problems = "; ".join(dict.fromkeys(failed.problem for failed in failures))
    logger.error("%s: no backend left: %s", request_id, problems)
    return NoBackendAvailable("No backend of this model could be reached. The operator can find the reason in the log.")
