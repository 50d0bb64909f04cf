"""Whatever is sent, the gateway answers: no 500, no traceback. `make fuzz` does this for a minute on each edge."""

from tests.harness.fuzzing import fuzz
from tests.harness.system import System


def test_no_request_brings_the_gateway_down(gateway: System) -> None:
    statuses = fuzz(gateway.gateway, gateway.make_key("fuzz"), 4.0, seed=7)
    assert sum(statuses.values()) > 50
    assert statuses[400] > 0
    assert statuses[404] > 0
    assert gateway.chat().status == 200
