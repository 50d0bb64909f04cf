"""The ways in which an attempt fails, read from a backend's answer or from an exception. No I/O."""

import contextlib
from collections.abc import Mapping

import aiohttp
import msgspec

from shared.azure_openai import answers, metering
from shared.azure_openai.answers import ReportedError
from shared.azure_openai.apis import IMAGE_DEPLOYMENT
from shared.azure_openai.json_body import UNREADABLE
from shared.forwarding._attempt import AttemptTimeout
from shared.forwarding.response import BackendResponse, WholeAnswer, returned_headers, whole_answer
from shared.routing import quota
from shared.routing.quota import Throttle
from shared.types import Call, Target, Usage

_GENERATING = frozenset(("tokens", "input", "images", "audio", "speech"))  # what the operations are metered by

CLOSED_EARLY = "closed the connection before its answer was complete"


class AttemptFailed(Exception):
    """A failed attempt: another target may do better.

    `status`: of the answer; 0: there was no answer. `answer`: the backend's own error, if the caller may see it.
    `wait`: seconds that the backend asked for. `spilled_to`: the deployment that failed after Azure had chosen it in
    place of a full provisioned one; "?" if Azure did not name it. `charged`: Azure charges the prompt, as it does for
    attempts that timed out or broke off, not for 429 and 5xx. `usage`: what the backend reported of it, if it did.
    """

    def __init__(
        self,
        problem: str,
        status: int = 0,
        answer: WholeAnswer | None = None,
        wait: float | None = None,
        spilled_to: str = "",
        charged: bool = False,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.status = status
        self.answer = answer
        self.wait = wait
        self.spilled_to = spilled_to
        self.charged = charged
        self.usage = usage

    def charge(self, call: Call) -> Usage | None:
        """The usage that the backend charges; None: nothing."""
        return self.usage or (metering.unanswered(call) if self.charged else None)


class Throttled(AttemptFailed):
    """429, of one of four kinds; or 529, which is Anthropic's for an overload."""

    def __init__(self, status: int, kind: Throttle, wait: float | None, spilled_to: str) -> None:
        super().__init__(f"{status}: {kind}", status, wait=wait, spilled_to=spilled_to)
        self.kind = kind


class AccessDenied(AttemptFailed):
    """401, 403, or another of the API's access errors, as for a deployment that does not exist or an account without
    credit: a mistake in the gateway's configuration or its role.

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


class DeadlinePassed(TimedOut):
    """No answer before the end that the caller set."""


class Superseded(AttemptFailed):
    """Another attempt of the same call was faster. `hung`: and this target seems to answer nobody."""

    def __init__(self, *, hung: bool) -> None:
        super().__init__("silent while others answer")
        self.hung = hung


class SealedElsewhere(AttemptFailed):
    """The call brings content that this backend cannot open. Another may have sealed it."""


class OtherThrottled(AttemptFailed):
    """429 or 529 for a model that the call names beside its own, whose quota may be free."""


class NoWebSockets(AttemptFailed):
    """The backend takes no WebSocket there, which says nothing about its other calls."""


class InvalidAnswer(AttemptFailed):
    """An invalid answer, such as that of a proxy in between."""


def failure_in_answer(
    call: Call,
    target: Target,
    response: BackendResponse,
    body: bytes,
    *,
    complete: bool,
    configured: float | None,
) -> AttemptFailed | None:
    """Return the failure that an answer reports, or None if the answer is for the caller.

    `complete`: `body` is all of it. `configured`: tokens per minute that the deployment should have.
    """
    status, headers = response.status, response.headers
    if status < 300:
        if not complete or _is_answer(call, response, body):
            return None
        return InvalidAnswer(f"status {status} with an invalid body", status)
    if status < 400:  # Azure OpenAI never redirects: another server answers at that address
        return InvalidAnswer(f"unexpected status {status}", status)
    answer = whole_answer(call, target, status, headers, body) if complete and _is_error(body) else None
    usage = metering.reported_usage(body)
    return _failure(call, target, status, headers, body, answer, usage, configured, charged=status == 408)


def error_in_success(
    call: Call, target: Target, response: BackendResponse, body: bytes, configured: float | None
) -> AttemptFailed | WholeAnswer | None:
    """Return the failure that a body below status 200 reports, or the caller's own error; None: it reports no error."""
    if response.status != 200 or call.operation.metered not in _GENERATING or b'"error"' not in body:
        return None
    if (error := answers.reported_error(body)) is None:
        return None
    return error_below_200(call, target, response.headers, error, body, body, metering.reported_usage(body), configured)


def error_below_200(
    call: Call,
    target: Target,
    headers: Mapping[str, str],
    error: ReportedError,
    report: bytes,
    body: bytes,
    usage: Usage | None,
    configured: float | None,
) -> AttemptFailed | WholeAnswer:
    """Return the failure that an error below status 200 is, as if a status line had said it; or the answer for the
    caller, if the error is the caller's own. `report`: the object with the error, which is all or a part of `body`."""
    status = answers.equivalent_status(error, headers)
    charge = usage or metering.usage_in_answer(call, status, report)
    refusal = answers.fallback_reason(status, report)
    answer = WholeAnswer(target, 200, returned_headers(call, headers), body, charge, refusal)
    # The quota in the headers is that of the admission, which the error has overtaken.
    lower = {name.lower(): value for name, value in headers.items()}
    left = {name: value for name, value in lower.items() if not name.startswith("x-ratelimit-")}
    failed = _failure(call, target, status, left, report, answer, usage, configured, charged=status >= 500)
    return answer if failed is None else failed


def _failure(
    call: Call | None,
    target: Target,
    status: int,
    headers: Mapping[str, str],
    report: bytes,
    answer: WholeAnswer | None,
    usage: Usage | None,
    configured: float | None,
    *,
    charged: bool,
) -> AttemptFailed | None:
    """Return the failure that an error is; None: it is the caller's own. `answer`: what the caller may see of it.
    `call` None: it has named no model but that of the target."""
    others = _other_models(call, target) if call is not None else []
    other = answers.is_about_another_model(status, report, (target.deployment, target.model), others)
    spilled_to = _failed_spillover(target, headers)
    match answers.classify(status, report, headers, target.backend.api):
        case "capacity" if other:
            return OtherThrottled(f"status {status} for another model", status, answer)
        case "capacity":
            kind = quota.throttle(headers, report, configured=configured)
            return Throttled(status, kind, answers.wait(headers, report), spilled_to)
        case "server":
            return AttemptFailed(
                f"status {status}", status, answer, spilled_to=spilled_to, charged=charged, usage=usage
            )
        case "ours" if not (other or (status == 404 and not target.deployment) or _names_payer(call, status)):
            # else the caller has named what is missing
            problem = f"status {status} {answers.error_code(report)[:64]}".rstrip()
            return AccessDenied(problem, status, answers.missing_action(report))
    if answers.is_sealed_elsewhere(status, report):
        return SealedElsewhere("the content is sealed by another backend", status, answer)
    return None


def _names_payer(call: Call | None, status: int) -> bool:
    """True if an error may be that of the payer whom a call, or a request of its batch, names at Anthropic."""
    if call is None or call.surface != "anthropic" or status not in (402, 403):
        return False
    return "billing_policy" in call.values or (call.batch is not None and b'"billing_policy"' in call.body)


def _other_models(call: Call, target: Target) -> list[str]:
    """The models that a call names besides its own, in its body, in the requests of a batch, or for its images, as the
    backend knows them."""
    image = call.headers.get(IMAGE_DEPLOYMENT)
    batched = call.batch.names if call.batch is not None else ()
    names = (*call.other_models, *batched, *((image,) if image else ()))
    return [target.backend.deployments.get(name, name) for name in names]


def failure_of_handshake(target: Target, status: int, headers: Mapping[str, str]) -> AttemptFailed:
    """Return the failure of an upgrade to a WebSocket that was answered with this status."""
    failed = None
    if status >= 400:
        failed = _failure(None, target, status, headers, b"", None, None, None, charged=False)
    if failed is None or status == 501:
        return NoWebSockets(f"status {status} instead of a WebSocket", status)
    return failed


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
        kind = DeadlinePassed if timeout.ends_with_call else TimedOut
        return kind(f"no answer within {timeout.seconds:.1f} s", charged=timeout.written and status in (0, 200))
    closed_early = isinstance(error, aiohttp.ClientPayloadError)
    problem = CLOSED_EARLY if closed_early else f"{type(error).__name__}: {error}"
    connected = not isinstance(error, aiohttp.ClientConnectorError)
    broken = connected and isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
    return (Disconnected if broken else AttemptFailed)(problem[:200], charged=status == 200)


def _is_answer(call: Call, response: BackendResponse, body: bytes) -> bool:
    """True for an answer of Azure OpenAI, False for a proxy's page with status 200."""
    if response.status == 204 and call.operation.metered == "none":
        return True
    return (call.operation.free_form and response.content_type != "text/html") or metering.is_json_object(body)


def _failed_spillover(target: Target, headers: Mapping[str, str]) -> str:
    """The deployment that Azure tried in place of a provisioned one, and that failed as well; "": none."""
    if not target.backend.provisioned or not (
        "x-ms-spillover-error" in headers or "x-ms-spillover-from-deployment" in headers
    ):
        return ""
    name = headers.get("x-ms-deployment-name", "")
    return name if name not in ("", target.deployment) else "?"


def _is_error(body: bytes) -> bool:
    """True for an error in OpenAI's shape, which the caller may see, False for a proxy's page."""
    with contextlib.suppress(*UNREADABLE):
        return isinstance(msgspec.json.decode(body, type=Mapping[str, object]).get("error"), Mapping)
    return False
