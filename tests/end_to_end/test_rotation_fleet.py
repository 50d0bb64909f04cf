"""Two hundred instances that come and go share the calls evenly among the backends, in simulated time."""

import random
from collections.abc import Sequence

import pytest

from bench.routing_fleet import INSTANCES, simulate
from shared.routing.rotation import BLOCK, Rotation
from shared.storage import Table


class NoChance(random.Random):
    def getrandbits(self, k: int, /) -> int:
        return 0


class AlwaysFromTheFirst(Rotation):
    """A rotation whose blocks do not start at different places: every instance, and every block, begins with the first
    backend."""

    def __init__(self, table: Table, _rng: random.Random) -> None:
        super().__init__(table, NoChance())

    async def _claim(self, pool: str) -> int:
        return await super()._claim(pool) * BLOCK


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (2, 1, 1)])
def test_every_backend_has_its_share_in_ten_seconds_and_in_total(weights: Sequence[int]) -> None:
    evenness = simulate(weights, seed=1)
    assert evenness.window <= 0.06
    assert evenness.total <= 0.01
    assert evenness.instances > 5 * INSTANCES


def test_blocks_that_all_start_with_the_first_backend_would_not_do() -> None:
    """Without the rotation of the start the bounds above do not hold."""
    evenness = simulate((1, 1, 1, 1), seed=1, make=AlwaysFromTheFirst)
    assert evenness.window > 0.06
    assert evenness.total > 0.01
