"""What the gateway tells of itself: spans of calls, metrics, and log lines that belong to a trace.

Nothing is carried through a call but its place in a trace; what has happened is told when it has ended. `spans.py` and
`instruments.py` say what there is, `exporting.py` sends it.
"""

import asyncio
import logging
import traceback
from collections import Counter as Counts
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Protocol

import msgspec

from shared.telemetry import instruments, spans
from shared.telemetry.metrics import Counter, Histogram, Instrument, Labels, Point, drained
from shared.telemetry.spans import Span, TraceContext
from shared.token_classes import REPORTED, price_name
from shared.types import Attempt, Call, Consumer, Outcome, Target, Usage

_TICK = 0.5  # seconds between looks at the event loop's lag
_SPANS_EVERY = 5.0
_MOST_WAITING = 2048  # spans, and as many log lines, that wait for their export
_TOKEN_TYPES = tuple((field, price_name(field)) for field in REPORTED)
_BURST = 10.0  # seconds' worth of traces that may come at once


class LogLine(msgspec.Struct, frozen=True):
    """A log line. `time` in nanoseconds since 1970; ids 0: it belongs to no call. `exception`: its type."""

    time: int
    level: int
    logger: str
    text: str
    trace_id: int = 0
    span_id: int = 0
    exception: str = ""
    stack: str = ""


class Batch(msgspec.Struct, frozen=True):
    """What is exported in one go."""

    spans: list[Span] = []
    lines: list[LogLine] = []
    points: list[Point] = []


class Vitals(msgspec.Struct, frozen=True):
    """What is asked of others at every export. `hits`, `alerts`, `trips`, `lost`: since the start."""

    backlog: int
    lost: int
    safe_mode: bool
    hits: Mapping[tuple[str, str], int]
    alerts: Mapping[tuple[str, str], int]
    trips: Mapping[str, int]


