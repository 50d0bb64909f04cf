"""Log lines of the process: on standard output, or under the Functions host on standard error."""

import asyncio
import contextlib
import logging
import sys
import time
from typing import TextIO

from shared.telemetry.request_ids import identified


class _LineFormatter(logging.Formatter):
    """One line per event: time, level, logger, message. The time is formatted once a second: every call logs."""

    _second = 0
    _text = ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        second = int(record.created)
        if second != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        return f"{self._text},{int(record.msecs):03d}"

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info or record.stack_info or record.args:
            return super().format(record)
        return f"{self.formatTime(record)} {record.levelname} {record.name} {identified(record.msg)}"

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = identified(record.message)
        return super().formatMessage(record)


class _BatchingHandler(logging.StreamHandler[TextIO]):
    """Writes the lines of one turn of the event loop together: calls end in groups, as their rows are written, and a
    write per line would be much of its cost. Warnings and errors are written at once."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record))
            if record.levelno < logging.WARNING:
                with contextlib.suppress(RuntimeError):  # no event loop is running
                    loop = asyncio.get_running_loop()
                    if len(self._lines) == 1:
                        loop.call_soon(self.flush)
                    return
            self.flush()
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        self.acquire()
        try:
            if self._lines:
                lines, self._lines = self._lines, []
                self.stream.write("\n".join([*lines, ""]))
            super().flush()
        finally:
            self.release()


def log_to_stdout() -> None:
    """Log to standard output, as containers expect, unless the host has configured logging."""
    root = logging.getLogger("tollgate")
    root.setLevel(logging.INFO)
    if not logging.getLogger().handlers and not root.handlers:
        handler = _BatchingHandler(sys.stdout)
        handler.setFormatter(_LineFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        root.addHandler(handler)
        root.propagate = False
        # The logging HOWTO's "Optimization": skip the fields that no line shows.
        logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
        logging.logAsyncioTasks = False  # type: ignore[attr-defined]
        logging._srcfile = None


class _JsonOrLevel(logging.Formatter):
    """One line per event. The line of a call is the JSON alone, so that it can be parsed where the host shows it."""

    def format(self, record: logging.LogRecord) -> str:
        text = identified(super().format(record))
        return text if record.name == "tollgate.requests" else f"{record.levelname} {record.name}: {text}"


def log_to_stderr() -> None:
    """Log to the standard error of a Functions worker, which the host shows whole as `Host.Function.Console`.

    Through the worker's own handler the host would book a line under the invocation that was started last, and drop it
    where that has ended: every line of a call, which is written after its handler has returned."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonOrLevel())
    for name in ("tollgate", "asyncio"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.propagate = False
