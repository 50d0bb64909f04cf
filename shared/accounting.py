"""Reports the outcome of a call to the ledger, the limits, telemetry and the log."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request

from shared import ulid
from shared.affinity.pending import PendingWork
from shared.auth.consumer_rows import is_identity
from shared.azure_openai.batch_lines import BatchSize
from shared.errors import GatewayError
from shared.forwarding.live import LiveCalls
from shared.limits.limiter import Limiter
from shared.limits.reservation import Reservation
from shared.requests.arrival import ReceivedRequest, without_empty_segments
from shared.requests.head import path_of
from shared.telemetry.recorder import NoTelemetry, Telemetry
from shared.telemetry.request_ids import current_request
from shared.types import Attempt, Call, Consumer, Outcome, Reference, Target, Usage
from shared.usage.ledger import Entry, Ledger
from shared.usage.token_averages import Size
from shared.usage.tokenizer import Tokenizer, is_estimated
from shared.usage.unsaid import with_unsaid

logger = logging.getLogger("tollgate.requests")

_SHADOW = 100  # number of a shadow among the attempts of its call: higher than any attempt's


class Accounting(NamedTuple):
    """Follows every request from its arrival to its end, which it reports exactly once."""

    limiter: Limiter
    ledger: Ledger
    tokenizer: Tokenizer
    telemetry: Telemetry | NoTelemetry
    live: LiveCalls

    def receive(self, request: Request, traceparent: str | None) -> ReceivedRequest:
        """Give a request its id and its trace context. `traceparent`: of the host that has received the request; None:
        this process has, and the request's own header counts."""
        request_id, started = ulid.new(time.time()), time.monotonic()
        current_request.set(request_id)
        trace = self.telemetry.begin(
            request_id, started, traceparent or _header(request, b"traceparent"), received=traceparent is None
        )
        path = without_empty_segments(path_of(request.scope))
        return ReceivedRequest(request_id, started, request.method, path, trace)

    def connection_ended(self, received: ReceivedRequest, facts: Mapping[str, object]) -> None:
        """Write the log line of a WebSocket. Its responses are calls, with lines of their own."""
        _log(received, {"request": received.request_id, **facts, "ms": round(received.milliseconds())})

    def open(
        self, received: ReceivedRequest, consumer: Consumer, call: Call, reservation: Reservation, model: str
    ) -> "CallRecord":
        """Put an admitted call on record. `model`: the configured name. Returns at once; the row follows."""
        entry = self.ledger.begin(received.request_id, consumer, call, model)
        return CallRecord(self, received, consumer, call, reservation, entry)

    def refused(self, received: ReceivedRequest, error: GatewayError) -> None:
        """Report a request that was refused before it became a call on record."""
        self.telemetry.refused(received.trace, received.method, error.status, error.code)
        _log(
            received,
            {
                "request": received.request_id,
                "consumer": error.consumer or None,
                "model": error.model or None,
                "method": received.method,
                "path": received.path[:200],
                "status": error.status,
                "code": error.code,
                "ms": round(received.milliseconds()),
            },
        )

    def refused_call(
        self, received: ReceivedRequest, error: GatewayError, consumer: Consumer | None, model: str
    ) -> None:
        """Count a refused call and report it to live listeners, unless it is on record. `consumer` None: it is unknown;
        `model`: its configured name, or ""."""
        if consumer is not None:
            error.consumer = consumer.id
        if not error.on_record:
            self.ledger.refuse(received.request_id, consumer, model, error, f"{received.method} {received.path}")
            if self.live.watched:
                self.live.refused(received.request_id, consumer, model, error, received.milliseconds())