class Budget:
    """Keeps so many traces a second, and knows for how many each of them stands."""

    def __init__(self, per_second: float) -> None:
        self._rate = per_second
        self._left = per_second * _BURST
        self._at = 0.0
        self._skipped = 0

    def take(self, now: float) -> int:
        """How many calls this one represents, itself included; 0: it is not kept. `now` on the monotonic clock."""
        self._left = min(self._rate * _BURST, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            self._skipped += 1
            return 0
        self._left -= 1
        represents, self._skipped = 1 + self._skipped, 0
        return represents


class TelemetryExporter(Protocol):
    """Sends batches, in their order and not in the event loop."""

    @property
    def busy(self) -> bool:
        """Whether what was taken already should go out first."""
        ...

    def send(self, batch: Batch) -> None:
        """Take a batch. Returns at once."""
        ...

    async def close(self) -> None:
        """Finish what was taken."""
        ...


_place: ContextVar[TraceContext | None] = ContextVar("place", default=None)


class Telemetry:
    """One per process that tells something; without it nothing of this is built. Clocks in seconds: `clock` monotonic,
    `wall` since 1970. `cost` of a call in USD, where its price is known."""

    def __init__(
        self,
        exporter: TelemetryExporter,
        traces_per_second: float,
        metrics_every: float,
        clock: Callable[[], float],
        wall: Callable[[], float],
        cost: Callable[[Usage, Target], float | None] = lambda usage, target: None,
    ) -> None:
        self._exporter = exporter
        self._metrics_every = metrics_every
        self._clock = clock
        self._wall = wall
        self._cost = cost
        # Calls in which something went wrong are kept apart, so that those that went well do not crowd them out.
        self._budget, self._budget_of_trouble = Budget(traces_per_second), Budget(traces_per_second)
        self._spans: deque[Span] = deque()
        self._lines: deque[LogLine] = deque()
        self._duration = Histogram(instruments.DURATION)
        self._first_token = Histogram(instruments.FIRST_TOKEN)
        self._per_token = Histogram(instruments.PER_TOKEN)
        self._tokens = Histogram(instruments.TOKENS)
        self._store = Histogram(instruments.STORE)
        self._lag = Histogram(instruments.LAG)
        self._attempts = Counter(instruments.ATTEMPTS)
        self._refusals = Counter(instruments.REFUSALS)
        self._lost = Counter(instruments.TELEMETRY_LOST)
        self._known: Counts[tuple[Instrument, Labels]] = Counts()
        # By span: calls with a shadow, until it is known whether they are kept.
        self._undecided: dict[int, asyncio.Future[int]] = {}
        self._vitals: Callable[[], Vitals] | None = None
        self._task: asyncio.Task[None] | None = None
        self._handler = _Handler(self)

    # --- what happens to calls ----------------------------------------------------------------------------------------

    def begin(self, request_id: str, started: float, traceparent: str) -> TraceContext:
        """A request has come. Log lines from here on are known to be its own."""
        found = spans.place(request_id, started, traceparent)
        _place.set(found)
        return found

    def ended(self, where: TraceContext, consumer: Consumer, call: Call, outcome: Outcome) -> None:
        """A call that was admitted has ended."""
        now, attempts = self._clock(), outcome.attempts
        self._measure(now - where.started, call, outcome)
        if represents := self._kept(where, now, len(attempts) > 1 or outcome.status >= 500 or outcome.ended == "cut"):
            usd = self._cost(outcome.usage, outcome.served_by) if outcome.served_by else None
            epoch = self._wall() - now
            for span in spans.of_call(
                where, consumer, call, outcome, ended=now, epoch=epoch, represents=represents, usd=usd
            ):
                self._append(self._spans, span)

    def refused(self, where: TraceContext, status: int, code: str) -> None:
        """A request was refused before it was admitted."""
        now = self._clock()
        self._refusals.add((code,))
        if represents := self._kept(where, now, status >= 500):
            self._append(self._spans, spans.of_refusal(where, status, code, now, self._wall() - now, represents))

    def shadow(self, where: TraceContext, call: Call) -> Callable[[Attempt, int], None]:
        """What is to be told of the end of a call's shadow, with its number. It has a span where its call has one; the
        call may end before it or after it."""
        decided = self._undecided.setdefault(where.span_id, asyncio.get_running_loop().create_future())

        def ended(attempt: Attempt, number: int) -> None:
            self._count(attempt)
            epoch = self._wall() - self._clock()

            def tell(decision: asyncio.Future[int]) -> None:
                if represents := decision.result():
                    self._append(self._spans, spans.of_attempt(where, call, attempt, number, epoch, represents))

            decided.add_done_callback(tell)

        return ended

    def store_operation(self, operation: str, seconds: float, error: str) -> None:
        """An operation of the tables has ended."""
        self._store[operation, error].record(seconds)

    def _kept(self, where: TraceContext, now: float, trouble: bool) -> int:
        budget = self._budget_of_trouble if trouble else self._budget
        represents = budget.take(now) if where.wanted else 0
        if self._undecided and (undecided := self._undecided.pop(where.span_id, None)) is not None:
            undecided.set_result(represents)
        # Said again, because under the Functions worker a call ends in another task than it began in.
        _place.set(msgspec.structs.replace(where, kept=True) if represents else where)
        return represents

    def _measure(self, seconds: float, call: Call, outcome: Outcome) -> None:
        target = outcome.served_by or (outcome.attempts[-1].target if outcome.attempts else None)
        labels = (
            spans.operation_of(call),
            target.model if target else call.model,
            target.backend.name if target else "",
        )
        self._duration[*labels, spans.error_of(outcome)].record(seconds)
        for attempt in outcome.attempts:
            self._count(attempt)
        if outcome.served_by is None or outcome.status >= 400:
            return
        self._measure_tokens(labels, outcome.usage)
        if call.stream:
            to_first = outcome.first_byte_ms / 1000
            self._first_token[labels].record(to_first)
            if outcome.ended == "complete" and outcome.usage.output_tokens > 1:
                self._per_token[labels].record(max(seconds - to_first, 0) / (outcome.usage.output_tokens - 1))

    def _count(self, attempt: Attempt) -> None:
        backend = attempt.target.backend
        self._attempts.add((backend.name, backend.region, spans.result_of(attempt)))

    def _measure_tokens(self, labels: Labels, usage: Usage) -> None:
        for field, name in _TOKEN_TYPES:
            if tokens := getattr(usage, field):
                self._tokens[*labels, name].record(tokens)

    # --- what becomes of it -------------------------------------------------------------------------------------------

    def start(self, vitals: Callable[[], Vitals]) -> None:
        """Begin to export, in the event loop that serves."""
        self._vitals = vitals
        self._task = asyncio.get_running_loop().create_task(self._run())
        logging.getLogger("tollgate").addHandler(self._handler)

    async def stop(self) -> None:
        """Export what is left."""
        logging.getLogger("tollgate").removeHandler(self._handler)
        if self._task is not None:
            self._task.cancel()
            self._send(with_metrics=True)
        await self._exporter.close()

    def note(self, line: LogLine) -> None:
        """A log line to be exported."""
        self._append(self._lines, line)

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
        families = (self._duration, self._first_token, self._per_token, self._tokens, self._attempts, self._refusals)
        points = list(drained(*families, self._store, self._lag, self._lost))
        if self._vitals is not None:
            vitals = self._vitals()
            points += (
                Point(instruments.BACKLOG, (), vitals.backlog),
                Point(instruments.SAFE_MODE, (), int(vitals.safe_mode)),
            )
            now: Counts[tuple[Instrument, Labels]] = Counts()
            now[instruments.LEDGER_LOST, ()] = vitals.lost
            for hit, calls in vitals.hits.items():
                now[instruments.LIMIT_HITS, hit] = calls
            for alert, times in vitals.alerts.items():
                now[instruments.LIMIT_ALERTS, alert] = times
            for backend, trips in vitals.trips.items():
                now[instruments.TRIPS, (backend,)] = trips
            points += (Point(instrument, labels, new) for (instrument, labels), new in (now - self._known).items())
            self._known = now
        return points

    def _append[T](self, queue: deque[T], item: T) -> None:
        if len(queue) >= _MOST_WAITING:
            queue.popleft()
            self._lost.add(())
        queue.append(item)


class _Handler(logging.Handler):
    """Passes on what the gateway logs. What is said inside a call below a warning goes along only with its trace: the
    span tells as much, and a line for each call costs more than the call's own telemetry."""

    def __init__(self, telemetry: Telemetry) -> None:
        super().__init__(logging.INFO)
        self._telemetry = telemetry

    def emit(self, record: logging.LogRecord) -> None:
        where = _place.get()
        if record.levelno < logging.WARNING and where is not None and not where.kept:
            return
        kind, stack = "", ""
        if record.exc_info and record.exc_info[0] is not None:
            # Not the exception's own words: they may hold what was being worked on.
            kind, stack = record.exc_info[0].__name__, "".join(traceback.format_tb(record.exc_info[2]))
        trace_id, span_id = (where.trace_id, where.span_id) if where is not None else (0, 0)
        time = int(record.created * 1e9)
        text = record.getMessage()
        self._telemetry.note(LogLine(time, record.levelno, record.name, text, trace_id, span_id, kind, stack))
