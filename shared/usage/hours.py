"""Hours in UTC, counted from 1970, and their names in the usage tables. Pure."""

import calendar
import time

from shared.storage.names import USAGE

HOUR = 3600
DAY = 24  # hours


def hour_of(seconds: float) -> int:
    return int(seconds // HOUR)


def label(hour: int) -> str:
    """`YYYYMMDDHH`."""
    return time.strftime("%Y%m%d%H", time.gmtime(hour * HOUR))


def from_label(text: str) -> int:
    return calendar.timegm(time.strptime(text, "%Y%m%d%H")) // HOUR


def day_start(hour: int) -> int:
    return hour // DAY * DAY


def month_start(hour: int) -> int:
    return from_label(label(hour)[:6] + "0100")


def next_month(hour: int) -> int:
    return month_start(month_start(hour) + 31 * DAY)


def raw_table(hour: int) -> str:
    return f"{USAGE}{label(hour)[:6]}"


def hour_partition(hour: int) -> str:
    return f"h-{label(hour)}"


def day_partition(hour: int) -> str:
    return f"d-{label(hour)[:8]}"


def month_partition(hour: int) -> str:
    return f"m-{label(hour)[:6]}"


def of_users(partition: str) -> str:
    """The partition of the same period with a line per user."""
    return f"u{partition}"
