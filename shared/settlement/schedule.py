"""The times at which a backend is asked for pending work, and the end of the asking. Pure."""

_DAY = 86_400.0  # seconds
# The time for which backends report the work: a response is kept for 30 days, a run expires after ten minutes, and a
# batch may take longer than its window of 24 hours.
_RETENTION = {"response": 30 * _DAY, "batch": 30 * _DAY, "message_batch": 29 * _DAY, "run": _DAY}
_LONGEST_PAUSE = 3600.0
_YOUNG = 60.0  # seconds in which a backend may not know an object that it has just made


def due_after(started: float, now: float) -> float:
    """Return when to ask again for work that is under way: the older it is, the later."""
    return now + min((now - started) / 4, _LONGEST_PAUSE)


def is_over(kind: str, started: float, now: float) -> bool:
    """True if no backend will report the work any more."""
    return now - started > _RETENTION.get(kind, _DAY)


def is_missing(started: float, now: float) -> bool:
    """True if work that its backend does not know is lost."""
    return now - started > _YOUNG
