"""Passes the gateway's log lines to telemetry, those of a call with its trace."""

import logging
import traceback
from collections.abc import Callable
from contextvars import ContextVar

from shared.telemetry.batches import LogLine
from shared.telemetry.request_ids import identified
from shared.telemetry.spans import UNTRACED, TraceContext

current_trace: ContextVar[TraceContext] = ContextVar("trace context", default=UNTRACED)


class LogHandler(logging.Handler):
    """Records the gateway's log lines. Lines of a call below a warning are recorded only with a kept trace: the span
    says as much, and a line per call would cost more than the call's other telemetry."""

    def __init__(self, note: Callable[[LogLine], None]) -> None:
        super().__init__(logging.INFO)
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        trace = current_trace.get()
        if record.levelno < logging.WARNING and trace is not UNTRACED and not trace.kept:
            return
        kind, stack = "", ""
        if record.exc_info and record.exc_info[0] is not None:
            # Not the exception's message: it may contain prompts or answers.
            kind, stack = record.exc_info[0].__name__, "".join(traceback.format_tb(record.exc_info[2]))
        about = (int(record.created * 1e9), record.levelno, record.name, identified(record.getMessage()))
        self._note(LogLine(*about, trace.trace_id, trace.span_id, kind, stack))