class CallRecord(NamedTuple):
    """An admitted call that is on record. `close` it exactly once."""

    parts: Accounting
    received: ReceivedRequest
    consumer: Consumer
    call: Call
    reservation: Reservation
    entry: Entry

    def close(self, outcome: Outcome, text: str = "") -> asyncio.Future[None]:
        """Report the end of the call. Returns at once; the future is done when the row is on record.

        Estimated tokens are counted afterwards, and corrected; `text` is the part of the answer that was relayed."""
        parts, milliseconds = self.parts, round(self.received.milliseconds())
        outcome = with_unsaid(outcome, self.call, parts.ledger.reasoning)
        for number, attempt in enumerate(outcome.attempts, 1):
            parts.ledger.charge(self.entry, number, attempt)
        if parts.live.watched:
            parts.live.tell("call", self._summary(milliseconds, outcome) | {"name": self.consumer.name})
        goes_on = self.reservation.held is not None
        row = parts.ledger.end(self.entry, outcome, goes_on=goes_on)
        parts.limiter.settle(self.reservation, outcome.usage, outcome.served_by, *_beside(outcome))
        if is_estimated(outcome):
            parts.tokenizer.correct(outcome, self.call.body, text, partial(self._correct, milliseconds, outcome))
        else:
            self._report(milliseconds, outcome)
        return row

    async def admit(self, model: str) -> bool:
        """Return True if the limits of another model admit the call, which that model is about to serve."""
        try:
            await self.parts.limiter.reserve_model(self.reservation, self.consumer, self.call, model)
        except GatewayError as error:
            logger.info("%s: not served by %s: %s", self.received.request_id, model, error.message)
            return False
        return True

    def begin_work(
        self, target: Target, status: int, reference: Reference, parent: str, named: str, batch: BatchSize | None
    ) -> PendingWork:
        """Note that work of the call goes on at `target`, which has answered with `status`: the limits keep what the
        call has reserved, and its usage is recorded when the work is settled. `named`: the model or the deployment in
        the backend's words, or ""; `batch`: the size of a batch, if it is known."""
        parts, call, intent = self.parts, self.call, self.entry.intent
        size = self.reservation.size or self.entry.size
        prompt, output = parts.ledger.expected(self.entry, Size(batch.bytes, answers=batch.answers) if batch else size)
        backend = target.backend
        model = target.model or backend.by_deployment.get(named, named if named in backend.models else "")
        return PendingWork(
            kind=reference.kind,
            id=reference.id,
            consumer=self.consumer.id,
            backend=target.backend.name,
            started=float(intent["s_ts"]),
            place=self.entry.place,
            parent=parent,
            model=model or self.reservation.call_limits.model,
            deployment=target.deployment,
            deployments=_deployments(target, batch),
            status=status,
            prompt=prompt if batch is not None else int(intent["s_prompt"]),
            output=output,
            streamed=call.stream,
            size=size,
            held=dict(parts.limiter.hold(self.reservation, call, model)),
            granted=self.consumer.limits if is_identity(self.consumer.id) else None,
        )

    def tried(self, number: int, attempt: Attempt) -> None:
        """Report an attempt that has ended to live listeners. `number`: its place among those of the call."""
        if self.parts.live.watched:
            self.parts.live.tried(self.received.request_id, number, attempt)

    def charge(self, number: int, attempt: Attempt) -> None:
        """Report the charge of an attempt that ended later than another one answered, also after `close`. `number`:
        its own among the attempts of the call."""
        self.parts.ledger.charge(self.entry, number, attempt)
        if attempt.usage is not None:
            self.parts.limiter.charge(self.reservation, attempt.target, attempt.usage)

    def shadow(self) -> Callable[[Attempt], None]:
        """Return the function to be called with the attempt that copied this call, when it has ended."""
        report = self.parts.telemetry.shadow(self.received.trace, self.call)

        def ended(attempt: Attempt) -> None:
            self.parts.ledger.charge(self.entry, _SHADOW, attempt)
            report(attempt, _SHADOW)

        return ended

    def _correct(self, milliseconds: int, estimated: Outcome, counted: Outcome | None) -> None:
        """Replace the estimates of a call on record with what was counted, if it was."""
        if counted is not None:
            self.parts.ledger.correct(self.entry, counted)
            self.parts.limiter.book(self.reservation, counted.usage, counted.served_by, *_beside(counted))
        self._report(milliseconds, counted or estimated)

    def _report(self, milliseconds: int, outcome: Outcome) -> None:
        self.parts.telemetry.ended(self.received.trace, self.consumer, self.call, outcome)
        _log(self.received, self._summary(milliseconds, outcome))

    def _summary(self, milliseconds: int, outcome: Outcome) -> dict[str, Any]:
        """The log line of the call."""
        target = outcome.served_by or (outcome.attempts[-1].target if outcome.attempts else None)
        return {
            "request": self.received.request_id,
            "consumer": self.consumer.id,
            "model": self.call.model,
            "operation": self.call.operation.name,
            "backend": target.backend.name if target else None,
            "status": outcome.status,
            "ended": outcome.ended,
            "attempts": len(outcome.attempts),
            "input_tokens": outcome.usage.input_tokens,
            "output_tokens": outcome.usage.output_tokens,
            "estimated": outcome.usage.estimated,
            "first_byte_ms": outcome.first_byte_ms,
            "ms": milliseconds,
        }


def _deployments(target: Target, batch: BatchSize | None) -> tuple[str, ...]:
    """The deployments of a batch whose requests name several models."""
    if batch is None or not batch.others:
        return ()
    return tuple(target.backend.deployments.get(one, one) for one in (batch.model, *batch.others))


def _beside(outcome: Outcome) -> tuple[list[tuple[Target, Usage]], int]:
    """The charges of other attempts, and the status by which the call counts, 0 if the gateway refused it. A shadow is
    the operator's experiment, so it does not count against the caller."""
    charges = [(a.target, a.usage) for a in outcome.attempts if a.usage is not None and a.role != "shadow"]
    return charges, 0 if outcome.ended == "refused" else outcome.status


def _log(received: ReceivedRequest, line: dict[str, Any]) -> None:
    """Write the one log line of a request."""
    if received.trace.trace_id:
        line["trace"] = received.trace.hex_id
    logger.info(msgspec.json.encode(line).decode())


def _header(request: Request, name: bytes) -> str:
    """A header's value, or "" if there is none."""
    for key, value in request.scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return ""
