"""Quota readings, retry budgets, latencies, prompt prefixes and preferences."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.azure_openai.operations import match
from shared.azure_openai.requests import parse_call
from shared.errors import InvalidRequest
from shared.routing import _prompt_cache, preferences, quota
from shared.routing._latency import Latency, percentile
from shared.routing._prompt_cache import Share
from shared.routing.quota import Sent
from shared.routing.retry_budget import AdaptiveThrottle, RetryBudget, Window
from shared.types import Call
from tests.harness.clock import Clock

ROOM = {"x-ratelimit-remaining-tokens": "9990", "x-ratelimit-remaining-requests": "5"}


def chat(content: str = "Hi", **fields: object) -> Call:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": content}], **fields}).encode()
    return parse_call(match("POST", "/v1/chat/completions"), "", {}, body)


# --- quotas -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "body", "kind"),
    [
        (ROOM, b"", "oversized"),
        (ROOM | {"x-ratelimit-remaining-tokens": "0"}, b"", "quota"),
        ({}, b"", "quota"),
        ({}, b'{"error": {"message": "System is experiencing high demand"}}', "overload"),
        ({}, b'{"error": {"message": "The service is temporarily unable to process your request"}}', "overload"),
        ({"x-ratelimit-limit-tokens": "60000"}, b"", "adjusted"),
        ({"x-ratelimit-limit-tokens": "100000"}, b"", "quota"),
        ({"x-ratelimit-limit-tokens": "nonsense"}, b"\xff\xfe", "quota"),
    ],
)
def test_a_429_has_one_of_four_reasons(headers: dict[str, str], body: bytes, kind: str) -> None:
    assert quota.throttle(headers, body, configured=100_000.0) == kind


def test_later_calls_count_against_a_quota_reading() -> None:
    headers = {"x-ratelimit-remaining-tokens": "1000", "x-ratelimit-reset-tokens": "30"}
    reading = quota.read(headers, Sent(500.0, 3), 100.0)
    assert reading is not None
    assert not reading.refuses(1000, Sent(500.0, 3), 100.0)
    assert reading.refuses(1001, Sent(500.0, 3), 100.0)
    assert reading.refuses(700, Sent(900.0, 4), 100.0)
    assert not reading.refuses(700, Sent(900.0, 4), 130.0)  # the window is over


def test_after_the_last_request_of_a_window_the_next_one_is_refused() -> None:
    headers = {"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "10s"}
    reading = quota.read(headers, Sent(0.0, 7), 0.0)
    assert reading is not None
    assert not reading.refuses(5, Sent(0.0, 7), 0.0)
    assert reading.refuses(5, Sent(0.0, 8), 9.9)


@pytest.mark.parametrize(("used", "full"), [("99.5%", False), ("100%", True), ("104.2 %", True), ("?", False)])
def test_a_full_provisioned_deployment_is_passed_over_for_a_second(used: str, full: bool) -> None:
    reading = quota.read({"azure-openai-deployment-utilization": used}, Sent(), 10.0)
    assert (reading is not None and reading.refuses(1, Sent(), 10.9)) is full
    assert reading is None or not reading.refuses(1, Sent(), 11.0)


@given(st.dictionaries(st.sampled_from([*ROOM, "x-ratelimit-reset-tokens", "x-ratelimit-limit-tokens"]), st.text()))
def test_no_header_of_a_backend_raises(headers: dict[str, str]) -> None:
    reading = quota.read(headers, Sent(), 0.0)
    assert reading is None or reading.refuses(1, Sent(), 0.0) in (True, False)
    assert quota.throttle(headers, b"", configured=None) in ("quota", "oversized")


# --- budgets ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 30), min_size=1, max_size=60), st.integers(1, 12))
def test_a_window_counts_what_it_should(steps: list[float], seconds: int) -> None:
    window, now, times = Window(seconds), 5.0, []
    for step in steps:
        now += step
        window.add(now)
        times.append(int(now))
        assert window.total(now) == sum(int(now) - seconds < second <= int(now) for second in times)


def test_further_tries_are_a_hundred_and_a_fifth_of_the_calls_of_ten_seconds() -> None:
    clock = Clock()
    budget = RetryBudget(clock)
    for _ in range(500):
        budget.called()
    assert sum(budget.take() for _ in range(1000)) == 200
    clock.now += 10
    assert sum(budget.take() for _ in range(1000)) == 100


@given(st.integers(0, 200), st.integers(0, 300), st.floats(0, 1))
def test_the_more_of_the_calls_are_refused_the_fewer_are_sent(accepted: int, refused: int, chance: float) -> None:
    throttle = AdaptiveThrottle(Clock())
    for _ in range(accepted):
        throttle.accepted()
    for _ in range(accepted + refused):
        throttle.rejects(1.0)
    asked = accepted + refused
    expected = max(0.0, (asked - 1.5 * accepted) / (asked + 1))
    assert throttle.rejects(chance) is (chance < expected)


# --- times ------------------------------------------------------------------------------------------------------------


def test_the_usual_time_is_known_from_twenty_answers_on_and_forgets_old_ones() -> None:
    latency = Latency()
    for i in range(19):
        latency.note(float(i), stream=True)
    assert latency.usual(stream=True) is None
    latency.note(19.0, stream=True)
    assert latency.usual(stream=True) == 18.0
    assert latency.usual(stream=False) is None
    for _ in range(256):
        latency.note(5.0, stream=True)
    assert latency.usual(stream=True) == 5.0


def test_the_usual_time_is_that_of_calls_of_the_same_size() -> None:
    latency = Latency()
    assert latency.usual_for(100, stream=True) is None
    latency.note(200.0, stream=True, tokens=100)
    latency.note(9000.0, stream=True, tokens=5000)
    assert latency.usual_for(110, stream=True) == 200.0
    assert latency.usual_for(6000, stream=True) == 9000.0
    assert latency.usual_for(100_000, stream=True) == 200.0  # no such call yet: the median of all
    assert latency.usual_for(100, stream=False) == 200.0


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1.0))
def test_a_percentile_is_not_exceeded_by_its_share_of_the_values(values: list[float], share: float) -> None:
    value = percentile(sorted(values), share)
    assert value in values
    assert sum(other <= value for other in values) >= share * len(values) - 1e-6


# --- prompt caches ----------------------------------------------------------------------------------------------------


def test_calls_with_the_same_long_beginning_have_the_same_prefix_and_short_ones_none() -> None:
    system = "You are a careful assistant. " * 200
    assert _prompt_cache.prefix(chat(system + "one")) == _prompt_cache.prefix(chat(system + "two")) is not None
    assert _prompt_cache.prefix(chat("x" + system)) != _prompt_cache.prefix(chat(system))
    assert _prompt_cache.prefix(chat("short")) is None


def test_the_callers_prompt_cache_key_replaces_the_prefix_of_any_prompt() -> None:
    one, two = chat("a", prompt_cache_key="k"), chat("b", prompt_cache_key="k")
    assert _prompt_cache.prefix(one) == _prompt_cache.prefix(two) == b'"k"'
    assert _prompt_cache.prefix(chat("a", prompt_cache_key=None)) is None


def shares(*in_flight: int, weight: int = 1) -> list[Share]:
    return [Share(f"b{i}", weight, count) for i, count in enumerate(in_flight)]


@given(st.binary(min_size=1), st.lists(st.integers(0, 50), min_size=1, max_size=8))
def test_no_prefix_loads_a_backend_beyond_its_share(key: bytes, in_flight: list[int]) -> None:
    chosen = _prompt_cache.choose(key, shares(*in_flight))
    assert in_flight[chosen] < max(8, 1.25 * (sum(in_flight) + 1) / len(in_flight) + 1)


@given(st.binary(min_size=1), st.integers(2, 8))
def test_a_backend_that_goes_moves_only_its_own_prefixes(key: bytes, count: int) -> None:
    backends = shares(*[0] * count)
    chosen = _prompt_cache.choose(key, backends)
    for gone in range(count):
        left = [backend for i, backend in enumerate(backends) if i != gone]
        if gone != chosen:
            assert left[_prompt_cache.choose(key, left)] == backends[chosen]


def test_prefixes_are_shared_out_by_weight() -> None:
    backends = [Share("a", 3, 0), Share("b", 1, 0)]
    chosen = Counter(_prompt_cache.choose(str(i).encode(), backends) for i in range(4000))
    assert 0.71 < chosen[0] / 4000 < 0.79


# --- wishes -----------------------------------------------------------------------------------------------------------


def test_preferences_are_read_from_headers() -> None:
    headers = {
        "x-request-timeout-ms": "1500",
        "x-gateway-backend": " sweden ",
        "x-gateway-fallback": "a, b,a,",
        "x-gateway-hedge": "true",
        "x-gateway-explain": "True",
    }
    assert preferences.parse(headers) == preferences.RoutingPreferences(1.5, "sweden", ("a", "b"), True, True)
    assert preferences.parse({"authorization": "x"}) is preferences.NONE


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-request-timeout-ms", "0"),
        ("x-request-timeout-ms", "-5"),
        ("x-request-timeout-ms", "1e3"),
        ("x-request-timeout-ms", "9" * 400),
        ("x-request-timeout-ms", ""),
        ("x-gateway-hedge", "maybe"),
        ("x-gateway-explain", ""),
        ("x-gateway-fallback", ",".join(map(str, range(9)))),
    ],
)
def test_an_invalid_preference_is_rejected_by_the_name_of_its_header(header: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        preferences.parse({header: value})
    assert caught.value.param == header
