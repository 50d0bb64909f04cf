"""Log lines of the ASGI edge."""

import asyncio
import io
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from shared.telemetry.console import _BatchingHandler, _LineFormatter

ROOT = Path(__file__).resolve().parent.parent
_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def _broken() -> BaseException:
    try:
        raise ValueError("the reason")
    except ValueError as error:
        return error


@pytest.mark.parametrize("seconds", [1.25, 1_790_000_000.0, 1_790_000_000.0009, 1_790_000_000.9999, 1_790_000_001.5])
@pytest.mark.parametrize(
    ("message", "arguments", "error"),
    [("plain 100 %", (), None), ("%s of %d", ("two", 3), None), ("it failed", (), _broken())],
)
def test_a_line_of_the_log_is_what_the_standard_formatter_makes(
    message: str, arguments: tuple[object, ...], error: BaseException | None, seconds: float
) -> None:
    trace = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("tollgate.x", logging.WARNING, __file__, 1, message, arguments, trace)
    record.created, record.msecs = seconds, int((seconds % 1) * 1000) + 0.0
    ours, theirs = _LineFormatter(_FORMAT), logging.Formatter(_FORMAT)
    for _ in range(2):
        assert ours.format(record) == theirs.format(record)
    assert ("the reason" in ours.format(record)) == (error is not None)


def test_importing_the_app_leaves_the_logging_of_the_process_alone() -> None:
    program = "import logging, shared.asgi; print(logging.logThreads, logging.getLogger('tollgate').handlers)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "True []\n"


class _Writes(io.StringIO):
    """Remembers what was written at once."""

    def __init__(self) -> None:
        super().__init__()
        self.each: list[str] = []

    def write(self, text: str) -> int:
        self.each.append(text)
        return len(text)


async def test_the_lines_of_one_turn_are_written_together_and_a_warning_at_once() -> None:
    out, logger = _Writes(), logging.Logger("apart", logging.INFO)
    logger.addHandler(_BatchingHandler(out))
    logger.info("one")
    logger.info("two")
    assert out.each == []
    await asyncio.sleep(0)
    assert out.each == ["one\ntwo\n"]
    logger.info("three")
    logger.warning("four")
    assert out.each[1:] == ["three\nfour\n"]
    logger.info("five")
    await asyncio.to_thread(logger.info, "six")
    await asyncio.sleep(0)
    assert out.each[2:] == ["five\nsix\n"] or out.each[2:] == ["five\n", "six\n"]


def test_a_line_is_written_at_once_where_no_loop_runs_and_none_is_left_at_the_end() -> None:
    out, logger = _Writes(), logging.Logger("apart", logging.INFO)
    handler = _BatchingHandler(out)
    logger.addHandler(handler)
    logger.info("one")
    assert out.each == ["one\n"]

    async def end() -> None:
        logger.info("two")
        handler.close()

    asyncio.run(end())
    handler.flush()
    assert out.each[1:] == ["two\n"]
