"""Slow connections beside honest callers, and what honest calls take then.

Used by `make attack`. Rounds without and with the slow connections alternate, and the best of each counts. Times of
rounds in which other work took the machine's cores say nothing and are left out; the gateway's CPU time says something
always. On the Functions edge the emulated host stands between the callers and the worker: a proxy in Python, which
Azure does not have. So the times are those of the gateway's own log there.
"""

import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import psutil

from bench.attack_connections import connections, head_of, send_all
from tests.harness.system import System, chat_body

SLOW, HONEST = 2000, 50
_SOURCES = tuple(f"127.0.1.{number}" for number in range(1, 11))  # one address may not have so many connections
_FEWEST_ROUNDS, _MOST_ROUNDS = 3, 5  # more if the machine has other work
_QUIET = 0.3  # cores that other work may take
_SECONDS = 5.0  # of honest calls
_PAUSE = 0.5  # seconds between the calls of one caller
_SETTLED = 3.0  # seconds in which the gateway has dealt with the beginning of the slow connections, or with their end
_LOG_LAG = 10.0  # seconds
_LEAST_MS = 25.0  # a 99th percentile below this is a good one, whatever it was before
_MODEL = "gpt-4o-mini"


class Honest(NamedTuple):
    """One round of honest calls: the milliseconds of each at its caller and by the gateway's log, the number of those
    that were not answered, the milliseconds of CPU time of the gateway's process for a call, and the cores that other
    work took."""

    at_callers: list[float]
    in_gateway: list[float]
    unanswered: int
    cpu: float
    others: float


type Rounds = tuple[list[Honest], list[Honest]]  # without and with the slow connections


class Beside(NamedTuple):
    """The rounds without and with the slow connections. `proxied`: callers do not reach the gateway itself."""

    without: list[Honest]
    beside: list[Honest]
    proxied: bool

    def figures(self) -> str:
        """A line a measure, the best of the rounds of each."""
        measures: dict[str, Callable[[Honest], float]] = {
            "99th percentile of their calls": at_callers,
            "the same by the gateway's log": in_gateway,
            "CPU time of the gateway for a call": cpu,
        }
        rounds, quiet = self._all(), self._quiet()
        lines = [
            f"  {HONEST} honest callers, {name}: {usual:.1f} ms, beside {SLOW} slow connections {slowed:.1f} ms"
            for name, measure in measures.items()
            for usual, slowed in (_best(quiet or rounds, measure),)
        ]
        if quiet is None:
            least = min(one.others for one in (*self.without, *self.beside))
            lines.append(
                f"  other work took {least:.1f} cores or more: the times say nothing, only the CPU time counts"
            )
        return "\n".join(lines)

    def fault(self) -> str:
        """The reason why the slow connections count as a success; "": they do not."""
        if left := sum(one.unanswered for one in (*self.without, *self.beside)):
            return f"{left} honest calls were not answered"
        usual, slowed = _best(self._all(), cpu)
        if slowed > 2 * usual:
            return f"the CPU time of an honest call went from {usual:.2f} to {slowed:.2f} ms"
        if (quiet := self._quiet()) is not None:
            usual, slowed = _best(quiet, in_gateway if self.proxied else at_callers)
            if slowed > 2 * max(usual, _LEAST_MS):
                return f"the honest calls' 99th percentile went from {usual:.0f} to {slowed:.0f} ms"
        return ""

    @property
    def conclusive(self) -> bool:
        """True if both have a quiet round."""
        return self._quiet() is not None

    def _all(self) -> Rounds:
        return self.without, self.beside

    def _quiet(self) -> Rounds | None:
        without, beside = ([one for one in rounds if one.others <= _QUIET] for rounds in self._all())
        return (without, beside) if without and beside else None


def _best(rounds: Rounds, measure: Callable[[Honest], float]) -> tuple[float, float]:
    without, beside = rounds
    return min(map(measure, without)), min(map(measure, beside))


def at_callers(calls: Honest) -> float:
    return statistics.quantiles(calls.at_callers, n=100)[98]


def in_gateway(calls: Honest) -> float:
    return statistics.quantiles(calls.in_gateway, n=100)[98]


def cpu(calls: Honest) -> float:
    return calls.cpu


async def measured(running: System) -> Beside:
    """Let honest callers call without and with the slow connections, in turn."""
    without: list[Honest] = []
    beside: list[Honest] = []
    measurement = Beside(without, beside, proxied=running.edge == "functions")
    await _honest_calls(running)  # the first calls find a cold process
    while len(beside) < (_FEWEST_ROUNDS if measurement.conclusive else _MOST_ROUNDS):
        without.append(await _honest_calls(running))
        with connections(running, SLOW, _SOURCES) as callers:
            for caller in callers:
                send_all(caller, head_of(running.key, "transfer-encoding: chunked") + b"\r\n3\r\n" + b'{"m' + b"\r\n")
            await asyncio.sleep(_SETTLED)
            beside.append(await _honest_calls(running))
        await asyncio.sleep(_SETTLED)
    return measurement


async def _honest_calls(running: System) -> Honest:
    data = json.dumps(chat_body(_MODEL)).encode()
    call = head_of(running.key, f"content-length: {len(data)}") + b"\r\n" + data
    process, logged = psutil.Process(running.gateway.pid), len(running.gateway.logs())
    ends = time.monotonic() + _SECONDS

    async def caller(number: int) -> list[float]:
        await asyncio.sleep(number * _PAUSE / HONEST)  # otherwise all call at once, and wait for one another
        times = []
        while time.monotonic() < ends:
            started = time.monotonic()
            received = b""
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(*running.gateway.address)
                writer.write(call)
                received = await reader.read()
                writer.close()
            answered = received.startswith(b"HTTP/1.1 200")
            times.append((time.monotonic() - started) * 1000 if answered else -1.0)
            await asyncio.sleep(_PAUSE)
        return times

    before, others, started = _cpu(process), _others(), time.monotonic()
    times = [one for times in await asyncio.gather(*map(caller, range(HONEST))) for one in times]
    spent = _cpu(process) - before
    others = (_others() - others) / (time.monotonic() - started)
    answered = [one for one in times if one >= 0]
    in_gateway = await _logged(running, logged, len(answered))
    return Honest(answered, in_gateway, len(times) - len(answered), spent / len(times), others)


async def _logged(running: System, since: int, number: int) -> list[float]:
    """The milliseconds of so many honest calls by the gateway's log, from this position on."""
    deadline = time.monotonic() + _LOG_LAG
    while True:
        records = running.gateway.records(since)
        latencies = [record["ms"] for record in records if record.get("model") == _MODEL and record["status"] == 200]
        if len(latencies) >= number:
            return latencies
        if time.monotonic() > deadline:
            raise RuntimeError(f"the gateway's log has {len(latencies)} of {number} honest calls")
        await asyncio.sleep(0.2)


def _cpu(process: psutil.Process) -> float:
    """The milliseconds of CPU time that a process has taken."""
    spent = process.cpu_times()
    return (spent.user + spent.system) * 1000


def _others() -> float:
    """The seconds of CPU time that went to other work than this benchmark's."""
    whole, own = psutil.cpu_times(), psutil.Process()
    busy = whole.user + whole.nice + whole.system
    mine = [one.cpu_times() for one in (own, *own.children(recursive=True))]
    return float(busy - sum(one.user + one.system for one in mine))
