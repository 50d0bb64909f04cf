"""The spans of a call: one for the call, one per attempt. Pure.

They are built from the call's `Outcome` when it has ended. Attributes follow OpenTelemetry's GenAI conventions, with
literal names, and `tollgate.*`: configured names, ids, times and counts; no text of callers or backends.
"""

from collections.abc import Iterator

import msgspec

from shared import ulid
from shared.telemetry.instruments import BACKEND, MODEL, REGION
from shared.token_classes import TOKEN_CLASSES, UNITS
from shared.types import BEATEN, LEFT, Attempt, Call, Consumer, Outcome, Target

_PROVIDERS = {"azure": "azure.ai.openai", "openai": "openai", "anthropic": "anthropic"}  # by the API of a backend
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_CHATS = ("chat.completions", "responses.create", "messages.create")
_OPERATIONS = {**dict.fromkeys(_CHATS, "chat"), "completions": "text_completion"}
_USAGE_ATTRIBUTES = (
    *((tokens.span or f"tollgate.usage.{field}", field) for field, tokens in TOKEN_CLASSES.items() if tokens.part_of),
    *((f"tollgate.usage.{field}", field) for field in UNITS),
)
_64_BITS = (1 << 64) - 1

Attributes = dict[str, str | int | float | bool]


class TraceContext(msgspec.Struct, frozen=True):
    """The ids of a request's span. `parent_id` 0: it begins the trace. `sampled` False: the caller does not sample the
    trace. `started` is monotonic. `received`: no host in front has reported the request. A trace that begins here has
    the request's id as its id, so each can be derived from the other."""

    request_id: str
    started: float
    trace_id: int
    span_id: int
    parent_id: int = 0
    sampled: bool = True
    kept: bool = False
    received: bool = False

    @property
    def hex_id(self) -> str:
        return f"{self.trace_id:032x}"


UNTRACED = TraceContext("", 0.0, 0, 0)


def trace_context(request_id: str, started: float, traceparent: str, *, received: bool = False) -> TraceContext:
    """Parse W3C's `traceparent`. If it is empty or malformed, the request begins a trace.

    >>> parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    >>> trace_context("01KAJWBX00000000000000000Z", 0.0, parent).hex_id
    '0af7651916cd43dd8448eb211c80319c'
    """
    number = ulid.number(request_id)
    own = number & _64_BITS or 1
    if len(traceparent) >= 55 and traceparent[2] == traceparent[35] == traceparent[52] == "-":
        try:
            trace_id, parent_id = int(traceparent[3:35], 16), int(traceparent[36:52], 16)
            flags = int(traceparent[53:55], 16)
        except ValueError:
            return TraceContext(request_id, started, number, own, received=received)
        if trace_id > 0 and parent_id > 0 and traceparent[:2] != "ff":
            sampled = bool(flags & 1)
            return TraceContext(request_id, started, trace_id, own, parent_id, sampled=sampled, received=received)
    return TraceContext(request_id, started, number, own, received=received)


def operation_of(name: str) -> str:
    """The conventions' name of an operation, else the gateway's."""
    return _OPERATIONS.get(name, name)


class Span(msgspec.Struct, frozen=True):
    """Times in nanoseconds since 1970. `error` "": success. `represents`: number of calls like it, including itself.
    `received`: it is a request that was received, else one that was sent."""

    name: str
    trace_id: int
    span_id: int
    parent_id: int
    start: int
    end: int
    attributes: Attributes
    error: str
    represents: int
    received: bool = False


def of_call(
    trace: TraceContext,
    consumer: Consumer,
    call: Call,
    outcome: Outcome,
    *,
    ended: float,
    epoch: float,
    represents: int,
    usd: float | None = None,
) -> Iterator[Span]:
    """The span of an admitted call and those of its attempts. `ended` is on the monotonic clock, whose zero is `epoch`
    in seconds since 1970. `usd` is the cost, None if the price is unknown."""
    operation = operation_of(call.operation.name)
    target = outcome.served_by or (outcome.attempts[-1].target if outcome.attempts else None)
    name = f"{operation} {target.model if target else call.model}".rstrip()
    attributes = _attributes(trace, operation, consumer, call, outcome) | ({} if usd is None else {"tollgate.usd": usd})
    if target is not None:
        attributes |= _provider(call, target)
    yield _of_request(trace, call.operation.method, name, ended, epoch, attributes, error_of(outcome), represents)
    for number, attempt in enumerate(outcome.attempts, 1):
        yield of_attempt(trace, call, attempt, number, epoch, represents)


def of_attempt(trace: TraceContext, call: Call, attempt: Attempt, number: int, epoch: float, represents: int) -> Span:
    """The span of an attempt, a child of its call's."""
    operation, started = operation_of(call.operation.name), _nanoseconds(epoch + attempt.started)
    name, ended = f"{operation} {attempt.target.deployment}".rstrip(), started + round(attempt.milliseconds * 1e6)
    ids = (trace.trace_id, (trace.span_id + number) & _64_BITS or 1, trace.span_id)
    attributes = _attempt_attributes(operation, call, attempt, number)
    return Span(name, *ids, started, ended, attributes, result_of(attempt) if attempt.problem else "", represents)


