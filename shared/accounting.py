"""How a call ended, told to all who keep account of it: the ledger, the limits, the traces and the log."""

import asyncio
from functools import partial

from shared.errors import GatewayError
from shared.limits.limiter import Limiter, Reservation
from shared.requests.arrival import ReceivedRequest
from shared.telemetry.recorder import Telemetry
from shared.types import Call, Consumer, Outcome
from shared.usage.ledger import Entry, Ledger
from shared.usage.tokenizer import Tokenizer, is_estimated


class Accounting:
    """Called exactly once for every request, on whatever way it ends."""

    def __init__(self, limiter: Limiter, ledger: Ledger, tokenizer: Tokenizer, telemetry: Telemetry | None) -> None:
        self._limiter = limiter
        self._ledger = ledger
        self._tokenizer = tokenizer
        self._telemetry = telemetry

    def ended(
        self,
        arrival: ReceivedRequest,
        consumer: Consumer,
        call: Call,
        entry: Entry,
        reservation: Reservation,
        outcome: Outcome,
        said: str = "",
    ) -> asyncio.Future[None]:
        """Put the end of an admitted call on record. Returns at once; the future is done when the row is in the table.

        What is estimated is counted first; `said` is the text of the answer, as far as it came."""
        if is_estimated(outcome):
            book = partial(self._book, arrival, consumer, call, entry, reservation)
            return self._tokenizer.correct(outcome, call.body, said, book)
        return self._book(arrival, consumer, call, entry, reservation, outcome)

    def refused(self, arrival: ReceivedRequest, error: GatewayError) -> None:
        """A request that was no call, or was not admitted."""
        if self._telemetry is not None and arrival.place is not None:
            self._telemetry.refused(arrival.place, error.status, error.code)
        line = {
            "request": arrival.request_id,
            "method": arrival.method,
            "path": arrival.path[:200],
            "status": error.status,
            "code": error.code,
            "ms": round(arrival.milliseconds()),
        }
        arrival.log(line)

    def _book(
        self,
        arrival: ReceivedRequest,
        consumer: Consumer,
        call: Call,
        entry: Entry,
        reservation: Reservation,
        outcome: Outcome,
    ) -> asyncio.Future[None]:
        for number, attempt in enumerate(outcome.attempts, 1):
            if attempt.usage is not None:
                self._ledger.charge(entry, number, attempt)
        row = self._ledger.close(entry, outcome)
        # A shadow is the operator's trial, which the caller knows nothing of.
        beside = [(a.target, a.usage) for a in outcome.attempts if a.usage is not None and a.role != "shadow"]
        if outcome.ended == "refused" and not beside:
            self._limiter.release(reservation)
        else:
            self._limiter.settle(reservation, outcome.usage, outcome.served_by, beside)
        if self._telemetry is not None and arrival.place is not None:
            self._telemetry.ended(arrival.place, consumer, call, outcome)
        target = outcome.served_by or (outcome.attempts[-1].target if outcome.attempts else None)
        line = {
            "request": arrival.request_id,
            "consumer": consumer.id,
            "model": call.model,
            "operation": call.operation.name,
            "backend": target.backend.name if target else None,
            "status": outcome.status,
            "ended": outcome.ended,
            "attempts": len(outcome.attempts),
            "input_tokens": outcome.usage.input_tokens,
            "output_tokens": outcome.usage.output_tokens,
            "estimated": outcome.usage.estimated,
            "first_byte_ms": outcome.first_byte_ms,
            "ms": round(arrival.milliseconds()),
        }
        arrival.log(line)
        return row
