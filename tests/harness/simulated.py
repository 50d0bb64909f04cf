"""Shared by the tests of the simulator's operations."""

import time
from collections.abc import Callable
from typing import Any

from openai import AzureOpenAI, OpenAI

from simulator.process import SimulatorProcess
from tests.harness.patience import PATIENCE

REGION, ELSEWHERE = "eastus2", "japaneast"
PREVIEW = "2025-04-01-preview"

Client = OpenAI | AzureOpenAI


def region_client(simulator: SimulatorProcess, surface: str, region: str) -> Client:
    """The official client of a region's resource, on one of its surfaces: `v1`, `dated`, or a version."""
    given: dict[str, Any] = {"api_key": simulator.api_key, "max_retries": 0, "timeout": PATIENCE}
    endpoint = simulator.regions[region]
    if surface == "v1":
        return OpenAI(base_url=f"{endpoint}/openai/v1", **given)
    version = PREVIEW if surface == "dated" else surface
    return AzureOpenAI(azure_endpoint=endpoint, api_version=version, **given)


def totals(simulator: SimulatorProcess, region: str = REGION) -> dict[str, Any]:
    """The charges of a region."""
    charges: dict[str, Any] = simulator.log(summary=True)["totals"][region]
    return charges


def until[T](read: Callable[[], T], holds: Callable[[T], bool], seconds: float = PATIENCE) -> T:
    deadline = time.monotonic() + seconds
    while not holds(value := read()):
        assert time.monotonic() < deadline, value
        time.sleep(0.02)
    return value
