"""`make fuzz`: sends malformed requests to each edge for a minute. Fails at the first 500 or traceback."""

import sys
import time

from simulator.process import SimulatorProcess
from tests.harness.azurite import azurite
from tests.harness.fuzzing import fuzz
from tests.harness.gateway_process import EDGES
from tests.harness.system import configuration, simulated_regions, system


def main(seconds: float) -> None:
    with azurite() as tables, SimulatorProcess(simulated_regions()) as simulator:
        for edge in EDGES:
            with system(edge, configuration(simulator), simulator, tables.connection_string) as running:
                seed = time.time_ns() % 2**32
                statuses = fuzz(running.gateway, running.key, seconds, seed)
                running.assert_no_defect()
                print(f"{edge}: {sum(statuses.values())} requests (seed {seed}): {dict(sorted(statuses.items()))}")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0)
