"""The ways in which an attempt fails, read from a backend's answer or from an exception. No I/O."""

import contextlib
from collections.abc import Mapping

import aiohttp
import msgspec

from shared.azure_openai import answers, metering
from shared.azure_openai.json_body import UNREADABLE
from shared.forwarding._attempt import AttemptTimeout
from shared.forwarding.response import WholeAnswer, whole_answer
from shared.routing import quota
from shared.routing.quota import Throttle
from shared.types import Call, Target

CLOSED_EARLY = "closed the connection before its answer was complete"


class AttemptFailed(Exception):
    """A failed attempt: another target may do better.

    `status`: of the answer; 0: there was no answer. `answer`: the backend's own error, if the caller may see it.
    `wait`: seconds that the backend asked for. `spilled_to`: the deployment that failed after Azure had chosen it in
    place of a full provisioned one; "?" if Azure did not name it. `charged`: Azure charges the prompt, as it does for
    attempts that timed out or broke off, not for 429 and 5xx.
    """

    def __init__(
        self,
        problem: str,
        status: int = 0,
        answer: WholeAnswer | None = None,
        wait: float | None = None,
        spilled_to: str = "",
        charged: bool = False,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.status = status
        self.answer = answer
        self.wait = wait
        self.spilled_to = spilled_to
        self.charged = charged


class Throttled(AttemptFailed):
    """429, of one of four kinds."""

    def __init__(self, kind: Throttle, wait: float | None, spilled_to: str) -> None:
        super().__init__(f"429: {kind}", 429, wait=wait, spilled_to=spilled_to)
        self.kind = kind


class AccessDenied(AttemptFailed):
    """401, 403, or 404 because the deployment does not exist: a mistake in the gateway's configuration or its role.

    `action`: the data action that the role lacks; "": the answer names none.
    """

    def __init__(self, problem: str, status: int, action: str) -> None:
        super().__init__(f"{problem}: the role lacks {action}" if action else problem, status)
        self.action = action

    @property
    def hits_the_deployment(self) -> bool:
        """True if other calls of the deployment fail as well. Files, batches and the like have actions of their own."""
        return not self.action or "/deployments/" in self.action


class Disconnected(AttemptFailed):
    """The connection broke before the first byte of an answer. It may have been closed while it was idle."""


class TimedOut(AttemptFailed):
    """No answer in time."""


class Superseded(AttemptFailed):
    """Another attempt of the same call was faster. `hung`: and this target seems to answer nobody."""

    def __init__(self, *, hung: bool) -> None:
        super().__init__("silent while others answer")
        self.hung = hung


class InvalidAnswer(AttemptFailed):
    """An answer that Azure OpenAI does not give."""


def failure_in_answer(
    call: Call,
    target: Target,
    response: aiohttp.ClientResponse,
    body: bytes,
    *,
    complete: bool,
    configured: float | None,
) -> AttemptFailed | None:
    """Return the failure that an answer reports, or None if the answer is for the caller.

    `complete`: `body` is all of it. `configured`: tokens per minute that the deployment should have.
    """
    status, headers = response.status, response.headers
    match answers.classify(status, body):
        case "capacity":
            kind = quota.throttle(headers, body, configured=configured)
            return Throttled(kind, answers.retry_after(headers), _failed_spillover(target, headers))
        case "server":
            shown = whole_answer(call, target, status, headers, body) if complete and _is_error(body) else None
            spilled_to = _failed_spillover(target, headers)
            return AttemptFailed(f"status {status}", status, shown, spilled_to=spilled_to, charged=status == 408)
        case "ours":
            action = answers.missing_action(body)
            return AccessDenied(f"status {status} {answers.error_code(body)}".rstrip(), status, action)
        case "ok" if status >= 300 or (complete and not _is_answer(call, response, body)):
            # Azure OpenAI never redirects: another server answers at that address.
            return InvalidAnswer(f"status {status}, but no answer of Azure OpenAI's", status)
    return None


def failure_of_transport(
    error: aiohttp.ClientError | OSError | ValueError, status: int, timeout: AttemptTimeout, connect: float
) -> AttemptFailed:
    """Return the failure that an exception stands for.

    `status`: of the answer; 0: there was none yet. `connect`: seconds that a connection may take.
    """
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return TimedOut(f"no connection within {connect:g} s")
    if isinstance(error, TimeoutError):
        if timeout.superseded:
            return Superseded(hung=timeout.hung)
        return TimedOut(f"no answer within {timeout.seconds:.1f} s", charged=status in (0, 200))
    closed_early = isinstance(error, aiohttp.ClientPayloadError)
    problem = CLOSED_EARLY if closed_early else f"{type(error).__name__}: {error}"
    connected = not isinstance(error, aiohttp.ClientConnectorError)
    broken = connected and isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
    return (Disconnected if broken else AttemptFailed)(problem[:200], charged=status == 200)


def _is_answer(call: Call, response: aiohttp.ClientResponse, body: bytes) -> bool:
    """Tell an answer of Azure OpenAI's from a proxy's page with status 200."""
    if response.status == 204 and call.operation.metered == "none":
        return True
    return (call.operation.free_form and response.content_type != "text/html") or metering.is_json_object(body)


def _failed_spillover(target: Target, headers: Mapping[str, str]) -> str:
    """The deployment that Azure tried in place of a provisioned one, and that failed as well; "": none."""
    if target.backend.kind != "provisioned" or not (
        "x-ms-spillover-error" in headers or "x-ms-spillover-from-deployment" in headers
    ):
        return ""
    name = headers.get("x-ms-deployment-name", "")
    return name if name not in ("", target.deployment) else "?"


def _is_error(body: bytes) -> bool:
    """Tell an error in OpenAI's shape, which the caller may see, from a proxy's page."""
    with contextlib.suppress(*UNREADABLE):
        return isinstance(msgspec.json.decode(body, type=Mapping[str, object]).get("error"), Mapping)
    return False
