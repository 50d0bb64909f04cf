"""The periods of quotas."""

from datetime import datetime
from typing import Any

import pytest

from shared.limits import scopes


@pytest.mark.parametrize(
    ("period", "zone", "now", "since", "until"),
    [
        ("hour", "UTC", "2026-11-21T12:34:56+00:00", "2026-11-21T12:00:00+00:00", "2026-11-21T13:00:00+00:00"),
        ("hour", "Asia/Kolkata", "2026-11-21T12:34:56+00:00", "2026-11-21T12:30:00+00:00", "2026-11-21T13:30:00+00:00"),
        ("day", "Europe/Berlin", "2026-11-21T23:30:00+00:00", "2026-11-21T23:00:00+00:00", "2026-11-22T23:00:00+00:00"),
        ("day", "Europe/Berlin", "2026-10-25T12:00:00+00:00", "2026-10-24T22:00:00+00:00", "2026-10-25T23:00:00+00:00"),
        ("week", "UTC", "2026-11-21T12:00:00+00:00", "2026-11-16T00:00:00+00:00", "2026-11-23T00:00:00+00:00"),
        ("month", "UTC", "2026-12-31T23:59:59+00:00", "2026-12-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00"),
        (
            "month",
            "America/New_York",
            "2026-11-01T03:00:00+00:00",
            "2026-10-01T04:00:00+00:00",
            "2026-11-01T04:00:00+00:00",
        ),
    ],
)
def test_periods_begin_by_the_clocks_of_the_zone(period: Any, zone: str, now: str, since: str, until: str) -> None:
    seconds = [datetime.fromisoformat(text).timestamp() for text in (now, since, until)]
    assert scopes.period_of(period, zone, seconds[0]) == (seconds[1], seconds[2])
