"""What the ASGI edge does of its own."""

import logging

import pytest

from shared.asgi import _Lines

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
    ours, theirs = _Lines(_FORMAT), logging.Formatter(_FORMAT)
    for _ in range(2):
        assert ours.format(record) == theirs.format(record)
    assert ("the reason" in ours.format(record)) == (error is not None)
