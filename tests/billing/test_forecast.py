"""The forecast of a month, against figures worked out by hand."""

import itertools

import pytest

from shared.billing.forecast import Forecast, of_month, weekday
from shared.usage import hours

MONTH = hours.from_label("2026110100")  # a Sunday; 30 days
MONDAY, SATURDAY, SUNDAY = 0, 5, 6


def forecast_at(label: str, passed: float = 0.0) -> Forecast:
    """The forecast at an hour of November 2026, of which a part has passed."""
    now = hours.from_label(label)
    forecast = of_month(MONTH, now + 1, (now + passed) * hours.HOUR)
    assert forecast is not None
    return forecast


def to_come(forecast: Forecast, cost_of_hour: dict[int, float]) -> float:
    """The cost to come if every hour of the recent past has cost so much by its weekday."""
    past = range(forecast.recent, forecast.end - 1)
    return sum(cost_of_hour.get(weekday(hour), 0.0) * forecast.weight(hour, capacity=False) for hour in past)


def test_a_team_that_works_from_monday_to_friday_is_expected_to_cost_nothing_on_weekends() -> None:
    forecast = forecast_at("2026111400")  # Saturday, the 14th: 17 days are left, 5 of them of a weekend
    working = dict.fromkeys(range(5), 1.0)
    assert to_come(forecast, working) == pytest.approx(11 * 24)  # Monday the 16th to Monday the 30th
    assert to_come(forecast, {SATURDAY: 1.0, SUNDAY: 1.0}) == pytest.approx(6 * 24)


def test_a_steady_cost_goes_on() -> None:
    for label in ("2026110500", "2026111400", "2026113000"):
        left = hours.next_month(MONTH) - hours.from_label(label)
        assert to_come(forecast_at(label), dict.fromkeys(range(7), 2.0)) == pytest.approx(2.0 * left)


def test_weekdays_that_the_month_has_not_seen_cost_the_average_of_all_hours() -> None:
    forecast = forecast_at("2026110300")  # Tuesday: a Sunday and a Monday were seen
    sundays, mondays, others = 4 * 24, 4 * 24, 20 * 24
    assert to_come(forecast, {SUNDAY: 1.0}) == pytest.approx(sundays + others / 2)
    assert to_come(forecast, {MONDAY: 1.0}) == pytest.approx(mondays + others / 2)


def test_what_is_older_than_seven_days_does_not_count() -> None:
    forecast = forecast_at("2026112012")
    assert forecast.weight(forecast.recent - 1, capacity=False) == 0.0
    assert forecast.weight(forecast.recent, capacity=False) > 0.0
    assert forecast.end - forecast.recent == 7 * 24


def test_each_piece_of_the_recent_past_is_of_one_weekday() -> None:
    forecast = forecast_at("2026112012")
    bounds = [*forecast.cuts(), forecast.end]
    for first, end in itertools.pairwise(bounds):
        assert len({weekday(hour) for hour in range(first, end)}) == 1


def test_capacity_is_paid_for_in_every_hour_that_is_left() -> None:
    forecast = forecast_at("2026112012", 0.5)
    left = hours.next_month(MONTH) - forecast.end
    assert forecast.weight(forecast.recent, capacity=True) * 7 * 24 == pytest.approx(left)


@pytest.mark.parametrize(
    ("first", "end"), [(MONTH + 24, MONTH + 340), (MONTH, MONTH + 100), (MONTH - 720, MONTH + 340)]
)
def test_only_this_month_up_to_now_is_forecast(first: int, end: int) -> None:
    assert of_month(first, end, (MONTH + 336) * hours.HOUR) is None


def test_the_first_minutes_of_a_weekday_are_no_measure_of_it() -> None:
    forecast = forecast_at("2026110400", 0.01)  # a Wednesday; three whole days were seen
    assert forecast.weight(forecast.end - 1, capacity=False) == pytest.approx(16 * 24 / 72.01, rel=1e-3)
