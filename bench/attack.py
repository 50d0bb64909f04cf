"""`make attack`: hostile callers on both edges, and what the gateway pays for each (10 minutes).

A line per attack: how often it was tried and refused, the longest call beside it, and the peak of the process's memory
above the start. Fails if an attack is not refused, costs more than it may, or leaves a call unanswered.
"""

import asyncio
import json
import re
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import psutil

from bench import attack_slow
from bench.attack_bodies import BODIES, FLOOR, MB, send, watched_loop, watched_memory
from bench.attack_connections import CHAT, connections, head_of, send_all, status_of
from shared.config.limits import AddressLimits
from simulator.process import SimulatorProcess
from tests.harness.azurite import azurite
from tests.harness.gateway_process import EDGES, Edge, cli
from tests.harness.system import System, chat_body, configuration, simulated_regions, system

SILENCE = 0.5  # seconds of a small call beside an attack: 50 ms of the loop, and a share of a core with the attacker

type Attack = Callable[[System], tuple[int, int, str]]  # tries, refused, the fault or ""


class Result(NamedTuple):
    """The outcome of one attack. `most_memory` in bytes; `fault`: the reason why the attack counts as a success."""

    name: str
    tries: int
    refused: int
    silence: float
    peak: int
    most_memory: int = FLOOR
    fault: str = ""

    @property
    def faults(self) -> list[str]:
        faults = [self.fault] if self.fault else []
        if self.refused < self.tries:
            faults.append(f"{self.tries - self.refused} of {self.tries} were not refused")
        if self.silence > SILENCE:
            faults.append(f"a call beside it took {self.silence:.2f} s")
        if self.peak > self.most_memory:
            faults.append(f"it took {self.peak / MB:.0f} MB")
        return faults


def measured(name: str, running: System, attack: Attack) -> Result:
    """Run an attack, which returns its tries, those that were refused, and its fault."""
    with watched_memory(running.gateway.pid) as peak, watched_loop(running) as silences:
        tries, refused, fault = attack(running)
    most_memory = _MEMORY.get(name, FLOOR)
    return Result(name, tries, refused, max(silences), peak[0], most_memory, fault)


# --- the attacks ------------------------------------------------------------------------------------------------------


def bodies(running: System) -> Iterator[Result]:
    for name, body in BODIES.items():
        cost = send(running, body)
        refused = cost.status in (*body.statuses, 0)
        yield Result(name, 1, int(refused), cost.silence, cost.peak, max(FLOOR, 4 * cost.size))


def waiting_bodies(running: System) -> tuple[int, int, str]:
    """Twelve bodies that never end, with a key of one call a minute, one of which is admitted."""
    made = cli(
        running.gateway.environment, "keys", "create", f"waiting {running.edge}", "--requests-per-minute", "1", "--json"
    )
    before = running.gateway.logs().count('"limit_exceeded"')
    with connections(running, 12) as callers:
        for caller in callers:
            caller.sendall(head_of(made["key"], "transfer-encoding: chunked") + b"\r\n3\r\n" + b'{"m' + b"\r\n")
        time.sleep(2)
        return 11, min(11, running.gateway.logs().count('"limit_exceeded"') - before), ""


def buffered_bodies(running: System) -> tuple[int, int, str]:
    """Forty bodies of 31 MB that never end, with one key without limits."""
    data = b'{"a":"' + b"x" * (31 * MB)
    with connections(running, 40) as callers:
        for caller in callers:
            caller.settimeout(5)
            send_all(caller, head_of(running.key, "transfer-encoding: chunked") + b"\r\n")
            for start in range(0, len(data), MB):
                piece = data[start : start + MB]
                send_all(caller, b"%x\r\n%b\r\n" % (len(piece), piece))
        time.sleep(1)
        if running.edge == "functions":  # whose host passes no answer on before the body has ended: the memory tells
            return 1, 1, ""
        return 36, sum(status_of(caller, 0.05) in (429, 0) for caller in callers), ""


