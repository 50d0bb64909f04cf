"""Stand-ins for Application Insights' ingestion endpoint and for an OpenTelemetry collector, on one local port."""

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

KEY = "00000000-1111-2222-3333-444444444444"


class Receivers:
    """Received: `envelopes` of Application Insights; OTLP's requests by signal; `bytes` of everything."""

    def __init__(self) -> None:
        self.envelopes: list[dict[str, Any]] = []
        self.traces: list[ExportTraceServiceRequest] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.logs: list[ExportLogsServiceRequest] = []
        self.bytes = b""
        self.status = 200
        receivers = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                answer = receivers.take(self.path, body) if receivers.status == 200 else b"{}"
                self.send_response(receivers.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.connection_string = f"InstrumentationKey={KEY};IngestionEndpoint={self.url}/;LiveEndpoint={self.url}/"

    def take(self, path: str, body: bytes) -> bytes:
        self.bytes += body
        if path.endswith("/track"):
            envelopes = json.loads(body)
            self.envelopes += envelopes
            response = {"itemsReceived": len(envelopes), "itemsAccepted": len(envelopes), "errors": []}
            return json.dumps(response).encode()
        if path.endswith("/v1/traces"):
            self.traces.append(ExportTraceServiceRequest.FromString(body))
        elif path.endswith("/v1/metrics"):
            self.metrics.append(ExportMetricsServiceRequest.FromString(body))
        elif path.endswith("/v1/logs"):
            self.logs.append(ExportLogsServiceRequest.FromString(body))
        else:
            raise AssertionError(f"nothing is sent to {path}")
        return b""

    def of_insights(self, kind: str) -> list[dict[str, Any]]:
        """Base data of a kind (`RemoteDependencyData`, `MessageData` …), with the envelope's tags and weight."""
        return [
            {**envelope["data"]["baseData"], "tags": envelope["tags"], "sampleRate": envelope.get("sampleRate")}
            for envelope in list(self.envelopes)
            if envelope["data"]["baseType"] == kind
        ]

    def insights_metric(self, name: str) -> list[dict[str, Any]]:
        """Points of a metric: value, count and dimensions."""
        return [
            {**point["metrics"][0], "dimensions": point.get("properties", {})}
            for point in self.of_insights("MetricData")
            if point["metrics"][0]["name"] == name
        ]

    def otlp_spans(self) -> list[Any]:
        return [span for t in list(self.traces) for r in t.resource_spans for s in r.scope_spans for span in s.spans]

    def otlp_lines(self) -> list[Any]:
        return [x for t in list(self.logs) for r in t.resource_logs for s in r.scope_logs for x in s.log_records]

    def otlp_metrics(self) -> dict[str, Any]:
        """The newest state of each metric."""
        metrics = (
            m for t in list(self.metrics) for r in t.resource_metrics for s in r.scope_metrics for m in s.metrics
        )
        return {metric.name: metric for metric in metrics}

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def attributes(item: Any) -> dict[str, Any]:
    """The attributes of something of OTLP's."""
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in item.attributes}


def receivers() -> Iterator[Receivers]:
    """The body of a fixture."""
    with Receivers() as running:
        yield running
