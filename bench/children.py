"""Processes that several benchmarks start: Azurite's table service and the bare forwarder."""

import sys

import psutil

from bench.load import Place
from local import azurite
from local.processes import Child, Children, free_port


def start_tables(children: Children) -> dict[str, int]:
    """Start Azurite's table service and return its port, by service, as `local.azurite` expects it."""
    ports = {"table": free_port()}
    children.start("azurite", azurite.command(ports))
    children.wait_for_port("Azurite", ports["table"], 20)
    return ports


def start_forwarder(children: Children, upstream: str, api_key: str, loop: str) -> tuple[Child, Place]:
    """`loop`: asyncio or uvloop."""
    port = free_port()
    child = children.start(f"forwarder-{loop}", [sys.executable, "-m", "bench.forwarder", str(port), upstream, loop])
    children.wait_for_port("The forwarder", port, 20)
    return child, Place(f"http://127.0.0.1:{port}/openai/v1/chat/completions", {"api-key": api_key})


def cpu_seconds(child: Child) -> float:
    times = psutil.Process(child.process.pid).cpu_times()
    return float(times.user + times.system)
