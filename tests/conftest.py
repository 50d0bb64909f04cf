"""Shared by all tests: coroutine tests, and the services that they run against."""

import asyncio
import gc
import inspect
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.azurite import azurite as start_azurite
from tests.harness.gateway_process import EDGES, Edge
from tests.harness.simulated import ELSEWHERE, REGION, Client, region_client
from tests.harness.system import System, configuration, eventually, simulated_regions, watched
from tests.harness.system import system as start_system

# Every client reads the authorities that it trusts: those of a machine take 30 ms of CPU. No test speaks TLS, so one
# authority is enough, whose key nobody has.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).parent / "harness" / "no_authority.pem")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def` tests, each on an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True


_LONG = ("end_to_end", "infra", "local", "cli")  # folders whose files take longest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files: run last, one of them would keep the other processes waiting for its end."""
    items.sort(key=lambda item: item.path.parent.name not in _LONG)


def pytest_collection_finish() -> None:
    """Exempt the modules of all tests from garbage collection, which would go through them again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def emulator() -> Iterator[Azurite]:
    with start_azurite() as running:
        yield running


@pytest.fixture(scope="module")
def azurite(emulator: Azurite) -> Azurite:
    """An account of the module's own."""
    return emulator.apart()


@pytest.fixture(scope="session")
def simulator() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(simulated_regions()) as running:
        yield running


@pytest.fixture(scope="session")
def simulated_process() -> Iterator[SimulatorProcess]:
    with SimulatorProcess() as running:
        yield running
        assert running.stderr() == ""


@pytest.fixture
def regions(simulated_process: SimulatorProcess) -> Iterator[SimulatorProcess]:
    """The simulator by itself; afterwards none of its operations has stumbled."""
    simulated_process.clear()
    yield simulated_process
    assert [entry["problem"] for entry in simulated_process.log()["requests"] if entry["problem"]] == []


@pytest.fixture(params=["v1", "dated"])
def surface(request: pytest.FixtureRequest) -> str:
    """The spellings of Azure's paths."""
    return str(request.param)


@pytest.fixture
def client(regions: SimulatorProcess, surface: str) -> Iterator[Client]:
    """A caller of a region."""
    with region_client(regions, surface, REGION) as opened:
        yield opened


@pytest.fixture
def stranger(regions: SimulatorProcess, surface: str) -> Iterator[Client]:
    """A caller of another region."""
    with region_client(regions, surface, ELSEWHERE) as opened:
        yield opened


@pytest.fixture(scope="session", params=EDGES)
def edge(request: pytest.FixtureRequest) -> Edge:
    """The edges: every test of a running gateway runs on both."""
    edge: Edge = request.param
    return edge


@pytest.fixture(scope="session")
def patient_system(edge: Edge, emulator: Azurite, simulator: SimulatorProcess) -> Iterator[System]:
    with start_system(edge, configuration(simulator), simulator, emulator.connection_string) as running:
        yield running


@pytest.fixture(scope="session")
def impatient_system(edge: Edge, emulator: Azurite, simulator: SimulatorProcess) -> Iterator[System]:
    simulator.clear()  # the last test of the other edge may have left a fault
    timeouts = {"connect": 0.5, "first_byte": 0.6, "total": 3.0, "stream": 12.0}
    settings = configuration(simulator, timeouts=timeouts, max_request_bytes=1_000_000)
    with start_system(edge, settings, simulator, emulator.connection_string) as running:
        eventually(lambda: running.chat().status == 200)  # a cold process is not what those tests are about
        yield running


@pytest.fixture
def gateway(patient_system: System) -> Iterator[System]:
    """A gateway with the usual settings; afterwards its log must show no defect."""
    yield from watched(patient_system)


@pytest.fixture
def impatient(impatient_system: System) -> Iterator[System]:
    """A gateway with short timeouts, for tests with faults; to be used with models of the test's own."""
    yield from watched(impatient_system)