def deadlines(running: System) -> tuple[int, int, str]:
    """Sixty calls with five milliseconds, then honest ones on the same model."""
    model = running.spare()
    running.simulator.fault("delay", deployment=model, seconds=0.2)
    headers = {"x-request-timeout-ms": "5"}
    statuses = [running.post(CHAT, chat_body(model), headers).status for _ in range(60)]
    running.simulator.clear()
    honest = running.chat(model)
    fault = "" if honest.headers.get("x-gateway-attempts") == "1" else "an honest call met an ejected backend"
    return 60, statuses.count(504), fault


def endless_heads(running: System) -> tuple[int, int, str]:
    """Six connections with a header of 64 MB each."""
    statuses = []
    for _ in range(6):
        with connections(running, 1) as (caller,):
            send_all(caller, head_of(running.key) + b"x-a: ")
            for _ in range(64):
                send_all(caller, b"a" * MB)
            statuses.append(status_of(caller, 5))
    return 6, sum(status in (400, 431, 0) for status in statuses), ""


def many_headers(running: System) -> tuple[int, int, str]:
    with connections(running, 1) as (caller,):
        send_all(caller, head_of(running.key) + b"a: b\r\n" * 1_000_000 + b"\r\n")
        return 1, int(status_of(caller, 10) in (400, 431, 0)), ""


def half_heads(running: System) -> tuple[int, int, str]:
    """Fifty heads that never end."""
    with connections(running, 50) as callers:
        for caller in callers:
            caller.sendall(head_of(running.key))
        deadline = time.monotonic() + 40
        ends = [status_of(caller, max(0.01, deadline - time.monotonic())) for caller in callers]
    return 50, sum(status in (408, 0) for status in ends), ""


def unread_answers(running: System) -> tuple[int, int, str]:
    """Thirty connections that ask for the page's library a thousand times without a key, and read nothing."""
    if running.edge == "functions":
        return 0, 0, ""  # the emulated host waits for its callers
    page = running.gateway.request("GET", "/gateway/").body
    path = re.search(rb"/gateway/page/[0-9a-f]+/", page)
    assert path is not None
    request = b"GET " + path[0] + b"vendor/uPlot.iife.min.js HTTP/1.1\r\nhost: gateway\r\n\r\n"
    with connections(running, 30) as callers:
        for caller in callers:
            send_all(caller, request * 1000)
        return 30, left_within(running, callers, 150.0), ""


def left_within(running: System, callers: list[socket.socket], seconds: float) -> int:
    """The number of connections that the gateway has ended in this time. What the kernel has taken for callers that do
    not read outlives them, so that these do not see it."""
    ports, deadline = {caller.getsockname()[1] for caller in callers}, time.monotonic() + seconds
    process = psutil.Process(running.gateway.pid)
    while True:
        held = {one.raddr.port for one in process.net_connections("tcp") if one.raddr} & ports
        if not held or time.monotonic() >= deadline:
            return len(callers) - len(held)
        time.sleep(1)


def one_address(running: System) -> tuple[int, int, str]:
    """Two thousand idle connections from one address, then an honest call from another one."""
    if running.edge == "functions":
        return 0, 0, ""  # whose host holds the connections
    most = AddressLimits().connections
    with connections(running, 2000, ("127.0.2.1",)) as callers:
        answered, deadline = select.poll(), time.monotonic() + 20
        for caller in callers:
            answered.register(caller, select.POLLIN)
        while len(answered.poll(0)) < 2000 - most and time.monotonic() < deadline:
            time.sleep(0.2)
        ready = {number for number, _ in answered.poll(0)}
        refused = sum(status_of(caller) == 429 for caller in callers if caller.fileno() in ready)
        honest = running.chat("gpt-4o-mini").status
    return 2000 - most, refused, "" if honest == 200 else f"an honest call of another address got {honest}"


