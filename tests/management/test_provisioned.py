"""Provisioned capacity over HTTP: the figures of the command, their curve, and bad questions."""

import json
from typing import Any
from urllib.parse import urlencode

import pytest
from typer.testing import CliRunner

from shared.billing.prices import Prices
from shared.billing.ptu_forecast import Forecast, Place, payments_for, weigh
from shared.cli.app import cli
from shared.config.prices import PriceLine
from tests.harness.system import System

ASKED: dict[str, Any] = {"requests_per_minute": 120, "input": 1500, "output": 300, "peak": 3}
MODEL = "gpt-5-mini"


def plans(gateway: System, **query: Any) -> Any:
    return gateway.get(f"/gateway/provisioned?{urlencode(query)}").json()


def test_the_plans_are_those_of_the_command(gateway: System) -> None:
    words = ["--requests-per-minute", "120", "--input", "1500", "--output", "300", "--peak", "3", "--model", MODEL]
    said = CliRunner().invoke(cli, ["ptu", *words, "--json"], env=gateway.gateway.environment)
    (expected,) = json.loads(said.stdout)["models"]
    answer = plans(gateway, **ASKED, model=MODEL)
    (plan,) = answer["plans"]
    curve = plan.pop("curve")
    assert plan == expected
    assert len(answer["sources"]) == 4

    rates, costs = curve["requests_per_minute"], curve["usd_per_month"]
    assert (rates[0], rates[-1], len(rates)) == (0, 240, 41)
    for payment in plan["payments"]:  # in the middle it is the forecast itself
        assert costs[payment["payment"]][20] == pytest.approx(payment["usd_per_month"], abs=0.02)
    assert costs["by tokens"][0] == 0
    assert costs["by tokens"][40] == pytest.approx(2 * costs["by tokens"][20], abs=0.02)
    hourly = costs["hourly"]
    assert hourly == sorted(hourly)
    assert hourly[0] == pytest.approx(plan["minimum_units"] * hourly[20] / plan["payments"][1]["units"])
    everything = plans(gateway, **ASKED)["plans"]
    assert len(everything) > 5
    assert MODEL in [one["model"] for one in everything]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"requests_per_minute": "many"}, "requests_per_minute"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"input": "nan"}, "input"),
        ({"output": -1}, "output"),
        ({"output": "1e400"}, "output"),
        ({"peak": 0.5}, "peak"),
        ({"cached": 1.1}, "cached"),
        ({"deployment": "moon"}, "deployment"),
        ({"model": "no-such-model"}, "model"),
        ({"units": 3}, "units"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_with_its_parameter(
    gateway: System, change: dict[str, Any], param: str
) -> None:
    answer = gateway.get(f"/gateway/provisioned?{urlencode(ASKED | change)}")
    assert (answer.status, answer.error()["param"]) == (400, param)
    assert "expected" in answer.error()["message"]


def test_it_is_for_operators_and_needs_the_whole_forecast(gateway: System) -> None:
    assert gateway.get(f"/gateway/provisioned?{urlencode(ASKED)}", key=gateway.key).status == 401
    answer = gateway.get("/gateway/provisioned?requests_per_minute=1&input=1")
    assert (answer.status, answer.error()["param"]) == (400, "output")


def test_capacity_that_every_request_fits_has_a_flat_curve() -> None:
    prices = Prices([PriceLine(model=MODEL, since="2025-01-01", input=1.0, output=2.0)])
    place, now = Place("global", ""), 1.8e9
    few = weigh(MODEL, Forecast(0.1, 10, 10, 0.0, 1.0), place, prices, now)
    assert few is not None
    curve = few.curve(payments_for(prices, place, now))
    assert all(len(set(costs)) == 1 for name, costs in curve["usd_per_month"].items() if name != "by tokens")
    assert weigh("nonesuch", Forecast(1, 1, 1, 0.0, 1.0), place, prices, now) is None