def of_refusal(
    trace: TraceContext, method: str, status: int, code: str, ended: float, epoch: float, represents: int
) -> Span:
    attributes: Attributes = {
        "http.response.status_code": status,
        "error.type": code,
        "tollgate.request_id": trace.request_id,
        "tollgate.status": status,
        "tollgate.error": code,
    }
    return _of_request(trace, method, "refused", ended, epoch, attributes, code, represents)


def _of_request(
    trace: TraceContext,
    method: str,
    name: str,
    ended: float,
    epoch: float,
    attributes: Attributes,
    error: str,
    represents: int,
) -> Span:
    """The span of a request. Application Insights shows the status of what has a method, and renames it if it was not
    received but sent: the host's own record of the request has its status."""
    if trace.received:
        attributes["http.request.method"] = method if method in _METHODS else "_OTHER"
    ids = (trace.trace_id, trace.span_id, trace.parent_id)
    start, end = _nanoseconds(epoch + trace.started), _nanoseconds(epoch + ended)
    return Span(name, *ids, start, end, attributes, error, represents, trace.received)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def error_of(outcome: Outcome) -> str:
    """The reason why a call has no whole answer, as one of few words; "": it has one."""
    if outcome.status >= 400:
        return "hung_up" if outcome.ended == "hung_up" else str(outcome.status)
    return outcome.ended if outcome.ended in ("hung_up", "cut") else ""


def result_of(attempt: Attempt) -> str:
    """The result of an attempt, as one of few words."""
    if attempt.problem == "":
        return "ok" if attempt.status < 400 else "caller_error"
    if attempt.status == 429:
        return "throttled"
    if attempt.status in (401, 403, 404):
        return "refused"
    if 400 <= attempt.status < 500 and attempt.status != 408:
        return "caller_error"
    if attempt.status:
        return "failed"
    if attempt.problem in (BEATEN, LEFT):
        return "beaten" if attempt.problem == BEATEN else "left"
    return "timeout" if attempt.problem.startswith("no ") else "unreachable"


def _attributes(trace: TraceContext, operation: str, consumer: Consumer, call: Call, outcome: Outcome) -> Attributes:
    """The attributes of a call's span. App Insights reserves `error.type` and the status, hence the second names."""
    usage, target = outcome.usage, outcome.served_by
    attributes: dict[str, str | int | float | bool | None] = {
        "gen_ai.operation.name": operation,
        MODEL: call.model,
        "gen_ai.request.stream": call.stream,
        "gen_ai.request.max_tokens": call.max_output_tokens,
        "gen_ai.response.model": usage.model or None,
        "gen_ai.response.time_to_first_chunk": outcome.first_byte_ms / 1000 if call.stream and target else None,
        **{name: getattr(usage, field) or None for name, field in _USAGE_ATTRIBUTES},
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "openai.response.service_tier": usage.service_tier or None,
        "http.response.status_code": outcome.status,
        "error.type": error_of(outcome) or None,
        "tollgate.request_id": trace.request_id,
        "tollgate.consumer": consumer.id,
        "tollgate.team": consumer.team or None,
        "tollgate.status": outcome.status,
        "tollgate.error": error_of(outcome) or None,
        "tollgate.ended": outcome.ended,
        "tollgate.attempts": len(outcome.attempts),
        "tollgate.usage.estimated": usage.estimated,
        BACKEND: target.backend.name if target else None,
        REGION: target.backend.region if target else None,
        "tollgate.model": target.model if target else None,
    }
    return {name: value for name, value in attributes.items() if value is not None}


def _provider(call: Call, target: Target) -> Attributes:
    """The conventions' name of who provides the model. Claude is Anthropic's wherever it is deployed."""
    api = target.backend.api
    named: Attributes = {"gen_ai.provider.name": _PROVIDERS["anthropic" if call.surface == "anthropic" else api]}
    return named | ({"azure.resource_provider.namespace": "Microsoft.CognitiveServices"} if api == "azure" else {})


def _attempt_attributes(operation: str, call: Call, attempt: Attempt, number: int) -> Attributes:
    """The attributes of an attempt's span: an HTTP request, so that App Insights shows the backend on its map."""
    target = attempt.target
    host, _, port = target.backend.endpoint.partition("://")[2].rstrip("/").partition(":")
    attributes: Attributes = {
        "gen_ai.operation.name": operation,
        MODEL: target.deployment,
        "http.request.method": call.operation.method,
        "http.response.status_code": attempt.status,
        "server.address": host,
        "server.port": int(port) if port.isdigit() else 443,
        BACKEND: target.backend.name,
        REGION: target.backend.region,
        "tollgate.attempt": number,
        "tollgate.role": attempt.role,
        "tollgate.result": result_of(attempt),
        "tollgate.status": attempt.status,
        **_provider(call, target),
    }
    if attempt.problem:
        attributes["error.type"] = result_of(attempt)
    return attributes
