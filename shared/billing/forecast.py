"""The forecast of a month's cost, by the weekdays of its recent past. Pure.

Each hour left is expected to cost the average hour of the same weekday (UTC) in the last seven days, or in the month
while it is younger. Weekdays that it has not seen whole yet cost the average of all hours. Capacity that is paid by the
hour costs the same on every day.
"""

from collections import Counter
from collections.abc import Mapping

import msgspec

from shared.usage import hours

_RECENT = 7 * hours.DAY  # hours
_WHOLE_DAY = 23.0  # hours: that of today and those of a week ago, together


class Forecast(msgspec.Struct, frozen=True):
    """The weights with which costs of the recent past go on until the month ends: a cost of weight 0.5 is expected to
    come again by half. `recent`: the first hour of that past; `weekdays`: weights by `weekday`; `capacity`: that of
    what is paid by the hour."""

    recent: int
    end: int
    weekdays: Mapping[int, float]
    capacity: float

    def cuts(self) -> list[int]:
        """The hours at which to cut a period so that each piece of the recent past is of one weekday."""
        days = range(hours.day_start(self.recent) + hours.DAY, self.end, hours.DAY)
        return [self.recent, *days]

    def weight(self, first: int, *, capacity: bool) -> float:
        """The weight of a piece that begins with this hour."""
        if first < self.recent:
            return 0.0
        return self.capacity if capacity else self.weekdays.get(weekday(first), 0.0)


def weekday(hour: int) -> int:
    """Monday is 0.

    >>> weekday(hours.from_label("2026112900"))
    6
    """
    return (hour // hours.DAY + 3) % 7  # hour 0 was a Thursday


def of_month(first: int, end: int, now: float) -> Forecast | None:
    """The forecast of the month of `now`, in seconds since 1970. None if the hours from `first` up to `end` are not
    that month up to now."""
    current = hours.hour_of(now)
    if first != hours.month_start(current) or end <= current:
        return None
    last, passed = hours.next_month(current), now / hours.HOUR - current
    recent = max(first, current + 1 - _RECENT)
    seen, left = _by_weekday(range(recent, current)), _by_weekday(range(current + 1, last))
    today = weekday(current)
    seen[today] = seen.get(today, 0.0) + passed
    left[today] = left.get(today, 0.0) + 1 - passed
    known = {day: left.get(day, 0.0) / amount for day, amount in seen.items() if amount >= _WHOLE_DAY}
    average = sum(amount for day, amount in left.items() if day not in known) / max(1.0, sum(seen.values()))
    weekdays = {day: known.get(day, 0.0) + average for day in seen}
    return Forecast(recent, current + 1, weekdays, (last - current - 1) / (current + 1 - recent))


def _by_weekday(span: range) -> dict[int, float]:
    """The number of hours on each weekday that occurs."""
    return {day: float(number) for day, number in Counter(map(weekday, span)).items()}
