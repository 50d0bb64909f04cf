"""The functions worker with a global tracer provider, as an app that exports telemetry has one; spans go to stderr."""

import sys

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from tests.harness import functions_host_worker


def line(span: ReadableSpan) -> str:
    scope = span.instrumentation_scope
    return f"SPAN {scope.name if scope else '-'} {span.name}\n"


def trace_everything() -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stderr, formatter=line)))
    trace.set_tracer_provider(provider)


if __name__ == "__main__":
    functions_host_worker.main(sys.argv[1:], before=trace_everything)
