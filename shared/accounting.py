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

logger = logging.getLogger("tollgate.requests")

_SHADOW = 100  # number of a shadow among the attempts of its call: higher than any attempt's


class Accounting:
    """Follows every request from its arrival to its end, which it reports exactly once."""

    def __init__(
        self,
        limiter: Limiter,
        ledger: Ledger,
        tokenizer: Tokenizer,
        telemetry: Telemetry | NoTelemetry,
        live: LiveCalls,
    ) -> None:
        self._limiter = limiter
        self._ledger = ledger
        self._tokenizer = tokenizer
        self._telemetry = telemetry
        self._live = live

    def receive(self, request: Request, traceparent: str | None) -> ReceivedRequest:
        """Give a request its id and its trace context. `traceparent`: of the host that has received the request; None:
        this process has, and the request's own header counts."""
        request_id, started = ulid.new(time.time()), time.monotonic()
        current_request.set(request_id)
        trace = self._telemetry.begin(
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
        entry = self._ledger.begin(received.request_id, consumer, call, model)
        return CallRecord(self, received, consumer, call, reservation, entry)

    def refused(self, received: ReceivedRequest, error: GatewayError) -> None:
        """Report a request that was refused before it became a call on record."""
        self._telemetry.refused(received.trace, received.method, error.status, error.code)
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
        """Count a refused call, unless it is on record. `consumer` None: it is unknown; `model`: its configured name,
        or ""."""
        if consumer is not None:
            error.consumer = consumer.id
        if not error.on_record:
            self._ledger.refuse(received.request_id, consumer, model, error, f"{received.method} {received.path}")

    async def admit(self, record: "CallRecord", model: str) -> bool:
        """See `CallRecord.admit`."""
        try:
            await self._limiter.reserve_model(record.reservation, record.consumer, record.call, model)
        except GatewayError as error:
            logger.info("%s: not served by %s: %s", record.received.request_id, model, error.message)
            return False
        return True

    def close(self, record: "CallRecord", outcome: Outcome, text: str) -> asyncio.Future[None]:
        """See `CallRecord.close`."""
        milliseconds = round(record.received.milliseconds())
        for number, attempt in enumerate(outcome.attempts, 1):
            self._ledger.charge(record.entry, number, attempt)
        if self._live.watched:
            self._live.tell("call", _summary(record, milliseconds, outcome) | {"name": record.consumer.name})
        goes_on = record.reservation.held is not None
        row = self._ledger.end(record.entry, outcome, goes_on=goes_on)
        self._limiter.settle(record.reservation, outcome.usage, outcome.served_by, *_beside(outcome))
        if is_estimated(outcome):
            correct = partial(self._correct, record, milliseconds, outcome)
            self._tokenizer.correct(outcome, record.call.body, text, correct)
        else:
            self._report(record, milliseconds, outcome)
        return row

    def begin_work(
        self,
        record: "CallRecord",
        target: Target,
        status: int,
        reference: Reference,
        parent: str,
        named: str,
        batch: BatchSize | None,
    ) -> PendingWork:
        """See `CallRecord.begin_work`."""
        call, intent = record.call, record.entry.intent
        size = record.reservation.size or record.entry.size
        prompt, output = self._ledger.expected(
            record.entry, Size(batch.bytes, answers=batch.answers) if batch else size
        )
        served = {deployment: name for name, deployment in target.backend.deployments.items()}
        model = target.model or served.get(named, named if named in target.backend.models else "")
        return PendingWork(
            kind=reference.kind,
            id=reference.id,
            consumer=record.consumer.id,
            backend=target.backend.name,
            started=float(intent["s_ts"]),
            place=record.entry.place,
            parent=parent,
            model=model or record.reservation.call_limits.model,
            deployment=target.deployment,
            status=status,
            prompt=prompt if batch is not None else int(intent["s_prompt"]),
            output=output,
            streamed=call.stream,
            size=size,
            held=dict(self._limiter.hold(record.reservation, call, model)),
            granted=record.consumer.limits if is_identity(record.consumer.id) else None,
        )

    def shadow(self, record: "CallRecord") -> Callable[[Attempt], None]:
        """See `CallRecord.shadow`."""
        report = self._telemetry.shadow(record.received.trace, record.call)

        def ended(attempt: Attempt) -> None:
            self._ledger.charge(record.entry, _SHADOW, attempt)
            report(attempt, _SHADOW)

        return ended

    def tried(self, record: "CallRecord", number: int, attempt: Attempt) -> None:
        """See `CallRecord.tried`."""
        if self._live.watched:
            self._live.tried(record.received.request_id, number, attempt)

    def charge(self, record: "CallRecord", number: int, attempt: Attempt) -> None:
        """See `CallRecord.charge`."""
        self._ledger.charge(record.entry, number, attempt)
        if attempt.usage is not None:
            self._limiter.charge(record.reservation, attempt.target, attempt.usage)

    def _correct(self, record: "CallRecord", milliseconds: int, estimated: Outcome, counted: Outcome | None) -> None:
        """Replace the estimates of a call on record with what was counted, if it was."""
        if counted is not None:
            self._ledger.correct(record.entry, counted)
            self._limiter.book(record.reservation, counted.usage, counted.served_by, *_beside(counted))
        self._report(record, milliseconds, counted or estimated)

    def _report(self, record: "CallRecord", milliseconds: int, outcome: Outcome) -> None:
        self._telemetry.ended(record.received.trace, record.consumer, record.call, outcome)
        _log(record.received, _summary(record, milliseconds, outcome))


class CallRecord(NamedTuple):
    """An admitted call that is on record. `close` it exactly once."""

    accounting: Accounting
    received: ReceivedRequest
    consumer: Consumer
    call: Call
    reservation: Reservation
    entry: Entry

    def close(self, outcome: Outcome, text: str = "") -> asyncio.Future[None]:
        """Report the end of the call. Returns at once; the future is done when the row is on record.

        Estimated tokens are counted afterwards, and corrected; `text` is the part of the answer that was relayed."""
        return self.accounting.close(self, outcome, text)

    async def admit(self, model: str) -> bool:
        """Return True if the limits of another model admit the call, which that model is about to serve."""
        return await self.accounting.admit(self, model)

    def begin_work(
        self, target: Target, status: int, reference: Reference, parent: str, named: str, batch: BatchSize | None
    ) -> PendingWork:
        """Note that work of the call goes on at `target`, which has answered with `status`: the limits keep what the
        call has reserved, and its usage is recorded when the work is settled. `named`: the model or the deployment in
        the backend's words, or ""; `batch`: the size of a batch, if it is known."""
        return self.accounting.begin_work(self, target, status, reference, parent, named, batch)

    def tried(self, number: int, attempt: Attempt) -> None:
        """Tell whoever watches of an attempt that has ended, given its number among those of the call."""
        self.accounting.tried(self, number, attempt)

    def charge(self, number: int, attempt: Attempt) -> None:
        """Report the charge of an attempt that ended later than another one answered, also after `close`. `number`:
        its own among the attempts of the call."""
        self.accounting.charge(self, number, attempt)

    def shadow(self) -> Callable[[Attempt], None]:
        """Return the function to be called with the attempt that copied this call, when it has ended."""
        return self.accounting.shadow(self)


def _beside(outcome: Outcome) -> tuple[list[tuple[Target, Usage]], int]:
    """The charges of other attempts, and the status by which the call counts, 0 if the gateway refused it. A shadow is
    the operator's experiment, so it does not count against the caller."""
    charges = [(a.target, a.usage) for a in outcome.attempts if a.usage is not None and a.role != "shadow"]
    return charges, 0 if outcome.ended == "refused" else outcome.status


def _summary(record: CallRecord, milliseconds: int, outcome: Outcome) -> dict[str, Any]:
    """The log line of a call."""
    target = outcome.served_by or (outcome.attempts[-1].target if outcome.attempts else None)
    return {
        "request": record.received.request_id,
        "consumer": record.consumer.id,
        "model": record.call.model,
        "operation": record.call.operation.name,
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