def bodies_behind_answers(running: System) -> tuple[int, int, str]:
    """Thirty bodies without a key that go on, a byte at a time, behind their answers."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ntransfer-encoding: chunked\r\n\r\n"
    with connections(running, 30) as callers:
        for caller in callers:
            send_all(caller, head)
        return 30, ended_within(callers, 60.0, b"1\r\n \r\n"), ""


def ended_within(callers: list[socket.socket], seconds: float, more: bytes = b"") -> int:
    """The number of connections that the gateway ends in this time, read or not. `more`: sent on each every second."""
    ends = select.poll()
    for caller in callers:
        ends.register(caller, select.POLLHUP)
    deadline = time.monotonic() + seconds
    while len(ended := ends.poll(0)) < len(callers) and time.monotonic() < deadline:
        for caller in callers:
            send_all(caller, more)
        time.sleep(1)
    return len(ended)


def trailers(running: System) -> tuple[int, int, str]:
    """A key of another network, with the address in a trailer."""
    made = cli(
        running.gateway.environment, "keys", "create", f"inside {running.edge}", "--addresses", "10.0.0.0/8", "--json"
    )
    data = json.dumps(chat_body()).encode()
    with connections(running, 1) as (caller,):
        head = head_of(made["key"], "transfer-encoding: chunked", "trailer: x-forwarded-for")
        caller.sendall(head + b"\r\n%x\r\n%b\r\n0\r\nx-forwarded-for: 10.1.2.3\r\n\r\n" % (len(data), data))
        return (
            1,
            int(status_of(caller) in (400, 403, 500)),
            "",
        )  # 500: the host's, if the gateway does not read the body


def lengths(running: System) -> tuple[int, int, str]:
    with connections(running, 1) as (caller,):
        caller.sendall(head_of(running.key, f"content-length: {'9' * 5000}") + b"\r\n")
        return 1, int(status_of(caller) == 400), ""


ATTACKS: dict[str, Attack] = {
    "bodies that wait, 1 call a minute": waiting_bodies,
    "40 bodies of 31 MB that never end": buffered_bodies,
    "deadlines of 5 ms": deadlines,
    "endless headers": endless_heads,
    "a million headers": many_headers,
    "half-sent heads": half_heads,
    "answers that nobody reads": unread_answers,
    "bodies behind their answers": bodies_behind_answers,
    "2,000 connections of one address": one_address,
    "trailers": trailers,
    "a length of 5,000 digits": lengths,
}

_MEMORY = {"40 bodies of 31 MB that never end": 200 * MB}  # half of what a process may hold, and a body on its way


async def slow_connections(running: System) -> Result:
    with watched_memory(running.gateway.pid) as peak:
        measurement = await attack_slow.measured(running)
    print(measurement.figures())
    fault = measurement.fault()
    return Result(f"{attack_slow.SLOW} slow connections", 1, 1, 0.0, peak[0], 256 * MB, fault)


# --- all of it --------------------------------------------------------------------------------------------------------


def attack(edge: Edge, running: System) -> list[str]:
    """Make every attack. Returns the faults."""
    faults = []
    print(f"\n{edge}\n  {'attack':36} {'tries':>6} {'refused':>8} {'silence':>9} {'memory':>9}")

    def results() -> Iterator[Result]:
        yield from bodies(running)
        for name, one in ATTACKS.items():
            yield measured(name, running, one)
        yield asyncio.run(slow_connections(running))

    for result in results():
        peak = f"{max(0, result.peak) / MB:.0f} MB"
        silence = f"{result.silence * 1000:.0f} ms"
        print(f"  {result.name:36} {result.tries:6} {result.refused:8} {silence:>9} {peak:>9}", flush=True)
        faults += [f"{edge}, {result.name}: {fault}" for fault in result.faults]
    running.assert_no_defect()
    return faults


def main() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 65_536), most))
    faults = []
    with azurite() as tables, SimulatorProcess(simulated_regions()) as simulator:
        for edge in EDGES:
            with system(edge, configuration(simulator), simulator, tables.connection_string) as running:
                running.chat("gpt-4o-mini")
                faults += attack(edge, running)
    if faults:
        raise SystemExit("\n".join(faults))


if __name__ == "__main__":
    main()
