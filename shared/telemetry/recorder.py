"""Records spans of calls, metrics and log lines, and passes them to an exporter.

A call carries only its trace context; everything else is recorded when it has ended. `spans.py` and `instruments.py`
define the content, `exporter.py` sends it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping

import msgspec

from shared.storage import Store
from shared.storage.timed import TimedStore
from shared.telemetry import instruments, spans
from shared.telemetry._log_handler import LogHandler, current_trace
from shared.telemetry._sampling import Budget
from shared.telemetry.batches import Batch, LogLine, TelemetryExporter
from shared.telemetry.metrics import Counter, Histogram, Instrument, Labels, Point, drained
from shared.telemetry.spans import UNTRACED, Span, TraceContext
from shared.token_classes import REPORTED, UNITS, price_name
from shared.types import Attempt, Call, Consumer, Outcome, Target, Usage

_TICK = 0.5  # seconds between measurements of the event loop's lag
_SPANS_EVERY = 5.0  # seconds
_MOST_WAITING = 2048  # spans, and as many log lines, that wait for export
_TOKEN_TYPES = tuple((field, price_name(field)) for field in REPORTED)
_UNITS = tuple((field, unit.price) for field, unit in UNITS.items())


Readings = Mapping[Instrument, Callable[[], Iterable[tuple[Labels, float]]]]
"""Functions that read gauges, and counters since the start, from their owners at every export."""


Cost = Callable[[Usage, Target], float | None]
"""Returns the USD of a call, or None if its price is unknown."""


class NoTelemetry:
    """Telemetry that goes nowhere: it records nothing and costs nothing."""

    def timed(self, store: Store) -> Store:
        return store

    def begin(self, request_id: str, started: float, traceparent: str, *, received: bool = False) -> TraceContext:
        return UNTRACED

    def shadow(self, trace: TraceContext, call: Call) -> Callable[[Attempt, int], None]:
        return lambda attempt, number: None

    def ended(self, *_: object) -> None:
        pass

    refused = settled = configure = start = ended

    async def close(self) -> None:
        pass


class Telemetry:
    """The telemetry of one process. Clocks in seconds: `clock` is monotonic, `wall` since 1970."""

    def __init__(
        self,
        exporter: TelemetryExporter,
        traces_per_second: float,
        metrics_every: float,
        clock: Callable[[], float],
        wall: Callable[[], float],
        cost: Cost = lambda usage, target: None,
    ) -> None:
        self._exporter = exporter
        self._metrics_every = metrics_every
        self._clock = clock
        self._wall = wall
        self._traces_per_second = -1.0
        self.configure(traces_per_second, cost)
        self._spans: deque[Span] = deque()
        self._lines: deque[LogLine] = deque()
        self._duration, self._tokens = Histogram(instruments.DURATION), Histogram(instruments.TOKENS)
        self._first_token, self._per_token = Histogram(instruments.FIRST_TOKEN), Histogram(instruments.PER_TOKEN)
        self._store, self._lag = Histogram(instruments.STORE), Histogram(instruments.LAG)
        self._attempts, self._refusals = Counter(instruments.ATTEMPTS), Counter(instruments.REFUSALS)
        self._units = Counter(instruments.UNITS)
        self._lost = Counter(instruments.TELEMETRY_LOST)
        self._readings: Readings = {}
        self._exported: dict[tuple[Instrument, Labels], float] = {}  # counters that are read
        # By span: calls with a shadow, until it is decided whether they are kept.
        self._undecided: dict[int, asyncio.Future[int]] = {}
        self._task: asyncio.Task[None] | None = None
        self._handler = LogHandler(lambda line: self._append(self._lines, line))

    def configure(self, traces_per_second: float, cost: Cost) -> None:
        """Apply another configuration."""
        self._cost = cost
        if traces_per_second != self._traces_per_second:
            self._traces_per_second = traces_per_second
            # Two budgets, so that successful calls do not crowd out failed ones.
            self._budget, self._failure_budget = Budget(traces_per_second), Budget(traces_per_second)

    # --- calls --------------------------------------------------------------------------------------------------------

    def begin(self, request_id: str, started: float, traceparent: str, *, received: bool = False) -> TraceContext:
        """Begin a request: log lines of its task belong to its trace from here on. `received`: by this process itself;
        otherwise a host in front of it has reported the request."""
        trace = spans.trace_context(request_id, started, traceparent, received=received)
        current_trace.set(trace)
        return trace

    def ended(self, trace: TraceContext, consumer: Consumer, call: Call, outcome: Outcome) -> None:
        now = self._clock()
        self._measure(now - trace.started, call, outcome)
        failed = len(outcome.attempts) > 1 or outcome.status >= 500 or outcome.ended == "cut"
        if represents := self._sample(trace, now, failed=failed):
            usd = self._cost(outcome.usage, outcome.served_by) if outcome.served_by else None
            epoch = self._wall() - now
            for span in spans.of_call(
                trace, consumer, call, outcome, ended=now, epoch=epoch, represents=represents, usd=usd
            ):
                self._append(self._spans, span)

    def refused(self, trace: TraceContext, method: str, status: int, code: str) -> None:
        now = self._clock()
        self._refusals.add((code,))
        if represents := self._sample(trace, now, failed=status >= 500):
            epoch = self._wall() - now
            self._append(self._spans, spans.of_refusal(trace, method, status, code, now, epoch, represents))

    def settled(self, operation: str, target: Target, usage: Usage) -> None:
        """Count the usage of work that an operation began, and that has gone on after its call."""
        self._count_usage((spans.operation_of(operation), target.model, target.backend.name), usage)

    def shadow(self, trace: TraceContext, call: Call) -> Callable[[Attempt, int], None]:
        """Return the function that records the end of a call's shadow, given its attempt and number. The shadow has a
        span if its call has one; either may end first."""
        decided = self._undecided.setdefault(trace.span_id, asyncio.get_running_loop().create_future())

        def ended(attempt: Attempt, number: int) -> None:
            self._count(attempt)
            epoch = self._wall() - self._clock()

            def record(decision: asyncio.Future[int]) -> None:
                if represents := decision.result():
                    self._append(self._spans, spans.of_attempt(trace, call, attempt, number, epoch, represents))

            decided.add_done_callback(record)

        return ended

    def timed(self, store: Store) -> Store:
        return TimedStore(store, lambda operation, seconds, error: self._store[operation, error].record(seconds))

    def _sample(self, trace: TraceContext, now: float, *, failed: bool) -> int:
        budget = self._failure_budget if failed else self._budget
        represents = budget.take(now) if trace.sampled else 0
        if self._undecided and (undecided := self._undecided.pop(trace.span_id, None)) is not None:
            undecided.set_result(represents)
        # Set again, because under the Functions worker a call ends in another task than it began in.
        current_trace.set(msgspec.structs.replace(trace, kept=True) if represents else trace)
        return represents

    def _measure(self, seconds: float, call: Call, outcome: Outcome) -> None:
        target = outcome.served_by or (outcome.attempts[-1].target if outcome.attempts else None)
        model, backend = (target.model, target.backend.name) if target else (call.model, "")
        labels = (spans.operation_of(call.operation.name), model, backend)
        self._duration[*labels, spans.error_of(outcome)].record(seconds)
        for attempt in outcome.attempts:
            self._count(attempt)
        if outcome.served_by is None or outcome.status >= 400:
            return
        self._count_usage(labels, outcome.usage)
        if call.stream:
            to_first = outcome.first_byte_ms / 1000
            self._first_token[labels].record(to_first)
            if outcome.ended == "complete" and outcome.usage.output_tokens > 1:
                self._per_token[labels].record(max(seconds - to_first, 0) / (outcome.usage.output_tokens - 1))

    def _count_usage(self, labels: Labels, usage: Usage) -> None:
        for field, name in _TOKEN_TYPES:
            if tokens := getattr(usage, field):
                self._tokens[*labels, name].record(tokens)
        for field, name in _UNITS:
            if amount := getattr(usage, field):
                self._units.add((*labels, name), amount)

    def _count(self, attempt: Attempt) -> None:
        backend = attempt.target.backend
        self._attempts.add((backend.name, backend.region, spans.result_of(attempt)))

    # --- export -------------------------------------------------------------------------------------------------------

    def start(self, readings: Readings) -> None:
        """Begin to export, in the event loop that serves."""
        self._readings = readings
        self._task = asyncio.get_running_loop().create_task(self._run())
        logging.getLogger("tollgate").addHandler(self._handler)

    async def close(self) -> None:
        """Export the rest."""
        logging.getLogger("tollgate").removeHandler(self._handler)
        if self._task is not None:
            self._task.cancel()
            self._send(with_metrics=True)
        await self._exporter.close()

    async def _run(self) -> None:
        spans_at = metrics_at = self._clock()
        while True:
            due = self._clock() + _TICK
            await asyncio.sleep(_TICK)
            now = self._clock()
            self._lag[()].record(max(now - due, 0))
            metrics = now - metrics_at >= self._metrics_every
            if (metrics or now - spans_at >= _SPANS_EVERY) and not self._exporter.busy:
                spans_at, metrics_at = now, now if metrics else metrics_at
                self._send(with_metrics=metrics)

    def _send(self, *, with_metrics: bool) -> None:
        batch = Batch(list(self._spans), list(self._lines), self._points() if with_metrics else [])
        self._spans.clear()
        self._lines.clear()
        if batch.spans or batch.lines or batch.points:
            self._exporter.send(batch)

    def _points(self) -> list[Point]:
        of_calls = (self._duration, self._first_token, self._per_token, self._tokens, self._units)
        points = list(drained(*of_calls, self._attempts, self._refusals, self._store, self._lag, self._lost))
        for instrument, read in self._readings.items():
            for labels, value in read():
                if instrument.kind == "gauge":
                    points.append(Point(instrument, labels, value))
                elif new := value - self._exported.get((instrument, labels), 0):
                    points.append(Point(instrument, labels, new))
                    self._exported[instrument, labels] = value
        return points

    def _append[T](self, queue: deque[T], item: T) -> None:
        if len(queue) >= _MOST_WAITING:
            queue.popleft()
            self._lost.add(())
        queue.append(item)
