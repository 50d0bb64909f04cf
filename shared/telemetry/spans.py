"""A call as spans: its place in a trace, one span for the call and one for each try. Pure.

Made when the call has ended, since its `Outcome` holds all there is to tell. Attributes are those of OpenTelemetry's
GenAI conventions, with names written out, and `tollgate.*`: names of the configuration, ids, times and counts; no text
of a caller's or a backend's.
"""

from collections.abc import Iterator

import msgspec

from shared import ulid
from shared.telemetry.instruments import BACKEND, MODEL, REGION
from shared.token_classes import TOKEN_CLASSES
from shared.types import BEATEN, LEFT, Attempt, Call, Consumer, Outcome

PROVIDER = "azure.ai.openai"
_OPERATIONS = {"chat.completions": "chat", "completions": "text_completion", "responses.create": "chat"}
_TOKEN_ATTRIBUTES = tuple(
    (tokens.span or f"tollgate.usage.{field}", field) for field, tokens in TOKEN_CLASSES.items() if tokens.part_of
)
_64_BITS = (1 << 64) - 1

Attributes = dict[str, str | int | float | bool]


class TraceContext(msgspec.Struct, frozen=True):
    """A request's place in a trace. `parent_id` 0: it begins the trace. `wanted` False: the caller's trace is not kept.
    `started` on the monotonic clock.

    The ids are made of the request's: who knows one can find the other."""

    request_id: str
    started: float
    trace_id: int
    span_id: int
    parent_id: int = 0
    wanted: bool = True
    kept: bool = False

    @property
    def trace(self) -> str:
        return f"{self.trace_id:032x}"


def place(request_id: str, started: float, traceparent: str) -> TraceContext:
    """`traceparent` as W3C's Trace Context has it; "" or anything else: no parent.

    >>> place("01KAJWBX00000000000000000Z", 0.0, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").trace
    '0af7651916cd43dd8448eb211c80319c'
    """
    number = ulid.number(request_id)
    own = number & _64_BITS or 1
    if len(traceparent) >= 55 and traceparent[2] == traceparent[35] == traceparent[52] == "-":
        try:
            trace_id, parent_id = int(traceparent[3:35], 16), int(traceparent[36:52], 16)
            flags = int(traceparent[53:55], 16)
        except ValueError:
            return TraceContext(request_id, started, number, own)
        if trace_id > 0 and parent_id > 0 and traceparent[:2] != "ff":
            return TraceContext(request_id, started, trace_id, own, parent_id, wanted=bool(flags & 1))
    return TraceContext(request_id, started, number, own)


def operation_of(call: Call) -> str:
    """The conventions' word for a call's operation, ours where they have none."""
    return _OPERATIONS.get(call.operation.name, call.operation.name)


class Span(msgspec.Struct, frozen=True):
    """Times in nanoseconds since 1970. `error` "": it went well. `represents`: so many like it, this one included."""

    name: str
    trace_id: int
    span_id: int
    parent_id: int
    start: int
    end: int
    attributes: Attributes
    error: str
    represents: int


def of_call(
    where: TraceContext,
    consumer: Consumer,
    call: Call,
    outcome: Outcome,
    *,
    ended: float,
    epoch: float,
    represents: int,
    usd: float | None = None,
) -> Iterator[Span]:
    """The span of a call that was admitted, and those of its tries. `ended` on the monotonic clock, whose zero was at
    `epoch` in seconds since 1970; `usd`: what it cost, where its price is known."""
    operation = operation_of(call)
    target = outcome.served_by or (outcome.attempts[-1].target if outcome.attempts else None)
    yield Span(
        f"{operation} {target.model if target else call.model}".rstrip(),
        where.trace_id,
        where.span_id,
        where.parent_id,
        _nanoseconds(epoch + where.started),
        _nanoseconds(epoch + ended),
        _attributes(where, operation, consumer, call, outcome) | ({} if usd is None else {"tollgate.usd": usd}),
        error_of(outcome),
        represents,
    )
    for number, attempt in enumerate(outcome.attempts, 1):
        yield of_attempt(where, call, attempt, number, epoch, represents)


def of_attempt(where: TraceContext, call: Call, attempt: Attempt, number: int, epoch: float, represents: int) -> Span:
    """The span of a try, below its call's."""
    operation, started = operation_of(call), _nanoseconds(epoch + attempt.started)
    return Span(
        f"{operation} {attempt.target.deployment}".rstrip(),
        where.trace_id,
        (where.span_id + number) & _64_BITS or 1,
        where.span_id,
        started,
        started + round(attempt.milliseconds * 1e6),
        _attempt_attributes(operation, call, attempt, number),
        result_of(attempt) if attempt.problem else "",
        represents,
    )


def of_refusal(where: TraceContext, status: int, code: str, ended: float, epoch: float, represents: int) -> Span:
    """The span of a request that was refused before it was admitted."""
    attributes: Attributes = {
        "http.response.status_code": status,
        "error.type": code,
        "tollgate.request_id": where.request_id,
        "tollgate.status": status,
        "tollgate.error": code,
    }
    start, end = _nanoseconds(epoch + where.started), _nanoseconds(epoch + ended)
    ids = (where.trace_id, where.span_id, where.parent_id)
    return Span("refused", *ids, start, end, attributes, code, represents)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def error_of(outcome: Outcome) -> str:
    """What kept a call from a whole answer, in few words; "": nothing."""
    if outcome.status >= 400:
        return "hung_up" if outcome.ended == "hung_up" else str(outcome.status)
    return outcome.ended if outcome.ended in ("hung_up", "cut") else ""


def result_of(attempt: Attempt) -> str:
    """How a try ended, in one of few words."""
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


def _attributes(where: TraceContext, operation: str, consumer: Consumer, call: Call, outcome: Outcome) -> Attributes:
    """Of a call's span. App Insights keeps `error.type` and the status for itself, hence the second names."""
    usage, target = outcome.usage, outcome.served_by
    told: dict[str, str | int | float | bool | None] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        MODEL: call.model,
        "gen_ai.request.stream": call.stream,
        "gen_ai.request.max_tokens": call.max_output_tokens,
        "gen_ai.response.model": usage.model or None,
        "gen_ai.response.time_to_first_chunk": outcome.first_byte_ms / 1000 if call.stream and target else None,
        **{name: getattr(usage, field) or None for name, field in _TOKEN_ATTRIBUTES},
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "openai.response.service_tier": usage.service_tier or None,
        "azure.resource_provider.namespace": "Microsoft.CognitiveServices",
        "http.response.status_code": outcome.status,
        "error.type": error_of(outcome) or None,
        "tollgate.request_id": where.request_id,
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
    return {name: value for name, value in told.items() if value is not None}


def _attempt_attributes(operation: str, call: Call, attempt: Attempt, number: int) -> Attributes:
    """Of a try's span: an HTTP request, so that App Insights draws the backend on its map."""
    target = attempt.target
    host, _, port = target.backend.endpoint.partition("://")[2].rstrip("/").partition(":")
    told: Attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
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
    }
    if attempt.problem:
        told["error.type"] = result_of(attempt)
    return told
