"""OpenTelemetry: spans, metrics, export and the log."""
