"""`make fuzz`: sends malformed requests to each edge for a minute, and then requests made from the OpenAPI document of
the management API. Fails at the first 500, at a traceback, and at an answer that the document does not describe."""

import subprocess
import sys
import tempfile
import time

from simulator.process import SimulatorProcess
from tests.harness.azurite import azurite
from tests.harness.fuzzing import fuzz
from tests.harness.gateway_process import EDGES
from tests.harness.system import MANAGEMENT_KEY, System, configuration, simulated_regions, system

_CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def main(seconds: float) -> None:
    with azurite() as tables, SimulatorProcess(simulated_regions()) as simulator:
        for edge in EDGES:
            with system(edge, configuration(simulator), simulator, tables.connection_string) as running:
                seed = time.time_ns() % 2**32
                statuses = fuzz(running.gateway, running.key, seconds, seed)
                running.assert_no_defect()
                print(f"{edge}: {sum(statuses.values())} requests (seed {seed}): {dict(sorted(statuses.items()))}")
                fuzz_management(running, seconds)
                running.assert_no_defect()
                simulator.clear()  # of the faults that operators have ordered at random


def fuzz_management(running: System, seconds: float) -> None:
    """Send what schemathesis makes of the document, as an operator and, to their own paths, as a caller."""
    with tempfile.NamedTemporaryFile(suffix=".json") as document:
        document.write(running.get("/gateway/management/openapi.json").body)
        document.flush()
        for key, paths, phases in (
            (MANAGEMENT_KEY, "--exclude-path-regex", "coverage,fuzzing,stateful"),
            (running.key, "--include-path-regex", "coverage,fuzzing"),
        ):
            words = ["run", document.name, "--url", running.url, "--checks", _CHECKS, paths, "/me(/|$)"]
            words += ["--phases", phases]
            words += ["--max-time", str(int(seconds)), "--rate-limit", "40/s", "--no-color"]
            words += ["--header", f"Authorization: Bearer {key}"]
            subprocess.run([sys.executable, "-m", "schemathesis.cli", *words], check=True)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0)
