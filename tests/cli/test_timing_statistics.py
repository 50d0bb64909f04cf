"""The statistics and the chart of `timing`, against slower and plainer ways to the same."""

import random
import statistics
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.cli._timing_chart import Group, chart
from shared.cli._timing_statistics import FEWEST, difference, quantile


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_is_the_smallest_value_that_the_share_does_not_exceed(values: list[float], share: float) -> None:
    sample_quantile = quantile(values, share)
    assert sample_quantile in values
    assert sum(value <= sample_quantile for value in values) >= share * len(values) - 1e-9
    assert sum(value < sample_quantile for value in values) < share * len(values)


def test_nothing_measured_has_no_quantile_and_no_difference() -> None:
    assert quantile([], 0.5) is None
    assert difference([1.0], [], 0.5) is None


def gamma(seed: int, count: int, mean: float) -> list[float]:
    chance = random.Random(seed)
    return [chance.gammavariate(4, mean / 4) for _ in range(count)]


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_the_interval_is_that_of_drawing_whole_resamples(share: float) -> None:
    of, to, chance = gamma(1, 40, 1.3), gamma(2, 60, 1.0), random.Random(3)
    plain = sorted(
        (quantile(chance.choices(of, k=len(of)), share) or 0) - (quantile(chance.choices(to, k=len(to)), share) or 0)
        for _ in range(4_000)
    )
    estimate = difference(of, to, share)
    assert estimate is not None
    assert estimate.low is not None
    assert estimate.high is not None
    spread = statistics.pstdev(plain)
    assert estimate.low == pytest.approx(plain[100], abs=0.25 * spread)
    assert estimate.high == pytest.approx(plain[3899], abs=0.25 * spread)
    assert estimate.value == (quantile(of, share) or 0) - (quantile(to, share) or 0)


def test_the_interval_holds_the_true_difference_in_about_95_of_100_measurements() -> None:
    hits = 0
    for seed in range(100):
        estimate = difference(gamma(seed, 80, 1.2), gamma(1000 + seed, 80, 1.0), 0.5)
        assert estimate is not None
        assert estimate.low is not None
        assert estimate.high is not None
        hits += estimate.low <= 0.2 * 0.91802 <= estimate.high  # the median of Gamma(4) is 0.91802 of its mean
    assert 90 <= hits <= 100


def test_the_same_measurements_give_the_same_interval() -> None:
    of, to = gamma(5, 50, 1.0), gamma(6, 50, 1.0)
    assert difference(of, to, 0.95) == difference(list(reversed(of)), to, 0.95)


def test_few_calls_have_a_difference_and_no_interval() -> None:
    estimate = difference([2.0] * FEWEST, [1.5] * (FEWEST - 1), 0.5)
    assert estimate == (0.5, None, None)


def test_the_chart_draws_every_call_once_and_keeps_names_from_being_markup() -> None:
    groups = [Group("<m>&", "gateway", gamma(1, 300, 1.1)), Group("<m>&", "direct", [*gamma(2, 299, 1.0), 500.0])]
    text = chart([*groups, Group("silent", "gateway", [])], "a < b")
    root = ElementTree.fromstring(text)  # noqa: S314 - our own text
    assert len(text) < 60_000
    tips = [title.text or "" for title in root.iter("{http://www.w3.org/2000/svg}title")]
    for via in ("gateway", "direct"):
        assert sum(int(tip.split()[0]) for tip in tips if tip.endswith(via)) == 300
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "<m>&" in texts
    assert any(text and text.endswith("beyond, up to 500.00 s") for text in texts)
    bars = [element for element in root.iter("{http://www.w3.org/2000/svg}rect") if len(element)]
    assert all(0 <= float(bar.attrib["x"]) <= 960 and float(bar.attrib["height"]) >= 0 for bar in bars)


def test_a_chart_of_nothing_is_a_picture_all_the_same() -> None:
    picture = ElementTree.fromstring(chart([], "nothing"))  # noqa: S314 - our own text
    assert picture.tag.endswith("svg")
