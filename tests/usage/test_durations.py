"""Histograms of durations: as exact as they state, bounded, and the same however they were added up."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.usage.durations import Durations, as_text, bucket, from_text, of_buckets

LONGEST = 36 * 3_600_000  # ms
durations = st.lists(st.integers(0, LONGEST), min_size=1, max_size=60)


def histogram(*times: int) -> Durations:
    return of_buckets(map(bucket, times))


@given(durations, st.floats(0.01, 1.0))
def test_a_quantile_is_within_two_percent_of_the_exact_one(times: list[int], share: float) -> None:
    exact = sorted(times)[math.ceil(share * len(times)) - 1]
    estimate = histogram(*times).quantile(share)
    assert estimate is not None
    assert abs(estimate - exact) <= 0.016 * exact


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_a_quantile_of_many_calls_is_within_two_percent(share: float) -> None:
    chance = random.Random(7)
    times = [round(chance.lognormvariate(7, 1)) for _ in range(50_000)]
    exact = sorted(times)[math.ceil(share * len(times)) - 1]
    assert histogram(*times).quantile(share) == pytest.approx(exact, rel=0.016)


@given(durations, durations, durations)
def test_sums_are_the_same_in_any_order_and_as_of_all_at_once(a: list[int], b: list[int], c: list[int]) -> None:
    one, two, three = histogram(*a), histogram(*b), histogram(*c)
    whole = histogram(*a, *b, *c)
    assert (one + two) + three == three + (two + one) == whole
    assert as_text(one + two + three) == as_text(three + two + one) == as_text(whole)  # to the byte


@given(durations)
def test_a_histogram_is_read_back_as_it_was_written(times: list[int]) -> None:
    assert from_text(as_text(histogram(*times))) == histogram(*times)


def test_adding_leaves_both_sides_as_they_were() -> None:
    one, two = histogram(5), histogram(5, 9)
    assert one + two == histogram(5, 5, 9)
    assert (one, two) == (histogram(5), histogram(5, 9))


def test_nothing_measured_has_no_quantile() -> None:
    assert Durations().quantile(0.5) is None
    assert not Durations()


def test_a_histogram_stays_small_whatever_it_counts() -> None:
    every = {bucket(round(1.001**power)) for power in range(60_000)} | set(map(bucket, range(5000)))
    full = Durations(dict.fromkeys(every, 10**6))
    assert len(every) <= 736
    assert len(as_text(full)) < 16_000  # a property of a row holds 32,000 characters
    assert bucket(10**30) == bucket(2**27)
    assert bucket(-5) == 0
