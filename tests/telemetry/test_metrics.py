"""Metrics added up until their export, traces kept by a budget, and trace contexts."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import ulid
from shared.config.document import Backend
from shared.telemetry import instruments, metrics, spans
from shared.telemetry._sampling import Budget
from shared.telemetry.metrics import Counter, Distribution, Histogram, Instrument, Point
from shared.types import BEATEN, LEFT, Attempt, Target

ROOT = Path(__file__).resolve().parents[2]
INSTRUMENTS = [value for value in vars(instruments).values() if isinstance(value, Instrument)]
SIZES = Instrument("histogram", "sizes", "1", "", ("of",), (1.0, 10.0))


@given(st.lists(st.floats(0, 100)), st.lists(st.floats(0, 100)))
def test_two_intervals_add_up_to_one(first: list[float], second: list[float]) -> None:
    def exported(values: list[float]) -> Point:
        histogram = Histogram(SIZES)
        for value in values:
            histogram["a",].record(value)
        points = list(metrics.drained(histogram))
        assert list(metrics.drained(histogram)) == []  # it has been exported
        return points[0] if points else Point(SIZES, ("a",), Distribution(SIZES.bounds))

    apart, together = metrics.summed(exported(first), exported(second)).value, exported(first + second).value
    assert isinstance(apart, Distribution)
    assert isinstance(together, Distribution)
    assert (apart.buckets, apart.count) == (together.buckets, together.count)
    assert (apart.smallest, apart.largest) == (together.smallest, together.largest)
    assert apart.sum == pytest.approx(together.sum)


def test_a_value_at_a_bound_is_in_the_bucket_below_it() -> None:
    distribution = Distribution((1.0, 10.0))
    for value in (0.5, 1.0, 1.5, 10.0, 11.0):
        distribution.record(value)
    assert distribution.buckets == [2, 2, 1]


def test_series_beyond_the_bound_become_one() -> None:
    histogram, counter = Histogram(SIZES), Counter(SIZES)
    for number in range(3000):
        histogram[f"{number}",].record(1)
        counter.add((f"{number}",))
    assert len(histogram) == len(counter) == 1001
    assert histogram["other",].count == counter["other",] == 2000


def test_every_instrument_has_a_unique_name_and_every_histogram_has_bounds() -> None:
    assert len({instrument.name for instrument in INSTRUMENTS}) == len(INSTRUMENTS)
    for instrument in INSTRUMENTS:
        assert bool(instrument.bounds) == (instrument.kind == "histogram")
        assert list(instrument.bounds) == sorted(instrument.bounds)
        assert not {"consumer", "user", "key"} & {name.rpartition(".")[2] for name in instrument.dimensions}


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=300), st.floats(0.5, 20))
def test_kept_calls_represent_all_calls_and_are_no_more_than_allowed(pauses: list[float], rate: float) -> None:
    budget, now, kept = Budget(rate), 1000.0, []
    for pause in pauses:
        now += pause
        if represents := budget.take(now):
            kept.append(represents)
    assert len(kept) <= rate * 10 + rate * sum(pauses) + 1
    assert sum(kept) <= len(pauses)
    assert sum(kept) + budget._skipped == len(pauses)


def test_a_budget_of_nothing_keeps_nothing() -> None:
    budget = Budget(0)
    assert [budget.take(now) for now in (1.0, 1e6)] == [0, 0]


@given(st.text(max_size=80))
def test_a_malformed_traceparent_begins_a_trace(text: str) -> None:
    identifier = ulid.new(1_700_000_000.0)
    points = spans.trace_context(identifier, 0.0, text)
    assert 0 < points.trace_id < 1 << 128
    assert 0 < points.span_id < 1 << 64


def test_a_traceparent_is_continued() -> None:
    for _ in range(20):
        trace, parent = random.getrandbits(128) | 1, random.getrandbits(64) | 1
        points = spans.trace_context(ulid.new(1.0), 0.0, f"00-{trace:032x}-{parent:016x}-01")
        assert (points.trace_id, points.parent_id, points.sampled) == (trace, parent, True)
    unsampled = spans.trace_context(ulid.new(1.0), 0.0, f"00-{trace:032x}-{parent:016x}-00")
    assert not unsampled.sampled
    for wrong in (f"00-{0:032x}-{parent:016x}-01", f"00-{trace:032x}-{0:016x}-01", f"ff-{trace:032x}-{parent:016x}-01"):
        assert spans.trace_context(ulid.new(1.0), 0.0, wrong).parent_id == 0


@pytest.mark.parametrize(
    ("status", "problem", "result"),
    [
        (200, "", "ok"),
        (400, "", "caller_error"),
        (400, "refused: content_filter", "caller_error"),
        (429, "throttled", "throttled"),
        (404, "status 404 DeploymentNotFound", "refused"),
        (503, "status 503", "failed"),
        (200, "ended the stream before its first token", "failed"),
        (0, "no answer within 20.0 s", "timeout"),
        (0, "ClientConnectorError: nobody is there", "unreachable"),
        (0, BEATEN, "beaten"),
        (0, LEFT, "left"),
    ],
)
def test_the_result_of_an_attempt_is_one_of_few_words(status: int, problem: str, result: str) -> None:
    backend = Backend(name="b", endpoint="https://b.openai.azure.com", region="r", models={})
    assert spans.result_of(Attempt(Target(backend, "m", "d"), status, problem, 1.0)) == result


def test_the_trace_of_a_request_can_be_derived_from_its_id() -> None:
    identifier = ulid.new(1_700_000_000.123)
    trace = spans.trace_context(identifier, 0.0, "")
    assert trace.trace_id >> 80 == 1_700_000_000_123
    assert trace.trace_id & ((1 << 64) - 1) == trace.span_id


PROGRAM = """
import asyncio, os, sys
from shared import bootstrap

async def main():
    async with bootstrap.application(os.environ) as application:
        assert application.gateway is not None

asyncio.run(main())
print(*{name.split(".")[0] for name in sys.modules} & {"opentelemetry", "google"}, "azure.monitor" in sys.modules)
"""


def test_without_a_destination_no_exporter_is_imported() -> None:
    environ = {"GATEWAY_CONFIG": (ROOT / "gateway.sample.yaml").read_text(), "EASTUS_KEY": "x"}
    environ["GATEWAY_STORAGE"] = "UseDevelopmentStorage=true"
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env=environ, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().split() == ["False"]


def test_every_metric_is_in_the_guide() -> None:
    guide = (ROOT / "docs" / "telemetry.md").read_text()
    assert [instrument.name for instrument in INSTRUMENTS if f"`{instrument.name}`" not in guide] == []
