"""Days as operators write them: YYYY-MM-DD, in UTC."""

import functools
from datetime import date


def is_day(since: str) -> bool:
    """True for a day, and for "", which means always."""
    try:
        return since_seconds(since) >= 0
    except ValueError:
        return False


@functools.cache
def since_seconds(since: str) -> int:
    """The start of a day in seconds since 1970, 0 for "". Raises `ValueError` for other formats than YYYY-MM-DD."""
    if len(since) not in (0, 10) or "W" in since:
        raise ValueError(since)
    return (date.fromisoformat(since) - date(1970, 1, 1)).days * 86_400 if since else 0
