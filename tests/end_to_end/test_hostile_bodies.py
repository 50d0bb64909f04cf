"""No body costs more memory than four times its bytes, or keeps the event loop from other calls."""

import pytest

from bench.attack_bodies import BODIES, send
from tests.harness.system import System

SILENCE = 3.0  # seconds, on a machine that is busy with other tests; `make attack` is stricter


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_costs_more_than_it_weighs_is_refused_at_little_cost(gateway: System, name: str) -> None:
    body = BODIES[name]
    cost = send(gateway, body)
    assert cost.status in (*body.statuses, 0), cost  # 0: refused while the body was on its way
    assert cost.bounded, cost
    assert cost.silence < SILENCE, cost
