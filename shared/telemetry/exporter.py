"""Sends telemetry to Application Insights with Azure Monitor's exporter, to other collectors by OTLP, or both.

A thread exports, and imports the exporters, so neither the start nor a call waits for them. The Azure Monitor
distribution's `configure_azure_monitor` is not used: it instruments every HTTP library, so attempts would be reported
twice, and the host reports requests already.
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
_TIMEOUT_AT_EXIT = 5.0  # seconds to export the rest
# Without these, Azure Monitor's exporter sends statistics about itself to Microsoft, asks there for settings, and
# describes the process with every batch. Variables that are set already stay.
_SELF_REPORTING = (
    "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL",
    "APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED",
    "APPLICATIONINSIGHTS_SDKSTATS_DISABLED",
    "APPLICATIONINSIGHTS_OPENTELEMETRY_RESOURCE_METRIC_DISABLED",
)


class ExportThread:
    """A thread that exports batches. `instance` names this process."""

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
        await asyncio.to_thread(self._thread.join, _TIMEOUT_AT_EXIT)

    def _run(self) -> None:
        destinations: Sequence[Destination] | None = None
        while (batch := self._queue.get()) is not None:
            self._idle = False
            try:
                if destinations is None:
                    destinations = _destinations(self._settings, self._instance)
                for destination in destinations:
                    destination.export(batch)
            except Exception:  # the next batch may succeed
                logger.exception("cannot export telemetry")
            self._idle = True


class Destination:
    """OpenTelemetry exporters of spans, logs and metrics. `delta` returns True if an instrument reports changes since
    the last export, False if it reports totals since the start."""

    def __init__(self, resource: Any, spans: Any, logs: Any, metrics: Any, delta: Callable[[Instrument], bool]) -> None:
        self._resource = resource
        self._spans, self._logs, self._metrics = spans, logs, metrics
        self._delta = delta
        self._totals: dict[tuple[Instrument, Labels], Point] = {}
        self._started = self._exported = time.time_ns()

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
        series: dict[Instrument, list[Point]] = {}
        for point in points:
            if point.instrument.kind == "gauge" or self._delta(point.instrument):
                series.setdefault(point.instrument, []).append(point)
            else:
                key = (point.instrument, point.labels)
                self._totals[key] = summed(self._totals.get(key), point)
        for total in self._totals.values():  # every series every time, also without new values
            series.setdefault(total.instrument, []).append(total)
        metrics = [self._metric(instrument, its_points, now) for instrument, its_points in series.items()]
        self._exported = now
        scope = ScopeMetrics(InstrumentationScope(_SCOPE), metrics, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])

    def _metric(self, instrument: Instrument, points: Sequence[Point], now: int) -> Any:
        from opentelemetry.sdk.metrics.export import AggregationTemporality, Gauge, Histogram, Metric, Sum

        delta = self._delta(instrument)
        start = self._exported if delta else self._started
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
    destinations = []
    if settings.connection_string is not None:
        destinations.append(_azure_monitor(settings.connection_string, resource))
    if settings.otlp:
        destinations.append(_otlp(resource))
    return destinations


def _azure_monitor(connection_string: str, resource: Any) -> Destination:
    for name in _SELF_REPORTING:
        os.environ.setdefault(name, "true")
    from azure.monitor.opentelemetry.exporter import (
        AzureMonitorLogExporter,
        AzureMonitorMetricExporter,
        AzureMonitorTraceExporter,
    )

    # No retries from disk: it may be read-only, and is lost with the instance.
    options: dict[str, Any] = {"connection_string": connection_string, "disable_offline_storage": True}
    return Destination(
        resource,
        AzureMonitorTraceExporter(**options),
        AzureMonitorLogExporter(**options),
        AzureMonitorMetricExporter(**options),
        delta=lambda instrument: True,
    )


def _otlp(resource: Any) -> Destination:
    """A collector by OTLP. The exporters themselves read the standard variables OTEL_EXPORTER_OTLP_*."""
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk import metrics
    from opentelemetry.sdk.metrics.export import AggregationTemporality

    exporter = OTLPMetricExporter()
    kinds = {"histogram": metrics.Histogram, "counter": metrics.Counter}
    preferred = exporter._preferred_temporality or {}  # as the SDK's own reader does
    delta = {kind: preferred.get(of) == AggregationTemporality.DELTA for kind, of in kinds.items()}
    return Destination(
        resource, OTLPSpanExporter(), OTLPLogExporter(), exporter, lambda instrument: delta.get(instrument.kind, False)
    )


def _readable_span(span: Span, resource: Any) -> Any:
    """The span as exporters read it. It is built directly, because an SDK span would have to be open during the call
    and would cost another 40 µs."""
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanKind, Status, StatusCode

    return ReadableSpan(
        span.name,
        context=_span_context(span.trace_id, span.span_id),
        parent=_span_context(span.trace_id, span.parent_id) if span.parent_id else None,
        resource=resource,
        # Application Insights multiplies its counts by the number of calls that a kept one represents.
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
