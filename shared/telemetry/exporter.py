"""Sends what telemetry.py tells: to Application Insights with Azure Monitor's exporter, elsewhere by OTLP, or both.

A thread of its own does it, and imports what it needs: neither a start nor a call waits for that. Spans and log records
are handed to the exporters whole. The Azure Monitor distribution's set-up (`configure_azure_monitor`) is left alone: it
instruments every HTTP library, so that each try would be told twice, and the host tells requests already.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from shared.config.environment import TelemetrySettings
from shared.telemetry.metrics import Distribution, Instrument, Labels, Point, summed
from shared.telemetry.recorder import Batch, LogLine
from shared.telemetry.spans import Span

logger = logging.getLogger("tollgate")

_SCOPE = "tollgate"
_LAST_WORD = 5.0  # seconds for what is left when the process ends
# Azure Monitor's exporter would report on itself to Microsoft, ask there for settings, and describe the process with
# every batch. What is set already stays.
_TO_ITSELF = (
    "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL",
    "APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED",
    "APPLICATIONINSIGHTS_SDKSTATS_DISABLED",
    "APPLICATIONINSIGHTS_OPENTELEMETRY_RESOURCE_METRIC_DISABLED",
)


class ExportThread:
    """Exports batches in a thread. `instance` names this process."""

    def __init__(self, settings: TelemetrySettings, instance: str) -> None:
        self._settings = settings
        self._instance = instance
        self._queue: SimpleQueue[Batch | None] = SimpleQueue()
        self._idle = True
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        return not self._idle or not self._queue.empty()

    def send(self, batch: Batch) -> None:
        self._queue.put(batch)

    async def close(self) -> None:
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join, _LAST_WORD)

    def _run(self) -> None:
        destinations: Sequence[Destination] | None = None
        while (batch := self._queue.get()) is not None:
            self._idle = False
            try:
                if destinations is None:
                    destinations = _destinations(self._settings, self._instance)
                for destination in destinations:
                    destination.export(batch)
            except Exception:  # the next batch may do better, and a thread that ended would do nothing
                logger.exception("telemetry could not be exported")
            self._idle = True


class Destination:
    """Three exporters of OpenTelemetry's, and what each needs beside the batch. `delta`: metrics are told as what has
    come since the last time; else as what has come since the start."""

    def __init__(self, resource: Any, spans: Any, logs: Any, metrics: Any, delta: Callable[[Instrument], bool]) -> None:
        self._resource = resource
        self._spans, self._logs, self._metrics = spans, logs, metrics
        self._delta = delta
        self._totals: dict[tuple[Instrument, Labels], Point] = {}
        self._started = self._told = time.time_ns()

    def export(self, batch: Batch) -> None:
        if batch.spans:
            self._spans.export([_readable_span(span, self._resource) for span in batch.spans])
        if batch.lines:
            self._logs.export([_readable_line(line, self._resource) for line in batch.lines])
        if batch.points:
            self._metrics.export(self._metrics_data(batch.points))

    def _metrics_data(self, points: Sequence[Point]) -> Any:
        from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        now = time.time_ns()
        told: dict[Instrument, list[Point]] = {}
        for point in points:
            if point.instrument.kind == "gauge" or self._delta(point.instrument):
                told.setdefault(point.instrument, []).append(point)
            else:
                key = (point.instrument, point.labels)
                self._totals[key] = summed(self._totals.get(key), point)
        for total in self._totals.values():  # every series every time, whether anything has come or not
            told.setdefault(total.instrument, []).append(total)
        metrics = [self._metric(instrument, series, now) for instrument, series in told.items()]
        self._told = now
        scope = ScopeMetrics(InstrumentationScope(_SCOPE), metrics, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])

    def _metric(self, instrument: Instrument, points: Sequence[Point], now: int) -> Any:
        from opentelemetry.sdk.metrics.export import AggregationTemporality, Gauge, Histogram, Metric, Sum

        delta = self._delta(instrument)
        start = self._told if delta else self._started
        temporality = AggregationTemporality.DELTA if delta else AggregationTemporality.CUMULATIVE
        data_points = [_data_point(point, start, now) for point in points]
        match instrument.kind:
            case "histogram":
                data: Any = Histogram(data_points, temporality)
            case "counter":
                data = Sum(data_points, temporality, is_monotonic=True)
            case "gauge":
                data = Gauge(data_points)
        return Metric(instrument.name, instrument.description, instrument.unit, data)


def _destinations(settings: TelemetrySettings, instance: str) -> Sequence[Destination]:
    from opentelemetry.sdk.resources import Resource

    resource = Resource.create({"service.instance.id": instance})
    if str(resource.attributes.get("service.name", "unknown_service")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "tollgate"}))
    found = []
    if settings.connection_string is not None:
        found.append(_azure_monitor(settings.connection_string, resource))
    if settings.otlp:
        found.append(_otlp(resource))
    return found


def _azure_monitor(connection_string: str, resource: Any) -> Destination:
    for name in _TO_ITSELF:
        os.environ.setdefault(name, "true")
    from azure.monitor.opentelemetry.exporter import (
        AzureMonitorLogExporter,
        AzureMonitorMetricExporter,
        AzureMonitorTraceExporter,
    )

    # Not kept on disk when it cannot be sent: the disk may be read-only, and is gone with the instance.
    options: dict[str, Any] = {"connection_string": connection_string, "disable_offline_storage": True}
    return Destination(
        resource,
        AzureMonitorTraceExporter(**options),
        AzureMonitorLogExporter(**options),
        AzureMonitorMetricExporter(**options),
        delta=lambda instrument: True,
    )


def _otlp(resource: Any) -> Destination:
    """The exporters read the standard variables OTEL_EXPORTER_OTLP_* by themselves."""
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk import metrics
    from opentelemetry.sdk.metrics.export import AggregationTemporality

    exporter = OTLPMetricExporter()
    kinds = {"histogram": metrics.Histogram, "counter": metrics.Counter}
    preferred = exporter._preferred_temporality or {}  # where the SDK's own reader looks, too
    delta = {kind: preferred.get(of) == AggregationTemporality.DELTA for kind, of in kinds.items()}
    return Destination(
        resource, OTLPSpanExporter(), OTLPLogExporter(), exporter, lambda instrument: delta.get(instrument.kind, False)
    )


def _readable_span(span: Span, resource: Any) -> Any:
    """As the SDK hands it to exporters. Made whole, because a span of the SDK's would have to be open during the call,
    and costs 40 µs besides."""
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanKind, Status, StatusCode

    return ReadableSpan(
        span.name,
        context=_span_context(span.trace_id, span.span_id),
        parent=_span_context(span.trace_id, span.parent_id) if span.parent_id else None,
        resource=resource,
        # How many calls a kept one stands for: Application Insights multiplies its counts by that.
        attributes={**span.attributes, "tollgate.represents": span.represents, "_MS.sampleRate": 100 / span.represents},
        kind=SpanKind.CLIENT,
        status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
        start_time=span.start,
        end_time=span.end,
        instrumentation_scope=InstrumentationScope(_SCOPE),
    )


def _span_context(trace_id: int, span_id: int) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _readable_line(line: LogLine, resource: Any) -> Any:
    from opentelemetry._logs import LogRecord, SeverityNumber
    from opentelemetry.context import Context
    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    severity, text = {10: (5, "DEBUG"), 20: (9, "INFO"), 30: (13, "WARN")}.get(line.level, (17, "ERROR"))
    context = set_span_in_context(NonRecordingSpan(_span_context(line.trace_id, line.span_id)), Context())
    attributes = {"exception.type": line.exception, "exception.stacktrace": line.stack} if line.exception else {}
    record = LogRecord(
        timestamp=line.time,
        observed_timestamp=line.time,
        context=context,
        severity_text=text,
        severity_number=SeverityNumber(severity),
        body=line.text,
        attributes=attributes,
    )
    return ReadableLogRecord(record, resource, InstrumentationScope(line.logger))


def _data_point(point: Point, start: int, now: int) -> Any:
    from opentelemetry.sdk.metrics.export import HistogramDataPoint, NumberDataPoint

    value, attributes = point.value, point.attributes()
    if not isinstance(value, Distribution):
        return NumberDataPoint(attributes, start, now, value)
    return HistogramDataPoint(
        attributes, start, now, value.count, value.sum, value.buckets, value.bounds, value.smallest, value.largest
    )
