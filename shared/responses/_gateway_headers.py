"""Headers of answers that say how the gateway has handled a call."""

from collections.abc import Sequence

from shared.requests.arrival import ReceivedRequest
from shared.routing.explanation import explained
from shared.types import Attempt, Plan, Target

EMPTY_ANSWER = (
    "empty_answer: reasoning took all the output tokens that the call allows; raise max_completion_tokens or "
    "max_output_tokens, or lower the effort of reasoning"
)
WARNING = "x-gateway-warning"
EMPTY_ANSWER_COMMENT = f": {WARNING}: {EMPTY_ANSWER}\n\n".encode()  # for streams whose headers have gone


def gateway_headers(
    received: ReceivedRequest, plan: Plan, attempts: Sequence[Attempt], served_by: Target | None = None
) -> dict[str, str]:
    """The overhead is the time that the gateway added to the attempts."""
    headers = {"x-gateway-request-id": received.request_id, "x-gateway-attempts": str(len(attempts))}
    if attempts:
        target = served_by or attempts[-1].target
        headers["x-gateway-backend"] = target.backend.name
        headers["x-gateway-region"] = target.backend.region
        if kind := target.deployment_type:
            headers["x-gateway-deployment-type"] = kind
        overhead = received.milliseconds() - sum(attempt.milliseconds for attempt in attempts)
        headers["x-gateway-overhead-ms"] = f"{max(overhead, 0):.2f}"
        if served_by is not None and target.model != plan.model:
            headers["x-gateway-canary" if target.model == plan.canary else "x-gateway-fallback"] = target.model
    if plan.named:
        headers["x-gateway-replacement"] = plan.model
    headers.update(plan.announcement)
    if plan.notes is not None:
        headers["x-gateway-explain"] = explained(plan.notes, attempts)
    return headers
