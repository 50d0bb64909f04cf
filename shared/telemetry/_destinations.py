"""OpenTelemetry's exporters: Azure Monitor's for Application Insights, OTLP for other collectors.

The Azure Monitor distribution's `configure_azure_monitor` is not used: it instruments every HTTP library, so attempts
would be reported twice, and the host reports requests already.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics import export as otel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from shared.config.environment import TelemetrySettings
from shared.telemetry.batches import Batch, LogLine
from shared.telemetry.metrics import Distribution, Instrument, Labels, Point, summed
from shared.telemetry.spans import Span

_SCOPE = InstrumentationScope("tollgate")
# Without these, Azure Monitor's exporter sends statistics about itself to Microsoft, asks there for settings, and
# describes the process with every batch. Variables that are set already stay.
_SELF_REPORTING = (
    "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL",
    "APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED",
    "APPLICATIONINSIGHTS_SDKSTATS_DISABLED",
    "APPLICATIONINSIGHTS_OPENTELEMETRY_RESOURCE_METRIC_DISABLED",
)


class Destination:
    """OpenTelemetry exporters of spans, logs and metrics. `delta` returns True if an instrument reports changes since
    the last export, False if it reports totals since the start."""

    def __init__(
        self, resource: Resource, exporters: tuple[Any, Any, Any], delta: Callable[[Instrument], bool]
    ) -> None:
        self._resource = resource
        self._spans, self._logs, self._metrics = exporters
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

    def _metrics_data(self, points: Sequence[Point]) -> otel.MetricsData:
        now = time.time_ns()
        series: defaultdict[Instrument, list[Point]] = defaultdict(list)
        for point in points:
            if point.instrument.kind == "gauge" or self._delta(point.instrument):
                series[point.instrument].append(point)
            else:
                key = (point.instrument, point.labels)
                self._totals[key] = summed(self._totals.get(key), point)
        for total in self._totals.values():  # every series every time, also without new values
            series[total.instrument].append(total)
        scope = otel.ScopeMetrics(_SCOPE, [self._metric(of, its_points, now) for of, its_points in series.items()], "")
        self._exported = now
        return otel.MetricsData([otel.ResourceMetrics(self._resource, [scope], "")])

    def _metric(self, instrument: Instrument, points: Sequence[Point], now: int) -> otel.Metric:
        delta = self._delta(instrument)
        start = self._exported if delta else self._started
        temporality = otel.AggregationTemporality.DELTA if delta else otel.AggregationTemporality.CUMULATIVE
        data_points = [_data_point(point, start, now) for point in points]
        data: Any = otel.Gauge(data_points)
        if instrument.kind == "histogram":
            data = otel.Histogram(data_points, temporality)
        elif instrument.kind == "counter":
            data = otel.Sum(data_points, temporality, is_monotonic=True)
        return otel.Metric(instrument.name, instrument.description, instrument.unit, data)


def of(settings: TelemetrySettings, instance: str) -> Sequence[Destination]:
    resource = Resource.create({"service.instance.id": instance})
    if str(resource.attributes.get("service.name", "unknown_service")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "tollgate"}))
    destinations = []
    if settings.connection_string is not None:
        destinations.append(_azure_monitor(settings.connection_string, resource))
    if settings.otlp:
        destinations.append(_otlp(resource))
    return destinations


def _azure_monitor(connection_string: str, resource: Resource) -> Destination:
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
        (
            AzureMonitorTraceExporter(**options),
            AzureMonitorLogExporter(**options),
            AzureMonitorMetricExporter(**options),
        ),
        delta=lambda instrument: True,
    )


def _otlp(resource: Resource) -> Destination:
    """A collector by OTLP. The exporters themselves read the standard variables OTEL_EXPORTER_OTLP_*."""
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter = OTLPMetricExporter()
    kinds = {"histogram": sdk.Histogram, "counter": sdk.Counter}
    preferred = exporter._preferred_temporality or {}  # as the SDK's own reader does
    delta = {kind: preferred.get(of) == otel.AggregationTemporality.DELTA for kind, of in kinds.items()}
    exporters = (OTLPSpanExporter(), OTLPLogExporter(), exporter)
    return Destination(resource, exporters, lambda instrument: delta.get(instrument.kind, False))


def _readable_span(span: Span, resource: Resource) -> ReadableSpan:
    """The span as exporters read it. It is built directly, because an SDK span would have to be open during the call
    and would cost another 40 µs."""
    return ReadableSpan(
        span.name,
        context=_span_context(span.trace_id, span.span_id),
        parent=_span_context(span.trace_id, span.parent_id) if span.parent_id else None,
        resource=resource,
        # Application Insights multiplies its counts by the number of calls that a kept one represents.
        attributes={**span.attributes, "tollgate.represents": span.represents, "_MS.sampleRate": 100 / span.represents},
        kind=trace.SpanKind.SERVER if span.received else trace.SpanKind.CLIENT,
        status=trace.Status(trace.StatusCode.ERROR, span.error) if span.error else trace.Status(trace.StatusCode.UNSET),
        start_time=span.start,
        end_time=span.end,
        instrumentation_scope=_SCOPE,
    )


def _span_context(trace_id: int, span_id: int) -> trace.SpanContext:
    return trace.SpanContext(trace_id, span_id, is_remote=False, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED))


def _readable_line(line: LogLine, resource: Resource) -> ReadableLogRecord:
    severity, text = {10: (5, "DEBUG"), 20: (9, "INFO"), 30: (13, "WARN")}.get(line.level, (17, "ERROR"))
    context = trace.set_span_in_context(trace.NonRecordingSpan(_span_context(line.trace_id, line.span_id)), Context())
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
    value, attributes = point.value, point.attributes()
    if not isinstance(value, Distribution):
        return otel.NumberDataPoint(attributes, start, now, value)
    return otel.HistogramDataPoint(
        attributes, start, now, value.count, value.sum, value.buckets, value.bounds, value.smallest, value.largest
    )
